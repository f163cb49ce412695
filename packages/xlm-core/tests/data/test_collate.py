"""Padding and truncation: rectangular batches whose real tokens are exactly the input."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.collate import noise_seeds, pad_ids, pad_prompt_and_answer, truncate_ids
from xlm.errors import DataError

PAD = 99
ragged = st.lists(st.lists(st.integers(0, 50), max_size=9), max_size=8)


@settings(deadline=None)
@given(ragged, st.sampled_from(["left", "right"]), st.none() | st.integers(9, 14))
def test_real_tokens_stand_where_they_should(sequences: list[list[int]], side: str, length: int | None) -> None:
    padded = pad_ids(sequences, PAD, length=length, side=side)  # type: ignore[arg-type]
    width = length if length is not None else max(map(len, sequences), default=0)
    assert padded.ids.shape == padded.mask.shape == (len(sequences), width)
    assert padded.ids.dtype == torch.int64
    assert padded.mask.dtype == torch.bool
    assert (padded.ids[~padded.mask] == PAD).all()
    for row, mask, sequence in zip(padded.ids, padded.mask, sequences, strict=True):
        assert row[mask].tolist() == sequence
        real = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        assert mask[real].all()


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=12), st.integers(0, 12))
def test_truncation_keeps_the_other_end(ids: list[int], length: int) -> None:
    right, left = truncate_ids(ids, length, "right"), truncate_ids(ids, length, "left")
    assert list(right) == ids[:length]
    assert list(left) == ids[max(0, len(ids) - length) :]
    if len(ids) > length:
        with pytest.raises(DataError, match=f"The sequence of {len(ids)} tokens does not fit into {length}"):
            truncate_ids(ids, length, "error")
    else:
        assert truncate_ids(ids, length, "error") == ids


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), max_size=6)), max_size=6)
)
def test_prompts_end_where_answers_start(pairs: list[tuple[list[int], list[int]]]) -> None:
    prompts, answers = [p for p, _ in pairs], [a for _, a in pairs]
    padded, start = pad_prompt_and_answer(prompts, answers, PAD)
    for row, mask, prompt, answer in zip(padded.ids, padded.mask, prompts, answers, strict=True):
        assert row[start - len(prompt) : start + len(answer)].tolist() == prompt + answer
        assert int(mask.sum()) == len(prompt) + len(answer)


def test_fixed_lengths_and_messages_name_the_part() -> None:
    padded, start = pad_prompt_and_answer([[1]], [[2, 3]], PAD, prompt_length=3, answer_length=4)
    assert padded.ids.tolist() == [[PAD, PAD, 1, 2, 3, PAD, PAD]]
    assert start == 3
    with pytest.raises(DataError, match="The prompt of 2 tokens does not fit into 1"):
        pad_prompt_and_answer([[1, 2]], [[3]], PAD, prompt_length=1)
    with pytest.raises(DataError, match="The answer of 2 tokens does not fit into 1"):
        pad_prompt_and_answer([[1]], [[3, 4]], PAD, answer_length=1)
    cut, _ = pad_prompt_and_answer([[1, 2]], [[3, 4]], PAD, prompt_length=1, answer_length=1,
                                   prompt_truncate="left", answer_truncate="right")  # fmt: skip
    assert cut.ids.tolist() == [[2, 3]]


def test_empty_batches_and_rows() -> None:
    assert pad_ids([], PAD).ids.shape == (0, 0)
    assert pad_ids([[], []], PAD, length=2).ids.tolist() == [[PAD, PAD], [PAD, PAD]]


def test_noise_seeds_of_a_batch() -> None:
    seeds = noise_seeds([{"noise_seed": 2**63 - 1}, {"noise_seed": 0}])
    assert seeds.tolist() == [2**63 - 1, 0]
    with pytest.raises(DataError, match="Example 1 of a batch has no noise_seed"):
        noise_seeds([{"noise_seed": 0}, {}])


def test_padding_is_fast() -> None:
    sequences = [list(range(700 + i)) for i in range(32)]
    start = time.perf_counter()
    for _ in range(20):
        pad_ids(sequences, PAD, length=1024)
    assert (time.perf_counter() - start) / 20 < 0.05  # under a millisecond on an idle core
