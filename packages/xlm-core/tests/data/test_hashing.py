"""Hashes that must never change: caches and noise depend on them."""

from __future__ import annotations

import linecache
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from xlm.data.hashing import code_version, hash_of, noise_seeds, splitmix64, time_quantiles
from xlm.errors import DataError


def test_splitmix64_is_the_published_function() -> None:
    # The first outputs of SplitMix64 with state 0 (reference implementation by Vigna).
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert splitmix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_noise_seeds_are_pinned() -> None:
    seeds = noise_seeds(1, 0, np.arange(1000))
    assert len(set(seeds.tolist())) == 1000
    assert seeds.min() >= 0
    assert noise_seeds(1, 0, np.array([7]))[0] == seeds[7]
    assert noise_seeds(-5, 2**40, np.array([0]))[0] >= 0
    bits = np.unpackbits(seeds.view(np.uint8)).mean()
    assert abs(bits * 64 / 63 - 0.5) < 0.01


@pytest.mark.parametrize("start", [0, 12_345, 2**40])
@pytest.mark.parametrize("size", [2, 8, 64, 500])
def test_levels_spread_evenly_over_any_stretch_of_an_epoch(start: int, size: int) -> None:
    levels = np.sort(time_quantiles(3, 1, start + np.arange(size)))
    gaps = np.diff(levels, append=levels[0] + 1)
    # Three lengths at most, the longest 1/golden² … of the others: no gap is more than 2.62 / size.
    assert gaps.max() < 2.62 / size
    assert gaps.min() > 0.38 / size
    assert len(np.unique(gaps.round(9))) <= 3


def test_an_examples_levels_are_uniform_over_epochs_and_seeds() -> None:
    levels = np.array([time_quantiles(seed, epoch, np.array([5]))[0] for seed in range(40) for epoch in range(50)])
    assert levels.min() >= 0
    assert levels.max() < 1
    counts = np.histogram(levels, bins=20, range=(0, 1))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 19 + 4.5 * 38**0.5


def test_hash_of_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert len({hash_of(value) for value in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, {"a": [1]})}) == 5
    with pytest.raises(DataError, match="not JSON serializable"):
        hash_of({"a": object()})


def test_hash_is_the_same_in_another_process() -> None:
    code = "from xlm.data.hashing import hash_of; print(hash_of({'a': 1, 'b': ['x', None]}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hash_of({"b": ["x", None], "a": 1})


def test_code_version_follows_the_module_of_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(source: str) -> str:
        (tmp_path / "hashed_module.py").write_text(source)
        module = ModuleType("hashed_module")
        module.__file__ = str(tmp_path / "hashed_module.py")
        exec(compile(source, module.__file__, "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, "hashed_module", module)
        linecache.clearcache()
        return code_version(module.__dict__["f"])

    plain = "def g(x):\n    return x\n\ndef f(x):\n    return g(x)\n"
    assert version(plain) == version(plain)
    assert version(plain) != version(plain.replace("return x", "return -x"))  # a helper counts
    assert code_version(len) == code_version(len) != code_version(print)  # no source to read
