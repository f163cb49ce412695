"""The README.md of an exported model says what is known of exactly its weights, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

import xlm
from xlm.inference.trained import TrainedModel

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"
SHORT = (
    "trainer.max_steps=2", "trainer.val_check_interval=2", "callbacks.checkpoint_every_n_steps=null", "ema_decay=0.9",
    "test_after_training=true", "datamodule.dataset_managers.test.lm.num_examples=20",
    "datamodule.dataset_managers.test.prediction.num_examples=5",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(train_bigram: TrainBigram) -> Path:
    return train_bigram(*SHORT)


@pytest.fixture
def home(trained: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    shutil.copytree(trained / "runs", work_dir / "runs")
    # The record has the path of the weights as the run saw it.
    record = work_dir / "runs/t/results.json"
    found = json.loads(record.read_text())
    found["weights"] = str(work_dir / "runs/t/checkpoints/best.ckpt")
    record.write_text(json.dumps(found))
    return work_dir


def card(lm: TrainedModel, folder: str) -> str:
    return (lm.save_pretrained(folder) / "README.md").read_text()


def test_facts_and_results(home: Path) -> None:
    text = card(xlm.load("runs/t"), "a")
    assert yaml.safe_load(text.split("---")[1]) == {"library_name": "xlm", "tags": ["xlm", "bigram"]}
    assert "It answers prompts." in text
    size = sum(p.numel() for p in xlm.load("runs/t").model.parameters())
    assert f"{size:,} parameters" in text
    assert "| training | 2 steps of " in text
    results = json.loads((home / "runs/t/results.json").read_text())["results"]
    found = results["test/prediction/exact_match"]
    assert f"| test | prediction | exact_match | {found['value']:.4g} | {found['se']:.2g} | {found['n']:,} |" in text
    assert "| val |" not in text  # measured with the last weights, not with the best
    assert "No licence has been chosen" in text
    assert str(home) not in text
    assert "PytorchModelHubMixin" not in text


def test_no_results_of_other_weights(home: Path) -> None:
    none = "No results of these weights are recorded."
    lm = xlm.load("runs/t")
    with torch.no_grad():
        next(lm.model.parameters()).add_(1.0)
    assert none in card(lm, "changed")
    assert none in card(xlm.load("runs/t", apply_ema=False), "raw")
    last = card(xlm.load("runs/t/checkpoints/last.ckpt"), "last")
    assert none in last
    # A folder has no record of its run.
    xlm.load("runs/t").save_pretrained("exported")
    assert none in card(xlm.load("exported"), "again")


def test_results_of_an_evaluation(home: Path) -> None:
    best = str(home / "runs/t/checkpoints/best.ckpt")
    record = {"weights": best, "averaged_weights": False, "results": {"val/lm/x": {"value": 0.25, "se": None, "n": 8}}}
    (home / "runs/t/eval_val.json").write_text(json.dumps(record))
    assert "| val | lm | x | 0.25 |  | 8 |" in card(xlm.load("runs/t", apply_ema=False), "raw")
    assert "| val | lm | x |" not in card(xlm.load("runs/t"), "averaged")
