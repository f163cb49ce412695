"""`xlm train`: the final test uses averaged weights, for both values of test_weights."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from xlm import flags
from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.compose import load_config
from xlm.datamodule import TextDataModule
from xlm.harness import Harness
from xlm.training.guards import raising_on_sigterm
from xlm.utils.instantiate import clear_components
from xlm.utils.run_lock import RunLock

MODELS = Path(__file__).parents[1] / "models"
# The best checkpoint is from step 3 and the last one from step 5, each with its own average.
AVERAGED = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "datamodule.dataset_managers.test.lm.num_examples=30", "~datamodule.dataset_managers.val.prediction",
    "~datamodule.dataset_managers.test.prediction", "per_device_batch_size=16", "trainer.max_steps=5",
    "trainer.val_check_interval=3", "trainer.log_every_n_steps=1", "loggers=debug", "ema_decay=0.5", "optimizer.lr=0.5",
)  # fmt: skip


@pytest.fixture
def configure(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DictConfig]]:
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(work_dir / "cache"))
    yield lambda *overrides: load_config([*AVERAGED, *overrides])
    clear_components()
    flags.set_flags({"DEBUG": False})


def test_the_test_scores_averaged_weights_whichever_are_tested(configure: Callable[..., DictConfig]) -> None:
    """Same as `xlm eval` of the same checkpoint; also for a complete run that is tested again, and for a debug run."""

    def trained(*overrides: str) -> float:
        return train.run(configure(*overrides))["test/lm/accumulated_loss"]

    def evaluated(checkpoint: str, apply_ema: bool) -> float:
        options = (f"++eval.checkpoint_path=runs/t/checkpoints/{checkpoint}.ckpt", f"++eval.apply_ema={apply_ema}")
        return evaluation.run(configure("~datamodule.dataset_managers.train", *options))["test/lm/accumulated_loss"]

    best = trained()
    last = evaluated("last", apply_ema=True)
    assert best == evaluated("best", apply_ema=True)
    assert len({best, last, evaluated("last", apply_ema=False)}) == 3
    assert trained("test_weights=last") == last  # complete, and only tested again
    # A debug run keeps no checkpoint, and ends with the same weights.
    assert trained("global_flags.DEBUG=true", "job_name=debugged") == last


def test_a_complete_run_is_tested_again_without_what_only_training_needs(
    configure: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome() -> dict[str, Any]:
        record = json.loads(Path("runs/t/results.json").read_text())
        return {name: record[name] for name in ("step", "training", "results", "metrics", "n")}

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("only training needs this")

    def counted(file: Any, *args: Any, **options: Any) -> Any:
        read[Path(file).name] += 1
        return load(file, *args, **options)

    cfg = configure("test_weights=last", "trainer.max_epochs=2", "trainer.max_steps=-1")
    train.run(cfg.copy())
    before = outcome()
    assert before["step"] == 8
    cfg.trainer.max_epochs = 1  # fewer than it has
    assert {name.split("/")[0] for name in before["metrics"]} == {"val", "test"}
    monkeypatch.setattr(Harness, "configure_optimizers", refuse)
    monkeypatch.setattr(TextDataModule, "train_dataloader", refuse)
    monkeypatch.setattr(TextDataModule, "val_dataloader", refuse)
    read, load = Counter[str](), torch.load
    monkeypatch.setattr(torch, "load", counted)
    capsys.readouterr()
    train.run(cfg.copy())
    assert outcome() == before
    assert read == {"last.ckpt": 2, "best.ckpt": 1}  # both headers to find the newest, then its content
    assert "complete at step 8; it is only tested again." in capsys.readouterr().out
    cfg.test_after_training = False
    assert train.run(cfg) == before["metrics"]
    assert "complete at step 8; nothing is left to do." in capsys.readouterr().out
    assert outcome() == before


def test_a_run_that_failed_within_a_step_continues(
    configure: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(self: Harness, *args: Any) -> Any:
        if self.trainer.global_step == 3:
            raise RuntimeError("out of memory")
        return training_step(self, *args)

    cfg = configure("test_after_training=false")
    training_step = Harness.training_step
    with monkeypatch.context() as patched:
        patched.setattr(Harness, "training_step", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            train.run(cfg.copy())
    train.run(cfg.copy())
    assert "Resuming from step 3." in capsys.readouterr().out
    train.run(cfg.copy())
    assert "complete at step 5; nothing is left to do." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("checkpoints", "environ", "folders"),
    [
        ("runs/a/checkpoints", {}, ["runs/a"]),
        ("elsewhere", {}, ["runs/a", "elsewhere"]),  # may be shared with another run
        ("elsewhere", {"LOCAL_RANK": "1"}, []),  # the first process locks both for all
        ("elsewhere", {"NODE_RANK": "1"}, []),
    ],
)
def test_the_folders_that_a_run_holds(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: str, environ: dict[str, str], folders: list[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    cfg = OmegaConf.create({"paths": {"run_dir": "runs/a"}, "checkpointing_dir": checkpoints})
    assert train.written_folders(cfg) == [Path(folder) for folder in folders]
    assert list(work_dir.iterdir()) == []


def test_sigterm_before_training_gives_back_what_is_held(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught, raising_on_sigterm(), RunLock(tmp_path / "a"):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
