"""One batch of star graphs, learnt by heart through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.testing import overfit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_overfits_one_batch_to_exact_match_one(tmp_path: Path) -> None:
    # Every step shows one insertion out of the many that make an answer, so a batch takes longer than left to right.
    recipe = ["optimizer=adamw", "optimizer.lr=3e-3", "trainer.max_steps=1750", "trainer.val_check_interval=1750"]
    assert overfit(tmp_path, "experiment=star_easy_ilm", "model=xtiny_ilm", *recipe) == 1.0
