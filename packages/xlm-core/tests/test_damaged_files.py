"""Every format of files that is read, damaged at random: it can be used, or one sentence names the file and its fault.

A case is drawn from the name of its format and a number, so that a failure can be repeated:
XLM_DAMAGED=trace:17 pytest packages/xlm-core/tests/test_damaged_files.py -k few
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from damage import damage
from xlm.errors import XLMError

if TYPE_CHECKING:
    pass

SECONDS = 2.0
MEBIBYTES = 256
TEXTS = ["one two", "three", "four five six", "é 7"]
PAIRS = [{"prompt": f"{n} and {n}", "answer": str(2 * n)} for n in range(4)]
CHATS = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "7"}]} for text in TEXTS]


@dataclass(frozen=True)
class Format:
    """A format of files.

    Args:
        make: writes sound files into a folder.
        read: reads them as the user's command does.
        files: patterns of the files that are damaged.
        per_second: about how many are read in a second.
        is_checked: whether the command that reads them makes sure first that they are files.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: tuple[str, ...]
    per_second: int = 100
    is_checked: bool = False


# Data of users, up to prepared examples.


def rows_of(name: str, kind: str) -> list[dict[str, Any]]:
    return {"text": [{"text": text} for text in TEXTS], "pairs": PAIRS, "chats": CHATS}[kind]


def table(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([list(rows[0]), *([str(value) for value in row.values()] for row in rows)])
    return text.getvalue().encode()


def json_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    found = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(found, path)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, found.schema) as writer:
        writer.write_table(found)


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zst,
}  # fmt: skip


def write_data(path: Path, rows: list[dict[str, Any]]) -> None:
    bare = path.with_suffix("") if path.suffix in PACKED else path
    if bare.suffix in (".parquet", ".arrow"):
        arrow(path, rows)
        return
    content = {
        ".txt": lambda: "".join(f"{text}\n" for text in TEXTS).encode(),
        ".csv": lambda: table(rows, ","),
        ".tsv": lambda: table(rows, "\t"),
        ".jsonl": lambda: json_lines(rows),
        ".json": lambda: json.dumps(rows).encode(),
    }[bare.suffix]()
    path.write_bytes(PACKED[path.suffix](content) if path.suffix in PACKED else content)


STEPS = {"text": "text_to_input_ids", "pairs": "prompt_and_answer_to_ids", "chats": "chat_to_ids"}


def prepare(path: Path, kind: str, **options: Any) -> list[dict[str, Any]]:
    """The prepared examples of a file or folder."""
    from xlm.data.manager import DatasetManager
    from xlm.data.tokenizers import SimpleSpaceTokenizer

    manager = DatasetManager(full_name=str(path), preprocess_function=f"xlm.datamodule.{STEPS[kind]}", **options)
    tokenizer = SimpleSpaceTokenizer.for_numbers(20)
    entry = manager.prepare(tokenizer, path.parent / "cache", 0)
    assert entry is not None
    return entry.rows.fetch(range(len(entry.rows)))


def data(ending: str, kind: str = "text", per_second: int = 100, **options: Any) -> Format:
    def make(folder: Path) -> None:
        write_data(folder / f"data{ending}", rows_of(ending, kind))

    def read(folder: Path) -> object:
        return prepare(folder / f"data{ending}", kind, **options)

    return Format(make, read, (f"data{ending}",), per_second)


def make_folder_of_data(folder: Path) -> None:
    (folder / "data").mkdir()
    for name in ("train", "test"):
        write_data(folder / f"data/{name}.jsonl", rows_of(".jsonl", "text"))


def make_saved(folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(rows_of("", "text"))}).save_to_disk(str(folder / "saved"))


def stream(ending: str) -> Format:
    """As `streaming=true` reads it."""
    sound = data(ending)

    def read(folder: Path) -> object:
        from xlm.data.locator import locate
        from xlm.data.streams import _saved, pieces_of

        _saved.cache_clear()
        named = folder / ("saved/train" if ending == "" else f"data{ending}")
        return [(list(piece.rows(0, None)), piece.where(0)) for piece in pieces_of(locate(str(named)))]

    return Format(make_saved if ending == "" else sound.make, read, ("saved/train/*",) if ending == "" else sound.files)


# The cache.


def build_cache(folder: Path) -> object:
    from xlm.data.cache import DataCache
    from xlm.data.rows import chunks_of

    examples = [{"input_ids": [n, n + 1], "name": str(n)} for n in range(5)]
    entry = DataCache(folder / "cache").get_or_build("toy", {"a": 1}, lambda start: chunks_of(examples[start:]))
    assert entry.rows.fetch(range(5)) == examples
    return entry


