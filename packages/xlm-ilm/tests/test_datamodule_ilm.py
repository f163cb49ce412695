"""Collators: layout, targets, ragged and empty input, truncation, slots, declared types."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ilm.datamodule_ilm import (
    ILMCollator,
    ILMInfillCollator,
    ILMSeq2SeqCollator,
    ILMSeq2SeqPredCollator,
    print_batch_ilm,
)
from ilm.types_ilm import ILMBatch, ILMPredictionBatch
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.testing import mismatches

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, CLS, MASK, EOS, BOS = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "cls", "mask", "eos", "bos"))
ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
seq2seq = st.lists(
    st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds}), min_size=1, max_size=5
)


def real(batch: Any, row: int) -> list[int]:
    return batch["input_ids"][row][batch["attention_mask"][row]].tolist()


def with_seeds(*examples: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"noise_seed": i, **example} for i, example in enumerate(examples)]


def reinserted(batch: Any, row: int) -> list[int]:
    """All tokens of a row, the missing ones included, sorted."""
    missing = batch["target_tokens"][row].repeat_interleave(batch["target_counts"][row])
    return sorted([*real(batch, row), *missing.tolist()])


def test_the_number_of_missing_tokens_follows_the_level_that_the_loader_gave() -> None:
    rows = [{"input_ids": [7, 8, 9], "noise_seed": n, "time_quantile": n / 16} for n in range(16)]
    assert ILMCollator(TOKENIZER)(rows)["n_drops"].tolist() == [n // 4 for n in range(16)]
    seeded = ILMCollator(TOKENIZER, low_variance=False)(rows)["n_drops"]
    bare = [{name: row[name] for name in ("input_ids", "noise_seed")} for row in rows]
    assert torch.equal(ILMCollator(TOKENIZER)(bare)["n_drops"], seeded)
    assert len(set(seeded.tolist())) > 1


@given(seq2seq)
@settings(deadline=None)
def test_seq2seq_rows(examples: list[dict[str, Any]]) -> None:
    batch = ILMSeq2SeqCollator(TOKENIZER)(examples)
    assert mismatches(ILMBatch, batch) == []
    for row, example in enumerate(examples):
        start = [CLS, *example["prompt_ids"], BOS]
        assert real(batch, row)[: len(start)] == start
        assert reinserted(batch, row) == sorted([*start, *example["input_ids"]])
        assert batch["target_counts"][row].sum() == batch["n_drops"][row]
        assert batch["num_tokens"][row] == len(example["input_ids"]) + 1
        assert batch["clean_ids"][row].tolist()[: len(example["input_ids"])] == example["input_ids"]
        assert batch["input_ids"][row, batch["cls_position"][row]] == CLS
        is_open = ~batch["constraint"][row]
        assert is_open.sum() == 1 + len(example["input_ids"]) - batch["n_drops"][row]
        assert batch["input_ids"][row][is_open][0] == BOS
        hits = batch["target_slots"][row][batch["target_counts"][row] > 0]
        assert is_open[hits].all()
        types = batch["token_type_ids"][row][batch["attention_mask"][row]].tolist()
        assert types == [0] + [1] * len(example["prompt_ids"]) + [2] * int(is_open.sum())
    assert torch.equal(batch["slot_index"], (~batch["constraint"]).flatten().nonzero().squeeze(-1))


@given(seq2seq)
@settings(deadline=None)
def test_lm_rows(examples: list[dict[str, Any]]) -> None:
    batch = ILMCollator(TOKENIZER)(examples)
    assert mismatches(ILMBatch, batch) == []
    for row, example in enumerate(examples):
        assert real(batch, row)[:2] == [CLS, BOS]
        assert reinserted(batch, row) == sorted([CLS, BOS, *example["input_ids"]])
    assert batch["cls_position"].tolist() == [0] * len(examples)


@given(seq2seq)
@settings(deadline=None)
def test_an_example_is_corrupted_the_same_in_any_batch(examples: list[dict[str, Any]]) -> None:
    for collate in (ILMCollator(TOKENIZER), ILMSeq2SeqCollator(TOKENIZER)):
        batch = collate(examples)
        for row, example in enumerate(examples):
            alone = collate([example])
            assert real(alone, 0) == real(batch, row)
            for name in ("target_tokens", "target_counts"):
                (wide,) = batch[name][row : row + 1]
                counted = batch["target_counts"][row] > 0
                assert torch.equal(wide[counted], alone[name][0])


def test_noise_differs_between_seeds_and_not_with_torchs_state() -> None:
    example = {"input_ids": list(range(7, 16))}
    collate = ILMCollator(TOKENIZER)
    found = {tuple(real(collate([{**example, "noise_seed": seed}]), 0)) for seed in range(20)}
    assert len(found) > 10
    torch.manual_seed(1)
    first = collate([{**example, "noise_seed": 5}])
    torch.manual_seed(2)
    assert torch.equal(first["input_ids"], collate([{**example, "noise_seed": 5}])["input_ids"])


def test_only_what_is_left_of_a_long_sequence_can_be_missing() -> None:
    long = with_seeds(*({"input_ids": [7, 8, 9, 10]} for _ in range(30)))
    for truncate, left in (("right", [7, 8]), ("left", [9, 10])):
        batch = ILMCollator(TOKENIZER, block_size=4, truncate=truncate)(long)  # type: ignore[arg-type]
        assert {tuple(reinserted(batch, row)) for row in range(30)} == {tuple(sorted([CLS, BOS, *left]))}
        assert batch["input_ids"].shape[1] <= 4
    with pytest.raises(DataError, match="sequence of 4 tokens does not fit into 2"):
        ILMCollator(TOKENIZER, block_size=4, truncate="error")(long)


def test_prompts_and_answers_that_are_too_long() -> None:
    example = with_seeds({"prompt_ids": [7, 8, 9], "input_ids": [10, 11, 12]})
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        ILMSeq2SeqCollator(TOKENIZER, input_block_size=2)(example)
    with pytest.raises(DataError, match="answer of 3 tokens does not fit into 2"):
        ILMSeq2SeqCollator(TOKENIZER, block_size=3)(example)
    for prompt, answer, whole in (
        ("left", "right", [8, 9, 10, 11]),
        ("right", "left", [7, 8, 11, 12]),
    ):
        batch = ILMSeq2SeqCollator(
            TOKENIZER,
            3,
            2,
            prompt_truncate=prompt,
            answer_truncate=answer,  # type: ignore[arg-type]
        )(example)
        assert reinserted(batch, 0) == sorted([CLS, BOS, *whole])


def test_pad_to_block_gives_one_shape_of_everything_but_the_slot_index() -> None:
    seq = ILMSeq2SeqCollator(TOKENIZER, block_size=5, input_block_size=4, pad_to="block")
    text = ILMCollator(TOKENIZER, block_size=6, pad_to="block")
    for collate, width in ((seq, 10), (text, 6)):
        for n in range(5):
            batch = collate(with_seeds({"prompt_ids": [7] * n, "input_ids": [8] * n}))
            assert batch["input_ids"].shape == (1, width)
            assert batch["target_slots"].shape == batch["target_counts"].shape == (1, 4)


def test_prediction_rows_are_open_behind_bos_alone() -> None:
    batch = ILMSeq2SeqPredCollator(TOKENIZER)(
        with_seeds({"prompt_ids": [7, 8], "input_ids": [9]}, {"prompt_ids": [7], "input_ids": []})
    )
    assert mismatches(ILMPredictionBatch, batch) == []
    assert batch["input_ids"].tolist() == [[CLS, 7, 8, BOS], [PAD, CLS, 7, BOS]]
    assert batch["constraint"].tolist() == [[True, True, True, False]] * 2
    assert batch["target_ids"].tolist() == [[9, EOS], [EOS, PAD]]
    assert batch["cls_position"].tolist() == [0, 1]
    assert batch["noise_seed"].tolist() == [0, 1]


def test_unconditional_rows_have_no_prompt() -> None:
    batch = ILMSeq2SeqPredCollator(TOKENIZER)([{}, {"input_ids": []}])
    assert batch["input_ids"].tolist() == [[CLS, BOS]] * 2
    assert "target_ids" not in batch
    assert "noise_seed" not in batch


def test_infill_opens_the_gaps_where_masks_stand() -> None:
    truth = [7, 8, 9, 10]
    batch = ILMInfillCollator(TOKENIZER)(
        with_seeds(
            {"prompt_ids": [7, MASK, MASK, 10], "input_ids": truth},
            {"prompt_ids": [MASK, 9, MASK], "input_ids": truth},
            {"prompt_ids": [7, 8], "input_ids": truth},
            {"prompt_ids": [MASK], "input_ids": []},
        )
    )
    assert mismatches(ILMPredictionBatch, batch) == []
    assert [real(batch, row) for row in range(4)] == [[CLS, BOS, 7, 10], [CLS, BOS, 9], [CLS, BOS, 7, 8], [CLS, BOS]]
    gaps = [[(~batch["constraint"][row]).nonzero().flatten().tolist()] for row in range(4)]
    assert gaps == [[[2]], [[1, 2]], [[]], [[1]]]
    assert batch["target_ids"][0].tolist() == [*truth, EOS]


def test_infill_of_a_text_alone_has_no_truth() -> None:
    batch = ILMInfillCollator(TOKENIZER)([{"input_ids": [7, MASK]}])
    assert real(batch, 0) == [CLS, BOS, 7]
    assert "target_ids" not in batch


def test_an_infill_text_that_is_too_long() -> None:
    example = [{"prompt_ids": [MASK, 7, 8, 9, MASK]}]
    with pytest.raises(DataError, match="text of 3 tokens does not fit into 2"):
        ILMInfillCollator(TOKENIZER, block_size=4)(example)
    batch = ILMInfillCollator(TOKENIZER, block_size=4, truncate="right")(example)
    assert real(batch, 0) == [CLS, BOS, 7, 8]
    assert (~batch["constraint"][0]).nonzero().flatten().tolist() == [1]


def test_an_example_without_a_seed_is_refused() -> None:
    for collate in (ILMCollator(TOKENIZER), ILMSeq2SeqCollator(TOKENIZER)):
        with pytest.raises(DataError, match="Example 1 of a batch has no noise_seed"):
            collate([{"prompt_ids": [], "input_ids": [7], "noise_seed": 1}, {"prompt_ids": [], "input_ids": [7]}])


def test_collators_pickle() -> None:
    example = with_seeds({"prompt_ids": [7], "input_ids": [8, 9, 10]})
    for make in (ILMCollator, ILMSeq2SeqCollator, ILMSeq2SeqPredCollator, ILMInfillCollator):
        collate = make(TOKENIZER)
        copy = pickle.loads(pickle.dumps(collate))
        assert all(torch.equal(v, collate(example)[k]) for k, v in copy(example).items())


def test_printing_a_batch_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    example = [{"input_ids": [7, 7, 7, 7, 7, 7], "noise_seed": 2}]
    batch: Any = ILMCollator(TOKENIZER)(example)  # type: ignore[arg-type]
    print_batch_ilm(batch, "train", TOKENIZER, "lm")
    printed = capsys.readouterr().out
    assert "train/lm: input_ids" in printed
    assert "missing 2×0 after column 3, 1×0 after column 4" in printed
    print_batch_ilm(
        ILMSeq2SeqPredCollator(TOKENIZER)([{"prompt_ids": [], "input_ids": [8]}]), "val", TOKENIZER, "prediction"
    )
    assert "target" in capsys.readouterr().out
