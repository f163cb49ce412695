"""Predictions reach their file whole, from every rank, and a few of them the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from xlm import flags
from xlm.errors import ConfigError
from xlm.log_predictions import LogPredictions

ROWS = [{"prompt": f"p{i} [PAD]", "prediction": f"é{i}", "truth": "t"} for i in range(5)]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    log = LogPredictions(num_printed=0)
    log.start("val", "prediction", 30, tmp_path)
    log.start("val", "other", 30, tmp_path)
    log.add("prediction", ROWS[:2])
    part = tmp_path / "val/prediction/step_00000030.jsonl.part"
    assert read(part) == ROWS[:2]
    log.add("other", ROWS[4:])
    log.add("prediction", iter(ROWS[2:]))
    assert not part.with_suffix("").exists()
    files = log.finish()
    assert files == [tmp_path / f"val/{name}/step_00000030.jsonl" for name in ("prediction", "other")]
    assert [read(f) for f in files] == [ROWS, ROWS[4:]]
    assert not part.exists()
    assert log.finish() == []


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    row = {"a": torch.tensor([1, 2]), "b": np.float32(0.5), "c": Path("x"), "d": torch.tensor(3)}
    (file,) = LogPredictions(num_printed=0).write([row], "test", "p", 1, tmp_path)
    assert read(file) == [{"a": [1, 2], "b": 0.5, "c": "x", "d": 3}]
    with pytest.raises(TypeError, match="to_dict must give JSON-able rows, but one holds set"):
        LogPredictions(num_printed=0).write([{"a": set()}], "test", "p", 1, tmp_path)


def test_limits_and_fields(tmp_path: Path) -> None:
    log = LogPredictions(num_printed=0, max_rows=3, fields=["truth", "prompt", "absent"])
    log.start("val", "p", 1, tmp_path)
    log.add("p", ROWS[:2])
    log.add("p", ROWS[2:])
    (file,) = log.finish()
    assert read(file) == [{"truth": "t", "prompt": row["prompt"]} for row in ROWS[:3]]


def test_a_few_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogPredictions(num_printed=2)
    log.write(ROWS, "val", "p", 7, tmp_path)
    out = capsys.readouterr().out
    assert "val/p, step 7: 2 of 5" in out
    assert "p1 [PAD]" in out
    assert "p2" not in out
    shown: list[Any] = []
    log.start("val", "p", 8, tmp_path)
    log.add("p", [{"prompt": "", "text": "x" * 1000, "extra": 1}])
    log.finish(shown.append)
    assert capsys.readouterr().out == ""
    console = Console(width=80)
    with console.capture() as capture:
        console.print(shown[0])
    text = capture.get().replace("text", "")
    assert "prompt" not in text
    assert "…" in text
    assert text.count("x") == 600


def test_writers_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert LogPredictions(writers=["console"]).write(ROWS, "val", "p", 1, tmp_path) == []
    assert "é0" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    LogPredictions(writers=["file"]).write(ROWS, "val", "p", 1, tmp_path)
    assert capsys.readouterr().out == ""


def test_the_debug_flag_shows_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags, "DEBUG_PRINT_PREDS", True)
    LogPredictions(num_printed=0).write(ROWS, "val", "p", 1, tmp_path)
    out = capsys.readouterr().out
    assert all(row["prediction"] in out for row in ROWS)


def test_ranks_write_apart_and_rank_zero_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (10, 2):
        monkeypatch.setenv("RANK", str(rank))
        (file,) = LogPredictions().write([{"rank": rank}], "val", "p", 1, tmp_path)
        assert file.name == f"step_00000001.rank{rank}.jsonl"
    monkeypatch.setenv("RANK", "0")
    (file,) = LogPredictions(num_printed=0, max_rows=2).write([{"rank": 0}], "val", "p", 1, tmp_path)
    assert read(file) == [{"rank": 0}, {"rank": 2}]
    assert [p.name for p in file.parent.iterdir()] == ["step_00000001.jsonl"]


def test_a_pass_that_broke_off_can_begin_again(tmp_path: Path) -> None:
    log = LogPredictions(num_printed=0)
    log.start("val", "p", 1, tmp_path)
    log.add("p", ROWS)
    log.start("val", "p", 1, tmp_path)
    log.add("p", ROWS[:1])
    (file,) = log.finish()
    assert read(file) == ROWS[:1]


def test_rows_before_a_start_are_an_error(tmp_path: Path) -> None:
    log = LogPredictions()
    log.start("val", "a", 1, tmp_path)
    with pytest.raises(ConfigError, match=r"called for 'b' before start\(\)\. Started: a"):
        log.add("b", ROWS)
    log.finish()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogPredictions(inject_target="x"), "ignores inject_target"),
        (lambda: LogPredictions(writers=["file", "logger"]), "ignores writers: logger"),
    ],
)
def test_options_without_meaning_are_said(make: Callable[[], object], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        make()
