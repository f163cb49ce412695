"""What has been created works as it stands: the documented quick start, evaluation, generation, its own tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from warm_xlm import warm_xlm
from xlm.compose import load_config

if TYPE_CHECKING:
    from .conftest import Scaffold

BIN = Path(sys.executable).parent
PARTS = ["train.lm", "val.lm", "val.prediction", "test.lm", "test.prediction"]
# The properties that depend on the layout: the package is found, imported, built, and found by a second process.
OF_LAYOUT = "discovered or composes or targets or wheel or two-processes"
CPU = ["trainer_strategy=cpu", "loggers=debug"]


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_its_experiment_composes(scaffold: Scaffold, work_dir: Path, layout: str) -> None:
    name = f"toy_{layout}"
    scaffold(name, "--layout", layout)
    cfg = load_config([f"experiment=star_easy_{name}", "debug=overfit"], environ={}, cwd=work_dir)
    assert cfg.model_name == name
    assert cfg.model._target_ == f"{name}.model_{name}.Toy{layout.capitalize()}Network"
    assert cfg.datamodule.print_batch_fn == f"{name}.datamodule_{name}.print_batch_{name}"
    other = load_config([f"model={name}", f"model_type={name}", "datamodule=text"], environ={}, cwd=work_dir)
    assert set(other.collators) == {"lm", "seq2seq", "seq2seq_pred", "unconditional"}


def run(work_dir: Path, *command: str) -> str:
    """What a program of this environment printed; it must succeed."""
    program = warm_xlm() if command[0] == "xlm" else (BIN / command[0],)
    done = subprocess.run([*program, *command[1:]], cwd=work_dir, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_quick_start(work_dir: Path) -> None:
    """As the guide has it, word for word, in an empty directory."""
    run(work_dir, "xlm-scaffold", "my_awesome_model")
    quick = ["job_type=train", "job_name=my_model_test", "experiment=star_easy_my_awesome_model", "debug=overfit"]
    last = run(work_dir, "xlm", *quick).splitlines()[-1]
    learnt = re.fullmatch(r"Learnt by heart: exact match 1\.00 on the one batch after (\d+) steps\.", last)
    assert learnt is not None
    assert int(learnt[1]) <= 300


# A mistake in loss_fn of the scaffolded model: what is replaced, what by, and what the verdict says.
MISTAKES = {
    "detached": ("cross_entropy(logits", "cross_entropy(logits.detach()", "does not depend on any weight"),
    "shifted": ("targets.flatten(), ignore", "targets.roll(1, dims=1).flatten(), ignore", "the predictor, as the loss"),
    "random": (
        "targets.flatten(), ignore",
        "targets.where(targets == -100, torch.randint_like(targets, 27)).flatten(), ignore",
        "which hardly fell",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_broken_model_is_not_learnt(work_dir: Path, mistake: str) -> None:
    run(work_dir, "xlm-scaffold", "my_model")
    right, wrong, says = MISTAKES[mistake]
    path = work_dir / "my_model/loss_my_model.py"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong).replace("from torch", "import torch\nfrom torch", 1))
    command = ["train", "job_name=t", "experiment=star_easy_my_model", "debug=overfit", *CPU]
    patience = "callbacks.overfit_verdict.patience=300"
    done = subprocess.run([*warm_xlm(), *command, patience], cwd=work_dir, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1
    assert "\nNot learnt: " in f"\n{done.stderr}"
    assert says in done.stderr


@pytest.mark.slow
def test_a_run_is_evaluated_and_generated_from(work_dir: Path) -> None:
    """In the nested layout; the quick start trains and tests in the flat one."""
    run(work_dir, "xlm-scaffold", "toy_model", "--layout", "nested")
    few = [f"datamodule.dataset_managers.{part}.num_examples=32" for part in PARTS]
    common = ["job_name=toy", "experiment=star_easy_toy_model", "trainer.max_steps=10", *CPU, *few]
    run(work_dir, "xlm", "train", *common)
    assert "exact_match" in run(work_dir, "xlm", "job_type=eval", *common)
    run(work_dir, "xlm", "job_type=generate", *common)
    (written,) = work_dir.rglob("generations.jsonl")
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(rows) == 8
    assert set(rows[0]) >= {"prompt", "prediction", "truth", "steps_taken"}
    run(work_dir, "xlm", "job_type=generate", *common, "generation.prompts=['1 2 2 3 1 3','4 5']")
    assert len(written.read_text().splitlines()) == 2
    run(work_dir, "xlm", "trace", "runs/toy", "prompts=['1 2 2 3 1 3','4 5']", "predictor.max_length=3")
    (traced,) = json.loads((work_dir / "trace.json").read_text())["runs"]
    assert [(sample["prompt"], 0 < sample["calls"] <= 3) for sample in traced["samples"]] == [
        ("1 2 2 3 1 3", True), ("4 5", True),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "chosen", "passed"), [("flat", "", r"\d\d"), ("nested", OF_LAYOUT, "6")], ids=["flat", "nested"]
)
def test_its_own_tests_pass(work_dir: Path, layout: str, chosen: str, passed: str) -> None:
    run(work_dir, "xlm-scaffold", "toy_model", "--layout", layout)
    printed = run(work_dir, "python", "-m", "pytest", "toy_model", "-q", "-p", "no:cacheprovider", "-rs", "-k", chosen)
    assert re.search(rf"\b{passed} passed", printed)
    assert "failed" not in printed
