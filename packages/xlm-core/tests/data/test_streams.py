"""Streams: every row once per epoch over ranks and workers, and the same order from any place."""

from __future__ import annotations

import gzip
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from xlm.data import streams
from xlm.data.endless import EndlessLoader
from xlm.data.locator import locate, part_of_files
from xlm.data.manager import DatasetManager
from xlm.data.sources import FolderSource, HubSource, Source
from xlm.data.streams import Lane, Lines, Stream, pieces_of
from xlm.errors import DataError
from xlm.utils.text_files import read_lines

NUM_ROWS = 700
HERE = "functions_of_streams"  # this module, by a name that a config may have
sys.modules[HERE] = sys.modules[__name__]
WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]


def write(folder: Path, kind: str, num_rows: int = NUM_ROWS) -> Source:
    rows = [{"text": f"row {number}" + " é" * (number % 13)} for number in range(num_rows)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if kind == "txt":
        (folder / "a.txt").write_text("".join(row["text"] + "\n" for row in rows))
    elif kind == "jsonl":
        (folder / "a.jsonl").write_text("\n" + lines.replace("\n", "\r\n", 5))
    elif kind == "gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    elif kind == "csv":
        (folder / "a.csv").write_text("text\n" + "".join(row["text"] + "\n" for row in rows))
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=40)
    elif kind == "list":
        for part in range(2):
            (folder / f"{part}.txt").write_text("".join(row["text"] + "\n" for row in rows[part::2]))
        return locate([str(folder / "*.txt")])
    elif kind == "saved":
        from datasets import Dataset

        Dataset.from_list(rows).save_to_disk(folder / "saved")
        return locate(str(folder / "saved"))
    elif kind in ("folder", "hub"):
        for part in range(10):
            (folder / f"train-{part}.txt").write_text("".join(row["text"] + "\n" for row in rows[part::10]))
        return HubSource(str(folder), None, "train", None) if kind == "hub" else locate(str(folder / "train"))
    return locate(str(next(folder.iterdir())))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_BYTES_PER_PIECE", 300)
    monkeypatch.setattr(streams, "_ROWS_PER_PIECE", 30)


KINDS = ["txt", "jsonl", "gz", "csv", "parquet", "list", "saved", "folder"]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", [*KINDS, pytest.param("hub", marks=pytest.mark.slow)])  # a second of `datasets`
def test_a_lane_reads_its_part_of_every_epoch_and_starts_again_from_any_mark(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, kind)
    expected = Counter(row["text"] for row in source.rows(None))
    assert sum(expected.values()) == NUM_ROWS
    stream = Stream(source, None, None, None, buffer=64, seed=3)
    num_lanes = stream.num_lanes()
    assert (num_lanes > 1) == (kind not in ("gz", "csv"))
    assert isinstance(source, FolderSource) == (kind == "folder")
    epochs: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    for number in range(num_lanes):
        lane = Lane(stream, number, num_lanes)
        examples = []
        for position in count():
            example = lane.fetch([position])[0]
            if example.epoch > 1:
                break
            examples.append(example)
            epochs[example.epoch][example.columns["text"]] += 1
        middle = len(examples) // 2
        # From the last mark before it, and from the very start; skipping does not change what follows.
        for marks in ([mark for mark in lane.marks if mark.position <= middle], []):
            assert Lane(stream, number, num_lanes, marks).fetch(range(middle, len(examples))) == examples[middle:]
        assert lane.fetch([5]) == [examples[5]]
    assert epochs == {0: expected, 1: expected}


@pytest.mark.usefixtures("small_pieces")
def test_ranges_of_bytes_have_the_lines_of_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\n\xc3\xa9\xe2\x80\xa8x\rtwo\n\nlast \xf0\x9f\x98\x80")
    whole = [line.text for line in read_lines(file)]
    for size in range(1, 30):
        monkey = [Lines(file, start, start + size) for start in range(0, file.stat().st_size, size)]
        assert [row["text"] for piece in monkey for row in piece.rows(0, None)] == whole
    for number, line in enumerate(read_lines(file), 1):
        assert line.where == f"{file}, line {number}"
    places = [piece.where(n) for piece in pieces_of(locate(str(file))) for n, _ in enumerate(piece.rows(0, None))]
    assert places == [line.where for line in read_lines(file)]


