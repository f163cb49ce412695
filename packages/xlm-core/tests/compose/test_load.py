"""load_config composes toy models like the command line, in both collator styles, without importing torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from omegaconf import OmegaConf

from xlm.compose import load_config, to_yaml
from xlm.errors import ConfigError, ExternalModelConflictError, MissingRoleError

if TYPE_CHECKING:
    from ..conftest import WriteModel

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture
def toy(work_dir: Path, write_model: WriteModel) -> Path:
    (work_dir / "xlm_models.json").write_text('{"toy": "toy"}')
    return write_model(work_dir / "toy")


@pytest.mark.usefixtures("toy")
def test_composes_with_a_settled_name() -> None:
    cfg = load_config(["experiment=toy", "seed=7"])
    assert (cfg.job_name, cfg.seed, cfg.model.width) == ("toy,seed=7", 7, 4)
    assert "hydra" not in cfg
    assert OmegaConf.is_struct(cfg)
    assert "job_name: toy" in to_yaml(cfg)


@pytest.mark.usefixtures("toy")
def test_lists_of_experiments_and_removed_parts(toy: Path) -> None:
    (toy / "configs" / "experiment" / "wide.yaml").write_text("# @package _global_\nmodel:\n  width: 9\n")
    cfg = load_config(["experiment=[toy,wide]", "~datamodule.dataset_managers.train"])
    assert (cfg.job_name, cfg.model.width) == ("toy+wide", 9)
    assert cfg.datamodule.dataset_managers == {}


def test_other_places_than_this_process(tmp_path: Path, write_model: WriteModel) -> None:
    write_model(tmp_path / "models" / "toy")
    (tmp_path / "models" / "xlm_models.json").write_text('{"toy": "toy"}')
    cfg = load_config(["experiment=toy"], environ={"XLM_MODELS_PATH": "models"}, cwd=tmp_path)
    assert cfg.model.width == 4


@pytest.mark.usefixtures("toy")
def test_promised_datamodule_names_compose() -> None:
    cfg = load_config(["datamodule=star_easy_toy", "model=toy", "model_type=toy"], check=False)
    plain = load_config(["datamodule=star_easy", "model=toy", "model_type=toy"], check=False)
    assert cfg.datamodule == plain.datamodule
    assert cfg.block_size == plain.block_size
    with pytest.raises(MissingRoleError, match="which datamodule 'star_easy_toy' needs; it has: lm"):
        load_config(["datamodule=star_easy_toy", "model=toy", "model_type=toy"])


def test_models_that_attach_collators_themselves_compose(work_dir: Path, toy: Path) -> None:
    managers = "datamodule.dataset_managers"
    attached = [f"{split}.{name}" for split in ("train", "val", "test") for name in ("lm", "prediction")]
    lines = [f"  - /collator@{managers}.{place}.collator: lm_toy" for place in attached if place != "train.prediction"]
    lines.append("  - /metrics@reported_metrics.train.lm.accumulated_loss: accumulated_loss")
    model_type = toy / "configs" / "model_type" / "toy.yaml"
    model_type.write_text("# @package _global_\ndefaults:\n" + "\n".join(lines) + "\n")
    cfg = load_config(["datamodule=star_easy_toy", "model=toy", "model_type=toy"])
    assert cfg.datamodule.dataset_managers.val.prediction.collator._target_ == "toy.parts.Collator"
    model_type.write_text("# @package _global_\ndefaults:\n" + "\n".join(lines[:-2]) + "\n")
    with pytest.raises(MissingRoleError):
        load_config(["datamodule=star_easy_toy", "model=toy", "model_type=toy"])


@pytest.mark.usefixtures("toy")
def test_checks_run_unless_told_otherwise() -> None:
    bad = ["experiment=toy", "global_batch_size=100"]
    with pytest.raises(ConfigError, match="100 is not divisible by"):
        load_config(bad)
    assert load_config(bad, check=False).global_batch_size == 100


def test_a_conflict_stops_it(toy: Path, write_model: WriteModel) -> None:
    write_model(toy.parent / "xlm-models" / "toy")
    (toy.parent / "xlm-models" / "xlm_models.json").write_text('{"toy": "toy"}')
    with pytest.raises(ExternalModelConflictError):
        load_config(["experiment=toy"])


@pytest.mark.usefixtures("toy")
def test_composing_imports_neither_torch_nor_a_model() -> None:
    code = (
        "import sys; from xlm.compose import load_config; load_config(['experiment=toy'])\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'toy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
