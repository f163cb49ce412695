"""The first 50 training losses of every family are those of the checked-in curves (tools/golden.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from golden import NUM_STEPS, TOLERANCE, curve, distance, families, golden
from xlm.utils.instantiate import clear_components


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_CACHE_DIR", str(cache))
    yield
    clear_components()


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