def test_without_shuffling_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    source = write(tmp_path, "txt", 50)
    stream = Stream(source, None, None, None, buffer=16, shuffle=False)
    found = [example.columns["text"] for example in Lane(stream, 0, stream.num_lanes()).fetch(range(100))]
    assert found == 2 * [row["text"] for row in source.rows(None)]


def test_the_first_examples_of_a_stream(tmp_path: Path) -> None:
    write(tmp_path, "txt", 50)
    made = manager(tmp_path / "a.txt")
    assert [row["input_ids"] for row in made.first_rows(7).fetch(range(7))] == [[number] for number in range(7)]
    assert len(made.first_rows(1000)) == 50


def test_held_out_rows_are_not_streamed(tmp_path: Path) -> None:
    write(tmp_path, "txt")
    files, shares = {"train": str(tmp_path / "a.txt")}, {"val": 0.2}
    train, val = (part_of_files(files, part, shares) for part in ("train", "val"))
    stream = Stream(train, None, None, None, buffer=64)
    lane = Lane(stream, 0, stream.num_lanes())
    found = {e.columns["text"] for e in lane.fetch(range(NUM_ROWS)) if e.epoch == 0}
    assert found == {row["text"] for row in train.rows(None)}
    assert found.isdisjoint(row["text"] for row in val.rows(None))


# Loaders.


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ids": [(e["input_ids"][0], e["noise_seed"], e["time_quantile"]) for e in examples]}


