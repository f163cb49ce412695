"""Relative paths of a stored configuration, looked for near the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from xlm.inference.folders import find_relative_paths, write_beside

WEIGHTS = "project/runs/sweep/x/checkpoints/best.ckpt"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run, its data, and a folder elsewhere, which is the current one."""
    for name in (WEIGHTS, "project/data/a.txt", "project/b.csv", "elsewhere/b.csv", "elsewhere/only here.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def test_paths_are_those_of_the_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    data_files: {train: "data/*.txt", val: ["b.csv[:95%]", gone.csv], test: {one: {full_name: b.csv, split: data}}}
    model: {pretrained_model_name_or_path: data, name: data}
    other: {data_file: "only here.txt", full_name: "${data_files.train}", data_files: null}
    absolute: {data_file: /b.csv}
    """
    cfg = OmegaConf.create(text)
    OmegaConf.set_struct(cfg, True)
    find_relative_paths(cfg, Path("..", WEIGHTS))
    assert OmegaConf.to_container(cfg, resolve=True) == {
        "data_files": {
            "train": f"{project}/data/*.txt",
            "val": [f"{project}/b.csv[:95%]", "gone.csv"],
            "test": {"one": {"full_name": f"{project}/b.csv", "split": "data"}},
        },
        "model": {"pretrained_model_name_or_path": f"{project}/data", "name": "data"},
        "other": {"data_file": "only here.txt", "full_name": f"{project}/data/*.txt", "data_files": None},
        "absolute": {"data_file": "/b.csv"},
    }
    # In the folder of training nothing changes.
    monkeypatch.chdir(project)
    same = OmegaConf.create(text)
    find_relative_paths(same, Path("runs/sweep/x/checkpoints/best.ckpt"))
    assert same == OmegaConf.create(text)


@pytest.mark.parametrize(
    ("hub_id", "given", "name", "run_dir"),
    [
        (None, (), "x", "project/runs/sweep/x"),
        (None, ("job_name",), "old", "elsewhere/runs/old"),
        (None, ("paths.run_dir",), "old", "elsewhere/runs/old"),
        ("me/mine", (), "me/mine", "elsewhere/runs/me/mine"),
        ("me/mine..", (), "old", "elsewhere/runs/old"),
    ],
)
def test_the_folder_of_results(
    project: Path, hub_id: str | None, given: tuple[str, ...], name: str, run_dir: str
) -> None:
    cfg = OmegaConf.create(
        {"job_name": "old", "paths": {"log_dir": f"{Path.cwd()}/runs", "run_dir": "${.log_dir}/${job_name}"}}
    )
    write_beside(cfg, Path("..", WEIGHTS), given, hub_id)
    assert (cfg.job_name, Path(cfg.paths.run_dir)) == (name, project.parent / run_dir)


def test_a_run_below_the_folder_of_runs_has_its_name(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.chdir(project)
    cfg = OmegaConf.create({"job_name": "old", "paths": {"log_dir": "runs", "run_dir": "${.log_dir}/${job_name}"}})
    write_beside(cfg, Path("runs/sweep/x/checkpoints/best.ckpt"), ())
    assert (cfg.job_name, cfg.paths.run_dir) == ("sweep/x", "runs/sweep/x")
