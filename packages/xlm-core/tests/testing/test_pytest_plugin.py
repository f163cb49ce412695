"""`pytest --xlm-model NAME`, and a test file that runs the kit: ids, messages, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xlm.testing import PROPERTIES

USAGE_ERROR = 4
RunPytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_pytest(tmp_path: Path, models: Path) -> RunPytest:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", *args]
        environment = {**os.environ, "XLM_MODELS_PATH": str(models), "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def collected(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_one_test_for_each_property_and_no_file(run_pytest: RunPytest, tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert False\n")
    done = run_pytest("--xlm-model", "tidy", "--collect-only", "-q")
    assert collected(done) == [f"tidy::{prop.name}" for prop in PROPERTIES]


def test_several_models_and_the_marker_of_slow_properties(run_pytest: RunPytest) -> None:
    names = ["--xlm-model", "tidy", "--xlm-model", "untidy", "--xlm-model", "tidy"]
    done = run_pytest(*names, "--collect-only", "-q", "-m", "slow")
    slow = [prop.name for prop in PROPERTIES if prop.slow]
    assert collected(done) == [f"{model}::{name}" for model in ("tidy", "untidy") for name in slow]


def test_an_unknown_model_is_one_sentence(run_pytest: RunPytest) -> None:
    done = run_pytest("--xlm-model", "tidi")
    assert done.returncode == USAGE_ERROR
    assert done.stderr.startswith("ERROR: There is no model 'tidi'. Did you mean 'tidy'?")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_failure_is_line_reason_and_remedy(run_pytest: RunPytest, tmp_path: Path, models: Path) -> None:
    """Files that are named run beside the model; a folder without xlm_models.json is no place to search."""
    (tmp_path / "test_contract.py").write_text(
        "from xlm.testing import conformance_tests\n"
        f"test_broken = conformance_tests('tidy', search={str(models)!r},\n"
        "    overrides=['predictor._target_=tidy.broken_tidy.Rewrites'])\n"
        f"test_plain = conformance_tests('tidy', search={str(tmp_path)!r})\n"
    )
    command = ["test_contract.py", "--xlm-model", "tidy", "--strict-markers", "-k", "discovered or keeps-prompt"]
    done = run_pytest(*command, "-rA")
    assert done.returncode == 1
    ended = {line for line in done.stdout.splitlines() if line.startswith(("PASSED ", "FAILED "))}
    assert {line.partition(" - ")[0] for line in ended} == {
        "PASSED test_contract.py::test_broken[discovered]",
        "FAILED test_contract.py::test_broken[keeps-prompt]",
        "PASSED test_contract.py::test_plain[discovered]",
        "PASSED test_contract.py::test_plain[keeps-prompt]",
        "PASSED tidy::discovered",
        "PASSED tidy::keeps-prompt",
    }
    lines = done.stdout.splitlines()
    at = lines.index("keeps-prompt: given tokens are in the prediction, unchanged and in order")
    assert lines[at + 1].startswith("The prompt [")
    assert lines[at + 2] == "What to do: write predicted tokens only where the batch has none"
    assert "Traceback" not in done.stdout
