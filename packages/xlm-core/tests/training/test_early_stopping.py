"""Early stopping: a resumed run stops where an uninterrupted one does, and a stopped one stays stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.utils.instantiate import clear_components

MODELS = Path(__file__).parents[1] / "models"
# With a learning rate of 0, only the first of the validations after each step is an improvement.
STILL = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "trainer_strategy=cpu", "loggers=debug",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "~datamodule.dataset_managers.val.prediction", "per_device_batch_size=16", "trainer.val_check_interval=1",
    "optimizer.lr=0", "test_after_training=false", "callbacks.early_stopping.patience=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLM_MODELS_PATH", str(MODELS))
        return load_config([*STILL, "callbacks=[default,early_stopping]", "job_name=a"])


@pytest.fixture
def configure(work_dir: Path, composed: DictConfig) -> Iterator[Callable[..., DictConfig]]:
    def configured(name: str, **values: Any) -> DictConfig:
        cfg = composed.copy()
        cfg.job_name, cfg.paths.root_dir, cfg.paths.cache_dir = name, str(work_dir), str(work_dir / "cache")
        for key, value in values.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        return cfg

    yield configured
    clear_components()


def stop(name: str) -> tuple[int, list[str]]:
    results = json.loads(Path(f"runs/{name}/results.json").read_text())
    return results["step"], results.get("stopped_early", [])


PATIENCE, STEPS = "callbacks__early_stopping__patience", "trainer__max_steps"


def test_a_resumed_run_stops_at_the_same_step(
    configure: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(configure("a"))
    step, lines = stop("a")
    assert step == 4
    assert lines[0].startswith("Stopped early at step 4: val/lm/accumulated_loss has not improved for 3 validations")
    assert lines[0].endswith("at step 1).")
    assert lines[0] in capsys.readouterr().out
    train.run(configure("b", **{STEPS: 2}))
    assert stop("b") == (2, [])
    train.run(configure("b"))
    assert stop("b") == (4, lines)
    assert {path.name for path in Path("runs/b/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    # It stays stopped, until there is more patience.
    train.run(configure("b"))
    assert stop("b") == (4, lines)
    train.run(configure("b", **{PATIENCE: 5}))
    assert stop("b")[0] == 6


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("mode", "best", "callbacks.early_stopping.mode is 'best', and must be min or max"),
        ("monitor", "val/lm/acuracy", "'val/lm/acuracy', but validation has no such metric. It has: val/lm/acc"),
    ],
)
def test_what_is_refused(configure: Callable[..., DictConfig], name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        train.run(configure("d", **{f"callbacks__early_stopping__{name}": value}))


def test_every_choice_of_callbacks_keeps_the_checkpoints() -> None:
    kept = {"checkpoint_monitor", "checkpoint_every_n_steps"}
    for choice, more in {"default": set(), "early_stopping": {"early_stopping"}}.items():
        assert set(load_config(["experiment=star_easy_mlm", f"callbacks={choice}"]).callbacks) == kept | more
