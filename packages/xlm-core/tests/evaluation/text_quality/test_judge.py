"""The judge's NLL equals that of a loop over tokens, for any batch; unsuitable judges are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.errors import ConfigError
from xlm.evaluation.text_quality import Scorer, load_scorer, measure
from xlm.evaluation.text_quality.texts import mean_of, ratio_of

TEXTS = ("the cat sat", "", "a dog", "far and far and far", "dog")


def by_hand(judge: Scorer, text: str, window: int, ended: bool | None = None) -> float:
    """−log p of each token after all tokens that the window rule lets it see, one call each."""
    words = judge.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = [] if ended is False else [judge.tokenizer.eos_token_id]
    ids = [judge.context_id, *words] if judge.protocol == "xlm" else [*words, *end]
    n, total = len(ids) - 1, 0.0
    for place in range(n):
        if place < window:
            start = 0
        else:
            # Windows begin at multiples of half a window, the last one ends with the text.
            half, start = window // 2, 0
            while start + window <= place:
                start = min(start + half, n - window)
        with torch.no_grad():
            logits = judge.model(input_ids=torch.tensor([ids[start : place + 1]])).logits[0, -1]
        total -= float(logits.double().log_softmax(dim=-1)[ids[place + 1]])
    return total


WORDS = st.sampled_from(("the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"))


@given(st.lists(st.lists(WORDS, max_size=40), max_size=7), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_each_token_is_scored_once_given_what_is_before_it(
    judge: Scorer, texts: list[list[str]], batch_size: int
) -> None:
    joined = [" ".join(words) for words in texts]
    scores = judge.score(joined, batch_size)
    assert scores.num_tokens.tolist() == [len(words) for words in texts]
    assert scores.nll == pytest.approx([by_hand(judge, text, 16) for text in joined], abs=1e-3)


@pytest.fixture(scope="module")
def mdlm_judge(judge_folder: Path) -> Scorer:
    return load_scorer(str(judge_folder), protocol="mdlm")


@given(
    st.lists(st.tuples(st.lists(WORDS, max_size=40), st.sampled_from((True, False, None))), max_size=7),
    st.integers(1, 8),
)
@settings(max_examples=25, deadline=None)
def test_under_mdlm_the_end_is_scored_instead_of_the_first_token(
    mdlm_judge: Scorer, texts: list[tuple[list[str], bool | None]], batch_size: int
) -> None:
    joined, ended = [" ".join(words) for words, _ in texts], [end for _, end in texts]
    scores = mdlm_judge.score(joined, batch_size, ended)
    # An end that nobody knows of counts as one; a text cut at the greatest length has none.
    assert scores.num_tokens.tolist() == [max(0, len(words) - (end is False)) for words, end in texts]
    wanted = [by_hand(mdlm_judge, text, 16, end) for text, end in zip(joined, ended, strict=True)]
    assert scores.nll == pytest.approx(wanted, abs=1e-3)


def test_protocols_differ_in_their_first_and_last_token_alone(judge: Scorer, mdlm_judge: Scorer) -> None:
    texts = ["", "dog", "the cat sat", "the cat[EOS]sat on", "[BOS] the cat [EOS] sat"]
    ended = mdlm_judge.score(texts)
    assert ended.num_tokens.tolist() == [0, 1, 3, 2, 2]
    assert ended.nll[3] == pytest.approx(ended.nll[4])  # cut at the first EOS that is spelled out
    cut = mdlm_judge.score(texts, ended=[False] * 5)
    assert cut.num_tokens.tolist() == [0, 0, 2, 1, 1]
    assert (cut.nll[:2] == 0).all()
    assert judge.score(texts[:3], ended=[False] * 3).num_tokens.tolist() == [0, 1, 3]


def test_numbers_of_two_protocols_never_have_one_name(judge: Scorer, mdlm_judge: Scorer) -> None:
    ended = [True, None, False, None, None]
    one, other = (measure(TEXTS, [[1]] * 5, ended=ended, judge=by).numbers for by in (judge, mdlm_judge))
    assert set(one) - set(other) == {"judge_perplexity", "judge_nll_per_token"}
    assert set(other) - set(one) == {"judge_perplexity_mdlm", "judge_nll_per_token_mdlm"}
    scores = mdlm_judge.score(TEXTS, ended=ended)
    assert other["judge_nll_per_token_mdlm"].value == pytest.approx(scores.nll.sum() / scores.num_tokens.sum())
    assert {**judge.describe(), "protocol": "mdlm", "context": None} == mdlm_judge.describe()


def test_neighbours_change_nothing(judge: Scorer) -> None:
    alone = [judge.score([text]).nll[0] for text in TEXTS]
    for batch_size in (1, 2, 5):
        assert judge.score(TEXTS, batch_size).nll == pytest.approx(alone, abs=1e-5)
    assert alone[1] == 0.0


def test_perplexity_is_of_all_tokens_together_with_the_error_of_a_ratio(judge: Scorer) -> None:
    scores = judge.score(TEXTS)
    found = measure(TEXTS, [text.split() and [1] for text in TEXTS], judge=judge).numbers["judge_perplexity"]
    rate = scores.nll.sum() / scores.num_tokens.sum()
    residuals = scores.nll - rate * scores.num_tokens
    error = math.sqrt((residuals**2).sum() * 5 / 4) / scores.num_tokens.sum()
    assert found.value == pytest.approx(math.exp(rate))
    assert found.se == pytest.approx(math.exp(rate) * error)
    assert found.n == 5  # the empty one too


def test_texts_without_a_token_have_no_perplexity(judge: Scorer) -> None:
    found = measure(["", ""], [[], []], judge=judge)
    assert found.numbers["judge_perplexity"] == (None, None, 2)
    assert found.numbers["empty"].value == 1.0
    assert measure([], [], judge=judge).numbers["judge_perplexity"] == (None, None, 0)


def test_logits_are_kept_to_a_bound(judge: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judge.score(TEXTS).nll
    monkeypatch.setattr("xlm.evaluation.text_quality.scorer._MOST_LOGITS", 14 * 6)
    widths: list[tuple[int, int]] = []
    real = Scorer._nll

    def seen(self: Scorer, batch: Any) -> list[float]:
        widths.append((len(batch), len(batch[0].inputs)))
        return real(self, batch)

    monkeypatch.setattr(Scorer, "_nll", seen)
    assert judge.score(TEXTS).nll == pytest.approx(whole, abs=1e-5)
    assert widths == [(1, 5), (2, 3), (1, 1)]


def test_it_says_what_it_is(judge: Scorer, judge_folder: Path) -> None:
    assert judge.describe() == {
        "name": str(judge_folder), "architecture": "GPT2LMHeadModel", "vocabulary": 14, "context": "[BOS]",
        "protocol": "xlm", "window": 16, "dtype": "float32",
        "parameters": sum(p.numel() for p in judge.model.parameters()),
    }  # fmt: skip


def test_what_cannot_judge_is_refused_in_one_sentence(masked_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="looks at later tokens"):
        load_scorer(str(masked_folder))
    for name in (tmp_path / "none", tmp_path / "none.gguf"):
        with pytest.raises(ConfigError, match=r"There is no (file|folder) .*none"):
            load_scorer(str(name))
    with pytest.raises(
        ConfigError, match="'nobody/nothing' is not a local folder, and could not be loaded from the hub"
    ):
        load_scorer("nobody/nothing")
    with pytest.raises(ConfigError, match="cannot be loaded as a causal language model"):
        load_scorer(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"extract\.format=transformers"):
        load_scorer(str(tmp_path))
    with pytest.raises(ConfigError, match="at least 2"):
        load_scorer(str(masked_folder), window=1)
    with pytest.raises(ConfigError, match="judge_protocol is 'mldm', and must be one of: xlm, mdlm"):
        load_scorer(str(masked_folder), protocol="mldm")  # type: ignore[arg-type]


def test_a_tokenizer_of_another_model_is_refused(judge: Scorer, tmp_path: Path) -> None:
    judge.model.save_pretrained(tmp_path)
    larger = type(judge.tokenizer)(tokenizer_object=judge.tokenizer.backend_tokenizer, bos_token="[BOS]")
    larger.add_tokens(["one", "more"])
    larger.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="predicts 14 tokens, but its tokenizer has 16"):
        load_scorer(str(tmp_path))


def test_estimates_of_means_and_ratios() -> None:
    assert mean_of([1, 2, 3]) == pytest.approx((2.0, math.sqrt(1 / 3), 3))
    assert mean_of([True, False]).value == 0.5
    assert mean_of([4.0]) == (4.0, None, 1)
    assert ratio_of([1, 0, 2], [2, 0, 4]) == pytest.approx((0.5, 0.0, 3))
    assert ratio_of(np.zeros(2), np.zeros(2)) == (None, None, 2)
