"""`xlm rm` and `xlm mv`: what they remove and move, what they refuse, and what a kill leaves."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from xlm.cli.main import main
from xlm.utils.run_lock import LOCK, RunLock


def write_run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"x" * 2**20)
    (folder / "checkpoints" / "last.ckpt").hardlink_to(folder / "checkpoints" / "best.ckpt")
    (folder / "record_train.json").write_text(json.dumps({"command": ["xlm", "train"], "job_type": "train"}))
    (folder / "config.yaml").write_text(f"job_name: {folder.name}\nmodel_name: toy\n")
    (folder / "metrics.csv").write_text("step,name,value,time\n3,train/lr,0.5,1\n")
    return folder


@pytest.fixture
def runs(work_dir: Path) -> Path:
    for name in ("one", "sweep/seed=1", "sweep/seed=2", "größe 模型 (1)"):
        write_run(work_dir / "runs" / name)
    return work_dir / "runs"


def names(runs: Path) -> list[str]:
    return sorted(path.parent.relative_to(runs).as_posix() for path in runs.rglob("config.yaml"))


def test_removing(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "one" / "notes.txt").write_text("mine")
    assert main(["rm", "one", "runs/größe 模型 (1)", "--yes"]) == 0
    assert capsys.readouterr().out == (
        "runs/one  1.0 MiB, 2 checkpoints, also notes.txt\n"
        "runs/größe 模型 (1)  1.0 MiB, 2 checkpoints\n"
        "Removed 2 runs, 2.0 MiB.\n"
    )
    assert names(runs) == ["sweep/seed=1", "sweep/seed=2"]
    assert main(["rm", "sweep/*", "yes=true"]) == 0
    assert list(runs.iterdir()) == []  # also the empty folder of the sweep


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("no\n", 1), ("", 1)])
def test_asking(
    runs: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["rm", "one"]) == code
    out = capsys.readouterr().out
    assert "Remove 1 run, 1.0 MiB? [y/N] " in out
    assert (runs / "one").exists() == bool(code)
    assert ("Nothing was removed." in out) == bool(code)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rm"], "Which runs? xlm rm a b, or a pattern: xlm rm 'star_*'."),
        (["rm", "one"], "Nothing was removed, since nobody can be asked here. Add yes=true to remove."),
        (["rm", "oen", "--yes"], "There is no run 'oen' in runs, and no folder of this name. Did you mean 'one'?"),
        (["rm", "runs", "--yes"], "runs is not a run: it has no record_*.json or config.yaml. It contains 7 runs: 'r"),
        (["rm", "sweep", "--yes"], "runs/sweep is not a run: it has no record_*.json or config.yaml. It contains 2 "),
        (["rm", "data", "--yes"], "data is not a run: it has no record_*.json or config.yaml."),
        (["rm", ".", "--yes"], ". is not a run"),
        (["rm", "link", "--yes"], "link is a link to "),
        (["rm", "around", "--yes"], "runs/around contains another run, runs/around/b. Name that one first."),
        (["rm", "repository", "--yes"], "runs/repository is more than a run: it is the current directory or a repos"),
        (["rm", "one", "busy", "--yes"], "runs/busy is in use by a training run (process "),
        (["rm", "one", "--force"], "xlm rm does not accept --force. Options: yes=."),
        (["mv", "one"], "xlm mv takes a run and its new name, but was given: one. Example: xlm mv old new"),
        (["mv", "sweep/*", "x"], "sweep/* is 2 runs. xlm mv takes one of them."),
        (["mv", "one", "busy"], "runs/busy already exists. Nothing was moved."),
        (["mv", "one", "one/two"], "runs/one/two is inside runs/one. Nothing was moved."),
        (["mv", "one", "busy/x"], "runs/busy is a run, and cannot contain another one. Nothing was moved."),
        (["mv", "one", " "], "The new name is empty (an unset shell variable?)."),
        (["mv", "one", "a;b"], "job_name=a;b contains ';'"),
        (["mv", "busy", "x"], "runs/busy is in use by a training run (process "),
        (["mv", "data", "x"], "data is not a run"),
    ],
)
def test_what_is_refused(
    runs: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str], work_dir: Path
) -> None:
    (work_dir / "data").mkdir()
    (work_dir / "data" / "results.json").write_text("{}")  # a person's own, like a run's
    (work_dir / "link").symlink_to(runs / "one")
    write_run(write_run(runs / "around") / "b")
    (write_run(runs / "repository") / ".git").mkdir()
    with RunLock(write_run(runs / "busy")):
        before = sorted(path for path in work_dir.rglob("*"))
        assert main(args) == 1
        assert sorted(path for path in work_dir.rglob("*")) == before
    err = capsys.readouterr().err
    assert err.startswith(f"Error: {message}")
    assert len(err.splitlines()) == 1


def test_a_run_that_is_the_current_directory(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs / "one" / "checkpoints")
    assert main(["rm", str(runs / "one"), "--yes"]) == 1
    assert "one" in names(runs)


def test_a_removal_that_fails_midway_leaves_a_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", failing)
        assert main(["rm", "one", "--yes"]) == 1
    assert "runs/one cannot be removed: Input/output error." in capsys.readouterr().err
    assert (runs / "one" / "record_train.json").exists()
    assert main(["rm", "one", "--yes"]) == 0
    assert "one" not in names(runs)


@pytest.mark.parametrize(
    ("run", "new", "where"),
    [
        ("one", "two", "two"),
        ("runs/one", "runs/two", "two"),
        ("one", "archive/", "archive/one"),
        ("one", "sweep", "sweep/one"),  # a folder that is not a run
        ("one", "a/b/neu 名", "a/b/neu 名"),
        ("seed=2", "best", "best"),
        ("größe 模型 (1)", "x" * 200, "x" * 200),
        ("sweep/seed=1", "one,seed=1", "one,seed=1"),
    ],
)
def test_moving(runs: Path, run: str, new: str, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = next(name for name in names(runs) if name.endswith(run.removeprefix("runs/")))
    assert main(["mv", run, new]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"runs/{old} is now runs/{where}.\n")
    assert where in names(runs)
    assert old not in names(runs)
    assert not (runs / where / LOCK).exists()
    assert not (runs / old).exists()
    assert main(["runs", "json=true"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found[where]["step"] == 3


def test_moving_elsewhere_and_back(runs: Path, work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work_dir / "elsewhere").mkdir()
    assert main(["mv", "one", "elsewhere"]) == 0
    assert capsys.readouterr().out == "runs/one is now elsewhere/one.\n"
    assert main(["mv", "elsewhere/one", "other"]) == 0
    assert (work_dir / "elsewhere" / "other" / "config.yaml").exists()
    assert main(["mv", "elsewhere/other", str(runs / "one")]) == 0
    assert "one" in names(runs)
