"""Log-likelihoods for lm-evaluation-harness: exact if the family is, and independent of batch and order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from xlm.errors import ConfigError
from xlm.inference.scorer import windows
from xlm.lm_eval.model import XLMForLMEval

REQUESTS = [
    ("1 2 3", " 4 5"),
    ("", "7"),
    ("8 8", " 1"),
    ("1 2 3 ", "4 6 0"),
    ("0 1 2 3 4 5 6 7 8", " 3 2 1"),
    ("5", " 5 5"),
]


def ask(kind: Any, args: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(args)]


def values(found: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in found]


def ids(text: str) -> list[int]:
    return [int(word) + 7 for word in text.split()]


def log_p(model: XLMForLMEval, row: list[int]) -> torch.Tensor:
    """(L, V): of the token after each of the row's, as the network itself says it."""
    return model.lm.model(torch.tensor([row])).double().log_softmax(-1)[0]


@torch.no_grad()
def exact(model: XLMForLMEval, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    row = [model.lm.tokenizer.bos_token_id, *context, *continuation]
    table = log_p(model, row)[len(context) : -1]
    return float(table.gather(1, torch.tensor(continuation)[:, None]).sum()), table.argmax(-1).tolist() == continuation


def test_left_to_right_gives_the_sum_of_its_log_softmax(of_texts: Callable[..., XLMForLMEval]) -> None:
    model = of_texts("arlm")
    found = model.loglikelihood(ask("loglikelihood", REQUESTS), disable_tqdm=True)
    for (context, continuation), (value, greedy) in zip(REQUESTS, found, strict=True):
        # Twelve columns hold BOS and eleven tokens: the longest context has lost its first word.
        true, is_greedy = exact(model, ids(context)[-(11 - len(ids(continuation))) :], ids(continuation))
        assert value == pytest.approx(true, abs=1e-5)
        assert greedy == is_greedy
    assert model.num_truncated == 1
    assert model.get_model_info()["xlm"]["likelihood"]["kind"] == "exact"


def test_greedy_is_what_the_network_puts_first(of_texts: Callable[..., XLMForLMEval]) -> None:
    model = of_texts("arlm")
    pairs = [(context, f" {word}") for context in ("1 2 3", "8", "5 5 5 5", "0 1") for word in range(9)]
    found = [greedy for _, greedy in model.loglikelihood(ask("loglikelihood", pairs), disable_tqdm=True)]
    assert found == [exact(model, ids(context), ids(word))[1] for context, word in pairs]
    assert any(found)


@pytest.mark.parametrize("family", ["arlm", "mdlm", "mlm"])
def test_neither_batches_nor_order_matter(family: str, of_texts: Callable[..., XLMForLMEval]) -> None:
    one, many = of_texts(family, batch_size=1), of_texts(family, batch_size=8)
    asked = ask("loglikelihood", REQUESTS)
    alone = one.loglikelihood(asked, disable_tqdm=True)
    together = many.loglikelihood(asked[::-1], disable_tqdm=True)[::-1]
    assert [greedy for _, greedy in alone] == [greedy for _, greedy in together]
    assert values(together) == pytest.approx(values(alone), rel=1e-5)
    texts = ask("loglikelihood_rolling", [("1 2 3",), ("4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 5",), ("",)])
    rolling = one.loglikelihood_rolling(texts, disable_tqdm=True)
    assert many.loglikelihood_rolling(texts[::-1], disable_tqdm=True)[::-1] == pytest.approx(rolling, rel=1e-5)
    assert rolling[2] == 0
    other = of_texts(family, batch_size=8, seed=1).loglikelihood(asked, disable_tqdm=True)
    assert (values(other) == pytest.approx(values(together), rel=1e-5)) == (family == "arlm")


@pytest.mark.parametrize("family", ["mdlm", "mlm"])
def test_the_bound_of_one_token_is_exact_where_the_network_knows_no_time(
    family: str, of_texts: Callable[..., XLMForLMEval]
) -> None:
    model = of_texts(family, *(["model.time_conditioning=false"] if family == "mdlm" else []), num_samples=2)
    loss, tokenizer = model.lm.harness.loss_function, model.lm.tokenizer
    found = model.loglikelihood(ask("loglikelihood", [("1 2 3", f" {word}") for word in range(9)]), disable_tqdm=True)
    # The rest of the block of 12 stays masked.
    row = torch.tensor([[tokenizer.bos_token_id, *ids("1 2 3"), *[tokenizer.mask_token_id] * 8]])
    with torch.no_grad():
        logits = model.lm.model(row, torch.ones_like(row, dtype=torch.bool))[0, 4].double()
    logits[tokenizer.mask_token_id] = -torch.inf
    table = logits.log_softmax(-1)
    assert values(found) == pytest.approx(table[7:16].tolist(), rel=1e-5)
    assert [greedy for _, greedy in found] == (torch.arange(7, 16) == table.argmax()).tolist()
    record = model.get_model_info()["xlm"]["likelihood"]
    assert (record["kind"], record["num_samples"]) == ("lower bound on the log-likelihood", 2)
    assert record["mean_standard_error"] == pytest.approx(0, abs=1e-5)
    assert record["of"] == loss.nll_of


def test_choices_of_one_context_get_the_same_masks(of_texts: Callable[..., XLMForLMEval]) -> None:
    """Their differences vary less from seed to seed than their values do, as far as choices are alike."""
    asked = ask("loglikelihood", [("1 2", " 3 4 5 6"), ("1 2", " 3 4 5 7")])
    found = torch.tensor(
        [values(of_texts("mlm", num_samples=2, seed=s).loglikelihood(asked, disable_tqdm=True)) for s in range(24)]
    )
    assert (found[:, 0] - found[:, 1]).var() < 0.5 * (found[:, 0].var() + found[:, 1].var())


def test_more_draws_close_in_on_one_value(of_texts: Callable[..., XLMForLMEval]) -> None:
    asked = ask("loglikelihood", [("1 2", " 3 4 5 6")])
    few = [of_texts("mdlm", num_samples=2, seed=s).loglikelihood(asked, disable_tqdm=True)[0][0] for s in range(12)]
    many = of_texts("mdlm", num_samples=64)
    ((value, _),) = many.loglikelihood(asked, disable_tqdm=True)
    error = many.get_model_info()["xlm"]["likelihood"]["mean_standard_error"]
    spread = torch.tensor(few).std()
    assert 0 < error < spread
    assert abs(sum(few) / 12 - value) < 4 * (float(spread) / 12**0.5 + error)


@pytest.mark.parametrize("family", ["arlm", "mdlm"])
def test_less_precision_stays_close(family: str, of_texts: Callable[..., XLMForLMEval]) -> None:
    asked = ask("loglikelihood", REQUESTS)
    full, rounded = (values(of_texts(family, precision=p).loglikelihood(asked, True)) for p in ("fp32", "bf16"))
    assert rounded != full
    # With random weights and most of a row masked, rounding moves one token more than a row.
    assert rounded == pytest.approx(full, rel=0.1, abs=2)
    assert sum(rounded) == pytest.approx(sum(full), rel=0.05)


def test_whole_texts_are_the_sum_of_their_windows(of_texts: Callable[..., XLMForLMEval]) -> None:
    model = of_texts("arlm")
    text = ids("0 1 2 3 4 5 6 7 8 0 1 2 3 4 5 6 7 8 2 2")
    (found,) = model.loglikelihood_rolling(ask("loglikelihood_rolling", [(" ".join(str(i - 7) for i in text),)]), True)
    parts = [([], text[:11]), (text[9:10][:0] + text[10:11], text[11:20])]
    # The second window is filled up on the left: eleven tokens, of which nine are new.
    parts[1] = (text[9:11], text[11:20])
    assert found == pytest.approx(sum(exact(model, *part)[0] for part in parts), abs=1e-4)


@given(
    st.lists(st.integers(0, 9), max_size=20),
    st.lists(st.integers(0, 9), max_size=40),
    st.integers(2, 12),
    st.booleans(),
)
def test_windows_score_everything_once(context: list[int], text: list[int], size: int, ends: bool) -> None:
    pairs = list(windows(context, text, size, ends))
    assert [token for pair in pairs for token in pair.continuation] == text
    assert [pair.ends for pair in pairs] == [False] * (len(pairs) - 1) + [ends] * bool(pairs)
    done = len(context)
    for pair in pairs:
        total = len(pair.context) + len(pair.continuation) + pair.ends
        assert total <= size
        before = [*context, *text][:done]
        assert list(pair.context) == before[len(before) - len(pair.context) :]
        # No room is wasted, and a context keeps its end.
        assert total == size or len(pair.context) == len(before) or len(pair.continuation) + pair.ends == size
        assert pair.context or not before
        done += len(pair.continuation)


@pytest.mark.parametrize("family", ["arlm", "mdlm", "mlm", "ilm"])
def test_answers_are_scored_with_their_end(family: str, of_answers: Callable[..., XLMForLMEval]) -> None:
    model = of_answers(family, num_samples=4)
    choices = [("3 1 2", f" {word} {word}") for word in range(6)] + [("3 1 2", "")]
    found = model.loglikelihood(ask("loglikelihood", choices), disable_tqdm=True)
    assert all(value < 0 for value, _ in found)
    if family == "arlm":
        tokenizer = model.lm.tokenizer
        for (_, answer), (value, _) in zip(choices, found, strict=True):
            row = [*ids("3 1 2"), tokenizer.bos_token_id, *ids(answer), tokenizer.eos_token_id]
            table = log_p(model, row)[3:-1].detach()
            assert value == pytest.approx(float(table.gather(1, torch.tensor(row[4:])[:, None]).sum()), abs=1e-4)
    with pytest.raises(ConfigError, match="trained on answers to prompts"):
        model.loglikelihood_rolling(ask("loglikelihood_rolling", [("3 1",)]))
    with pytest.raises(ConfigError, match="7 tokens of the answer, but this model takes at most 6"):
        model.loglikelihood(ask("loglikelihood", [("1", "1 1 1 1 1 1 1")]), disable_tqdm=True)
    model.loglikelihood(ask("loglikelihood", [("1 1 1 1 1 1 1", "2")]), disable_tqdm=True)
    assert model.num_truncated == 1


def test_insertions_score_whole_texts_only(of_texts: Callable[..., XLMForLMEval]) -> None:
    with pytest.raises(ConfigError, match=r"ILMLoss bounds the likelihood of whole texts .* not of a part"):
        of_texts("ilm").loglikelihood(ask("loglikelihood", [("1", " 2")]), disable_tqdm=True)
    model = of_texts("ilm", score_end=True, num_samples=2)
    short, longer = model.loglikelihood_rolling(ask("loglikelihood_rolling", [("1 2",), ("1 2 3 4",)]), True)
    assert longer < short < 0


def test_answers_of_the_cache(of_texts: Callable[..., XLMForLMEval], tmp_path: Path) -> None:
    model = of_texts("mdlm")
    asked = ask("loglikelihood", REQUESTS)
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    first = cached.loglikelihood(asked)
    model.loglikelihood = None  # type: ignore[method-assign, assignment]
    assert cached.loglikelihood(asked) == first
    cached.dbdict.close()


def test_a_loss_without_likelihood(of_texts: Callable[..., XLMForLMEval], monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_texts("arlm")
    monkeypatch.setattr(model.lm.harness, "loss_function", SimpleNamespace())
    with pytest.raises(ConfigError, match="gives no likelihood, so this model can only generate text"):
        model.loglikelihood(ask("loglikelihood", [("1", "2")]))
