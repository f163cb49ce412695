"""Data of a user's own, with every family: three words on the command line, and the tokenizer goes with the run."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

import xlm
from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.compose import load_config
from xlm.data.locator import locate
from xlm.inference.session import start
from xlm.utils.instantiate import clear_components

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
SMALL = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "per_device_batch_size=8",
    "trainer_strategy=cpu", "block_size=24", "loggers=debug", "test_after_training=false", "vocab_size=300",
)  # fmt: skip
FILES = {"text": "texts.txt", "infill": "texts.txt", "pairs": "pairs.csv", "chat": "chat.jsonl"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sums = [(a, b) for a in range(12) for b in range(12)]
    (tmp_path / "texts.txt").write_text("".join(f"{a} and {b} make {a + b}\n" for a, b in sums))
    (tmp_path / "pairs.csv").write_text("prompt,answer\n" + "".join(f"{a} + {b} =,{a + b}\n" for a, b in sums))
    messages = [
        [{"role": "user", "content": f"{a} + {b}"}, {"role": "assistant", "content": f"{a + b}"}] for a, b in sums
    ]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(kind: str, family: str, *overrides: str) -> None:
    own = (f"datamodule=own_{kind}", f"data_files.train={FILES[kind]}")
    train.run(load_config([*own, f"model_type={family}", f"model=xtiny_{family}", "job_name=mine", *SMALL, *overrides]))
    clear_components()


# One of each kind and of each family with every change, all of them every night.
OFTEN = {("text", "mdlm"), ("infill", "mlm"), ("pairs", "arlm"), ("chat", "ilm")}


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        pytest.param(kind, family, marks=() if (kind, family) in OFTEN else pytest.mark.slow)
        for kind in FILES
        for family in FAMILIES
        if (kind, family) != ("infill", "arlm")
    ],
)
def test_every_family_learns_from_it_and_keeps_the_tokenizer(folder: Path, kind: str, family: str) -> None:
    trained(kind, family)
    results = json.loads((folder / "runs/mine/results.json").read_text())
    assert results["metrics"]["val/lm/accumulated_loss"] > 0
    # The model can be used where the data are gone.
    for file in [*folder.glob("*.*"), *(folder / "data").rglob("bpe-*")]:
        file.unlink()
    lm = xlm.load("runs/mine", seed=1)
    assert lm.tokenizer.decode(lm.tokenizer.encode("3 and 4", add_special_tokens=False)) == "3 and 4"
    assert isinstance(lm.generate("3 and" if kind in ("text", "infill") else "3 + 4 =")[0], str)


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    cells = [{name: v if isinstance(v, str) else json.dumps(v) for name, v in row.items()} for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(cells)


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_mirror(rows: list[dict[str, Any]]) -> None:
    """What a repository of data on the hub holds."""
    Path("owner/data/data").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet("owner/data/data/train-00000-of-00001.parquet")
    Dataset.from_list(rows[:9]).to_parquet("owner/data/data/test-00000-of-00001.parquet")


def write_halves(rows: list[dict[str, Any]]) -> None:
    Path("half1.jsonl").write_text(json_lines(rows[:70]))
    Path("half2.jsonl.xz").write_bytes(lzma.compress(json_lines(rows[70:]).encode()))


# What names the data on the command line, and what writes them.
SOURCES: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "a.jsonl": lambda rows: Path("a.jsonl").write_text(json_lines(rows)),
    "a.jsonl.gz": lambda rows: Path("a.jsonl.gz").write_bytes(gzip.compress(json_lines(rows).encode())),
    "a.json": lambda rows: Path("a.json").write_text(json.dumps(rows)),
    "a.csv": lambda rows: write_csv(Path("a.csv"), rows, ","),
    "a.tsv": lambda rows: write_csv(Path("a.tsv"), rows, "\t"),
    "a.parquet": lambda rows: Dataset.from_list(rows).to_parquet("a.parquet"),
    "saved": lambda rows: Dataset.from_list(rows).save_to_disk("saved"),
    "splits/train": lambda rows: DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk("splits"),
    "owner/data/train": write_mirror,
    "half*": write_halves,
    "a.txt": lambda rows: Path("a.txt").write_text("".join(f"{row['text']}\n" for row in rows)),
}


@pytest.mark.parametrize(
    "kind", ["text", "chat", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("infill", "pairs"))]
)
def test_every_source_gives_the_same_examples(folder: Path, kind: str) -> None:
    """Named by one override; the other two are the kind of data and the model."""
    rows = [dict(row) for row in locate(FILES[kind]).rows(None)]
    cfg = load_config([f"datamodule=own_{kind}", "data_files.train=a.jsonl", "model_type=mlm", "model=xtiny_mlm",
                       "vocab_size=300"])  # fmt: skip
    found = {}
    for name, write in SOURCES.items():
        if name == "a.txt" and kind not in ("text", "infill"):
            continue  # lines of text are not prompts and answers
        write(rows)
        for part in ("train", "val", "test"):
            cfg.data_files[part] = name
        session = start(cfg)
        session.datamodule.prepare_data()
        found[name] = {split: session.datamodule.contents(split) for split in ("train", "val", "test")}
        assert found[name]["train"]["lm"]["num_examples"] == 144
        for content in [each for split in found[name].values() for each in split.values()]:
            del content["source"]
        clear_components()
    assert all(content == found["a.jsonl"] for content in found.values())


def test_other_columns_files_and_tokenizers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"doc": {"body": line}} for line in (folder / "texts.txt").read_text().splitlines()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choice = ("data_files.train=rows.jsonl", "columns.text=doc.body", "data_files.val=rows.jsonl")
    trained("text", "arlm", *choice)
    # A run of its own with the tokenizer of the first.
    trained("text", "arlm", *choice, "tokenizer=runs/mine/tokenizer", "job_name=other")
    # Characters, and a vocabulary that is padded.
    padded = "model.num_embeddings=${tokenizer:full_vocab_size,64}"
    trained("text", "mlm", *choice, "tokenizer=character", padded, "job_name=letters")
    lm = xlm.load("runs/letters", seed=1)
    assert len(lm.tokenizer.encode("3 and 4", add_special_tokens=False)) == 7
    assert lm.tokenizer.full_vocab_size < lm.model.embed_tokens.num_embeddings == 64
    assert isinstance(lm.generate("3 and")[0], str)
    cfg = load_config(["experiment=own_text", "model_type=arlm", "model=xtiny_arlm", "job_name=other", *SMALL, *choice,
                       "eval.split=val", "tokenizer=runs/mine/tokenizer"])  # fmt: skip
    assert evaluation.run(cfg)["val/lm/accumulated_loss"] > 0
    assert (
        main(["train", "experiment=own_text", "model_type=arlm", "model=xtiny_arlm", "data_files.train=pairs.csv"]) == 1
    )
    assert "The data have no column text; they have: prompt, answer." in capsys.readouterr().err
