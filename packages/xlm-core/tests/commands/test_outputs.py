"""Every job checks its output paths before it reads a checkpoint, data or texts, which don't exist here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.cli.main import main
from xlm.commands import find_job
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.inference.folders import name_of_run

MODELS = Path(__file__).parents[1] / "models"
OF_CONFIG = {
    "train": ["paths.run_dir=file", "paths.run_dir=file/below", "checkpointing_dir=file"],
    "eval": ["paths.run_dir=file"],
    "generate": ["generation.output=folder", "generation.output_path=file/below", "paths.run_dir=file",
                 "generation.output="],
    "sweep_sampler": ["sweep.output_path=file", "sweep.output_path=holds_folders", "paths.run_dir=file"],
    "plan": ["plan.output_path=folder", "plan.output_path=/dev/null"],
    "extract_checkpoint": ["extract.output_dir=file"],
}  # fmt: skip
ALONE = [
    ["text_quality", "none.jsonl", "output=folder"],
    ["text_quality", "none.jsonl", "output=none.jsonl"],
    ["text_quality", "none.jsonl", "output=a.md"],
    ["trace", "runs/none", "out=folder"],
    ["trace", "runs/none", "out=file/below.html"],
    ["trace", "runs/none", "out=a.json"],
    ["lm_eval", "runs/none", "tasks=[x]", "output=folder"],
]


@pytest.fixture(autouse=True)
def place(work_dir: Path) -> None:
    (work_dir / "file").touch()
    for name in ("folder", "holds_folders/sweep.csv"):
        (work_dir / name).mkdir(parents=True)


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    environ = {"XLM_MODELS_PATH": str(MODELS)}
    return load_config(["experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=r"], environ=environ)


@pytest.mark.parametrize(("job", "output"), [(job, output) for job, outputs in OF_CONFIG.items() for output in outputs])
def test_jobs_with_a_configuration(composed: DictConfig, job: str, output: str) -> None:
    key, _, path = output.partition("=")
    cfg: Any = composed.copy()
    OmegaConf.set_struct(cfg, False)
    if job == "sweep_sampler":
        cfg.sweep = {"greedy": [True]}
    OmegaConf.update(cfg, key, path, force_add=True)
    with pytest.raises(ConfigError) as caught:
        find_job(job).load()(cfg)
    assert str(caught.value).startswith(key)


@pytest.mark.parametrize("args", ALONE, ids=" ".join)
def test_jobs_without_one(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if args[0] == "lm_eval":
        pytest.importorskip("lm_eval")
    assert main(args) == 1
    assert capsys.readouterr().err.startswith(("Error: output", "Error: out:"))


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("runs/copy/checkpoints/best.ckpt", "copy"),
        ("runs/é, ü/a/checkpoints/last.ckpt", "é, ü/a"),
        ("elsewhere/runs/r/checkpoints/best.ckpt", None),
        ("runs/copy/extracted/model.safetensors", None),
        ("runs/checkpoints/best.ckpt", None),
        ("best.ckpt", None),
    ],
)
def test_a_run_that_was_copied_has_the_name_of_its_folder(weights: str, name: str | None) -> None:
    assert name_of_run(Path(weights), "runs") == name_of_run(Path(weights).absolute(), "runs") == name
