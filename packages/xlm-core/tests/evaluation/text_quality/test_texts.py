"""Tokens after a row's first EOS are ignored; no row is dropped, and no text is changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.data.rows import ListRows
from xlm.errors import DataError
from xlm.evaluation.text_quality import WrittenText, written_texts
from xlm.evaluation.text_quality.texts import TokensOf, Words, collecting_texts, cut_text, examples_of, texts_of

from .conftest import SPECIAL, word_tokenizer

PAD, BOS, EOS = 0, 1, 2


def test_rows_end_at_their_first_eos(tokenizer: Any) -> None:
    ids = [[BOS, 4, 5, EOS, 6, EOS], [BOS, 4, 5, 6, 7, 8], [BOS, EOS, 4, 4, 4, 4], [BOS, 4, PAD, PAD, PAD, PAD]]
    texts = written_texts({"ids": torch.tensor(ids), "output_start_idx": 1}, tokenizer)
    assert texts == [
        WrittenText("the cat", (4, 5), True), WrittenText("the cat sat on a", (4, 5, 6, 7, 8), False),
        WrittenText("", (), True), WrittenText("the", (4,), False),
    ]  # fmt: skip
    assert written_texts({"ids": torch.tensor(ids)}, tokenizer) == texts


def test_a_start_of_its_own_for_each_row_and_a_model_that_knows_when_it_is_complete(tokenizer: Any) -> None:
    predictions = {
        "ids": torch.tensor([[PAD, BOS, 4, 5], [BOS, 6, 7, PAD]]), "output_start_idx": torch.tensor([2, 1]),
        "complete": torch.tensor([False, True]),
    }  # fmt: skip
    assert [(t.text, t.ended) for t in written_texts(predictions, tokenizer)] == [("the cat", False), ("sat on", True)]


def test_texts_alone_are_cut_where_they_spell_the_end(tokenizer: Any) -> None:
    texts = written_texts({"text": ["[BOS]the cat[EOS]the", "a mat"]}, tokenizer)
    assert [(t.text, t.tokens, t.ended) for t in texts] == [("the cat", (4, 5), None), ("a mat", (8, 9), None)]
    assert cut_text("[EOS]the", tokenizer) == ""


def test_one_token_for_beginning_and_end() -> None:
    same = word_tokenizer(bos_token="<|>", eos_token="<|>", pad_token="<|>", unk_token="[UNK]")
    ids = torch.tensor([[0, 2, 3, 0, 4], [0, 2, 3, 4, 5]])
    assert [t.tokens for t in written_texts({"ids": ids}, same)] == [(2, 3), (2, 3, 4, 5)]
    assert [t.tokens for t in written_texts({"ids": ids[:, :2], "output_start_idx": 0}, same)] == [(), ()]
    assert cut_text("<|>the cat<|>sat", same) == "the cat"


@given(st.lists(st.lists(st.integers(0, 13), min_size=6, max_size=6), min_size=1, max_size=4))
def test_nothing_behind_the_end_matters(ids: list[list[int]]) -> None:
    tokenizer = word_tokenizer(**SPECIAL)
    rows = torch.tensor([[BOS, *row] for row in ids])
    noisy = [[BOS, *row] for row in ids]
    for row in noisy:
        if EOS in row:
            place = row.index(EOS) + 1
            row[place:] = [5] * (len(row) - place)
    texts = written_texts({"ids": rows, "output_start_idx": 1}, tokenizer)
    assert texts == written_texts({"ids": torch.tensor(noisy), "output_start_idx": 1}, tokenizer)
    assert len(texts) == len(ids)


def test_predictions_are_collected_for_the_loaders_that_are_named_and_the_predictor_stays_as_it_was(
    tokenizer: Any,
) -> None:
    class Predictor:
        def predict(self, batch: Any, batch_idx: Any = None, dataloader_idx: Any = None, name: Any = None) -> Any:
            return {"ids": batch, "output_start_idx": 1}

    predictor = Predictor()
    with collecting_texts(predictor, tokenizer, ["free"]) as texts:
        for name in ("free", "other", "free"):
            predictor.predict(torch.tensor([[BOS, 4, EOS]]), 0, 0, name)
    assert [text.text for text in texts["free"]] == ["the", "the"]
    assert not predictor.__dict__


def test_units_and_examples(tokenizer: Any) -> None:
    rows = ListRows([{"input_ids": [BOS, 4, 5, EOS, 6]}, {"input_ids": [7, 8]}])
    # Packed texts stay apart.
    assert list(examples_of(rows, tokenizer)) == [[4, 5], [6], [7, 8]]
    assert list(examples_of(rows, tokenizer, TokensOf(tokenizer, "it"), 1)) == [[4, 5], [6]]
    assert list(texts_of(rows, tokenizer)) == ["the cat", "sat", "on a"]
    words = Words()
    assert list(examples_of(rows, tokenizer, words)) == words.encode(["the cat", "sat", "on a"])
    other = word_tokenizer(unk_token="[UNK]", eos_token="[E]")
    assert next(examples_of(rows, tokenizer, TokensOf(other, "another"))) == [2, 3]
    assert words.encode(["the  the\ncat", ""])[1] == []
    assert len({*words.encode(["the  the\ncat"])[0]}) == 2
    assert TokensOf(tokenizer, "it").encode([]) == []
    with pytest.raises(DataError, match="input_ids"):
        list(examples_of(ListRows([{"text": "a"}]), tokenizer))


def test_a_tokenizer_of_our_own_decodes_too() -> None:
    plain = SimpleNamespace(
        is_fast=False, all_special_ids=[0], all_special_tokens=["."], eos_token_id=0, eos_token=".", pad_token_id=0,
        bos_token=None, bos_token_id=None, decode=lambda ids, skip_special_tokens: " ".join(map(str, ids)),
    )  # fmt: skip
    assert written_texts({"ids": torch.tensor([[3, 4, 0, 5]])}, plain)[0].text == "3 4"
