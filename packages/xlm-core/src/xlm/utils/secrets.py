"""Keeps passwords and access tokens out of everything that is written or printed."""

from __future__ import annotations

import os
import re

HIDDEN = "(hidden)"  # a plain text in YAML, too
# Variables of the environment whose values are never shown.
VARIABLES = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "WANDB_API_KEY", "COMET_API_KEY",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "NEPTUNE_API_TOKEN", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "GITHUB_TOKEN", "GH_TOKEN",
)  # fmt: skip
# Options that hold a secret; not pad_token, max_tokens, tokenizer …
_NAME = (
    r"(?:token|(?:hf|hub|auth|access|api|bearer|refresh|secret)_?token|use_auth_token|(?:[a-z0-9]+_)*api_?key|"
    r"(?:[a-z0-9]+_)*passw(?:or)?d|passphrase|(?:client_)?secret|(?:secret_)?access_key|secret_key|private_key)"
)
_VALUE = r"(?P<value>'[^'\n]*'|\"[^\"\n]*\"|[^\s,'\"}\]]+)"
# On a command line, in YAML and in JSON; in a sentence `token: x` is no option.
_PAIRS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(?P<key>(?<![\w.])(?:\w+\.)*{_NAME}=){_VALUE}",
        rf"(?P<key>^[ \t]*(?:- )?['\"]?{_NAME}['\"]?:[ \t]+){_VALUE}[ \t]*$",
        rf"(?P<key>[\"']{_NAME}[\"']:\s*){_VALUE}",
    )
)
_IN_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)[^\s/@'\"]+@")
_KNOWN_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_\-]{20,}|AKIA[A-Z0-9]{16})\b"
)
_NO_SECRETS = ("null", "none", "true", "false", "???", HIDDEN, "''", '""')
_MIN_LENGTH = 8


def without_secrets(text: str) -> str:
    """`text` with secrets replaced by `(hidden)`.

    Secrets are the values of `VARIABLES`, of options such as `token=` or `api_key:`, users and passwords in URLs, and
    texts in the form of well-known access tokens. References such as `${oc.env:HF_TOKEN}` are no secrets.
    """
    for name in VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _MIN_LENGTH:
            text = text.replace(value, HIDDEN)
    if "://" in text:
        text = _IN_URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    for pair in _PAIRS:
        text = pair.sub(_hidden, text)
    return _KNOWN_FORMS.sub(HIDDEN, text)


def _hidden(found: re.Match[str]) -> str:
    value = found["value"]
    if value.lower() in _NO_SECRETS or value.startswith(("${", "'${", '"${', "[")):
        return found.group()
    return f"{found['key']}{HIDDEN}"
