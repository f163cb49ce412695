"""A data set of one split: prepared once, cached under a key of all its inputs, with the right loader."""

from __future__ import annotations

import json
import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from pyarrow import parquet

from xlm.data.cache import DataCache, read_checked
from xlm.data.loaders import EvalLoader, StatefulTrainLoader
from xlm.data.manager import (
    DatasetManager,
    EvalDatasetManager,
    LocalDatasetManager,
    UnconditionalGenerationDatasetManager,
)
from xlm.data.mapping import map_rows
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)


class Collator:
    block_size = 6

    def __call__(self, examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return examples


def star(**options: Any) -> DatasetManager:
    defaults: dict[str, Any] = {
        "dataset_constructor_str": "xlm.tasks.star.StarGraphs",
        "dataset_kwargs": {"split": "val", "seed": 0},
        "num_examples": 10,
        "preprocess_function": "xlm.tasks.star.star_preprocess",
        "columns_to_keep": ["prompt_ids", "input_ids"],
        "dataloader_kwargs": {"batch_size": 4},
    }
    return DatasetManager(Collator(), **{**defaults, **options})


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join(["1"] * n), "n": n}) + "\n" for n in range(1, 8)))
    return str(path)


def examples(manager: DatasetManager, cache: Path, split: str = "val") -> list[dict[str, Any]]:
    manager.setup(TOKENIZER, cache)
    return [example for batch in manager.get_dataloader(split, TOKENIZER) for example in batch]


def test_star_graphs_arrive_as_ids(tmp_path: Path) -> None:
    found = examples(star(), tmp_path)
    assert len(found) == 10
    assert found[0].keys() == {"prompt_ids", "input_ids", "noise_seed", "time_quantile", "noise_level"}
    assert all(len(e["prompt_ids"]) == 26 and len(e["input_ids"]) == 8 for e in found)


