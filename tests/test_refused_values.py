"""Wrong values of the parts of a run: one sentence with the key, before anything is written."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.commands.train import resume_point
from xlm.compose import load_config
from xlm.errors import ConfigError, DataError, XLMError
from xlm.inference.session import build_callbacks, build_loggers, start
from xlm.utils.instantiate import clear_components

FAMILIES = ("arlm", "mlm", "ilm", "mdlm")
SECTIONS = (
    "model", "loss", "predictor", "optimizer", "lr_scheduler", "noise_schedule", "trainer", "callbacks", "loggers",
    "datamodule", "collators", "global_components",
)  # fmt: skip
WRONG = ("abcword", None, -1, 0, math.nan, [1, 2], {"a": 1}, 0.5, True)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    clear_components()


def composed(family: str, *overrides: str) -> DictConfig:
    return load_config(
        [f"experiment=star_mini_{family}", f"model=xtiny_{family}", "trainer.accelerator=cpu", "loggers=debug",
         *overrides]
    )  # fmt: skip


def build(cfg: DictConfig) -> None:
    """All that `xlm train` makes before it writes or reads data."""
    resume_point(cfg)
    session = start(cfg)
    session.harness().check_optimizer()
    session.trainer(build_callbacks(cfg), build_loggers(cfg))


@pytest.fixture(scope="module")
def mdlm() -> DictConfig:
    return composed("mdlm")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("trainer.accelerator", "gpus", "trainer.accelerator: You selected an invalid accelerator name"),
        ("trainer.precision", "bf17", "trainer.precision is 'bf17', and must be .*Did you mean 'bf16'"),
        ("trainer.devices", 0, r"trainer.devices: .Trainer\(devices=0\). value is not a valid input"),
        ("trainer.strategy", "ddpp", "trainer.strategy: You selected an invalid strategy name"),
        ("trainer.val_check_interval", 0, "trainer.val_check_interval is 0, and must be above 0"),
        ("optimizer.lr", -1, "optimizer.lr: Invalid learning rate: -1"),
        ("optimizer.lr", "fast", "optimizer.lr is 'fast', and must be a number"),
        ("optimizer.lrr", 1, "unexpected keyword argument 'lrr'\n.*Did you mean 'lr'"),
        ("lr_scheduler.name", "cosin", "lr_scheduler.name: cosin is not a valid SchedulerType"),
        ("model.dropout", 2, "model.dropout: dropout probability has to be between 0 and 1, but got 2"),
        ("model.d_model", 65, "model: d_model 65 over . heads must give a whole, even head dimension"),
        ("model.num_layers", -1, "model.num_layers: num_layers must be above 0, got -1"),
        ("model.nhead", 0, "model.nhead: nhead must be above 0, got 0"),
        ("model.num_embeddings", 5, "model.num_embeddings is 5, and the tokenizer has .. ids"),
        ("predictor.top_p", 0, "predictor.top_p is 0, and must be above 0 and at most 1"),
        ("predictor.temperature", math.nan, "predictor.temperature is nan, and must be a number"),
        ("collators.lm.loss_on_padding", "yes", "collators.lm.loss_on_padding is 'yes', and must be true or false"),
        (
            "global_components.noise_schedule",
            [1],
            r"noise_schedule is \[1\], and must be a mapping with a _target_, or",
        ),
        ("noise_schedule.eps", 1, r"noise_schedule.eps: eps must be in \(0, 1\)"),
        (
            "datamodule.dataset_managers.val.lm.data_file",
            3,
            "lm.data_file is 3, and must be a text, a list of texts, a mapping or null",
        ),
        ("datamodule.dataset_managers.test.lm.dataloader_kwargs.num_workers", -1, "test.lm.dataloader_kwargs.num_work"),
    ],
)
def test_a_sentence_with_the_key(mdlm: DictConfig, key: str, value: Any, says: str) -> None:
    cfg = mdlm.copy()
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises((ConfigError, DataError), match=says):
        build(cfg)
    assert not list(Path().glob("*"))


def leaves(node: Any, key: str) -> Iterator[str]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from leaves(child, f"{key}.{name}")
    elif not key.endswith("_target_"):
        yield key


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_values_are_refused_or_taken_but_never_a_crash(family: str) -> None:
    cfg = composed(family)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    keys = [key for section in SECTIONS for key in leaves(plain[section], section)]
    for key, value in random.Random(7).sample([(key, value) for key in keys for value in WRONG], 12):
        changed = cfg.copy()
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
        try:
            build(changed)
        except XLMError as error:
            assert str(error)  # noqa: PT017
        except Exception as error:
            raise AssertionError(f"{key}={value!r}: {error!r}") from error


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model=xtiny_arlm"], r"model=xtiny_arlm is a network of 'arlm', and model_type 'mlm' cannot use it"),
        (
            ["model=xtiny_arlm"],
            r"Did you mean 'xtiny_mlm'\?\nNetworks of 'mlm': hf_mlm, mlm, small_mlm, tiny_mlm, xtiny",
        ),
        (["batch_size=3"], r"Did you mean 'per_device_batch_size' or 'per_device_val_batch_size'\?"),
        (["lr=3"], r"Did you mean 'optimizer.lr'\?"),
    ],
)
def test_what_does_not_fit_the_family_or_has_a_short_name(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(["experiment=star_mini_mlm", *overrides])