def begin_cache(folder: Path) -> None:
    """Unfinished data: one complete file, and what a killed process noted."""
    from xlm.data import cache

    build_cache(folder)
    (done,) = [path for path in (folder / "cache").iterdir() if path.is_dir()]
    rows = next(done.glob("*.arrow"))
    shard = cache.Shard(rows, 5, 5)
    cache._record(done, shard)
    (done / "manifest.json").unlink()
    done.rename(done.with_name(f".{done.name}.partial"))


def train_tokenizer(folder: Path) -> object:
    from xlm.data.trained_tokenizer import TrainedTokenizer, read_or_train, with_special_tokens

    backend = read_or_train(folder / "tokenizer.json", lambda: TEXTS, 20, "word")
    assert with_special_tokens(backend, TrainedTokenizer)("one two", add_special_tokens=False)["input_ids"]
    return backend


# Tokenizers of users.


def save_tokenizer(folder: Path) -> None:
    from xlm.data.trained_tokenizer import train_tokenizer

    train_tokenizer(TEXTS, "word", 30).save_pretrained(folder / "tokenizer")


def read_tokenizer(folder: Path, name: str) -> object:
    from xlm.data.pretrained_tokenizers import load_auto_tokenizer

    return load_auto_tokenizer(str(folder / "tokenizer" / name))("one two")


# Prompts, texts.


def read_prompts(folder: Path, name: str) -> object:
    from xlm.inference.prompts import read_prompts

    return read_prompts(None, str(folder / name))


def read_texts(folder: Path) -> object:
    from xlm.inference.texts import read_texts

    return read_texts(str(folder / "texts.jsonl"))


# Lists of models, their commands and configurations.


def write_models(folder: Path) -> None:
    (folder / "toy/configs/model").mkdir(parents=True)
    (folder / "toy/__init__.py").write_text('__version__ = "1.2"\n')
    (folder / "toy/configs/commands.yaml").write_text(
        "hello_toy: toy.parts.hello\nbye: {target: toy.bye, help: Bye.}\n"
    )
    (folder / "toy/configs/model/toy.yaml").write_text("_target_: builtins.dict\nwidth: 4\n")
    (folder / "xlm_models.json").write_text(json.dumps({"toy": "toy", "other": "missing"}))


def read_models(folder: Path) -> object:
    from xlm.external_models import discover
    from xlm.external_models.package import load_commands

    found = discover({}, folder)
    found.raise_errors()
    assert all(len(str(error).splitlines()[0]) > 20 for error in found.errors)
    return [load_commands(model) for model in found.models.values() if model.name == "toy"]


def add_model(folder: Path) -> object:
    """As `xlm-scaffold` adds a model to the list."""
    from xlm.scaffold.plan import add_entry

    return add_entry(folder, "new")


def compose(folder: Path) -> object:
    from xlm.compose import load_config

    return load_config(["experiment=mine", "model_type=mine"], environ={}, cwd=folder)


def write_configs(folder: Path) -> None:
    for name, text in {
        "model/net": "_target_: builtins.dict\nwidth: 4\n",
        "model_type/mine": "# @package _global_\nmodel_name: mine\nloss: {_target_: builtins.dict, a: [1, 2]}\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /model: net\n  - override /datamodule: mine\n",
        "datamodule/mine": "# @package _global_\ndatamodule: {_target_: builtins.dict, dataset_managers: {}}\n",
    }.items():
        path = folder / f"configs/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# The files of a run, as `xlm runs` and `xlm report` read them.