def test_prepared_data_are_read_once_by_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training prepares data before it resumes, Lightning prepares them again, and then they are set up."""
    star().prepare(TOKENIZER, tmp_path)
    reads: list[Path] = []
    monkeypatch.setattr("xlm.data.cache.read_checked", lambda path: reads.append(path) or read_checked(path))
    manager = star()
    manager.prepare(TOKENIZER, tmp_path)
    manager.prepare(TOKENIZER, tmp_path)
    assert len(examples(manager, tmp_path)) == 10
    assert len(reads) == 1
    manager.prepare(TOKENIZER, tmp_path / "elsewhere")
    assert len(reads) == 2


def test_everything_that_shapes_the_data_is_in_the_key(tmp_path: Path) -> None:
    def folder(tokenizer: Any = TOKENIZER, **options: Any) -> Path:
        entry = star(**options).prepare(tokenizer, tmp_path)
        assert entry is not None
        return entry.path

    reference = folder()
    assert folder() == reference
    # What only serves the data leaves the cache as it is.
    assert folder(dataloader_kwargs={"batch_size": 9}, role="prediction", stages=["test"]) == reference
    different = [
        folder(dataset_kwargs={"split": "val", "seed": 1}),
        folder(dataset_kwargs={"split": "test", "seed": 0}),
        folder(dataset_kwargs={"split": "val", "seed": 0, "difficulty": "medium"}),
        folder(num_examples=11),
        folder(columns_to_keep=["input_ids"]),
        folder(columns_to_keep=["prompt_ids", "input_ids", "num_bytes"]),
        folder(preprocess_function_kwargs={"anything": 1}),
        folder(preprocess_function=None, columns_to_keep=None),
        folder(tokenizer=SimpleSpaceTokenizer.for_numbers(21)),
    ]
    assert len({reference, *different}) == 1 + len(different)


def test_a_change_of_the_processing_code_rebuilds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = star().prepare(TOKENIZER, tmp_path)
    monkeypatch.setattr("xlm.data.steps.code_version", lambda function: "another version")
    after = star().prepare(TOKENIZER, tmp_path)
    assert before is not None
    assert after is not None
    assert after.built
    assert before.path != after.path


def test_files_with_functions_at_every_place(lines: str, tmp_path: Path) -> None:
    manager = LocalDatasetManager(
        Collator(),
        lines,
        preprocess_function="xlm.data.functional.text_to_input_ids",
        on_the_fly_processor="xlm.data.functional.token_ids_to_input_ids",
        on_the_fly_processor_kwargs=OmegaConf.create({"block_size": 3}),
        columns_to_keep=["input_ids", "n"],
        num_examples=5,
        dataloader_kwargs=OmegaConf.create({"batch_size": 2}),
    )
    found = examples(manager, tmp_path / "cache")
    assert [(e["n"], len(e["input_ids"])) for e in found] == [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]


def test_packing_takes_the_collators_block_size_unless_told(lines: str, tmp_path: Path) -> None:
    def lengths(**options: Any) -> list[int]:
        manager = DatasetManager(
            Collator(),
            lines,
            preprocess_function="xlm.data.functional.text_to_input_ids",
            on_the_fly_group_processor="xlm.data.functional.pack_sequences",
            dataloader_kwargs={"batch_size": 2},
            **options,
        )
        return [len(e["input_ids"]) for e in examples(manager, tmp_path / "cache")]

    assert lengths() == [6] * 5 + [5]  # 28 tokens and 7 EOS
    # Blocks have no text of their own, so there is no number of bytes to keep.
    assert lengths(columns_to_keep=["input_ids", "num_bytes"]) == lengths()
    assert lengths(on_the_fly_group_processor_kwargs={"block_size": 10}) == [10, 10, 10, 5]


def test_packing_without_a_block_size_is_an_error(lines: str, tmp_path: Path) -> None:
    manager = DatasetManager(None, lines, on_the_fly_group_processor="xlm.data.functional.pack_sequences")
    with pytest.raises(DataError, match=r"pack_sequences needs on_the_fly_group_processor_kwargs\.block_size"):
        manager.prepare(TOKENIZER, tmp_path / "cache")


def test_data_file_takes_the_place_of_the_source(lines: str, tmp_path: Path) -> None:
    for options in ({"full_name": "owner/data", "split": "train[:5]"}, {}):
        manager = star(data_file=lines, preprocess_function=None, columns_to_keep=["n"], num_examples=3, **options)
        assert [e["n"] for e in examples(manager, tmp_path / "cache")] == [1, 2, 3]


def test_splits_decide_the_loader(tmp_path: Path) -> None:
    manager = star()
    manager.setup(TOKENIZER, tmp_path)
    train = manager.get_dataloader("train", TOKENIZER, seed=3, rank=1, world_size=2)
    assert isinstance(train, StatefulTrainLoader)
    assert (train.order.seed, train.order.rank, train.order.world_size) == (3, 1, 2)
    assert isinstance(manager.get_dataloader("test", TOKENIZER), EvalLoader)
    evaluation = EvalDatasetManager(Collator(), full_name="x", dataloader_kwargs={"batch_size": 2})
    evaluation.rows = manager.rows
    assert isinstance(evaluation.get_dataloader("train", TOKENIZER), EvalLoader)


def test_unconditional_generation_asks_for_so_many_samples(tmp_path: Path) -> None:
    manager = UnconditionalGenerationDatasetManager(Collator(), num_examples=5, dataloader_kwargs={"batch_size": 4})
    assert manager.prepare(TOKENIZER, tmp_path) is None
    found = examples(manager, tmp_path)
    assert [e["input_ids"] for e in found] == [[]] * 5
    assert len({e["noise_seed"] for e in found}) == 5
    assert manager.role == "prediction"
    assert not any(tmp_path.iterdir())


def test_local_manager_never_asks_the_hub() -> None:
    with pytest.raises(DataError, match="There is no local data file or folder owner/data/train"):
        LocalDatasetManager(Collator(), "owner/data/train").source()


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = star().prepare(TOKENIZER, tmp_path)
    assert entry is not None
    (entry.path / "rows-00000.arrow").write_bytes(b"")
    assert len(examples(star(), tmp_path)) == 10
    assert "cannot be used" in caplog.text
    assert DataCache(tmp_path).root == tmp_path


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Unknown role 'predict' of a data set\. Choose one of: loss, prediction"):
        star(role="predict")
    with pytest.raises(DataError, match=r"Unknown stage 'training' of a data set\. Choose one of: fit, validate, test"):
        star(stages=["training"])
    with pytest.raises(DataError, match="columns_to_keep names ids; an example has"):
        star(columns_to_keep=["ids"]).prepare(TOKENIZER, tmp_path)
    with pytest.raises(DataError, match="has no examples, as its num_examples is 0"):
        star(num_examples=0).setup(TOKENIZER, tmp_path)
    (tmp_path / "header.csv").write_text("id,text\n")
    for _ in range(2):  # built, and found
        with pytest.raises(DataError, match=r"header\.csv has no examples: it has no rows"):
            star(data_file=str(tmp_path / "header.csv")).prepare(TOKENIZER, tmp_path)
    with pytest.raises(DataError, match=r"needs dataloader_kwargs\.batch_size"):
        examples(star(dataloader_kwargs={}), tmp_path)
    with pytest.raises(DataError, match="Call setup first"):
        star().get_dataloader("val", TOKENIZER)


TEXT = "xlm.data.functional.text_to_input_ids"
IDS = "xlm.data.functional.token_ids_to_input_ids"


@pytest.mark.parametrize(
    ("function", "row", "message"),
    [
        (TEXT, {"text": None}, "column 'text' holds null, not text"),
        (TEXT, {"text": 3}, "column 'text' holds a number, not text"),
        (TEXT, {"text": ["a"]}, "column 'text' holds a list, not text"),
        (TEXT, {"txt": "a"}, "the column 'text' is missing; it has: txt. Did you mean 'txt'"),
        (IDS, {"token_ids": [27]}, r"column 'input_ids' holds the id 27; the tokenizer's ids go from 0 to 26"),
        (IDS, {"token_ids": [-1]}, "holds the id -1; the tokenizer's ids go from 0"),
        (IDS, {"token_ids": [2**70]}, "holds the id 1180591620717411303424"),
        (IDS, {"token_ids": [1.5]}, r"holds a number \(1.5\) among its ids, which must be whole numbers"),
        (IDS, {"token_ids": [True]}, r"holds true or false \(True\) among its ids"),
        (IDS, {"token_ids": [[1]]}, "holds a list among its ids"),
        (IDS, {"token_ids": [None]}, "holds null among its ids"),
        (IDS, {"token_ids": None}, "column 'token_ids' holds null, not a list of ids"),
        (IDS, {"token_ids": {"a": 1}}, "column 'token_ids' holds an object, not a list of ids"),
        (IDS, {"token_ids": "1 2"}, "column 'token_ids' holds a text, not a list of ids"),
        (None, {"input_ids": [1], "prompt_ids": [99]}, "column 'prompt_ids' holds the id 99"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, function: str | None, row: dict[str, Any], message: str) -> None:
    good = {"text": "1", "token_ids": [1], "input_ids": [1], "prompt_ids": [1]}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n\n" for one in (good, row, good)))
    manager = DatasetManager(full_name=str(path), preprocess_function=function, num_examples=3)
    with pytest.raises(DataError, match=rf"a\.jsonl, line 3: .*{message}"):
        manager.prepare(TOKENIZER, tmp_path / "cache")


@pytest.mark.parametrize("value", [b"1", None])
def test_a_bad_cell_of_parquet_is_named(tmp_path: Path, value: bytes | None) -> None:
    parquet.write_table(pa.table({"text": [None, value]} if value else {"text": ["1", None]}), tmp_path / "a.parquet")
    manager = DatasetManager(full_name=str(tmp_path / "a.parquet"), preprocess_function=TEXT)
    with pytest.raises(DataError, match=r"a\.parquet, row \d: column 'text' holds .*, not text"):
        manager.prepare(TOKENIZER, tmp_path / "cache")


def test_rows_that_are_no_objects(tmp_path: Path) -> None:
    """Bare lists of ids are examples for the one function that says so."""
    options: dict[str, Any] = {"dataset_constructor_str": "builtins.zip", "dataset_kwargs": {}}
    for function, message in ((TEXT, "it is tuple, not an object"), (None, "it is tuple, not an object")):
        manager = DatasetManager(**options, preprocess_function=function)
        manager.source = lambda: _Lists()  # type: ignore[method-assign]
        with pytest.raises(DataError, match=f"lists, example 1: {message}"):
            manager.prepare(TOKENIZER, tmp_path)
    manager = DatasetManager(**options, preprocess_function="xlm.data.functional.ids_to_example_fn")
    manager.source = lambda: _Lists()  # type: ignore[method-assign]
    entry = manager.prepare(TOKENIZER, tmp_path)
    assert entry is not None
    assert entry.rows.fetch([1]) == [{"input_ids": [3]}]


class _Lists:
    """A source of bare sequences."""

    name = "lists"

    def identity(self) -> dict[str, Any]:
        return {}

    def rows(self, tokenizer: Any) -> Any:
        return iter([(1, 2), (3,)])

    def where(self, number: int) -> str:
        return f"lists, example {number + 1}"


def test_columns_of_several_kinds_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": "a"}\n')
    with pytest.raises(DataError, match="Column 'n' of prepared example 2 cannot be stored"):
        DatasetManager(full_name=str(path)).prepare(TOKENIZER, tmp_path / "cache")
    path.write_text('{"n": 1}\n' * 1000 + '{"n": "a"}\n')
    with pytest.raises(DataError, match="values of different kinds in different examples"):
        DatasetManager(full_name=str(path)).prepare(TOKENIZER, tmp_path / "cache")


def test_an_error_of_ones_own_function_notes_the_row() -> None:
    with pytest.raises(TypeError) as caught:
        list(map_rows(len, [[], 3], None))  # type: ignore[arg-type, list-item]
    assert caught.value.__notes__ == ["In row 2 of the data."]


@pytest.mark.slow
def test_several_processes_name_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "1"}\n' * 1500 + '{"text": null}\n')
    manager = DatasetManager(full_name=str(path), preprocess_function=TEXT)
    with pytest.raises(DataError, match="line 1501: column 'text' holds null"):
        manager.prepare(TOKENIZER, tmp_path / "cache", num_workers=2)


@pytest.mark.slow
def test_several_processes_prepare_the_same(tmp_path: Path) -> None:
    alone = star(num_examples=2500)
    alone.setup(TOKENIZER, tmp_path / "one")
    together = star(num_examples=2500)
    together.setup(TOKENIZER, tmp_path / "two", num_workers=2)
    assert alone.rows is not None
    assert together.rows is not None
    everything = list(range(2500))
    assert alone.rows.fetch(everything) == together.rows.fetch(everything)


def augmented(
    example: dict[str, Any], tokenizer: Any, *, noise_seed: int, epoch: int, row: int, length: int
) -> dict[str, Any]:
    """A random draw per example; needs all that a function on the fly may know."""
    draw = random.Random(noise_seed).randrange(10**9)
    return {"input_ids": [*example["input_ids"][:length], draw, epoch, row]}


def unaware(example: dict[str, Any], tokenizer: Any, **kwargs: Any) -> dict[str, Any]:
    """Published functions take any keywords, and pass them on."""
    assert not kwargs
    return {"input_ids": [7]}


@pytest.mark.parametrize("streaming", [False, True])
def test_augmentation_depends_on_seed_epoch_and_row_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    monkeypatch.setitem(sys.modules, "augmentation", sys.modules[__name__])
    (tmp_path / "a.jsonl").write_text("".join(f'{{"ids": [{n}, {n}]}}\n' for n in range(24)))

    def batches(seed: int, start: int, number: int, function: str = "augmented", **options: Any) -> list[Any]:
        manager = DatasetManager(
            lambda examples: [tuple(e["input_ids"]) for e in examples],
            str(tmp_path / "a.jsonl"),
            preprocess_function="xlm.data.functional.ids_to_example_fn",
            on_the_fly_processor=f"augmentation.{function}",
            on_the_fly_processor_kwargs={"length": 1} if function == "augmented" else {},
            dataloader_kwargs={"batch_size": 4},
            streaming=streaming,
        )
        manager.setup(TOKENIZER, tmp_path)
        loader = manager.get_dataloader("train", TOKENIZER, seed=seed, **options)
        state: dict[str, Any] = loader.state_dict()  # type: ignore[union-attr]
        loader.load_state_dict(state | ({"taken": start} if streaming else {"batch": start}))  # type: ignore[union-attr]
        found: list[Any] = []
        while len(found) < number:
            found += islice(loader, number - len(found))
        return found

    two_epochs = batches(1, 0, 12)
    drawn = {(n, epoch): draw for batch in two_epochs for n, draw, epoch, _ in batch}
    assert len(drawn) == len(set(drawn.values())) == 48
    assert len({row for batch in two_epochs for *_, row in batch}) == 24
    assert batches(1, 4, 2) == two_epochs[4:6]
    ranks = [batches(1, 0, 3, rank=rank, world_size=2) for rank in range(2)]
    for example in (example for rank in ranks for batch in rank for example in batch):
        assert drawn[example[0], example[2]] == example[1]
    assert {draw for batch in batches(2, 0, 6) for _, draw, *_ in batch}.isdisjoint(drawn.values())
    assert batches(1, 0, 1, "unaware") == [[(7,)] * 4]
