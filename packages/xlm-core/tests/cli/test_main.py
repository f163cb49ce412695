"""The installed command in separate processes: real imports from all places, exit codes, no torch, fast."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..conftest import RunXlm, WriteModel


@pytest.mark.parametrize("layout", ["flat", "nested", "inner"])
@pytest.mark.parametrize("place", [".", "xlm-models", "XLM_MODELS_PATH"])
def test_models_are_imported_from_every_place(
    run_xlm: RunXlm, write_model: WriteModel, work_dir: Path, place: str, layout: str
) -> None:
    folder = work_dir.parent / "elsewhere" if place == "XLM_MODELS_PATH" else work_dir / place
    root = write_model(folder / "toy", layout=layout)
    (folder / "xlm_models.json").write_text('{"toy": "toy"}')
    env = {"XLM_MODELS_PATH": str(folder)} if place == "XLM_MODELS_PATH" else {}
    done = run_xlm("hello_toy", "experiment=toy", env=env)
    package = root if layout == "flat" else root / "toy"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"hello from {package / 'parts.py'} as toy\n"


@pytest.mark.parametrize("how", ["entry point", "XLM_MODELS_PACKAGES"])
def test_installed_packages_are_imported(run_xlm: RunXlm, write_model: WriteModel, work_dir: Path, how: str) -> None:
    site = work_dir.parent / "site"
    write_model(site / "toy")
    env = {"PYTHONPATH": str(site)}
    if how == "entry point":
        info = site / "toy_dist-0.4.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-dist\nVersion: 0.4\n")
        (info / "entry_points.txt").write_text("[xlm.models]\ntoy = toy\n")
    else:
        env["XLM_MODELS_PACKAGES"] = "toy"
    done = run_xlm("hello_toy", "experiment=toy", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"hello from {site / 'toy' / 'parts.py'} as toy\n"
    listed = run_xlm("models", env=env).stdout
    assert ("entry point of toy-dist" if how == "entry point" else how) in listed


def test_one_broken_model_stops_nobody_else(run_xlm: RunXlm, write_model: WriteModel, work_dir: Path) -> None:
    write_model(work_dir / "good", "good")
    write_model(work_dir / "bad", "bad", init="raise RuntimeError('broken')\n")
    (work_dir / "xlm_models.json").write_text('{"bad": "bad", "good": "good"}')
    assert run_xlm("hello_good", "experiment=good").returncode == 0
    done = run_xlm("hello_bad", "experiment=bad")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == f"RuntimeError: broken ({work_dir / 'bad' / '__init__.py'}:1)"
    assert run_xlm("models").returncode == 0


@pytest.mark.parametrize(
    ("listing", "variables", "first_line"),
    [
        ("{", {}, "Error: xlm_models.json: it cannot be read as JSON"),
        ('{"toy": 3}', {}, "Error: xlm_models.json: the directory of model 'toy' must be a string, not a number."),
        ("{}", {"XLM_MODELS_PACKAGES": "my_model"}, "Error: No module named 'my_model', which XLM_MODELS_PACKAGES"),
    ],
)
def test_broken_listings_stop_every_job(
    run_xlm: RunXlm, work_dir: Path, listing: str, variables: dict[str, str], first_line: str
) -> None:
    (work_dir / "xlm_models.json").write_text(listing)
    done = run_xlm("train", "experiment=x", env=variables)
    assert done.returncode == 1
    assert done.stderr.startswith(first_line)
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in work_dir.iterdir()) == ["xlm_models.json"]


def test_a_conflict_stops_every_job(run_xlm: RunXlm, write_model: WriteModel, work_dir: Path) -> None:
    for folder in (work_dir, work_dir / "xlm-models"):
        write_model(folder / "toy")
        (folder / "xlm_models.json").write_text('{"toy": "toy"}')
    done = run_xlm("train", "experiment=toy")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "ExternalModelConflictError: Duplicate model name: toy"
    assert len(done.stderr.splitlines()) == 4


def heavy_imports_and_cpu_seconds(args: list[str], cwd: Path) -> tuple[set[str], float]:
    code = (
        "import json, sys\nfrom xlm.cli.main import main\n"
        f"code = main({args!r})\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "print('\\n' + json.dumps([code, sorted(heavy)]))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, heavy = json.loads(done.stdout.splitlines()[-1])
    return set(heavy), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("args", "limit"),
    [
        (["--help"], 1.0),
        (["models"], 1.0),
        (["name", "experiment=toy"], 3.0),
        (["train", "experiment=ty"], 3.0),
        (["train", "experiment=toy", "trainr.x=1"], 4.0),
        (["train", "experiment=toy", "global_batch_size=100"], 3.0),
        (["trian"], 2.0),
    ],
)
def test_answers_come_without_torch_and_soon(
    write_model: WriteModel, work_dir: Path, args: list[str], limit: float
) -> None:
    write_model(work_dir / "toy")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    heavy, seconds = heavy_imports_and_cpu_seconds(args, work_dir)
    assert heavy == set()
    assert seconds < limit


def test_a_reader_that_stops_early_is_no_error(work_dir: Path) -> None:
    program = Path(sys.executable).with_name("xlm")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [program, "--help"], cwd=work_dir, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_lack_of_memory_is_one_message(run_xlm: RunXlm, write_model: WriteModel, work_dir: Path) -> None:
    root = write_model(work_dir / "toy")
    # More than any machine has; the second run of the sweep needs nothing.
    (root / "parts.py").write_text("def hello(cfg):\n    bytearray(2**62 if cfg.seed == 1 else 1)\n")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    alone = run_xlm("hello_toy", "experiment=toy", "seed=1")
    assert alone.returncode == 1
    first, second = alone.stderr.splitlines()
    assert first == "Error: Out of memory."
    assert "per_device_batch_size=" in second
    assert second.endswith("docs/guide/out-of-memory.md")
    swept = run_xlm("hello_toy", "-m", "experiment=toy", "seed=1,2")
    assert swept.returncode == 1
    assert "Traceback" not in swept.stderr
    assert "1 of 2 runs failed. The others are complete." in swept.stderr
