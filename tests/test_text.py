"""Real text with every family: it composes, trains, samples and fills gaps from an empty folder, without a warning."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

from warm_xlm import warm_xlm
from workspace import ROOT, read_packages
from xlm.compose import load_config

MODELS = [p.model for p in read_packages(ROOT).values() if p.model]
FILLS = {"mlm", "mdlm", "ilm"}
MANAGERS = "datamodule.dataset_managers"
SMALL = (
    "trainer.max_steps=4", "trainer.val_check_interval=2", "per_device_batch_size=8", "trainer_strategy=cpu",
    "block_size=32", "loggers=debug", "global_components.tokenizer.vocab_size=400",
    f"{MANAGERS}.train.lm.num_examples=40", f"{MANAGERS}.val.lm.num_examples=10", f"{MANAGERS}.test.lm.num_examples=10",
    f"{MANAGERS}.val.unconditional_prediction.num_examples=2",
    f"{MANAGERS}.test.unconditional_prediction.num_examples=3",
)  # fmt: skip
FEW_GAPS = (
    f"{MANAGERS}.val.infill_prediction.num_examples=4",
    f"{MANAGERS}.test.infill_prediction.num_examples=5",
)


@pytest.mark.parametrize("model", MODELS)
def test_the_experiment_composes_and_fills_gaps_where_the_family_can(model: str) -> None:
    cfg = load_config([f"experiment=text_{model}"])
    assert ("infill_prediction" in cfg.datamodule.dataset_managers.test) == (model in FILLS)
    assert load_config([f"experiment=text_{model}", "debug=overfit"]).global_flags.DEBUG_OVERFIT
    # The same data for every family, for comparisons.
    assert load_config(["experiment=text", f"model_type={model}", f"model=tiny_{model}"]).block_size == cfg.block_size


def run(model: str, folder: Path, cache: Path, *more: str) -> Path:
    """A run of a few steps; its folder. Anything on stderr is a warning that a user would see."""
    small = (*SMALL, *(FEW_GAPS if model in FILLS else ()), *more)
    done = subprocess.run(
        [*warm_xlm(), "train", f"experiment=text_{model}", f"model=xtiny_{model}", "job_name=t", *small],
        cwd=folder, env={**os.environ, "XLM_CACHE_DIR": str(cache)}, capture_output=True, text=True, timeout=250,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "Warning" not in done.stdout
    return next((folder / "runs").rglob("config.yaml")).parent


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_few_steps_end_with_samples_and_filled_gaps(model: str, tmp_path: Path, cache: Path) -> None:
    folder = run(model, tmp_path, cache)
    with (folder / "metrics.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"val/lm/accumulated_loss", "test/lm/accumulated_loss"} <= names
    assert ("test/infill_prediction/exact_match" in names) == (model in FILLS)
    assert ("test/infill_prediction/token_accuracy" in names) == (model in FILLS - {"ilm"})
    rows = {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (folder / "predictions" / "test").rglob("*.jsonl")
    }
    assert [len(rows["unconditional_prediction"])] == [3]
    for row in rows["unconditional_prediction"]:
        assert "truth" not in row
        assert not row["prompt"]
    for row in rows.get("infill_prediction", []):
        before, _, rest = row["prompt"].partition("[MASK]")
        assert rest or row["prompt"].endswith("[MASK]")
        assert row["truth"].startswith(before)
        assert row["prediction"].startswith(before)
    shown = [row[key] for named in rows.values() for row in named for key in ("prediction", "truth") if key in row]
    assert not [text for text in shown if any(f"[{s}]" in text for s in ("PAD", "CLS", "MASK", "EOS", "BOS", "SEP"))]


@pytest.mark.slow
def test_one_batch_is_learnt_with_gaps_in_its_own_verses(tmp_path: Path, cache: Path) -> None:
    folder = run("mlm", tmp_path, cache, "debug=overfit", "trainer.max_steps=2")
    (gaps,) = (folder / "predictions" / "test" / "infill_prediction").glob("*.jsonl")
    assert len(gaps.read_text().splitlines()) == 8  # the training batch, not the test split
