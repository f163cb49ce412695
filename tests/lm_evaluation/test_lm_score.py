"""`lm.score` for models of whole texts: any length, with and without prompts, exact or a bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xlm.errors import ConfigError
from xlm.inference.trained import TrainedModel

from .conftest import loaded

# Twelve columns hold BOS, ten words and EOS.
TEXTS = ["1 2 3", "", "4 4 4 4 4 4 4 4 4 5", "7", "1 2 3"]
LONG = "8 7 6 5 4 3 2 1 8 7 6 5 4 3 2 1 8"
FAMILIES = ["arlm", "ilm", "mdlm", "mlm"]


@pytest.fixture
def of(folder_of_texts: Callable[[str], Path]) -> Callable[[str], TrainedModel]:
    return lambda family: loaded(folder_of_texts(family))


@torch.no_grad()
def by_hand(lm: TrainedModel, text: str, given: int = 0, end: bool = True) -> float:
    """−log p of a text's words after the given ones, as the left-to-right network says it."""
    row = [lm.tokenizer.bos_token_id, *(int(word) + 7 for word in text.split())]
    row += [lm.tokenizer.eos_token_id] if end else []
    table = lm.model(torch.tensor([row])).double().log_softmax(-1)[0, :-1]
    return -float(table.gather(1, torch.tensor(row[1:])[:, None])[given:].sum())


def test_left_to_right_is_the_sum_of_its_log_softmax(of: Callable[[str], TrainedModel]) -> None:
    lm = of("arlm")
    scores = lm.score(TEXTS)
    assert [score.nll for score in scores] == pytest.approx([by_hand(lm, text) for text in TEXTS], abs=1e-5)
    assert [score.num_tokens for score in scores] == [4, 1, 11, 2, 4]
    assert {(score.kind, score.standard_error) for score in scores} == {("exact", 0.0)}
    assert scores.kind == "exact"
    assert scores.values()["nll_per_token"][0] == pytest.approx(sum(score.nll for score in scores) / 22)
    given = lm.score(["4 5", ""], "1 2 3")
    assert given[0].nll == pytest.approx(by_hand(lm, "1 2 3 4 5", given=3), abs=1e-5)
    assert given[1].nll == pytest.approx(by_hand(lm, "1 2 3", given=3), abs=1e-5)
    open_end = lm.score(["1 2 3", "4 5"], ["", "1 2 3"], with_end=False)
    assert open_end[0].nll + open_end[1].nll == pytest.approx(by_hand(lm, "1 2 3 4 5", end=False), abs=1e-5)
    # Eleven words, then the rest and the end after as many words as the block has room for.
    words = LONG.split()
    expected = by_hand(lm, " ".join(words[:11]), end=False) + by_hand(lm, " ".join(words[7:]), given=4)
    assert lm.score(LONG)[0].nll == pytest.approx(expected, abs=1e-5)
    assert lm.score(LONG)[0].num_tokens == 18


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_change_nothing_and_draws_bring_an_error(family: str, of: Callable[[str], TrainedModel]) -> None:
    lm = of(family)
    texts = [*TEXTS, *([] if family == "ilm" else [LONG])]
    scores = lm.score(texts, batch_size=4)
    assert [s.nll for s in lm.score(texts, batch_size=1)] == pytest.approx([s.nll for s in scores], rel=1e-5)
    assert [score.text for score in scores] == texts
    assert {score.kind for score in scores} == {"exact" if family == "arlm" else "upper bound"}
    assert all(math.isfinite(score.nll) for score in scores)
    # A few draws of ILM's bound may be below 0: they contain −log N!, and this network's scores vary a lot.
    assert family == "ilm" or all(score.nll > 0 for score in scores)
    if family == "arlm":
        return
    errors = [score.standard_error for score in scores]
    assert max(errors) > 0
    other = lm.score(texts, seed=1)
    for one, two in zip(scores, other, strict=True):
        assert abs(one.nll - two.nll) < 6 * math.hypot(one.standard_error, two.standard_error) + 1e-9
    assert [score.nll for score in other] != [score.nll for score in scores]
    assert math.isnan(lm.score("1 2 3", num_samples=1)[0].standard_error)
    assert list(lm.score(texts, batch_size=4)) == list(scores)


@pytest.mark.parametrize("family", ["mdlm", "mlm"])
def test_a_bound_given_a_prompt_covers_the_rest_alone(family: str, of: Callable[[str], TrainedModel]) -> None:
    lm = of(family)
    scores = lm.score(["4 5", ""], ["1 2 3", "1 2 3 4 5"])
    assert [score.num_tokens for score in scores] == [3, 1]
    assert scores[0].prompt == "1 2 3"
    if family == "mlm":  # whose network knows no time: every draw is −log p of the one masked token
        assert scores[1].standard_error == pytest.approx(0, abs=1e-5)


def test_what_cannot_be_scored(of: Callable[[str], TrainedModel], folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"^The text '8 7.*8' has more tokens than the 10 that ilm scores at once\. "):
        of("ilm").score(["1", LONG])
    with pytest.raises(ConfigError, match=r"^The text '4' cannot be scored by ilm after a prompt\. ILMLoss bounds"):
        of("ilm").score("4", "1 2")
    with pytest.raises(ConfigError, match=r"^The text '4' cannot be scored by ilm without its end\."):
        of("ilm").score("4", with_end=False)
    lm = of("arlm")
    with pytest.raises(ConfigError, match=r"^There are 1 prompts for 2 texts\."):
        lm.score(["1", "2"], ["3"])
    with pytest.raises(ConfigError, match=r"^texts\[1\] is 2, and must be a text\."):
        lm.score(["1", 2])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^num_samples is 0, and must be at least 1\."):
        lm.score("1", num_samples=0)
    assert list(lm.score([])) == []
    assert (lm.score([]).kind, lm.score([]).values(), lm.score([]).record()) == (None, {}, {})
    choice = ("experiment=star_easy_arlm", "model=xtiny_arlm", "block_size=8", "input_block_size=6")
    answers = loaded(folder(*choice))
    with pytest.raises(ConfigError, match=r"given its prompt: lm\.score\(answers, prompts\)\."):
        answers.score("1 2")
    with pytest.raises(ConfigError, match=r"^The prompt '1 1.*' has 7 tokens, and this model takes at most 6 \(inp"):
        answers.score("2", "1 1 1 1 1 1 1")
    with pytest.raises(ConfigError, match=r"^The answer '1 1.*' has 7 tokens, and this model takes at most 6 \(blo"):
        answers.score("1 1 1 1 1 1 1", "2")
    with pytest.raises(ConfigError, match="only for models of whole texts"):
        answers.score("1", "2", with_end=False)


def test_what_is_shown(of: Callable[[str], TrainedModel]) -> None:
    scores = of("mlm").score(["1 2", "<3>"], ["", "4"])
    assert repr(scores).startswith("Scores(2 texts, 5 tokens, nll per token ")
    assert repr(scores).endswith("upper bound)")
    one = of("mlm").score("1 2")
    assert repr(one) == f"Scores(1 text: {one[0]})"
    assert re.fullmatch(r"\d+\.\d+ ± \d\S* nats, \d+\.\d+ per token, upper bound", str(one[0]))
    shown = scores._repr_html_()
    assert "&lt;3&gt;" in shown
    assert shown.count("<tr>") == 3
    assert "±</th>" in shown
    exact = of("arlm").score(["1"] * 25)._repr_html_()
    assert "… and 5 more" in exact
    assert "±</th>" not in exact
