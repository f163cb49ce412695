"""Loaders: positions that can be saved and restored, noise that depends on the example only, checked options."""

from __future__ import annotations

import pickle
import time
from itertools import islice
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.types import _Stateful

from xlm.data.loaders import (
    CombinedTrainLoader,
    EvalLoader,
    Key,
    KeyedExamples,
    StatefulTrainLoader,
    check_options,
    make_loader,
)
from xlm.data.rows import ListRows
from xlm.errors import DataError, XLMError


def collate(examples: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(example["id"], example["noise_seed"]) for example in examples]


def rows(n: int = 22) -> ListRows:
    return ListRows({"id": i} for i in range(n))


def train(n: int = 22, **options: Any) -> StatefulTrainLoader:
    loader = make_loader(rows(n), collate, **{"train": True, "batch_size": 4, "seed": 1, **options})
    assert isinstance(loader, StatefulTrainLoader)
    return loader


WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("taken", [0, 1, 4, 5, 7, 10, 12])
def test_state_restores_the_exact_sequence(num_workers: int, taken: int) -> None:
    def stream(loader: StatefulTrainLoader) -> Any:
        while True:
            yield from loader

    reference = list(islice(stream(train()), 20))
    loader = train(num_workers=num_workers)
    assert list(islice(stream(loader), taken)) == reference[:taken]
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    restored = train(num_workers=num_workers)
    restored.load_state_dict(state)
    assert list(islice(stream(restored), 20 - taken)) == reference[taken:]


@pytest.mark.slow
def test_workers_may_outlive_an_epoch() -> None:
    fresh = train()
    epochs = [list(fresh) for _ in range(4)]
    loader = train(num_workers=2, persistent_workers=True, prefetch_factor=2)
    assert list(loader) == epochs[0]
    assert list(islice(loader, 2)) == epochs[1][:2]  # given up while workers are ahead
    assert list(loader) == epochs[2]
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "batch": 3})
    assert list(loader) == epochs[1][3:]
    assert list(loader) == epochs[2]


def test_state_is_small_plain_and_normalised() -> None:
    loader = train()
    assert isinstance(loader, _Stateful)
    assert loader.state_dict() == {
        "epoch": 0, "batch": 0, "num_batches": 5, "global_batch_size": 4, "num_examples": 22, "seed": 1,
    }  # fmt: skip
    iterator = iter(loader)
    for position in range(1, 5):
        next(iterator)
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, position)
    next(iterator)  # the last batch: the epoch is over though the iterator has not said so yet
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (1, 0)


def test_each_iter_is_the_next_epoch_once_something_was_taken() -> None:
    fresh = train()
    epochs = [list(fresh) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    untouched = train()
    iter(untouched)  # making an iterator alone doesn't use up an epoch
    assert list(untouched) == epochs[0]
    abandoning = train()
    next(iter(abandoning))
    assert list(abandoning) == epochs[1]
    assert list(abandoning) == epochs[2]


def test_iterating_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(train())
    list(make_loader(rows(), collate, train=False, batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_batch_size_goes_on_at_the_nearest_earlier_place() -> None:
    loader = train()
    list(islice(loader, 3))
    larger = train(batch_size=6)
    larger.load_state_dict(loader.state_dict())
    assert larger.state_dict()["batch"] == 2
    assert next(iter(larger)) == list(train(batch_size=6))[2]


def test_other_data_starts_the_epoch_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    loader = train()
    list(islice(loader, 3))
    other = train(n=30)
    other.load_state_dict(loader.state_dict())
    assert (other.state_dict()["epoch"], other.state_dict()["batch"]) == (0, 0)
    assert "had 22 training examples and seed 1, this run has 30 and 1" in caplog.text


@pytest.mark.parametrize("num_workers", WORKERS)
def test_noise_belongs_to_seed_epoch_and_example_alone(num_workers: int) -> None:
    def noise(epochs: int = 1, **options: Any) -> dict[int, int]:
        loader = train(**options)
        return dict(pair for batch in [list(loader) for _ in range(epochs)][-1] for pair in batch)

    reference = noise(n=24, batch_size=1)
    assert noise(n=24, batch_size=6, num_workers=num_workers) == reference
    ranks = [noise(n=24, batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    assert ranks[0] | ranks[1] | ranks[2] == reference
    assert len(set(reference.values())) == 24
    assert all(0 <= seed < 2**63 for seed in reference.values())
    assert noise(n=24, epochs=2, batch_size=1).items().isdisjoint(reference.items())
    assert noise(n=24, batch_size=1, seed=2).items().isdisjoint(reference.items())


@pytest.mark.parametrize("num_workers", WORKERS)
def test_evaluation_sees_everything_in_order_every_time(num_workers: int) -> None:
    loader = make_loader(rows(), collate, train=False, batch_size=4, num_workers=num_workers)
    assert isinstance(loader, EvalLoader)
    assert [[i for i, _ in batch] for batch in loader] == [list(range(s, min(s + 4, 22))) for s in range(0, 22, 4)]
    assert list(loader) == list(loader)
    assert len(loader) == 6


def test_processor_runs_when_examples_are_fetched() -> None:
    examples = KeyedExamples(rows(), 0, lambda example: {**example, "double": 2 * example["id"]})
    assert examples[Key(0, 3, 3)]["double"] == 6
    assert examples[3] == examples[Key(0, 3, 3)]
    assert [e["id"] for e in examples.__getitems__([Key(1, 5, 0), Key(1, 2, 1)])] == [5, 2]


def test_combined_loader_is_as_long_as_the_longest_and_resumes() -> None:
    def combined() -> CombinedTrainLoader:
        return CombinedTrainLoader({"long": train(22), "short": train(9)})

    loader = combined()
    assert len(loader) == 5
    epochs = [list(loader) for _ in range(3)]
    short = [batch["short"] for epoch in epochs for batch in epoch]
    assert [i for i, _ in short[0] + short[1]] != [i for i, _ in short[2] + short[3]]  # an epoch of its own
    assert loader.state_dict() == {"epoch": 3, "batch": 0, "num_batches": 5}
    resumed = combined()
    resumed.load_state_dict({"epoch": 1, "batch": 3})
    assert list(resumed) == epochs[1][3:]
    assert list(resumed) == epochs[2]


def test_options_are_checked() -> None:
    with pytest.raises(DataError, match=r"Unknown dataloader_kwargs: batchsize\. Known: batch_size, shuffle"):
        train(batchsize=3)
    with pytest.raises(DataError, match="once and in order: shuffle and drop_last must be false"):
        make_loader(rows(), collate, train=False, batch_size=4, shuffle=True)
    # Options for workers mean nothing without workers.
    assert len(list(train(num_workers=0, prefetch_factor=4, persistent_workers=True))) == 5


def test_loading_is_fast_enough_for_small_models() -> None:
    loader = train(n=20_000, batch_size=64)
    start = time.perf_counter()
    num_examples = sum(map(len, loader))
    assert num_examples / (time.perf_counter() - start) > 10_000  # some 100,000 on an idle core


def test_options_of_a_loader_are_checked_before_one_is_made() -> None:
    check_options({"batch_size": 4, "prefetch_factor": 2}, "k")  # for workers, of which there are none
    for options, says in (({"prefetch": 2}, "prefetch"), ({"num_workers": -1}, "k.*num_workers")):
        with pytest.raises(XLMError, match=says):
            check_options({"batch_size": 4, **options}, "k")
