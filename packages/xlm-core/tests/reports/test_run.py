"""A run read from its folder: state, values with their errors, curves, settings, and how it is found."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.errors import ConfigError
from xlm.reports.document import MAX_POINTS, differing_settings, panels, thinned, training_minutes
from xlm.reports.listing import age, as_lines, sort_runs
from xlm.reports.run import Measured, distinct_names, named_runs, read_run, run_folders
from xlm.utils.run_lock import LOCK, Holder, RunLock

if TYPE_CHECKING:
    from .conftest import WriteRun


def grow_old(folder: Path, seconds: float) -> None:
    at = time.time() - seconds
    for path in folder.rglob("*"):
        os.utime(path, (at, at))


def test_states(write_run: WriteRun) -> None:
    assert read_run(write_run("a")).state() == "finished"
    going = write_run("b", ended=False)
    assert read_run(going).state() == "running"
    grow_old(going, 3600)
    assert read_run(going).state() == "interrupted"
    with RunLock(going):  # however long it is silent
        assert read_run(going).state() == "running"
        dead = replace(Holder.this_process(), process_started="1")
    (going / LOCK).write_text(json.dumps(asdict(dead)))
    assert read_run(going).state() == "interrupted"


def test_what_was_neither_trained_nor_evaluated_has_no_state(tmp_path: Path) -> None:
    (tmp_path / "record_generate.json").write_text("{}")
    assert read_run(tmp_path).state() == "unknown"


def test_a_run_started_again_is_not_finished(write_run: WriteRun) -> None:
    folder = write_run("a")
    record = json.loads((folder / "record_train.json").read_text())
    (folder / "record_train.json").write_text(json.dumps({**record, "started": "2026-01-02T10:00:00+0000"}))
    assert read_run(folder).state() == "running"


def test_a_run_that_logs_seldom_is_given_time(write_run: WriteRun) -> None:
    folder = write_run("a", ended=False)
    (folder / "metrics.csv").write_text("step,name,value,time\n1,train/x,1,0\n2,train/x,1,900\n")
    grow_old(folder, 3600)
    assert read_run(folder).state() == "running"


def test_values_and_errors(write_run: WriteRun) -> None:
    folder = write_run("a", model="mdlm", answers=["0 0", "x", "x", "x"])
    likelihood = {"nll_per_token": {"value": 2.5, "se": 0.25}, "exact": False, "n": 9}
    loss = {"value": 0.25, "se": 0.125, "n": 6, "se_over": "examples"}
    later: dict[str, object] = {"started": "2026-01-03T10:00:00+0000", "results": {"test/lm/accumulated_loss": loss}}
    later["metrics"] = {"test/lm/accumulated_loss": 0.25}
    (folder / "eval_test.json").write_text(json.dumps({**later, "likelihood": {"test/lm": likelihood}}))
    run = read_run(folder)
    assert (run.model, run.data, run.step, run.max_steps) == ("mdlm", "star_easy", 20, 20)
    match = run.measured["test/prediction/exact_match"]
    assert (match.value, match.n, match.source) == (0.25, 4, "results.json")
    assert match.error == pytest.approx((0.25 * 0.75 / 4) ** 0.5)
    nll = run.measured["test/lm/nll_per_token"]
    assert (nll.value, nll.error, nll.n) == (2.5, 0.25, 9)
    of_the_later = Measured(0.25, 0.125, 6, "eval_test.json")
    assert run.measured["test/lm/accumulated_loss"] == of_the_later
    validated = run.measured["val/prediction/exact_match"]
    assert (validated.value, validated.source) == (0.5, "metrics.csv, step 20")


def test_a_line_for_each_run_at_eighty_columns(write_run: WriteRun) -> None:
    long = read_run(write_run("an_experiment_with_a_very_long_name,optimizer.lr=0.003,seed=17", answers=["0 0"]))
    short = read_run(write_run("b", ended=False))
    lines = as_lines([long, short], 80, now=max(long.written, short.written) + 7200)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["name", "model", "data", "step", "match", "loss", "state", "age"]
    assert lines[1].split()[1:] == ["toy", "star_easy", "20", "1.000", "0.500", "finished", "2", "h"]
    last = next(i for i, line in enumerate(lines) if line.startswith("b "))
    assert lines[last].split()[:5] == ["b", "toy", "star_easy", "20", "0.500*"]
    names = "".join(line[: lines[0].index("model")].strip() for line in lines[1:last])
    assert names == long.name
    assert lines[-1].startswith("* on validation data")


def test_orders(write_run: WriteRun) -> None:
    a, b = read_run(write_run("a", answers=["x"])), read_run(write_run("b", answers=["0 0"]))
    assert [run.name for run in sort_runs([a, b], "match")] == ["b", "a"]
    assert [run.name for run in sort_runs([b, a], "name")] == ["a", "b"]
    assert [run.name for run in sort_runs([a, b], "-name")] == ["b", "a"]
    assert [run.name for run in sort_runs([a, b], "exact_match")] == ["b", "a"]
    assert [run.name for run in sort_runs([b, a], "-test/prediction/exact_match")] == ["a", "b"]
    early, late = replace(a, written=1.0), replace(b, written=2.0)
    assert sort_runs([late, early], "date") == [early, late]
    assert sort_runs([early, late], "-date") == sort_runs([early, late], "age") == [late, early]
    without = read_run(write_run("c", ended=False))
    (without.folder / "metrics.csv").unlink()
    without = read_run(without.folder)
    for order in ("loss", "-loss", "match", "-match", "step", "-step", "exact_match", "-exact_match"):
        assert sort_runs([without, a, b], order)[-1] is without
    with pytest.raises(ConfigError, match=r"Did you mean 'name'"):
        sort_runs([a], "nane")


def test_ages() -> None:
    assert [age(s) for s in (-1, 59, 60, 7199, 90000)] == ["0 s", "59 s", "1 min", "1 h", "1 d"]


def test_curves_are_thinned_to_means_and_stops_take_no_time(write_run: WriteRun) -> None:
    points = [(float(i), i / 10, i * 1.0) for i in range(1000)]
    few = thinned(points)
    assert len(few) <= MAX_POINTS
    assert sum(p[2] for p in few) / len(few) == pytest.approx(499.5)
    minutes = training_minutes([0.0, 60.0, 120.0, 50_000.0])
    assert list(minutes.values()) == [0.0, 1.0, 2.0, 3.0]
    found = panels([read_run(write_run("a")), read_run(write_run("b"))])
    assert [panel.name for panel in found] == [
        "train/lm/accumulated_loss",
        "val/prediction/exact_match",
        "train/tokens_per_second",
    ]
    assert [curve.run for curve in found[1].curves] == [0, 1]
    assert found[1].curves[0].values == [0.25, 0.5]


def test_only_differing_settings(write_run: WriteRun) -> None:
    runs = [read_run(write_run("a", lr=0.1)), read_run(write_run("b", model="mlm", lr=0.2))]
    assert differing_settings(runs) == {"model_name": ["toy", "mlm"], "optimizer.lr": ["0.1", "0.2"]}
    assert differing_settings(runs[:1]) == {}
    (runs[1].folder / "config.yaml").unlink()
    assert differing_settings([runs[0], read_run(runs[1].folder)]) == {}


def test_what_a_person_chose_comes_first(write_run: WriteRun) -> None:
    """The groups, then the family and the keys of the commands, then what follows from these."""
    runs = []
    for name, family, lr in (("a", "toy", 0.1), ("b", "mlm", 0.2)):
        folder = write_run(name, model=family, lr=lr)
        record = json.loads((folder / "record_train.json").read_text())
        record |= {
            "choices": {"model_type": family, "model": "tiny"},
            "command": ["xlm", "train", f"optimizer.lr={lr}"],
        }
        (folder / "record_train.json").write_text(json.dumps(record))
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(f"{config}\naaa: {lr}\n")
        runs.append(read_run(folder))
    found = differing_settings(runs)
    assert list(found) == ["model_type=", "model_name", "optimizer.lr", "aaa"]
    assert found["model_type="] == ["toy", "mlm"]


def test_names(write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a, _, deep = write_run("star_a"), write_run("star_b"), write_run("group/deep")
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in run_folders(tmp_path / "runs")) == ["deep", "star_a", "star_b"]
    for name in ("star_a", "runs/star_a", str(a)):
        assert [run.folder.resolve() for run in named_runs([name])] == [a]
    assert [run.name for run in named_runs(["star_*"])] == ["star_a", "star_b"]
    assert [run.folder.resolve() for run in named_runs(["deep"])] == [deep]
    assert [run.name for run in named_runs(["runs", "star_a"])] == ["deep", "star_a", "star_b"]
    assert distinct_names([Path("/x/one/r"), Path("/x/two/r"), Path("/x/s")]) == ["one/r", "two/r", "s"]
    with pytest.raises(ConfigError, match=r"^There is no run 'star_c' in runs, and no folder of this name\. Did"):
        named_runs(["star_c"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^empty is not a run and contains no runs"):
        named_runs(["empty"])
