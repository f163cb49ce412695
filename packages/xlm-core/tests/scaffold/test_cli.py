"""`xlm-scaffold`: what it creates, what it prints, what it refuses, and that refusals leave everything as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from xlm.external_models import find_models

if TYPE_CHECKING:
    from ..conftest import WriteModel
    from .conftest import Scaffold

MODULES = ["types", "model", "loss", "predictor", "datamodule", "metrics"]
CONFIGS = [
    "collator/lm_NAME.yaml",
    "collator/seq2seq_NAME.yaml",
    "collator/seq2seq_pred_NAME.yaml",
    "datamodule/star_easy_NAME.yaml",
    "experiment/star_easy_NAME.yaml",
    "model/NAME.yaml",
    "model_type/NAME.yaml",
]
AROUND = [".github/workflows/test.yml", ".gitignore", "LICENSE", "README.md", "pyproject.toml", "setup.py"]


def expected_files(name: str, package: str = "") -> set[str]:
    inside = [f"{module}_NAME.py" for module in MODULES]
    inside += [f"configs/{path}" for path in CONFIGS] + ["__init__.py", "py.typed"]
    paths = [*(package + path for path in inside), *AROUND, "tests/test_NAME.py"]
    return {path.replace("NAME", name) for path in paths}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_flat_layout_is_the_documented_one(scaffold: Scaffold, work_dir: Path) -> None:
    assert scaffold("my_awesome_model") == 0
    assert sorted(os.listdir(work_dir)) == ["my_awesome_model", "xlm_models.json"]
    assert files_below(work_dir / "my_awesome_model") == expected_files("my_awesome_model")
    assert json.loads((work_dir / "xlm_models.json").read_text()) == {"my_awesome_model": "my_awesome_model"}


def test_the_nested_layout_has_the_package_inside(scaffold: Scaffold, work_dir: Path) -> None:
    assert scaffold("toy_model", "--layout", "nested") == 0
    assert files_below(work_dir / "toy_model") == expected_files("toy_model", "toy_model/")


@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_what_is_created_is_discovered(scaffold: Scaffold, work_dir: Path, layout: str) -> None:
    scaffold("toy_model", "--layout", layout)
    model = find_models({}, work_dir)["toy_model"]
    assert (model.version, model.source, model.root) == ("0.1.0", "xlm_models.json", work_dir / "toy_model")
    assert model.import_name == "toy_model"


def test_nothing_of_the_template_is_left(scaffold: Scaffold, work_dir: Path) -> None:
    scaffold("toy_model")
    for path in (work_dir / "toy_model").rglob("*"):
        text = path.read_text().lower() if path.is_file() else ""
        assert "template_model" not in str(path) + text
        assert "templatemodel" not in text
        assert not any(f"@{word}@" in text for word in ("name", "description", "packages", "experiment"))


def test_every_file_can_be_parsed(scaffold: Scaffold, work_dir: Path) -> None:
    scaffold("toy_model", "--description", 'He said: "x@name@\\n" é', "--author", 'Ann "A" Author <ann@example.org>')
    for path in (work_dir / "toy_model").rglob("*"):
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
        elif path.suffix in (".yaml", ".yml"):
            assert yaml.safe_load(path.read_text())
    project = tomllib.loads((work_dir / "toy_model" / "pyproject.toml").read_text())["project"]
    assert project["description"] == 'He said: "x@name@\\n" é'
    assert project["authors"] == [{"name": 'Ann "A" Author', "email": "ann@example.org"}]
    assert project["entry-points"] == {"xlm.models": {"toy_model": "toy_model"}}
    core, *others = project["dependencies"]
    assert core.startswith("xlm-core>=")
    assert others == ["jaxtyping", "torch"]


@pytest.mark.parametrize(
    ("choice", "spdx", "first_line"),
    [
        ("apache-2.0", "Apache-2.0", "Apache License"),
        ("mit", "MIT", "MIT License"),
        ("bsd-3-clause", "BSD-3-Clause", "BSD 3-Clause License"),
        ("none", None, None),
    ],
)
def test_licences(scaffold: Scaffold, work_dir: Path, choice: str, spdx: str | None, first_line: str | None) -> None:
    scaffold("toy_model", "--license", choice, "--author", "Ann")
    project: dict[str, Any] = tomllib.loads((work_dir / "toy_model" / "pyproject.toml").read_text())["project"]
    licence = work_dir / "toy_model" / "LICENSE"
    assert project.get("license") == spdx
    assert licence.exists() == ("license-files" in project) == (first_line is not None)
    if first_line:
        text = licence.read_text()
        assert text.strip().startswith(first_line)
        assert choice == "apache-2.0" or " Ann\n" in text


def test_what_is_printed(scaffold: Scaffold, capsys: pytest.CaptureFixture[str]) -> None:
    assert scaffold("toy_model") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "Created toy_model/ (template minimal, flat layout):"
    end = lines.index("Listed it as 'toy_model' in xlm_models.json.")
    assert {line.strip() for line in lines[1:end]} == expected_files("toy_model")
    assert lines[end + 1 :] == [
        "",
        "It works as it is. Next:",
        "  xlm models",
        "  xlm train job_name=my_model_test experiment=star_easy_toy_model debug=overfit",
        "  xlm check toy_model        # does it keep the contract?",
        "  grep -rn TODO toy_model    # what to change",
    ]
    assert err == ""


def test_a_dry_run_prints_the_same_plan_and_writes_nothing(
    scaffold: Scaffold, work_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaffold("toy_model", "--dry-run", "--output-dir", "new/folder") == 0
    planned = capsys.readouterr().out.splitlines()
    assert os.listdir(work_dir) == []
    assert scaffold("toy_model", "--output-dir", "new/folder") == 0
    done = capsys.readouterr().out.splitlines()
    assert planned[0] == "Would create new/folder/toy_model/ (template minimal, flat layout):"
    assert planned[-1] == "Would list it as 'toy_model' in new/folder/xlm_models.json."
    assert done[1 : len(planned) - 1] == planned[1:-1]
    assert "  cd new/folder" in done


def test_the_other_search_place_needs_no_cd(scaffold: Scaffold, capsys: pytest.CaptureFixture[str]) -> None:
    scaffold("toy_model", "--output-dir", "xlm-models")
    out = capsys.readouterr().out
    assert "  cd " not in out
    assert "grep -rn TODO xlm-models/toy_model" in out


def test_other_entries_stay_as_they_are(scaffold: Scaffold, work_dir: Path) -> None:
    (work_dir / "xlm_models.json").write_text('\ufeff{"zoo":"there/ü",\n\n"dead": "nowhere", "dead": "nowhere"}')
    assert scaffold("toy_model") == 0
    pairs = json.loads((work_dir / "xlm_models.json").read_text(), object_pairs_hook=list)
    listed = [("zoo", "there/ü"), ("dead", "nowhere"), ("dead", "nowhere"), ("toy_model", "toy_model")]
    assert pairs == listed


def refusal(
    work_dir: Path, tree: Any, run: Any, capsys: pytest.CaptureFixture[str]
) -> str:  # what `run` says, having changed nothing
    before = tree(work_dir.parent)
    assert run() == 1
    assert tree(work_dir.parent) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    return str(err)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2]", "an object such as"),
        ('{"other": 3}', "the directory of model 'other' must be a string, not a number."),
        ('{"other": null}', "must be a string, not null."),
        ('{"a b": "x"}', "'a b' cannot name a model"),
        ('{"other": ""}', "the directory of model 'other' is empty."),
        ('{"other": "x"', "it cannot be read as JSON"),
        ("", "it cannot be read as JSON"),
        ('{"toy_model": "elsewhere"}', "'toy_model' is taken: "),
        ('{"other": "toy_model"}', "lists the directory toy_model/ already, as the model 'other'."),
        ('{"other": "./x/../toy_model/"}', "lists the directory toy_model/ already, as the model 'other'."),
    ],
)
def test_a_models_file_that_does_not_fit_is_refused(
    scaffold: Scaffold, work_dir: Path, tree: Any, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    (work_dir / "xlm_models.json").write_text(content)
    for options in ([], ["--dry-run"]):
        said = refusal(work_dir, tree, lambda options=options: scaffold("toy_model", *options), capsys)
        assert reason in said
        assert said.endswith("Nothing was written.\n")


@pytest.mark.parametrize("kind", ["folder", "file", "link", "module"])
def test_whatever_lies_there_already_is_kept(
    scaffold: Scaffold, work_dir: Path, tree: Any, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    target = work_dir / "toy_model"
    if kind == "folder":
        target.mkdir()
    elif kind == "link":
        target.symlink_to("nowhere")
    else:
        target.with_suffix(".py" if kind == "module" else "").write_text("precious")
    said = refusal(work_dir, tree, lambda: scaffold("toy_model"), capsys)
    if kind != "module":
        assert said == "Error: toy_model/ already exists. Nothing was written.\n"


@pytest.mark.parametrize("kind", ["file", "below a file", "unwritable", "dangling models file", "models folder"])
def test_a_folder_that_cannot_be_written_to_is_refused(
    scaffold: Scaffold,
    work_dir: Path,
    tree: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    folder = work_dir / "there"
    if "file" in kind and "models" not in kind:
        folder.write_text("precious")
    else:
        folder.mkdir()
    if kind == "dangling models file":
        (folder / "xlm_models.json").symlink_to("nowhere")
    elif kind == "models folder":
        (folder / "xlm_models.json").mkdir()
    elif kind == "unwritable":
        # An administrator may write everywhere: only the answer to the question is replaced.
        monkeypatch.setattr("xlm.scaffold.plan.os.access", lambda path, mode: False)
    place = folder / "below" if kind == "below a file" else folder
    said = refusal(work_dir, tree, lambda: scaffold("toy_model", "--output-dir", place), capsys)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--template", "ilmm"],
        ["--layout", "round"],
        ["--license", "gpl"],
        ["--description", "two\nlines"],
        ["--author", "half \ud800 a pair"],
        ["--output-dir", "\0"],
        ["--outputdir", "x"],
        ["another_name"],
    ],
)
def test_options_that_make_no_sense_are_one_sentence(
    scaffold: Scaffold, work_dir: Path, tree: Any, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    said = refusal(work_dir, tree, lambda: scaffold("toy_model", *options), capsys)
    assert len(said.splitlines()) == 1


def test_a_discovered_name_is_taken(
    scaffold: Scaffold,
    work_dir: Path,
    write_model: WriteModel,
    tree: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_model(work_dir.parent / "models" / "toy_flat", "toy_flat")
    (work_dir.parent / "models" / "xlm_models.json").write_text('{"toy_flat": "toy_flat", "gone": "gone"}')
    monkeypatch.setenv("XLM_MODELS_PATH", str(work_dir.parent / "models"))
    said = refusal(work_dir, tree, lambda: scaffold("toy_flat"), capsys)
    assert said.startswith("Error: 'toy_flat' is taken: a model of ")
    assert "by a model that cannot be used" in refusal(work_dir, tree, lambda: scaffold("gone"), capsys)
    # Another model's network would be chosen by model=toy_data, its experiments by their names.
    (work_dir.parent / "models/toy_flat/configs/model/toy_data.yaml").write_text("_target_: builtins.dict\n")
    said = refusal(work_dir, tree, lambda: scaffold("toy_data"), capsys)
    assert "the model 'toy_flat' has a model called 'toy_data'" in said


def test_a_name_that_would_hide_what_the_template_imports(
    scaffold: Scaffold, work_dir: Path, tree: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(work_dir, tree, lambda: scaffold("seq2_seq"), capsys)
    assert "would define Seq2SeqCollator and import another Seq2SeqCollator" in said


def test_problems_elsewhere_are_told_and_stop_nothing(
    scaffold: Scaffold, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLM_MODELS_PACKAGES", "not_there")
    assert scaffold("toy_model") == 0
    assert "No module named 'not_there'" in capsys.readouterr().err


def test_a_vanished_current_directory(scaffold: Scaffold, work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work_dir.rmdir()
    assert scaffold("toy_model") == 1
    assert "no longer exists" in capsys.readouterr().err
    work_dir.mkdir()


def test_help_answers_at_once(work_dir: Path) -> None:
    program = Path(sys.executable).with_name("xlm-scaffold")
    done = subprocess.run([program, "--help"], cwd=work_dir, capture_output=True, text=True, check=True)
    for option in ("NAME", "--template", "--output-dir", "--dry-run", "--layout", "--description", "--author"):
        assert option in done.stdout
    code = "import sys, xlm.scaffold.cli as c; c.main(['toy_model', '--dry-run']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=work_dir, check=True, capture_output=True)


def test_a_reader_that_leaves_early_is_no_error(work_dir: Path) -> None:
    script = (
        "import os, sys, xlm.scaffold.cli as cli; read, write = os.pipe(); os.close(read); os.dup2(write, 1); "
        "sys.exit(cli.main(['my_model']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=work_dir, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (work_dir / "my_model" / "model_my_model.py").is_file()
