"""`xlm runs` and `xlm report` on the command line: words, options, written files, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.cli.main import main
from xlm.commands.report import output_path


@pytest.fixture
def runs(work_dir: Path) -> Path:
    """Two runs in runs/, one of them with only a record."""
    for name, ended in (("one", True), ("two", False)):
        folder = work_dir / "runs" / name
        folder.mkdir(parents=True)
        record = {"started": "2026-01-01T10:00:00+0000", "command": ["xlm", f"experiment=data_{name}"]}
        (folder / "record_train.json").write_text(json.dumps(record))
        if ended:
            metrics = {"test/lm/accumulated_loss": 0.5}
            (folder / "results.json").write_text(json.dumps({**record, "step": 3, "metrics": metrics}))
    return work_dir / "runs"


@pytest.mark.parametrize("args", [["runs"], ["job_type=runs"], ["runs", "runs"]])
def test_runs(runs: Path, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert {line.split()[0] for line in out.splitlines()} == {"name", "one", "two"}
    assert err == ""


@pytest.mark.parametrize(("word", "name"), [("one", "one"), ("data_t", "two"), ("finished", "one"), ("t*", "two")])
def test_words_choose(runs: Path, word: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", word, "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in found] == [name]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["seed=1"], ["one"]),
        (["optimizer.lr=1e-3"], ["one"]),
        (["optimizer.lr=0.00*", "state=finished"], ["one"]),
        (["model_type=toy"], ["one"]),
        (["task=data_two"], ["two"]),
        (["experiment=data_*"], ["one", "two"]),
        (["amp=true"], ["one"]),
        (["task=data_two", "seed=1"], []),
    ],
)
def test_settings_choose(runs: Path, words: list[str], names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = "model_name: toy\nseed: 1\noptimizer: {lr: 0.001}\namp: true\n"
    (runs / "one" / "config.yaml").write_text(config)
    assert main(["runs", *words, "json=true"]) == 0
    assert sorted(run["name"] for run in json.loads(capsys.readouterr().out)) == names


def test_names_are_paths_below_the_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "a sweep").mkdir()
    (runs / "two").rename(runs / "a sweep" / "größe=2")
    assert main(["runs", "sort=name"]) == 0
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "name",
        "a sweep/größe=2",
        "one",
    ]
    assert main(["runs", "runs/a sweep"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("größe=2 ")


@pytest.mark.parametrize(
    "args", [["runs"], ["report", "one", "two"], ["rm", "one"], ["mv", "one", "three"], ["experiments"]]
)
def test_neither_needs_torch(runs: Path, args: list[str]) -> None:
    code = (
        "import json, sys\nfrom xlm.cli.main import main\n"
        f"main({args!r})\n"
        "print({'torch', 'lightning', 'transformers', 'datasets', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.parent, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_folder_of_runs_may_be_elsewhere(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XLM_ROOT_DIR", str(runs.parent))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["runs", "sort=name"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["name", "one", "two"]
    assert main(["mv", "one", "three"]) == 0
    assert (runs / "three").is_dir()
    assert main(["rm", "three", "--yes"]) == 0
    assert not (runs / "three").exists()


def test_no_run_is_one_sentence(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "There is no run in runs.\n"
    assert main(["runs", "json=true"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("args", [["report", "runs=[one,two]"], ["report", "one", "two"], ["report", "runs/*"]])
def test_report(runs: Path, args: list[str], capsys: pytest.CaptureFixture[str], work_dir: Path) -> None:
    assert main(args) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[0] == (
        "2 runs, no paired comparison: none of the runs has predictions. `xlm eval` writes them to the run's folder."
    )
    assert out.splitlines()[-1] == "Written to reports/one+two.html; beside it one+two.md, one+two.csv."
    assert sorted(path.name for path in (work_dir / "reports").iterdir()) == [
        "one+two.csv",
        "one+two.html",
        "one+two.md",
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["report"], "Which runs? xlm report runs=[a,b], or xlm report a b. `xlm runs` lists them."),
        (["report", "oen"], "There is no run 'oen' in runs, and no folder of this name. Did you mean 'one'?"),
        (["report", "one", "split=tset"], "split is 'tset', and must be test, val or null. Did you mean 'test'?"),
        (["report", "one", "ouput=x"], "xlm report has no option 'ouput'. Did you mean 'output'?"),
        (
            ["report", "one", "output=runs/one/results.json/x"],
            "output: runs/one/results.json/x.html cannot be written: ",
        ),
        (["runs", "json=yes"], "json is 'yes', and must be true or false."),
        (["runs", "--all"], "xlm runs does not accept --all. Options: json=, sort=."),
        (["runs", "srot=age"], "xlm runs has no option 'srot', and no run has a setting of that name. Did you mean 's"),
        (["runs", "sort=losss"], "Runs cannot be sorted by 'losss'. Choose one of: age, date, name, model, data, step"),
    ],
)
def test_mistakes(runs: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"Error: {message}")
    assert len(err.splitlines()) == 1


def test_where_a_report_goes(tmp_path: Path) -> None:
    assert output_path("", ["a", "b/c"]) == Path("reports/a+b-c.html")
    assert output_path("", ["x" * 90]) == Path("reports/1_runs.html")
    assert output_path("out/page", ["a"]) == Path("out/page.html")
    assert output_path("v1.2", ["a"]) == Path("v1.2.html")
    assert output_path(str(tmp_path), ["a"]) == tmp_path / "report.html"
