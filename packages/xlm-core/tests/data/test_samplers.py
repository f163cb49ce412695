"""The order of examples: disjoint, complete, equally long on every rank, and reproducible."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.loaders import EvalOrder, Key, TrainOrder
from xlm.errors import DataError

sizes = st.integers(1, 200)
batch_sizes = st.integers(1, 17)
world_sizes = st.integers(1, 5)


def indices(batches: list[list[Key]]) -> list[int]:
    return [index for batch in batches for _, index, _ in batch]


@settings(deadline=None)
@given(sizes, batch_sizes, world_sizes)
def test_evaluation_sees_every_example_once_in_equally_many_batches(n: int, batch_size: int, world: int) -> None:
    if n < world:
        with pytest.raises(DataError, match=f"{n} examples is too small for {world} processes"):
            EvalOrder(n, batch_size, 0, world)
        return
    ranks = [list(EvalOrder(n, batch_size, rank, world).batches()) for rank in range(world)]
    assert [i for batches in ranks for i in indices(batches)] == list(range(n))
    assert {len(batches) for batches in ranks} == {EvalOrder(n, batch_size, 0, world).num_batches}
    assert all(batch for batches in ranks for batch in batches)
    assert all(len(batch) <= batch_size + (world > 1) for batches in ranks for batch in batches)
    assert {epoch for batches in ranks for batch in batches for epoch, *_ in batch} == {0}


def test_evaluation_on_one_process_cuts_full_batches() -> None:
    order = EvalOrder(10, 4)
    assert [len(batch) for batch in order.batches()] == [4, 4, 2]
    assert list(order) == list(order) == [order.batch(number) for number in range(len(order))]
    # A batch of many examples is found without the others.
    assert EvalOrder(10**15, 4, 1, 3).batch(10**13)[0].row == 333_333_333_333_334 + 4 * 10**13


@settings(deadline=None)
@given(sizes, batch_sizes, world_sizes, st.integers(0, 3), st.booleans())
def test_training_splits_an_epoch_over_ranks(n: int, batch_size: int, world: int, epoch: int, drop: bool) -> None:
    if n < world:
        return
    orders = [TrainOrder(n, batch_size, 5, rank, world, drop_last=drop) for rank in range(world)]
    ranks = [list(order.batches(epoch)) for order in orders]
    assert {len(batches) for batches in ranks} == {orders[0].num_batches}
    seen = [i for batches in ranks for i in indices(batches)]
    assert len(set(seen)) == len(seen)  # disjoint
    left_out = n - len(seen)
    assert (
        left_out == (n % world if n < batch_size * world or not drop else n % (batch_size * world)) or left_out < world
    )
    assert all(0 < len(batch) <= batch_size for batches in ranks for batch in batches)
    assert all(key[0] == epoch for batches in ranks for batch in batches for key in batch)


@settings(deadline=None)
@given(st.integers(8, 100), st.sampled_from([1, 2, 4]), st.integers(0, 3), st.integers(1, 3))
def test_a_place_belongs_to_an_example_whatever_the_batches(n: int, world: int, epoch: int, batch_size: int) -> None:
    alone = {key.row: key.place for batch in TrainOrder(n, 1, 5).batches(epoch) for key in batch}
    assert sorted(alone.values()) == list(range(n))
    for rank in range(world):
        for batch in TrainOrder(n, batch_size, 5, rank, world).batches(epoch):
            assert all(alone[key.row] == key.place for key in batch)


@settings(deadline=None)
@given(st.integers(8, 100), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_ranks_together_see_what_one_process_sees(n: int, batch_size: int, epoch: int) -> None:
    alone = list(TrainOrder(n, 2 * batch_size, seed=3).batches(epoch))
    halves = [list(TrainOrder(n, batch_size, 3, rank, 2).batches(epoch)) for rank in range(2)]
    assert alone == [left + right for left, right in zip(*halves, strict=True)]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = TrainOrder(50, 4, seed=1)
    assert list(order.batches(2)) == list(order.batches(2))
    assert indices(list(order.batches(0))) != indices(list(order.batches(1)))
    assert indices(list(order.batches(0))) != indices(list(TrainOrder(50, 4, seed=2).batches(0)))
    assert list(order.batches(1, start=5)) == list(order.batches(1))[5:]


def test_ragged_last_batch_is_dropped_only_when_there_is_another() -> None:
    assert TrainOrder(10, 4).num_batches == 2
    assert TrainOrder(10, 4, drop_last=False).num_batches == 3
    assert [len(b) for b in TrainOrder(3, 4).batches()] == [3]
    assert indices(list(TrainOrder(8, 4, shuffle=False).batches())) == list(range(8))


def test_repeats_lengthen_an_epoch_with_new_draws_each() -> None:
    order = TrainOrder(4, 2, repeats=3)
    batches = list(order.batches(1))
    assert len(batches) == order.num_batches == 6
    assert [batch[0][0] for batch in batches] == [3, 3, 4, 4, 5, 5]
    assert list(order.batches(1, start=3)) == batches[3:]
    assert all(sorted(indices(batches[i : i + 2])) == [0, 1, 2, 3] for i in (0, 2, 4))


def test_refuses_empty_batches_and_data() -> None:
    with pytest.raises(DataError, match="batch size must be at least 1"):
        TrainOrder(4, 0)
    with pytest.raises(DataError, match="0 examples is too small"):
        EvalOrder(0, 4)
