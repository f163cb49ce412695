"""A masked family beyond those that are shipped takes about 150 lines, and every command works with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import xlm
from xlm.cli.main import main
from xlm.utils.instantiate import clear_components

MODELS = Path(__file__).with_name("models")
# Of 5 prompts or 64 graphs: seconds, most of them spent on imports.
OPTIONS = (
    "experiment=star_easy_maskgit", "job_name=t", "trainer_strategy=cpu", "loggers=debug", "trainer.max_steps=2",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "datamodule.dataset_managers.val.prediction.num_examples=5", "per_device_batch_size=16",
    "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "test_after_training=false",
)  # fmt: skip


def test_its_files_are_short() -> None:
    files = [file for file in (MODELS / "maskgit").rglob("*") if file.suffix in (".py", ".yaml")]
    assert sum(len(file.read_text().splitlines()) for file in files) <= 160


def test_it_trains_writes_and_fills(work_dir: Path, fresh_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(work_dir / "cache"))
    assert main(["train", *OPTIONS]) == 0
    clear_components()
    lm: Any = xlm.load("runs/t", seed=1)
    answers = lm.generate(["3 1 19", "3 [MASK] 19"], temperature=0.0)
    assert answers == lm.generate(["3 1 19", "3 [MASK] 19"], temperature=0.0)
    words = answers[1].split()
    assert (words[0], words[2], len(words)) == ("3", "19", 3)
    assert "[MASK]" not in answers[0]

    # Its likelihood is a bound that the shared code draws, and the loss is an estimate of it.
    from maskgit.datamodule_maskgit import MaskGITSeq2SeqCollator  # type: ignore[import-not-found]
    from maskgit.loss_maskgit import MaskGITLoss  # type: ignore[import-not-found]

    rows = [{"prompt_ids": [7, 8], "input_ids": [9, 10], "noise_seed": n} for n in range(4000)]
    batch = MaskGITSeq2SeqCollator(lm.tokenizer, block_size=4)(rows)
    loss = MaskGITLoss(lm.model.eval(), lm.tokenizer)
    with torch.no_grad():
        estimate, bound = loss(batch)["loss"], loss.nll_bound(batch).mean() / 3
    assert math.isclose(float(estimate), float(bound), rel_tol=0.1)
