"""What answers at once imports nothing heavy, and nothing does work at import time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlm.compose import load_config
from xlm.data.rows import write_rows
from xlm.inference.session import start
from xlm.utils.instantiate import clear_components

HEAVY = {"datasets", "lightning", "matplotlib", "pandas", "torch", "torchmetrics", "transformers"}
DOORS = [
    "xlm",
    "xlm.errors",
    "xlm.protocols",
    "xlm.external_models",
    "xlm.compose",
    "xlm.cli",
    "xlm.cli.main",
    "xlm.commands.report",
    "xlm.commands.report",
    "xlm.reports.page",
    "xlm.reports.page",
    "xlm.scaffold.cli",
]
# What a training run on one process needs nothing of, a tenth of a second to several seconds each; the tensorboard of
# the default loggers aside. Lightning itself imports matplotlib, scipy, sympy, torch._dynamo and transformers.
NOT_FOR_TRAINING = {
    "IPython", "aiohttp", "datasets", "lm_eval", "nltk", "optuna", "pandas", "pyarrow.compute", "pyarrow.dataset",
    "pyarrow.parquet", "requests", "sklearn", "submitit", "tensorboard", "torch._functorch.aot_autograd",
    "torch._inductor.compile_fx", "torch.distributed.checkpoint", "transformers.modeling_utils", "wandb",
    # For vocabularies larger than that of star graphs.
    "xlm.modules.chunked_cross_entropy",
}  # fmt: skip
FIRST_STEP = [
    "experiment=star_easy_mlm", "model=xtiny_mlm", "job_name=m", "trainer_strategy=cpu", "trainer.max_steps=1",
    "trainer.limit_val_batches=0", "monitored_metric=train/lm/accumulated_loss", "test_after_training=false",
    "loggers=csv",
    *(
        f"datamodule.dataset_managers.{loader}.num_examples=64"
        for loader in ("train.lm", "val.lm", "val.prediction", "test.lm", "test.prediction")
    ),
]  # fmt: skip


@pytest.mark.parametrize("module", DOORS)
def test_an_import_prints_and_writes_nothing_and_a_door_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    [modules] = done.stdout.splitlines()
    assert module in modules.split()
    assert HEAVY.isdisjoint(modules.split())
    assert os.listdir(tmp_path) == []


def test_training_prints_nothing_when_imported_and_its_first_step_imports_nothing_needless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLM_CACHE_DIR", str(tmp_path / "cache"))
    # Writing new data takes pandas, which Arrow imports.
    start(load_config(FIRST_STEP)).datamodule.setup(None)
    clear_components()
    folder = tmp_path / "folder"
    folder.mkdir()
    code = (
        "import os, sys, warnings, xlm.commands.train\n"  # which imports xlm.harness and xlm.datamodule
        "print('imported', os.listdir()); print('imported', file=sys.stderr); warnings.simplefilter('ignore')\n"
        "from xlm.cli.main import main; print(main(sys.argv[1:]), *sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code, "train", *FIRST_STEP]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("imported []\n")
    assert done.stderr.startswith("imported\n")
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert (folder / "runs/m/checkpoints/last.ckpt").is_file()
    assert {"xlm.harness", "xlm.modules.linear_cross_entropy"} <= set(modules)
    assert NOT_FOR_TRAINING & set(modules) == set()


def test_prepared_data_are_read_without_pandas(tmp_path: Path) -> None:
    """Arrow's own conversion to numpy imports it."""
    rows = [{"ids": [1, 2, 3], "n": 5, "text": "a"}, {"ids": [], "n": -7, "text": "b"}]
    [path] = write_rows(tmp_path, rows)
    code = (
        "import sys; from pathlib import Path; from xlm.data.rows import ArrowRows\n"
        f"found = ArrowRows([Path({path.name!r})])\n"
        "print(found.fetch([1, 0]), found.lengths('ids').tolist(), 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{rows[::-1]} [3, 0] False\n", "")
