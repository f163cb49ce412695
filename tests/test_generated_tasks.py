"""Generated tasks with every family: they train, predict, and the judge reads prompts and answers of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workspace import ROOT, read_packages
from xlm.commands import train
from xlm.compose import load_config
from xlm.tasks.sudoku import is_solution
from xlm.utils.imports import get_object
from xlm.utils.instantiate import clear_components, instantiate

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
CONFIGS = ROOT / "packages/xlm-core/src/xlm/configs/lightning_train/datamodule"
TASKS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if "generated_pairs" in path.read_text())
# One of each family with every change, all of them every night.
OFTEN = {("sudoku", "mlm"), ("countdown", "arlm"), ("graph_coloring", "ilm"), ("arithmetic", "mdlm")}
SMALL = (
    "trainer.max_steps=1", "trainer.val_check_interval=1", "per_device_batch_size=8", "trainer_strategy=cpu",
    "loggers=debug", "test_after_training=false", "job_name=t", "task.num_examples.train=8", "task.num_examples.val=8",
)  # fmt: skip


@pytest.mark.parametrize(
    ("task", "family"),
    [
        pytest.param(task, family, marks=() if (task, family) in OFTEN else pytest.mark.slow)
        for task in TASKS
        for family in FAMILIES
    ],
)
def test_every_family_learns_it_and_is_judged(
    task: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    easiest = "hard" if task == "sudoku_extreme" else "mini"
    cfg = load_config([f"experiment={task}", f"difficulty={easiest}", f"model_type={family}", f"model=xtiny_{family}",
                       *SMALL])  # fmt: skip
    train.run(cfg)
    clear_components()
    results = json.loads((tmp_path / "runs/t/results.json").read_text())["results"]
    assert 0 <= results["val/prediction/valid"]["value"] <= 1
    assert results["val/prediction/valid"]["n"] == 8
    assert results["val/prediction/valid"]["se"] is not None
    file = tmp_path / "runs/t/predictions/val/prediction/step_00000001.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {type(row["valid"]) for row in rows} == {bool}
    # The judge gets the generator's prompts, without special tokens or padding; the references are valid.
    judge, options = get_object(cfg.task.judge), dict(cfg.task.judge_options)
    assert all(judge(row["prompt"], row["truth"], **options) for row in rows)
    preprocess, tokenizer = get_object(cfg.task.preprocess), instantiate(cfg.global_components.tokenizer)
    examples = get_object(cfg.task.generator)(tokenizer, 8, split="val", **cfg.task.options)
    ids = [preprocess(example, tokenizer, **cfg.task.preprocess_options)["prompt_ids"] for example in examples]
    assert [row["prompt"] for row in rows] == tokenizer.batch_decode(ids)


@pytest.mark.slow  # the same as above for a second form of one task
@pytest.mark.parametrize("family", ["mlm", "mdlm"])
def test_masked_models_fill_boards_in_place(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_config(["experiment=sudoku_infill", "difficulty=mini", f"model_type={family}", f"model=xtiny_{family}",
                       *SMALL])  # fmt: skip
    train.run(cfg)
    clear_components()
    results = json.loads((tmp_path / "runs/t/results.json").read_text())["results"]
    assert results["val/infill_prediction/valid"]["n"] == 8
    assert results["val/unconditional_prediction/valid"]["n"] == 16
    file = tmp_path / "runs/t/predictions/val/infill_prediction/step_00000001.jsonl"
    for row in map(json.loads, file.read_text().splitlines()):
        assert "[MASK]" in row["prompt"]
        assert is_solution(row["prompt"], row["truth"])
