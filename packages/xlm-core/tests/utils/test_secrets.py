"""Secrets are hidden in commands, configurations and messages, and nothing else is."""

from __future__ import annotations

import pytest

from xlm.utils.secrets import without_secrets

SECRET = "s3cr3t-value-123"


@pytest.mark.parametrize(
    "text",
    [
        f"hub.token={SECRET}",
        f"++loggers.wandb.api_key={SECRET}",
        f"+wandb_api_key='{SECRET}'",
        f"use_auth_token={SECRET}",
        f"data_files.train=https://me:{SECRET}@host/x.jsonl",
        f"loggers:\n  wandb:\n    api_key: {SECRET}\n    project: x\n",
        f'{{"token": "{SECRET}", "n": 1}}',
        f"could not read s3://key:{SECRET}@bucket/x: denied",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    shown = without_secrets(text)
    assert SECRET not in shown
    assert "(hidden)" in shown
    assert without_secrets(shown) == shown


def test_tokens_of_known_forms_and_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_secrets("denied for hf_" + "a" * 30) == "denied for (hidden)"
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    assert without_secrets(f"401: {SECRET}.") == "401: (hidden)."


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=1e6 tokenizer=gpt2 pad_token_id=0 num_tokens=8",
        "mask_token: '[MASK]'\npad_token: '[PAD]'\nmax_tokens: 10\ntokenizer:\n  _target_: xlm.x\n",
        "unexpected token: <pad> in a row",
        "hub.token=${oc.env:HF_TOKEN}",
        "api_key: null\n",
        "https://huggingface.co/owner/name, mail@host",
        "the secret of this sentence",
    ],
)
def test_everything_else_is_kept(text: str) -> None:
    assert without_secrets(text) == text
