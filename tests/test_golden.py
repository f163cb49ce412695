"""The first 50 training losses of every family are those of the checked-in curves (tools/golden.py)."""

from __future__ import annotations

import pytest

from golden import NUM_STEPS, TOLERANCE, curve, distance, families, golden

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("family", families())
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
def test_a_family_learns_as_before(family: str) -> None:
    losses = curve(family)
    assert len(losses) == NUM_STEPS
    assert distance(losses, golden(family)) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("change", ["optimizer.lr=0.0021", "optimizer.weight_decay=0.2", "seed=2", "model.nhead=1"])
def test_the_tolerance_is_smaller_than_what_small_changes_do(family: str, change: str) -> None:
    assert distance(curve(family, change), golden(family)) > 2 * TOLERANCE