def write_run(folder: Path) -> None:
    for number, name in enumerate(("a", "b")):
        run = folder / name
        (run / "predictions/test/prediction").mkdir(parents=True)
        started = {
            "started": "2026-01-01T10:00:00+0000",
            "command": ["xlm", "train", "experiment=star_easy_toy"],
            "seed": 1,
        }
        (run / "config.yaml").write_text(
            f"job_name: {name}\nmodel_name: toy\ntrainer: {{max_steps: 20}}\noptimizer: {{lr: 0.{number}}}\n"
        )
        (run / "record_train.json").write_text(
            json.dumps({**started, "versions": {"torch": "2.6"}, "git": {"commit": "01"}})
        )
        lines = [
            f"{step},{metric},{3 / step},{1000.0 + step}"
            for step in range(1, 5)
            for metric in ("train/lm/accumulated_loss", "val/lm/accumulated_loss")
        ]
        (run / "metrics.csv").write_text("\n".join(["step,name,value,time", *lines]) + "\n")
        rows = [{"prompt": f"{n}", "prediction": f"{n * number}", "truth": f"{n}", "id": n} for n in range(6)]
        (run / "predictions/test/prediction/step_00000004.jsonl").write_bytes(json_lines(rows))
        likelihood = {
            "test/lm": {"name": "nelbo", "of": "texts", "nats": {"value": 2.0, "se": 0.1}, "n": 6, "loss": "x"}
        }
        results = {
            **started, "step": 4, "parameters": 12, "training": {"cpu_seconds": 1.5, "tokens_per_second": 9.5},
            "metrics": {"test/lm/accumulated_loss": 0.5, "test/prediction/exact_match": 0.5},
            "n": {"test/prediction": 6},
            "likelihood": likelihood,
        }  # fmt: skip
        (run / "results.json").write_text(json.dumps(results))
        evaluated = {
            **started,
            "results": {"val/prediction/exact_match": {"value": 0.5, "se": 0.1, "n": 6}},
            "likelihood": likelihood,
        }
        (run / "eval_val.json").write_text(json.dumps(evaluated))
    lock = {
        "token": "x",
        "pid": 1,
        "process_started": "5",
        "host": "elsewhere",
        "machine": "m",
        "since": 1.0,
        "slurm": "",
    }
    (folder / "a/run.lock").write_text(json.dumps(lock))
    os.utime(folder / "a/run.lock", (1.0, 1.0))  # its run has been silent for long


def read_runs(folder: Path) -> object:
    from xlm.reports.document import build_report
    from xlm.reports.listing import SORTS, as_lines, as_object, sort_runs
    from xlm.reports.page import as_markdown, pairs_csv, render_page, values_csv
    from xlm.reports.run import read_run, run_folders

    runs = [read_run(found) for found in run_folders(folder)]
    for by in SORTS:
        sort_runs(runs, by)
    lines = as_lines(runs)
    assert all(line.isprintable() for line in lines)
    json.dumps([as_object(run) for run in runs], allow_nan=False, ensure_ascii=False).encode()
    report = build_report(runs, None, None)
    for render in (render_page, as_markdown, values_csv, pairs_csv):
        render(report).encode()
    return runs


def take_lock(folder: Path) -> object:
    from xlm.utils.run_lock import RunLock

    with RunLock(folder / "a") as lock:
        return lock


def resume_metrics(folder: Path) -> object:
    """A resumed run drops the rows of the steps that it repeats."""
    from xlm.training.train_log import CSVMetrics

    logger = CSVMetrics(str(folder / "a"))
    logger.drop_after(3)
    return logger.log_metrics({"a": 1.0}, 4)


def write_points(folder: Path) -> None:
    from xlm.commands.sweep_sampler import _append
    from xlm.evaluation.pareto import Point

    for steps in (1, 2):
        _append(folder / "points.jsonl", "k", Point({"steps": steps}, {"exact_match": (0.5, 0.1)}, 10, 2.0, 0.5))


def read_points(folder: Path) -> object:
    from xlm.commands.sweep_sampler import _append, _has_all, _read
    from xlm.evaluation.pareto import Point, write_tables
    from xlm.utils.files import output_file

    output_file(folder / "points.jsonl", "sweep.output_path")
    found = _read(folder / "points.jsonl", "k")
    point = Point({"steps": 3}, {"exact_match": (0.5, 0.1)}, 10, 2.0, 0.5)
    _append(folder / "points.jsonl", "k", point)
    points = [point]
    for options in ('{"steps": 1}', '{"steps": 2}'):
        if options in found and _has_all(found[options], points, "exact_match"):
            points.append(found[options])
    write_tables(folder, points, "exact_match")
    return found


# Traces.


def write_trace(folder: Path) -> None:
    def sample(kind: str) -> dict[str, Any]:
        steps = [
            {"call": 1, "changes": [{"do": kind, "at": 2, "token": 4, "p": 0.5, "others": [[5, 0.25]]}], "stop": 0.1},
            {
                "call": 2,
                "changes": [{"do": "insert", "at": 3, "token": 5, "slot": 2, "slot_p": 0.5}, {"do": "delete", "at": 3}],
            },
        ]
        return {
            "prompt": "0 1", "given": [1, 2, 3], "answer_start": 2, "steps": steps, "ids": [1, 2, 4], "calls": 2,
            "text": "4", "truth": "4", "drawing": {"kind": "grid", "cells": [["1", None]]},
        }  # fmt: skip

    runs = [
        {
            "name": name, "model": "toy", "checkpoint": "best.ckpt", "sampler": {"steps": 2},
            "tokens": {str(n): f" {n}" for n in range(6)}, "special": {"mask": 3}, "samples": [sample("write")],
        }
        for name in ("a", "b")
    ]  # fmt: skip
    (folder / "trace.json").write_text(json.dumps({"format": "xlm-trace/1", "title": "t", "runs": runs}))