def first_word(example: dict[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    return {"input_ids": [int(example["text"].split()[1])]}


def manager(file: Path, **fields: Any) -> DatasetManager:
    made = DatasetManager(
        collate,
        str(file),
        streaming=True,
        columns_to_keep=["input_ids"],
        dataloader_kwargs={"batch_size": 4},
        **{"shuffle_buffer": 64, "preprocess_function": f"{HERE}.first_word", **fields},
    )
    made.label = "train.lm"
    made.setup(None, "unused")
    return made


def loader(file: Path, num_workers: int = 0, batch_size: int = 4, **options: Any) -> EndlessLoader:
    made = manager(file)
    made.dataloader_kwargs |= {"num_workers": num_workers, "batch_size": batch_size}
    found = made.get_dataloader("train", None, seed=5, **options)
    assert isinstance(found, EndlessLoader)
    return found


def batches(found: EndlessLoader, number: int) -> list[Any]:
    return [batch["ids"] for batch in islice(found, number)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_ranks_and_workers_share_one_order(tmp_path: Path, kind: str, num_workers: int) -> None:
    write(tmp_path, kind)
    file = tmp_path / f"a.{kind}"
    alone = batches(loader(file), 60)
    ranks = [batches(loader(file, num_workers, rank=rank, world_size=2), 30) for rank in range(2)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == alone
    # 240 of 700 rows: none twice, each with its own noise.
    rows, seeds, quantiles = zip(*(example for batch in alone for example in batch), strict=True)
    assert len(set(rows)) == len(set(seeds)) == 240
    assert max(abs(a - (i + 0.5) / 240) for i, a in enumerate(sorted(quantiles))) < 0.02


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("num_workers", WORKERS)
@pytest.mark.parametrize("taken", [0, 1, 33, 400])
def test_state_restores_the_exact_sequence(tmp_path: Path, num_workers: int, taken: int) -> None:
    write(tmp_path, "txt")
    reference = batches(loader(tmp_path / "a.txt"), taken + 20)
    first = loader(tmp_path / "a.txt", num_workers)
    assert batches(first, taken) == reference[:taken]
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(tmp_path / "a.txt", 2 - num_workers if num_workers else 0)
    second.load_state_dict(state)
    assert batches(second, 20) == reference[taken:]
    # A batch whose gradients were lost is repeated.
    if taken:
        second.load_state_dict({**state, "rewound": 1})
        assert batches(second, 5) == reference[taken - 1 : taken + 4]
    # An interrupted epoch of Lightning continues.
    assert batches(second, 5) == reference[taken + 4 : taken + 9] if taken else True


@pytest.mark.usefixtures("small_pieces")
def test_another_number_of_ranks_continues_at_the_same_examples(tmp_path: Path) -> None:
    write(tmp_path, "txt")
    file = tmp_path / "a.txt"
    before = loader(file)
    seen = [example[0] for batch in batches(before, 40) for example in batch]
    state = before.state_dict()
    for rank in range(3):
        after = loader(file, batch_size=5, rank=rank, world_size=3)
        after.load_state_dict(state)
        seen += [example[0] for batch in batches(after, 32) for example in batch]
        assert after.state_dict()["place"] == 160
    assert len(seen) == 160 + 3 * 32 * 5
    # 640 of 700 rows: with eight lanes of a little more than 80 rows each, few of the next epoch.
    assert sum(count - 1 for count in Counter(seen).values()) < 40
    reloaded = loader(file, batch_size=5, rank=1, world_size=3)
    reloaded.load_state_dict(after.state_dict())
    assert pickle.loads(pickle.dumps(reloaded.dataset)).num_lanes == 8


def long_and_short(example: dict[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    number = int(example["text"].split()[1])
    return {"input_ids": list(range(number, number + 1 + number % 3))}


class Limited:
    block_size = 2

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {"ids": [tuple(e["input_ids"]) for e in examples]}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("drop", lambda n: [list(range(n, n + 1 + n % 3))] if n % 3 < 2 else []),
        ("truncate", lambda n: [list(range(n, n + 1 + n % 3))[:2]]),
        ("split", lambda n: [ids for ids in (list(range(n, n + 1 + n % 3))[:2], [n + 2] * (n % 3 == 2)) if ids]),
    ],
)
def test_too_long_rows(tmp_path: Path, policy: str, expected: Callable[[int], list[list[int]]]) -> None:
    write(tmp_path, "txt", 60)
    made = manager(tmp_path / "a.txt", preprocess_function=f"{HERE}.long_and_short", too_long=policy)
    made.collator = Limited()
    made.stream = None  # opened again, with the limits of this collator
    made.setup(None, "unused")
    wanted = Counter(tuple(ids) for n in range(60) for ids in expected(n))
    found = made.get_dataloader("train", None, seed=5)
    assert isinstance(found, EndlessLoader)
    number = sum(wanted.values())
    taken = [ids for batch in batches(found, -(-number // 4)) for ids in batch][:number]
    assert Counter(taken) == wanted
    again = made.get_dataloader("train", None, seed=5)
    again.load_state_dict(found.state_dict())  # type: ignore[arg-type]
    assert isinstance(again, EndlessLoader)
    assert batches(again, 7) == batches(found, 7)


def broken(example: dict[str, Any], tokenizer: Any, **_: Any) -> dict[str, Any]:
    if example["text"].startswith("row 31"):
        raise DataError("it cannot be used.")
    return {"input_ids": [1, 2, 3]}


def test_errors_name_the_place(tmp_path: Path) -> None:
    write(tmp_path, "txt", 60)
    made = manager(tmp_path / "a.txt", preprocess_function=f"{HERE}.broken")
    with pytest.raises(DataError, match=r"a\.txt, line 32: it cannot be used\."):
        batches(made.get_dataloader("train", None, seed=5), 30)  # type: ignore[arg-type]
    (tmp_path / "a.jsonl").write_text('{"text": "row 1"}\n\n{"text": "row 2"\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 3 is not JSON"):
        batches(manager(tmp_path / "a.jsonl").get_dataloader("train", None), 3)  # type: ignore[arg-type]
    made.collator, made.too_long, made.stream = Limited(), "error", None
    with pytest.raises(DataError, match=r"the text in .*a\.txt, line 1 has 3 tokens, more than the 2 that fit"):
        made.setup(None, "unused")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="empty has no rows"):
        manager(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="for training only"):
        manager(tmp_path / "a.txt").get_dataloader("val", None)


class Endless:
    """An endless generator."""

    def __init__(self, tokenizer: Any, num_examples: int | None) -> None:
        assert num_examples is None

    def __iter__(self) -> Any:
        return ({"text": f"row {number}"} for number in count())


def test_an_endless_generator(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "streaming": True, "shuffle_buffer": 32, "preprocess_function": f"{HERE}.first_word",
        "dataset_constructor_str": f"{HERE}.Endless", "dataloader_kwargs": {"batch_size": 4},
    }  # fmt: skip
    loaders = []
    for _ in range(2):
        made = DatasetManager(collate, **options)
        made.setup(None, tmp_path)
        loaders.append(made.get_dataloader("train", None, seed=1))
    first, second = loaders
    assert isinstance(first, EndlessLoader)
    assert isinstance(second, EndlessLoader)
    found = batches(first, 24)
    assert sorted(example[0] for batch in found for example in batch) == list(range(96))
    second.load_state_dict(first.state_dict())
    assert batches(second, 5) == batches(first, 5)
    assert not list(tmp_path.iterdir())
