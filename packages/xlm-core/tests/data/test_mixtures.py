"""Mixtures: shares that are kept exactly, a pure function of seed and step, the same examples after a resume."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlm.data.endless import PARTS, EndlessLoader
from xlm.data.locator import part_of_files
from xlm.data.manager import DatasetManager
from xlm.data.mixtures import BLOCK, PartOrder, Phase, check_mixture, mixture_phases
from xlm.data.sources import JoinedSource
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import ConfigError, DataError


@pytest.mark.parametrize("weights", [(3, 1), (1, 1, 1), (0, 5, 2), (1000, 1, 23)])
def test_shares_are_kept_and_counts_are_those_of_the_sequence(weights: tuple[float, ...]) -> None:
    phases = (Phase(0, weights), Phase(1500, weights[::-1]))
    order = PartOrder(phases, (7,))
    parts, numbers = order.parts(0, 5000)
    share = np.array(weights) / sum(weights)
    for start, end, shares in ((0, BLOCK, share), (1500, 1500 + BLOCK, share[::-1])):
        assert np.abs(np.bincount(parts[start:end], minlength=len(share)) - shares * (end - start)).max() < 1
    # From any place: the same parts, each counted on.
    for start, end in ((0, 1), (1023, 1026), (1490, 3000), (2524, 2525), (4999, 5000)):
        assert [part.tolist() for part in order.parts(start, end)] == [
            parts[start:end].tolist(), numbers[start:end].tolist(),
        ]  # fmt: skip
        assert order.counts(start).tolist() == np.bincount(parts[:start], minlength=len(share)).tolist()
    assert all(numbers[parts == part].tolist() == list(range((parts == part).sum())) for part in range(len(share)))
    assert PartOrder(phases, (8,)).parts(0, 5000)[0].tolist() != parts.tolist()


def phases(weights: Any = None, temperature: float = 1.0, schedule: Any = None, sizes: Any = (10, 90)) -> Any:
    return mixture_phases(["a", "b"], weights, temperature, schedule, 8, sizes)


def test_weights_temperature_and_schedule() -> None:
    assert phases() == (Phase(0, (0.5, 0.5)),)
    assert phases({"a": 3}) == (Phase(0, (0.75, 0.25)),)
    assert phases("size") == (Phase(0, (0.1, 0.9)),)
    assert phases("size", 2.0)[0].weights == pytest.approx((0.25, 0.75))
    later = [{"from_step": 5, "weights": {"a": 0}}, {"from_step": 9, "weights": {"b": 0}}]
    assert phases({"a": 3}, schedule=later) == (Phase(0, (0.75, 0.25)), Phase(40, (0.0, 1.0)), Phase(72, (1.0, 0.0)))
    assert phases({"a": 3}, schedule=[{"from_step": 0, "weights": {"b": 3}}]) == (Phase(0, (0.25, 0.75)),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"c": 1}}, "mixture.weights names 'c', which is not a part of the mixture: a, b."),
        ({"weights": {"a": 0, "b": 0}}, "must be 0 or more, with one above 0"),
        ({"weights": {"a": 5000}}, "gives 'b' a share of 0.0002. A share must be 0, or at least 1 in 1,024."),
        ({"weights": "size", "sizes": (5, None)}, "mixture.weights=size needs numbers of examples, but b is a stream"),
        ({"schedule": [{"from_step": 5}]}, "mixture.schedule.0 is {'from_step': 5}, and must be {from_step: STEPS"),
        (
            {"schedule": [{"from_step": 5, "weights": {}}, {"from_step": 4, "weights": {}}]},
            "mixture.schedule.1.from_step is 4; steps must increase from 0.",
        ),
    ],
)
def test_wrong_weights(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        phases(**options)
    assert message in str(error.value)


# Loaders.


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ids": [(e["input_ids"][0], e["noise_seed"]) for e in examples]}


def write(folder: Path, name: str, num_rows: int, first: int) -> Path:
    lines = (json.dumps({"ids": [number]}) + "\n" for number in range(first, first + num_rows))
    (folder / name).write_text("".join(lines))
    return folder / name


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {"a": str(write(tmp_path, "a.jsonl", 50, 0)), "b": str(write(tmp_path, "b.jsonl", 400, 1000))}


def loader(files: dict[str, Any], folder: Path, streaming: bool, **options: Any) -> EndlessLoader:
    made = DatasetManager(
        collate,
        files,
        streaming=streaming,
        shuffle_buffer=64,
        mixture={"weights": {"a": 1, "b": 3}, "schedule": [{"from_step": 30, "weights": {"a": 3, "b": 1}}]},
        preprocess_function="xlm.data.functional.ids_to_example_fn",
        dataloader_kwargs={"batch_size": 8},
    )
    made.label = "train.lm"
    made.setup(SimpleSpaceTokenizer.for_numbers(vocab_size=2000), folder)
    found = made.get_dataloader("train", None, seed=3, **options)
    assert isinstance(found, EndlessLoader)
    return found


@pytest.mark.parametrize("streaming", [False, True])
def test_parts_alternate_exactly_and_continue_exactly(
    tmp_path: Path, files: dict[str, str], streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xlm.data.streams._BYTES_PER_PIECE", 200)
    alone = list(islice(loader(files, tmp_path, streaming), 60))
    ids = [row for batch in alone for row, _ in batch["ids"]]
    of_rows = [part for batch in alone for part in batch[PARTS]["of_rows"].tolist()]
    assert [row >= 1000 for row in ids] == [part == 1 for part in of_rows]
    # Every row of a once before any is repeated, and the shares change with the step.
    assert Counter(Counter(row for row in ids if row < 1000).values()).keys() <= {3, 4, 5, 6}
    early, late = (np.mean(each) for each in (of_rows[:240], of_rows[240:]))
    assert early > 0.68
    assert late < 0.32
    # Two ranks are one process; a run that was stopped is one that was not.
    ranks = [list(islice(loader(files, tmp_path, streaming, rank=rank, world_size=2), 10)) for rank in range(2)]
    pairs = [batch["ids"] for pair in zip(*ranks, strict=True) for batch in pair]
    assert pairs == [batch["ids"] for batch in alone[:20]]
    first = loader(files, tmp_path, streaming)
    list(islice(first, 37))
    second = loader(files, tmp_path, streaming)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [batch["ids"] for batch in islice(second, 23)] == [batch["ids"] for batch in alone[37:]]
    shares = {"a": 1 - np.mean(of_rows), "b": np.mean(of_rows)}
    assert second.shares() == pytest.approx(shares)


def test_measured_steps_have_the_parts_apart(tmp_path: Path, files: dict[str, str]) -> None:
    found = loader(files, tmp_path, False, accumulate=2, measure_every=3)
    batches = list(islice(found, 12))
    assert [bool(batch[PARTS]["batches"]) for batch in batches] == [False, False, False, False, True, True] * 2
    batch = batches[4]
    apart = batch[PARTS]["batches"]
    assert [row for part in sorted(apart) for row in apart[part]["ids"]] == sorted(
        batch["ids"], key=lambda r: r[0] > 999
    )


def test_sources_of_other_kinds_side_by_side(tmp_path: Path, files: dict[str, str]) -> None:
    star = {
        "dataset_constructor_str": "xlm.tasks.star.StarGraphs",
        "dataset_kwargs": {"split": "train", "difficulty": "easy"},
        "num_examples": 20,
        "preprocess_function": "xlm.tasks.star.star_preprocess",
        "columns_to_keep": ["input_ids"],
        "streaming": False,
    }
    parts = {"a": {"data_file": files["a"], "streaming": True}, "star": star}
    made = DatasetManager(
        collate,
        data_file=parts,
        preprocess_function="xlm.data.functional.ids_to_example_fn",
        dataloader_kwargs={"batch_size": 8},
    )
    made.setup(SimpleSpaceTokenizer.for_numbers(vocab_size=100), tmp_path)
    found = made.get_dataloader("train", None)
    assert isinstance(found, EndlessLoader)
    assert {part for batch in islice(found, 4) for part in batch[PARTS]["of_rows"].tolist()} == {0, 1}
    assert made.content is not None
    assert made.content["source"].endswith("a")  # generated data are not recorded
    with pytest.raises(ConfigError, match=r"The part 'a' of the mixture has the field 'datafile'.*data_file"):
        DatasetManager(collate, {"a": {"datafile": "x"}})
    with pytest.raises(DataError, match="No such file or folder"):
        DatasetManager(collate, {"a": {"data_file": "missing.txt"}}).prepare(None, tmp_path)
    check_mixture([made, DatasetManager(collate, "x.txt", mixture={"weights": {"a": 1.0}})])
    with pytest.raises(ConfigError, match=r"mixture\.weights is set, but the training data have a single source"):
        check_mixture([DatasetManager(collate, "x.txt", mixture={"weights": {"a": 1.0}})])


def test_parts_are_held_out_in_turns(files: dict[str, str]) -> None:
    train, val = (part_of_files({"train": files}, part, {"val": 0.2}) for part in ("train", "val"))
    rows = [row["ids"][0] for row in val.rows(None)]
    assert isinstance(part_of_files({"train": files}, "train", {}), JoinedSource)
    assert any(row < 1000 for row in rows[:12])
    assert any(row >= 1000 for row in rows[:12])
    assert sorted([*rows, *(row["ids"][0] for row in train.rows(None))]) == [*range(50), *range(1000, 1400)]
    assert val.where(0).endswith(f"line {rows[0] % 1000 + 1}")
