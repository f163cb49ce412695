"""Many rows at once, one by one, in one process or in two: the same ids, and the same row in an error."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data import mapping, steps
from xlm.data.functional import BATCHED, chat_to_ids, prompt_and_answer_to_ids, text_to_input_ids
from xlm.data.manager import DatasetManager
from xlm.data.mapping import RowError, RowFunction, map_chunks
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.data.trained_tokenizer import TrainedTokenizer, train_tokenizer

WORDS = [
    "a",
    "the cat",
    "",
    " ",
    "\n",
    "[MASK]",
    "x [MASK] y",
    "[EOS]",
    "é\u2028ñ",
    "👩‍👩‍👧",
    "\x00",
    "4 + 4 =",
    "ab" * 50,
]


@pytest.fixture(scope="module")
def bpe() -> TrainedTokenizer:
    tokenizer = train_tokenizer(["the cat sat on the mat", "4 + 4 = 8"] * 20, vocab_size=300)
    # A tokenizer's file may ask for both.
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    return tokenizer


class Reversed(TrainedTokenizer):
    """A class with a call of its own."""

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        return {"input_ids": super().__call__(text, *args, **kwargs)["input_ids"][::-1]}


def row_function(path: str, tokenizer: Any, **kwargs: Any) -> RowFunction:
    options = {"preprocess_function": path, "preprocess_function_kwargs": kwargs}
    return steps.row_function(DatasetManager(full_name="unused", **options).preprocess, tokenizer)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=20), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", ["bpe", "own call", "words"])
def test_the_ids_of_many_rows_are_those_of_each(bpe: TrainedTokenizer, kind: str, texts: list[str]) -> None:
    own = Reversed(tokenizer_object=bpe.backend_tokenizer)
    tokenizer = {"bpe": bpe, "own call": own, "words": SimpleSpaceTokenizer(["the", "cat"])}[kind]
    other = texts[::-1]
    cases: dict[Any, list[dict[str, Any]]] = {
        text_to_input_ids: [{"text": text, "more": 1} for text in texts],
        prompt_and_answer_to_ids: [{"prompt": a, "answer": b} for a, b in zip(texts, other, strict=True)],
        chat_to_ids: [
            {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
            for a, b in zip(texts, other, strict=True)
        ],
    }
    # Tasks add functions of their own.
    assert cases.keys() <= BATCHED.keys()
    for function, rows in cases.items():
        assert BATCHED[function](rows, tokenizer) == [function(row, tokenizer) for row in rows]
    # The call that every tokenizer has, on one text.
    direct = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert [row["input_ids"] for row in BATCHED[text_to_input_ids](cases[text_to_input_ids], tokenizer)] == direct
    pairs = BATCHED[prompt_and_answer_to_ids](cases[prompt_and_answer_to_ids], tokenizer)
    assert [(row["prompt_ids"], row["input_ids"]) for row in pairs] == list(zip(direct, direct[::-1], strict=True))
    short = BATCHED[text_to_input_ids](cases[text_to_input_ids], tokenizer, block_size=2)
    assert short == [text_to_input_ids(row, tokenizer, block_size=2) for row in cases[text_to_input_ids]]


def test_the_rust_tokenizer_is_called_once(bpe: TrainedTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    function = row_function("xlm.datamodule.text_to_input_ids", bpe)
    monkeypatch.setattr("xlm.data.functional._is_plain", lambda kind: True)
    monkeypatch.setattr(TrainedTokenizer, "_encode_plus", lambda *_: pytest.fail("tokenised one by one"))
    assert len(function.many([{"text": word} for word in WORDS])) == len(WORDS)  # type: ignore[misc]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])  # processes start for seconds
def test_an_error_names_its_row(bpe: TrainedTokenizer, num_workers: int) -> None:
    rows: list[dict[str, Any]] = [{"text": "a"}] * 1200
    rows[1100] = {"text": None}
    with pytest.raises(RowError, match="column 'text' holds null") as caught:
        list(map_chunks(row_function("xlm.datamodule.text_to_input_ids", bpe), rows, num_workers, first=50))
    assert caught.value.row == 1150


def test_long_texts_make_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "_CHARACTERS_AT_ONCE", 10)
    rows = [{"text": "a" * 4}] * 5 + [{"text": "a" * 30}, {"text": "a"}]
    assert [len(chunk) for chunk in map_chunks(RowFunction(dict), rows, None)] == [3, 3, 1]


def test_threads_of_tokenizers_are_off_before_workers_of_loaders_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each forked worker writes a warning of the library."""
    monkeypatch.setattr(mapping, "_is_set_by_user", None)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    during = [os.environ["TOKENIZERS_PARALLELISM"] for _ in map_chunks(RowFunction(dict), [{}], None)]
    assert (during, os.environ["TOKENIZERS_PARALLELISM"]) == (["true"], "false")
    monkeypatch.setattr(mapping, "_is_set_by_user", None)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "1")
    list(map_chunks(RowFunction(dict), [{}], None))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "1"
