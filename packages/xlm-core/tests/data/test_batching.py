"""Buckets and token budgets: every row once, as many batches in every epoch and process, within the budget."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.batching import _within_budget, bucket_labels
from xlm.data.collate import Limit, pad_ids
from xlm.data.fitting import RemainingRows, SplitRows, TooLong, TruncatedRows
from xlm.data.loaders import EvalLoader, Key, StatefulTrainLoader, make_loader
from xlm.data.rows import ArrowRows, ListRows, SubsetRows, write_rows
from xlm.errors import DataError
from xlm.modules.packing import Packing

RANDOM = np.random.default_rng(5)
LENGTHS = RANDOM.integers(0, 40, 900).tolist()
PROMPTS = RANDOM.integers(1, 30, 900).tolist()


class Texts:
    """`[BOS] text [EOS]`, or with prompts in front, padded to the longest."""

    pad_to = "longest"
    block_size: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        left = pad_ids([example.get("prompt_ids", []) for example in examples], 0, side="left")
        right = pad_ids([[1, *example["input_ids"], 2] for example in examples], 0)
        return {
            "input_ids": torch.cat([left.ids, right.ids], dim=1),
            "attention_mask": torch.cat([left.mask, right.mask], dim=1),
            "seeds": [example["noise_seed"] for example in examples],
        }


def rows_of(lengths: list[int], prompts: list[int] | None = None) -> ListRows:
    rows: list[dict[str, Any]] = [{"input_ids": [7] * n} for n in lengths]
    for row, prompt in zip(rows, prompts or [], strict=False):
        row["prompt_ids"] = [8] * prompt
    return ListRows(rows)


def loader_of(rows: Any = None, collate: Any = None, **options: Any) -> StatefulTrainLoader:
    found = make_loader(
        rows_of(LENGTHS) if rows is None else rows,
        collate or Texts(),
        **{"train": True, "batch_size": 8, "seed": 1, "batching": "buckets", **options},
    )
    assert isinstance(found, StatefulTrainLoader)
    return found


def keys(loader: StatefulTrainLoader, epoch: int = 0) -> list[list[Key]]:
    return list(loader.order.batches(epoch))


def padding(loader: StatefulTrainLoader) -> float:
    masks = [batch["attention_mask"] for batch in loader]
    return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


CHOICES: list[dict[str, Any]] = [
    {"batching": "buckets"},
    {"batching": "buckets", "drop_last": False},
    {"batching": "buckets", "max_tokens_per_batch": 200},
    {"batching": "packed", "max_tokens_per_batch": 200},
]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=8, max_size=120),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(CHOICES),
    st.integers(0, 3),
)
def test_all_processes_see_every_row_once_in_as_many_batches(
    sizes: list[tuple[int, int]], world_size: int, with_prompts: bool, choice: dict[str, Any], epoch: int
) -> None:
    lengths, prompts = [text for text, _ in sizes], [prompt for _, prompt in sizes]
    rows = rows_of(lengths, prompts if with_prompts else None)
    try:
        ranks = [loader_of(rows, rank=rank, world_size=world_size, **choice) for rank in range(world_size)]
    except DataError as error:
        if "too small" not in str(error):
            raise
        return
    batches = [keys(loader, epoch) for loader in ranks]
    assert {len(found) for found in batches} == {len(loader) for loader in ranks} == {len(ranks[0])}
    assert all(batch for found in batches for batch in found)
    everything = [key for step in zip(*batches, strict=True) for batch in step for key in batch]
    # Consecutive places, whose time quantiles are evenly spread.
    assert [key.place for key in everything] == list(range(len(everything)))
    seen = [key.row for key in everything]
    assert len(set(seen)) == len(seen)
    dropped = len(lengths) - len(seen)
    if "max_tokens_per_batch" in choice or not choice.get("drop_last", True):
        assert dropped < world_size
    else:
        assert dropped < 8 * world_size
    for batch in (batch for found in batches for batch in found if "max_tokens_per_batch" in choice):
        total = [prompts[key.row] * with_prompts + lengths[key.row] + 2 for key in batch]
        longest = max(prompts[key.row] * with_prompts for key in batch) + max(lengths[key.row] + 2 for key in batch)
        assert (sum(total) if choice["batching"] == "packed" else longest * len(batch)) <= 200


def test_batches_are_alike_in_length_and_differ_between_epochs() -> None:
    assert padding(loader_of(batching=None)) > 0.4
    assert padding(loader_of()) < 0.05
    assert padding(loader_of(max_tokens_per_batch=300)) < 0.15
    pairs = rows_of(LENGTHS * 4, RANDOM.permutation(PROMPTS * 4).tolist())
    assert padding(loader_of(pairs)) < 0.6 * padding(loader_of(pairs, batching="longest"))
    loader = loader_of()
    first, second = ({frozenset(key.row for key in batch) for batch in keys(loader, epoch)} for epoch in (0, 1))
    assert len(first & second) < 3
    # Short and long batches alternate.
    means = np.array([np.mean([LENGTHS[key.row] for key in batch]) for batch in keys(loader)])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("counts", "widths", "max_tokens", "world_size", "sizes"),
    [
        ([10], [[2, 3]], 20, 1, [4, 4, 2]),
        ([10], [[5]], 20, 2, [8, 2]),
        ([4], [[5]], 5, 3, [3]),  # the last row is less than one for each process
        ([3, 10], [[5], [10]], 20, 1, [3, 2, 2, 2, 2, 2]),  # with a wider row, the first batch would be smaller
        ([1, 10], [[5], [6]], 20, 1, [3, 3, 3, 2]),  # with two wider rows it has more
        ([1, 1, 10], [[4], [5], [6]], 24, 1, [4, 4, 4]),  # over two borders
    ],
)
def test_a_batch_goes_on_into_the_next_bucket_where_that_gives_it_more_rows(
    counts: list[int], widths: list[list[int]], max_tokens: int, world_size: int, sizes: list[int]
) -> None:
    assert _within_budget(counts, widths, max_tokens, world_size).tolist() == sizes


def test_each_length_divides_the_buckets_of_the_one_before() -> None:
    parts = np.array([[2, 9, 2], [1, 9, 1], [1, 9, 2], [2, 9, 1]])
    assert bucket_labels(parts, np.ones(4), 1.0).tolist() == [3, 0, 1, 2]
    assert bucket_labels(parts, np.ones(4), 4.0).tolist() == [0, 0, 0, 0]
    assert bucket_labels(parts[:, :1], np.ones(4), 2.0).tolist() == [1, 0, 0, 1]


def test_two_processes_share_the_batches_of_one() -> None:
    one = keys(loader_of(batch_size=16))
    halves = [keys(loader_of(rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[*left, *right] for left, right in zip(*halves, strict=True)] == one


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_state_restores_the_exact_sequence(choice: dict[str, Any], num_workers: int) -> None:
    def stream(loader: StatefulTrainLoader) -> Any:
        while True:
            yield from loader

    def seeds(batches: Any) -> list[list[int]]:
        return [batch["seeds"] for batch in batches]

    length = len(loader_of(**choice))
    reference = seeds(islice(stream(loader_of(**choice)), length + 12))
    for taken in (5, length, length + 3):
        loader = loader_of(num_workers=num_workers, **choice)
        assert seeds(islice(stream(loader), taken)) == reference[:taken]
        restored = loader_of(num_workers=num_workers, **choice)
        restored.load_state_dict(loader.state_dict())
        assert seeds(islice(stream(restored), 9)) == reference[taken : taken + 9]


def test_other_batches_start_the_epoch_over(caplog: pytest.LogCaptureFixture) -> None:
    loader = loader_of()
    list(islice(loader, 3))
    for other in (loader_of(batch_size=4), loader_of(batching=None), loader_of(max_tokens_per_batch=100)):
        other.load_state_dict(loader.state_dict())
        assert other.state_dict()["batch"] == 0
    assert "had batches of 8 rows of similar lengths, this run has random rows: epoch 0 starts over" in caplog.text
    same = loader_of(batch_size=4, world_size=2)
    same.load_state_dict(loader.state_dict())
    assert same.state_dict()["batch"] == 3


def test_packed_batches_are_those_of_longest_with_the_places_of_their_tokens() -> None:
    padded, packed = list(loader_of(batching=None)), list(loader_of(batching="packed"))
    for one, other in zip(padded, packed, strict=True):
        index = other.pop("token_index")
        assert torch.equal(index, other["attention_mask"].view(-1).nonzero().squeeze(1))
        assert torch.equal(one["input_ids"], other["input_ids"])
    evaluation = make_loader(rows_of(LENGTHS), Texts(), train=False, batch_size=8, batching="packed")
    assert isinstance(evaluation, EvalLoader)
    assert "token_index" in next(iter(evaluation))


def test_packed_tensors_hold_the_real_tokens_of_each_row() -> None:
    mask = torch.tensor([[False, True, True, True], [True, False, False, False], [True, True, False, True]])
    packing = Packing.of(mask, mask.view(-1).nonzero().squeeze(1))
    assert packing is not None
    x = torch.arange(12.0, requires_grad=True)
    packed = packing.pack(x.view(3, 4, 1))
    assert packed.flatten().tolist() == [1, 2, 3, 4, 8, 9, 11]
    back = packing.unpack(packed)
    assert torch.equal(back.squeeze(-1), x.detach().view(3, 4) * mask)
    (back * torch.arange(12.0).view(3, 4, 1)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.arange(12.0) * mask.view(-1))
    left, right = packing.neighbours()
    assert left.tolist() == [[False, True, True, False, False, True, False]]
    assert right.tolist() == [[True, True, False, False, True, False, False]]
    assert packing.spread(torch.tensor([[5.0], [6.0], [7.0]])).flatten().tolist() == [5, 5, 5, 6, 7, 7, 7]
    assert Packing.of(torch.ones(2, 2, dtype=torch.bool), torch.arange(4)) is None
    assert Packing.of(mask, None) is None


def test_lengths_are_those_of_the_rows(tmp_path: Path) -> None:
    stored = [{"input_ids": [7] * n, "prompt_ids": [8] * p, "text": "x"} for n, p in zip(LENGTHS, PROMPTS, strict=True)]
    arrow = ArrowRows([*write_rows(tmp_path, stored)])
    long = TooLong("input_ids", Limit(10, "right"), *arrow.longer_than("input_ids", 10))
    every = np.arange(len(arrow))
    for rows in (
        arrow,
        ListRows(stored),
        SubsetRows(arrow, [5, 3, 800]),
        TruncatedRows(arrow, {"input_ids": 10}),
        RemainingRows(arrow, every[::3]),
        SplitRows(arrow, long),
    ):
        fetched = rows.fetch(list(range(len(rows))))
        for column in ("input_ids", "prompt_ids"):
            assert rows.lengths(column).tolist() == [len(row[column]) for row in fetched]
        assert rows.lengths("other") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens_per_batch": 40}, "the longest row has 41 tokens"),
        ({"batching": "packed", "max_tokens_per_batch": 100}, "must be at least 123 for packed batches"),
        ({"batching": None, "max_tokens_per_batch": 100}, "needs batching=buckets or batching=packed"),
        ({"processor": dict, "max_tokens_per_batch": 100}, "on_the_fly_processor makes these examples"),
        ({"rows": ListRows([{"ids": [1]}])}, "needs rows with input_ids"),
        ({"collate": SimpleNamespace(pad_to="block")}, "pad_to=block gives every row the length of its block"),
        ({"collate": SimpleNamespace(fills_block=True)}, "Set text_length=modelled or given"),
        ({"batch_size": 0}, "batch size must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        loader_of(**options)