def read_trace(folder: Path) -> object:
    from rich.console import Console

    from xlm.commands.trace import run_trace
    from xlm.inference.tracing import write_trace
    from xlm.schemas import TraceRuns
    from xlm.traces.document import document, read_document
    from xlm.traces.terminal import replay_in_terminal

    assert run_trace
    assert TraceRuns
    doc = document("t", read_document(folder / "trace.json")["runs"])
    replay_in_terminal(doc, Console(file=io.StringIO(), width=80))
    return write_trace(folder / "out.html", doc)


# Weights.


def write_checkpoints(folder: Path) -> None:
    import torch

    content = {
        "state_dict": {"model.weight": torch.arange(60.0)},
        "global_step": 3,
        "xlm_config": "model: {_target_: a.b}\n",
    }
    torch.save(content, folder / "best.ckpt")


def read_checkpoint(folder: Path) -> object:
    from xlm.inference.sources import find_source
    from xlm.training.resume import find_resumable

    found = find_source(folder / "best.ckpt")
    assert found.checkpoint is not None
    assert found.checkpoint["state_dict"]["model.weight"].tolist() == [float(n) for n in range(60)]
    return find_resumable(folder)


def write_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from xlm.utils.weight_files import split_weights

    save_file({f"layers.{n}.weight": torch.ones(30) for n in range(3)}, folder / "model.safetensors")
    (folder / "xlm_config.yaml").write_text("model: {_target_: a.b, width: 4}\nseed: 1\n")
    (folder / "shards").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "shards/model.safetensors")
    split_weights(folder / "shards/model.safetensors", 150)
    shutil.copy(folder / "xlm_config.yaml", folder / "shards/xlm_config.yaml")


def read_weights(folder: Path) -> object:
    from xlm.inference.sources import find_source
    from xlm.utils.weight_files import read_weights

    return [read_weights(find_source(place).path) for place in (folder, folder / "shards")]


def prompts(name: str, content: bytes) -> Format:
    return Format(lambda f: (f / name).write_bytes(content), lambda f: read_prompts(f, name), (name,), 1000)


PROMPTS = json_lines(["one", {"prompt": "two", "id": 7, "truth": "2"}])
FORMATS: dict[str, Format] = {
    "text": data(".txt"),
    "csv": data(".csv"),
    "csv of pairs": data(".csv", "pairs", reading={"dedup": True, "columns": ["prompt"]}),
    "tsv": data(".tsv"),
    "json": data(".json"),
    "json lines": data(".jsonl"),
    "json lines of pairs": data(".jsonl", "pairs"),
    "json lines of chats": data(".jsonl", "chats"),
    "parquet": data(".parquet"),
    "arrow": data(".arrow"),
    "gzip": data(".jsonl.gz"),
    "bzip2": data(".csv.bz2"),
    "xz": data(".txt.xz"),
    "zstd": data(".jsonl.zst"),
    "folder of data": Format(make_folder_of_data, lambda f: prepare(f / "data/train", "text"), ("data/*",), 20),
    "saved data": Format(make_saved, lambda f: prepare(f / "saved/train", "text"), ("saved/*", "saved/train/*"), 20),
    "stream of text": stream(".txt"),
    "stream of json lines": stream(".jsonl"),
    "stream of parquet": stream(".parquet"),
    "stream of saved data": stream(""),
    "prepared data": Format(build_cache, build_cache, ("cache/*/*",)),
    "unfinished data": Format(begin_cache, build_cache, ("cache/.*/*",)),
    "trained tokenizer": Format(train_tokenizer, train_tokenizer, ("tokenizer.json",)),
    "tokenizer folder": Format(save_tokenizer, lambda f: read_tokenizer(f, ""), ("tokenizer/*",), 50),
    "tokenizer file": Format(save_tokenizer, lambda f: read_tokenizer(f, "tokenizer.json"), ("tokenizer/*r.json",)),
    "prompts": prompts("prompts.txt", b"one\ntwo ___[2]\n"),
    "prompts as json": prompts("prompts.jsonl", PROMPTS),
    "texts": Format(
        lambda f: (f / "texts.jsonl").write_bytes(json_lines(["one", {"prediction": "2", "ended": True}])),
        read_texts, ("texts.jsonl",), 1000,
    ),
    "model lists": Format(write_models, read_models, ("*.json", "toy/configs/commands.yaml", "toy/*.py"), 40),
    "model list to extend": Format(write_models, add_model, ("xlm_models.json",)),
    "configurations": Format(write_configs, compose, ("configs/*/*",), 5),
    "runs": Format(write_run, read_runs, ("a/*.*", "a/predictions/*/*/*"), 30),
    "run lock": Format(write_run, take_lock, ("a/run.lock",)),
    "resumed metrics": Format(write_run, resume_metrics, ("a/metrics.csv",), is_checked=True),
    "sweep points": Format(write_points, read_points, ("points.jsonl",)),
    "trace": Format(write_trace, read_trace, ("trace.json",), 60),
    "checkpoint": Format(write_checkpoints, read_checkpoint, ("best.ckpt",)),
    "weights": Format(write_weights, read_weights, ("*.*", "shards/*"), 100),
}  # fmt: skip

