"""`xlm models`: a row for each model, problems in full, and an exit code for broken models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.cli.main import main
from xlm.external_models import Discovery

if TYPE_CHECKING:
    from ..conftest import RunXlm, WriteModel


def list_models(folder: Path, **models: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "xlm_models.json").write_text(json.dumps(models))


def table(text: str) -> dict[str, str]:
    """The printed lines of each model, by its name; the last paragraph counts them."""
    listed, _, summary = text.rpartition("\n\n")
    header, *lines = listed.splitlines()
    assert header.split() == ["name", "version", "source"]
    assert " can be used" in summary
    said: dict[str, str] = {}
    for line in lines:
        if not line.startswith(" "):
            name = line.split()[0]
        said[name] = said.get(name, "") + line + "\n"
    return said


def test_rows(work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(work_dir / "toy", init="__version__ = '0.3.0'\n")
    list_models(work_dir, toy="toy")
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert table(out)["toy"].splitlines() == [
        next(line for line in out.splitlines() if line.split() == ["toy", "0.3.0", "xlm_models.json"]),
        f"  directory: {work_dir / 'toy'}",
    ]
    assert err == ""


def test_conflicts_are_shown_beside_the_others(
    work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(work_dir / "good", "good")
    for folder in (work_dir, work_dir / "xlm-models"):
        write_model(folder / "toy")
        list_models(folder, toy="toy")
    list_models(work_dir, toy="toy", good="good")
    assert main(["models"]) == 1
    out, err = capsys.readouterr()
    assert "Duplicate model name: toy" in table(out)["toy"]
    for folder in (work_dir, work_dir / "xlm-models"):
        assert f"  directory: {folder / 'toy'} (from " in table(out)["toy"]
    assert "problem" not in table(out)["good"]
    assert out.endswith(" can be used, 1 cannot.\n")
    assert err.count("ExternalModelConflictError: Duplicate model name: toy") == 1
    assert str(work_dir / "xlm-models" / "toy") in err


def test_what_is_broken_and_what_is_tolerated(
    work_dir: Path,
    write_model: WriteModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_model(work_dir / "toy")
    list_models(work_dir, toy="toy", lost="lost")
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert "does not exist" in table(out)["lost"]
    assert err.startswith("Warning: xlm_models.json: model 'lost' is listed with the directory")
    (work_dir / "empty").mkdir()
    list_models(work_dir, toy="toy", empty="empty")
    assert main(["models"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("Error: Model 'empty' in")
    assert "Warning" not in err
    monkeypatch.setenv("XLM_MODELS_PACKAGES", "my_model")
    list_models(work_dir, toy="toy")
    assert main(["models"]) == 1
    out, err = capsys.readouterr()
    assert "No module named 'my_model'" in table(out)["my_model"]
    assert err.startswith("Error: No module named 'my_model', which XLM_MODELS_PACKAGES lists.")


def test_a_broken_file_leaves_the_rest_in_the_table(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work_dir / "xlm_models.json").write_text("{")
    assert main(["models"]) == 1
    assert "Error: xlm_models.json: it cannot be read as JSON" in capsys.readouterr().err


def test_hidden_configs_and_unusable_jobs(
    work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_model(work_dir / "toy")
    list_models(work_dir, toy="toy")
    (root / "configs" / "commands.yaml").write_text("train: toy.parts.hello\n")
    (root / "configs" / "datamodule" / "default.yaml").write_text("a: 1\n")
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert "datamodule/default.yaml is hidden by xlm-core" in table(out)["toy"]
    assert "Warning: Model 'toy' defines a job 'train'" in err


def test_a_terminal_gets_lines_that_fit_and_paths_that_are_whole(
    work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(work_dir / "toy")
    (work_dir / "toy" / "configs" / "datamodule" / "default.yaml").write_text("a: 1\n")
    (work_dir / "empty").mkdir()
    list_models(work_dir, toy="toy", empty="empty", lost="lost")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["models"]) == 1
    out = capsys.readouterr().out
    long = [line for line in out.splitlines() if len(line) > 60]
    assert all(str(work_dir) in line.split()[-1] or str(work_dir) in line.split()[0] for line in long), long
    assert f"  directory: {work_dir / 'empty'}\n" in out
    assert "  problem:   datamodule/default.yaml is hidden by xlm-core\n" in out


def test_no_models_at_all(work_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.commands.models.discover", lambda *_: Discovery(places=["xlm_models.json", "a group"]))
    assert main(["models"]) == 0
    assert capsys.readouterr().out == "No models were found. Searched: xlm_models.json, a group\n"


def test_a_terminal_without_the_letters_of_a_folder(work_dir: Path, write_model: WriteModel, run_xlm: RunXlm) -> None:
    write_model(work_dir / "modèle", "toy", layout="nested")
    list_models(work_dir, toy="modèle")
    done = run_xlm("models", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  directory: {work_dir}/modèle\n" in done.stdout  # UTF-8, as everything on stdout


def test_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "toy"]) == 1
    assert "xlm models takes no arguments" in capsys.readouterr().err
