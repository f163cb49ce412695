"""Generated texts for lm-evaluation-harness: one for each request in order, cut as the task requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from xlm.errors import ConfigError
from xlm.lm_eval.model import XLMForLMEval
from xlm.lm_eval.requests import cut, last_tokens

GENERATING = {"arlm": {}, "mdlm": {"predictor.sampler": "confidence"}, "mlm": {}, "ilm": {}}


def ask(kind: Any, args: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(args)]


@pytest.mark.parametrize("family", GENERATING)
def test_one_text_for_each_request_in_order(family: str, of_texts: Callable[..., XLMForLMEval]) -> None:
    contexts = ["1 2 3", "8", "", "0 1 2 3 4 5 6 7 8 0 1 2 3", "5 5 5", "7 1"]
    arguments = [{"max_gen_toks": 4}, {"max_gen_toks": 4, "until": ["3"]}]
    asked = ask("generate_until", [(c, arguments[n % 2]) for n, c in enumerate(contexts)])
    model = of_texts(family, batch_size=8, **GENERATING[family])
    texts = model.generate_until(asked, disable_tqdm=True)
    assert len(texts) == len(contexts)
    assert all(isinstance(text, str) and len(text.split()) <= 4 for text in texts)
    assert all("3" not in text for text in texts[1::2])
    assert model.num_truncated == 1
    assert model.generate_until(asked, disable_tqdm=True) == texts, "the same seed gives the same texts"
    if family in ("arlm", "mdlm"):
        alone = of_texts(family, batch_size=1, **GENERATING[family])
        assert alone.generate_until(asked[::-1], disable_tqdm=True)[::-1] == texts


def test_tasks_may_sample(of_texts: Callable[..., XLMForLMEval]) -> None:
    drawn = ask("generate_until", [("1", {"do_sample": True, "temperature": 5.0, "max_gen_toks": 6})] * 2)
    first, second = of_texts("arlm").generate_until(drawn, disable_tqdm=True)
    assert first != second
    greedy = ask("generate_until", [("1", {"do_sample": False, "temperature": 5.0, "max_gen_toks": 6})] * 2)
    first, second = of_texts("arlm").generate_until(greedy, disable_tqdm=True)
    assert first == second
    with pytest.raises(ConfigError, match="max_gen_toks of a task is 0"):
        of_texts("arlm").generate_until(ask("generate_until", [("1", {"max_gen_toks": 0})]))


def test_texts_are_cut_at_the_first_stop() -> None:
    assert cut("a b\n\nc\n", ["\n\n", "\n"]) == "a b"
    assert cut("a b", ["c"]) == "a b"


def test_a_context_that_grows_when_read_again() -> None:
    """A tokenizer of pairs of letters: the odd end of a text has another split than the text."""

    class Pairs:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[str]]:
            return {"input_ids": [text[n : n + 2] for n in range(0, len(text), 2)]}

        def decode(self, parts: list[str], skip_special_tokens: bool) -> str:
            return "".join(f"{part} " for part in parts)

    assert last_tokens(Pairs(), "abcdef", 3) == "abcdef"
    assert len(Pairs()(last_tokens(Pairs(), "abcdef", 2), False)["input_ids"]) <= 2
