"""Every module of before and every public name in it can still be imported; what moved says where it is now."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from xlm.moved import MODULES

# One module a line, `module: public names`, as they were before files were merged.
BEFORE = Path(__file__).parent / "import_paths.txt"
# Helpers that became methods, and functions that nothing called and no page named.
GONE = [
    "xlm.decoding.output.continue_text",
    "xlm.decoding.output.generate",
    "xlm.modules.linear_cross_entropy.loss_rows",
    "xlm.sampling.make_sampler",
    "xlm.sampling.penalize_repetition",
]


def test_paths_of_before_still_lead_to_their_objects() -> None:
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for line in BEFORE.read_text().splitlines():
            path, _, names = line.partition(":")
            module = importlib.import_module(path)
            missing += [f"{path}.{name}" for name in names.split() if not hasattr(module, name)]
    assert missing == GONE


def test_a_moved_path_says_where_the_object_is_now() -> None:
    old, new = "xlm.training.guard", MODULES["xlm.training.guard"]
    with pytest.warns(DeprecationWarning, match=f"{old}.FiniteLossGuard is now {new}.FiniteLossGuard"):
        found = importlib.import_module(old).FiniteLossGuard
    assert found is importlib.import_module(new).FiniteLossGuard
    with pytest.warns(DeprecationWarning, match="xlm.sampling.widest_float is now xlm.sampling.sampling_dtype"):
        assert importlib.import_module("xlm.sampling").widest_float
    with pytest.raises(AttributeError):
        _ = importlib.import_module(old).nothing_of_that_name


def test_the_table_names_only_what_is_gone() -> None:
    code = "import importlib.machinery as m, sys, xlm; from xlm.moved import MODULES; print(*[n for n in MODULES if "
    code += "m.PathFinder.find_spec(n, __import__(n.rpartition('.')[0], fromlist=['']).__path__)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
