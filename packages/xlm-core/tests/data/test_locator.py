"""Every source of examples, and the error message of each."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from xlm.data.locator import locate, part_of_files
from xlm.errors import BadTargetError, DataError

ROWS = [{"text": f"line {i}", "n": i} for i in range(5)]
TABLE = pa.Table.from_pylist(ROWS)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


def write_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.csv": lambda path: csv.write_csv(TABLE, path),
    "rows.tsv": lambda path: csv.write_csv(TABLE, path, csv.WriteOptions(delimiter="\t")),
    "rows.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n"),
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "dict.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS})),
    "rows.parquet": lambda path: parquet.write_table(TABLE, path),
    "file.arrow": write_arrow,
    "stream.arrow": write_stream,
}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that `datasets` does leaves the test's folder or asks the network."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "hf"


@pytest.mark.parametrize("name", WRITERS)
def test_local_files_of_every_type(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    source = locate(str(path))
    # Cells of a table are text.
    rows = [{**row, "n": str(row["n"])} for row in ROWS] if name.endswith(("csv", "tsv")) else ROWS
    assert list(source.rows(None)) == rows
    assert list(locate(str(path), num_examples=2).rows(None)) == rows[:2]


def test_text_files_give_a_row_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\nsecond\n")
    assert list(locate(str(tmp_path / "a.txt")).rows(None)) == [{"text": "first"}, {"text": "second"}]


def test_identity_follows_the_content_not_the_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text('{"n": 1}\n')
    first, second = (locate(str(tmp_path / folder / "x.jsonl")).identity() for folder in ("a", "b"))
    assert first == second
    (tmp_path / "b" / "x.jsonl").write_text('{"n": 2}\n')
    assert locate(str(tmp_path / "b" / "x.jsonl")).identity() != first
    assert locate(str(tmp_path / "a" / "x.jsonl"), num_examples=1).identity() != first


def test_large_files_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.data.sources._CONTENT_BYTES", 3)
    (tmp_path / "x.txt").write_text("something")
    assert locate(str(tmp_path / "x.txt")).identity()["file"]["bytes"] == 9


def saved(folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    Dataset.from_list(ROWS).save_to_disk(folder / "one")
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:2])}).save_to_disk(folder / "two")


def test_folders_that_datasets_saved(tmp_path: Path, hub_cache: Path) -> None:
    saved(tmp_path)
    assert list(locate(str(tmp_path / "one")).rows(None)) == ROWS
    assert list(locate(str(tmp_path / "two" / "test")).rows(None)) == ROWS[:2]
    assert list(locate(str(tmp_path / "two"), split="train").rows(None)) == ROWS
    with pytest.raises(DataError, match="has no split 'val'; it has: train, test"):
        list(locate(str(tmp_path / "two" / "val")).rows(None))


def test_a_name_on_the_hub_or_its_local_mirror(
    tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "owner" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(TABLE, folder / "train-0.parquet")
    parquet.write_table(TABLE.slice(0, 2), folder / "test-0.parquet")
    monkeypatch.chdir(tmp_path)
    assert list(locate("owner/data/train").rows(None)) == ROWS
    assert list(locate("owner/data", split="test").rows(None)) == ROWS[:2]
    assert list(locate(str(folder), split="train[1:3]").rows(None)) == ROWS[1:3]
    assert list(locate(str(folder), split="test+train[:40%]").rows(None)) == ROWS[:2] * 2
    before = locate("owner/data/train").identity()
    parquet.write_table(TABLE.slice(0, 1), folder / "train-0.parquet")
    assert locate("owner/data/train").identity() != before
    for asked, says in (
        ("owner/data", "needs the name of a split; it has: train, test. Write owner/data/train"),
        ("owner/data/val", "has no split 'val'; it has: train, test"),
    ):
        with pytest.raises(DataError, match=says):
            list(locate(asked).rows(None))


def test_the_files_of_a_folder_are_read_as_each_is_alone(tmp_path: Path, hub_cache: Path) -> None:
    folder = tmp_path / "owner" / "data"
    folder.mkdir(parents=True)
    cells = ["007", "1.10", "2024-01-05", "NA", "12345678901234567890"]
    for number, some in enumerate((cells[:2], cells[2:])):
        (folder / f"train-{number}.csv").write_text("\ufefftext\n" + "\n".join(some) + "\n")
    source = locate(str(folder / "train"))
    assert [row["text"] for row in source.rows(None)] == cells
    assert source.where(3) == f"{folder}/train-1.csv, line 3"
    (folder / "train-1.csv").write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"train-1\.csv, line 2 is not UTF-8"):
        list(source.rows(None))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none has no readable data files"):
        list(locate(str(tmp_path / "none"), split="train").rows(None))


def test_hub_names_are_taken_apart() -> None:
    def parts(*args: Any, **kwargs: Any) -> list[Any]:
        identity = locate(*args, **kwargs).identity()
        return [identity[key] for key in ("hub", "config", "split", "revision")]

    assert parts("owner/data/train") == ["owner/data", None, "train", None]
    assert parts("owner/data/config/test") == ["owner/data", "config", "test", None]
    assert parts("owner/data", name="config", split="a", revision="v1") == ["owner/data", "config", "a", "v1"]
    assert locate("owner/data/train").name == "data-train"


def test_unreachable_names_say_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        list(locate("nobody/nothing-of-the-kind/train").rows(None))
    assert "full_name=path/to/mirror/train" in str(caught.value)


class Counting:
    def __init__(self, tokenizer: Any, num_examples: int, start: int = 0) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __iter__(self) -> Any:
        i = self.start
        while True:
            yield {"n": i, "tokenizer": self.tokenizer}
            i += 1


def test_generators_are_called_as_documented_and_cut_off() -> None:
    source = locate(None, dataset_constructor_str="json.loads", dataset_kwargs={"split": "train"}, num_examples=3)
    assert source.name == "loads-train"
    import sys

    sys.modules["counting_module"] = sys.modules[__name__]
    source = locate(
        None, dataset_constructor_str="counting_module.Counting", dataset_kwargs={"start": 5}, num_examples=2
    )
    assert list(source.rows("tok")) == [{"n": 5, "tokenizer": "tok"}, {"n": 6, "tokenizer": "tok"}]
    assert source.identity()["kwargs"] == {"start": 5}
    del sys.modules["counting_module"]
    with pytest.raises(BadTargetError):
        locate(None, dataset_constructor_str="no_such_module.X").identity()


def test_full_name_wins_over_a_generator(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"n": 1}\n')
    source = locate(str(tmp_path / "x.jsonl"), dataset_constructor_str="json.loads")
    assert list(source.rows(None)) == [{"n": 1}]


def test_mistakes_are_named(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text("{}")
    (tmp_path / "x.bin").write_text("")
    (tmp_path / "bad.json").write_text('{"a": 1}')
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a":')
    (tmp_path / "broken.parquet").write_text("PAR0")
    with pytest.raises(
        DataError, match=r"No such file or folder of data: .*trainin.jsonl. Did you mean 'training.jsonl'"
    ):
        locate(str(tmp_path / "trainin.jsonl"))
    with pytest.raises(DataError, match=r"not of a known type: \.csv, \.tsv"):
        locate(str(tmp_path / "x.bin"))
    with pytest.raises(DataError, match="does not contain a list of objects"):
        list(locate(str(tmp_path / "bad.json")).rows(None))
    with pytest.raises(DataError, match=r"broken.jsonl, line 2 is not JSON: Expecting value \(character 6\)"):
        list(locate(str(tmp_path / "broken.jsonl")).rows(None))
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read as parquet"):
        list(locate(str(tmp_path / "broken.parquet")).rows(None))
    with pytest.raises(DataError, match="needs full_name"):
        locate(None)
    with pytest.raises(DataError, match=r"Write owner/dataset\[/config\]/split"):
        locate("a/b/c/d/e")
    with pytest.raises(DataError, match="No such file or folder"):
        locate("/no/such/folder/train")


def test_parts_are_held_out_by_row(tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"text": f"row {n % 900}"}) + "\n" for n in range(1000)))
    files = {"train": str(train), "val": None, "test": None}
    shares = {"val": 0.1, "test": 0.2}
    parts = {part: part_of_files(files, part, shares) for part in ("train", "val", "test")}
    rows = {part: [row["text"] for row in source.rows(None)] for part, source in parts.items()}
    # Each row is in one part, and equal rows are together.
    assert sum(map(len, rows.values())) == 1000
    assert sum(len(set(texts)) for texts in rows.values()) == 900
    assert len(rows["val"]) == pytest.approx(100, abs=30)
    assert len(rows["test"]) == pytest.approx(200, abs=40)
    assert len({repr(source.identity()) for source in parts.values()}) == 3
    # A message names the row of the file.
    number = rows["val"].index(rows["val"][7])
    line = int(parts["val"].where(number).rpartition(" ")[2])
    assert json.loads(train.read_text().splitlines()[line - 1])["text"] == rows["val"][number]
    # A part with a file of its own takes nothing from the training rows.
    given = part_of_files({**files, "test": str(train)}, "train", shares)
    assert {row["text"] for row in given.rows(None)} == {*rows["train"], *rows["test"]}
    assert part_of_files({**files, "val": str(train), "test": str(train)}, "train", shares).name == "train"


@pytest.mark.parametrize(
    ("files", "part", "shares", "reason"),
    [
        ({}, "val", {"val": 0.1}, "data_files.train names no data"),
        (
            {"train": "a.txt"},
            "val",
            {"val": 0.0},
            "There are no data for val: give data_files.val, or held_out.val above 0",
        ),
        ({"train": "a.txt"}, "train", {"val": 0.6, "test": 0.4}, "held_out must leave rows to train on"),
        ({"train": "a.txt"}, "train", {"val": -0.1}, "held_out must leave rows to train on"),
        ({"train": "a.txt"}, "train", {}, "No such file or folder of data: a.txt"),
    ],
)
def test_parts_that_cannot_be_found(files: dict[str, Any], part: str, shares: dict[str, float], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        part_of_files(files, part, shares)


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content))


@pytest.mark.parametrize(
    ("ending", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)],
)
def test_compressed_files_are_read_like_plain_ones(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    texts = [f"row {number}, \u00e9" for number in range(5000)]
    plain = {
        "a.txt": "".join(f"{text}\n" for text in texts),
        "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
        "a.csv": "text\n" + "".join(f'"{text}"\n' for text in texts),
    }
    for name, content in plain.items():
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(pack(content.encode()))
        assert [row["text"] for row in locate(str(path)).rows(None)] == texts
    (tmp_path / f"damaged.txt{ending}").write_bytes(pack(plain["a.txt"].encode())[:-400])
    with pytest.raises(DataError, match=rf"damaged.txt{ending} cannot be unpacked: "):
        list(locate(str(tmp_path / f"damaged.txt{ending}")).rows(None))
    (tmp_path / f"a.parquet{ending}").touch()
    with pytest.raises(DataError, match=rf"a.parquet{ending} is not of a known type: .csv, .*, also with .gz"):
        locate(str(tmp_path / f"a.parquet{ending}"))


def test_several_files(tmp_path: Path) -> None:
    for number, name in enumerate(("a.txt", "b.txt", "c.txt.gz")):
        content = f"{number}1\n{number}2\n".encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    listed = [str(tmp_path / name) for name in ("b.txt", "a.txt")]
    for source, texts in (
        (locate(str(tmp_path / "?.txt*")), ["01", "02", "11", "12", "21", "22"]),
        (locate(listed), ["11", "12", "01", "02"]),
        (locate([str(tmp_path / "c*"), listed[0]]), ["21", "22", "11", "12"]),
    ):
        assert [row["text"] for row in source.rows(None)] == texts
        assert source.where(3).endswith(f"{'abc'[int(texts[3][0])]}.txt{'.gz' if texts[3][0] == '2' else ''}, line 2")
    assert locate(listed).identity() != locate(listed[::-1]).identity()
    assert locate([listed[0]]).identity() == locate(listed[0]).identity()
    with pytest.raises(DataError, match=r"No file matches .*z\*\.txt"):
        locate(str(tmp_path / "z*.txt"))
    with pytest.raises(DataError, match="A slice has whole numbers or percentages"):
        locate(f"{listed[0]}[:9x%]")
    with pytest.raises(DataError, match="A list of sources takes files and patterns, not "):
        locate([listed[0], str(tmp_path)])


def test_a_data_set_without_splits_has_none(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"text": "a"}]).save_to_disk(str(tmp_path / "saved"))
    assert list(locate(str(tmp_path / "saved")).rows(None)) == [{"text": "a"}]
    with pytest.raises(DataError, match=r"saved has no splits, so it has no split 'nonsense'\."):
        list(locate(str(tmp_path / "saved" / "nonsense")).rows(None))


@pytest.mark.parametrize("path", ["xlm.tasks.countdown.Countdown", "xlm.tasks.arithmetic.Additions"])
def test_a_generator_gets_the_split_also_through_its_base_class(path: str) -> None:
    def rows(split: str | None) -> list[dict[str, Any]]:
        return list(locate(None, split=split, dataset_constructor_str=path, num_examples=2).rows(None))

    assert rows("train") == rows(None)
    assert rows("val") != rows("train") != rows("test") != rows("val")
