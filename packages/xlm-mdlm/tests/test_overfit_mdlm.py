"""One batch of star graphs, learnt by heart through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.testing import overfit


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_overfits_one_batch_to_exact_match_one(tmp_path: Path) -> None:
    # Every step shows other masks, so a batch takes longer than left to right.
    assert overfit(tmp_path, "experiment=star_easy_mdlm", "model=xtiny_mdlm") == 1.0