# Files that are read as far as they can be: a damaged part is named among the run's problems, or left out.
NEVER_FAIL = {"runs", "run lock", "resumed metrics", "sweep points"}
# Files of this program, which are written again.
MENDED = {"prepared data", "unfinished data", "trained tokenizer"}


@contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fault(name: str, number: int, sound: Path, folder: Path) -> str | None:
    """What is wrong in the answer to one damaged file; None if nothing is."""
    form, random = FORMATS[name], Random(f"{name} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    files = sorted({path for pattern in form.files for path in folder.glob(pattern) if path.is_file()})
    file = random.choice(files)
    times = file.stat().st_atime, file.stat().st_mtime
    done = damage(file, random, content_only=form.is_checked)
    if file.is_file():
        os.utime(file, times)
    case = f"{name}:{number} {done} of {file.relative_to(folder)}"
    before, start = memory(), time.process_time()
    try:
        with quiet():
            form.read(folder)
    except XLMError as error:
        text = str(error)
        first = text.splitlines()[0] if text else ""
        if name in NEVER_FAIL | MENDED and file.is_file():
            return f"{case}: {type(error).__name__}: {text}"
        # Composing names keys, as the command line has them, and what is printed is escaped there.
        is_of_file = name != "configurations"
        if not 20 < len(first) < 700 or (is_of_file and not first.isprintable()):
            return f"{case}: not a sentence: {first!r}"
        if is_of_file and file.name not in text and file.parent.name not in text:
            return f"{case}: names no file: {text}"
    except Exception as error:  # noqa: BLE001 - any other exception is a fault
        import traceback

        where = " < ".join(
            f"{Path(f.filename).name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)[-6:])
        )
        return f"{case}: {type(error).__name__}: {str(error)[:200]} [{where}]"
    if (seconds := time.process_time() - start) > SECONDS:
        return f"{case}: {seconds:.1f} s"
    if (more := memory() - before) > MEBIBYTES:
        return f"{case}: {more:.0f} MiB"
    return None


def faults(name: str, numbers: range, folder: Path) -> list[str]:
    sound = folder / "sound"
    sound.mkdir()
    FORMATS[name].make(sound)
    shutil.copytree(sound, folder / "work")
    FORMATS[name].read(folder / "work")  # sound files can be read
    return [found for number in numbers if (found := fault(name, number, sound, folder / "work"))]


ONE = os.environ.get("XLM_DAMAGED", "").rpartition(":")


@pytest.mark.parametrize("name", [ONE[0]] if ONE[0] else FORMATS)
def test_few_damaged_files(name: str, tmp_path: Path) -> None:
    numbers = range(int(ONE[2]), int(ONE[2]) + 1) if ONE[0] else range(max(2, FORMATS[name].per_second // 10))
    found = faults(name, numbers, tmp_path)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("read", ["arrow", "stream of saved data"])
def test_an_arrow_file_that_points_outside_itself(read: str, tmp_path: Path) -> None:
    """Arrow reads there without a check, which ended the process."""
    FORMATS[read].make(tmp_path)
    (file,) = tmp_path.rglob("*.arrow")
    content = file.read_bytes()
    ends = np.cumsum([len(text.encode()) for text in TEXTS]).astype("<i4")
    assert content.count(ends.tobytes()) == 1
    file.write_bytes(content.replace(ends.tobytes(), (ends + 2**30).tobytes()))
    with pytest.raises(XLMError, match="cannot be read"):
        FORMATS[read].read(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    """Some minutes for all formats; XLM_DAMAGED_CASES chooses how many for each."""
    found = faults(name, range(1000, 1000 + int(os.environ.get("XLM_DAMAGED_CASES", 1000))), tmp_path)
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
