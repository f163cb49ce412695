"""The shapes in signatures are true: the tests of the tensor code run again with every call checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TESTED = ["test_sampling.py", "test_noise.py", "test_metrics.py", "modules", "utils/test_nn.py"]
CHECKED = ["xlm.sampling", "xlm.noise", "xlm.metrics", "xlm.modules", "xlm.utils.nn"]

# An int is a float, as for every type checker.
CHECKER = """
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""

WRONG_SHAPES = """
import pytest, torch
from jaxtyping import TypeCheckError

def test_the_checker_is_on():
    from xlm.modules.linear_cross_entropy import linear_cross_entropy
    with pytest.raises(TypeCheckError):
        linear_cross_entropy(torch.zeros(3, 4), torch.zeros(2, 5), None, torch.zeros(3, dtype=torch.long))
"""


@pytest.mark.slow
def test_every_call_in_the_tests_has_the_declared_shapes(tmp_path: Path) -> None:
    (tmp_path / "test_checker.py").write_text(WRONG_SHAPES)
    (tmp_path / "shape_checker.py").write_text(CHECKER)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        f"--jaxtyping-packages={','.join(CHECKED)},shape_checker.check",
        # Compiling checks nothing more; the others pass what the signature forbids, to see what happens.
        *("-m", "not slow", "-k", "not compiled and not say_so and not tolerated"),
        *(str(HERE / name) for name in TESTED),
        str(tmp_path / "test_checker.py"),
    ]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=HERE.parents[2], env=environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
