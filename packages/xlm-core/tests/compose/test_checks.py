"""Checks of a composed configuration before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from xlm.compose.checks import check_config
from xlm.compose.devices import find_grad_accum
from xlm.errors import ConfigError, MissingRoleError

CHOICES = {"model_type": "arlm", "datamodule": "x"}


def config(**changes: Any) -> DictConfig:
    base: dict[str, Any] = {
        "global_batch_size": 64,
        "per_device_batch_size": 32,
        "trainer": {"devices": "auto", "num_nodes": 1},
        "collators": {"lm": {"_target_": "a.B"}, "seq2seq": {"_target_": "a.C"}},
        "datamodule": {
            "dataset_managers": {
                "train": {"lm": {"collator": "${collators.lm}"}},
                "val": {"lm": {"_target_": "a.D", "collator": "${collators.seq2seq}"}, "gone": None},
                "predict": {},
                "test": None,
            }
        },
    }
    return OmegaConf.create({**base, **changes})


def test_a_complete_configuration_passes() -> None:
    check_config(config(), CHOICES)
    check_config(config(datamodule=None), CHOICES)
    check_config(config(collators=None, datamodule={}), CHOICES)


def test_a_role_that_nobody_fills() -> None:
    cfg = config(datamodule={"dataset_managers": {"train": {"lm": {"collator": "${collators.infill}"}}}})
    with pytest.raises(MissingRoleError) as caught:
        check_config(cfg, CHOICES)
    assert str(caught.value) == (
        "model_type 'arlm' has no collator for the role 'infill', which datamodule 'x' needs; it has: lm, seq2seq"
    )
    assert (caught.value.role, caught.value.available) == ("infill", ("lm", "seq2seq"))


@pytest.mark.parametrize("filled", [None, "???"])
def test_an_empty_role_is_not_filled(filled: object) -> None:
    with pytest.raises(MissingRoleError, match="it has: seq2seq"):
        check_config(config(collators={"lm": filled, "seq2seq": {"_target_": "a.C"}}), CHOICES)


def test_without_the_loader_that_asks_nothing_is_missing() -> None:
    cfg = config(collators={"seq2seq": {"_target_": "a.C"}})
    del cfg.datamodule.dataset_managers["train"]
    check_config(cfg, CHOICES)


def test_a_loader_without_any_collator() -> None:
    cfg = config(datamodule={"dataset_managers": {"val": {"prediction": {"collator": "???"}}}})
    with pytest.raises(ConfigError) as caught:
        check_config(cfg, CHOICES)
    assert "The dataloader val/prediction has no collator: model_type 'arlm' does not set" in str(caught.value)
    assert "~datamodule.dataset_managers.val.prediction" in str(caught.value)


def test_no_global_batch_size_is_one_batch_of_every_device() -> None:
    check_config(config(global_batch_size=None), CHOICES)
    assert find_grad_accum(None, 32, 4, 2) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 100}, "100 is not divisible by per_device_batch_size 32"),
        ({"global_batch_size": 64, "trainer": {"devices": 4, "num_nodes": 1}}, "32 × 4 devices × 1 nodes = 128"),
        ({"global_batch_size": 64, "trainer": {"devices": "auto", "num_nodes": 3}}, "32 × 3 nodes = 96"),
        ({"global_batch_size": 0}, "global_batch_size is 0, and must be at least 1"),
        ({"max_tokens_per_batch": 9}, "max_tokens_per_batch needs batching=buckets or batching=packed"),
        ({"max_tokens_per_batch": 9, "batching": "packed"}, "Set trainer.accumulate_grad_batches instead"),
        ({"batching": "packed"}, "batching=packed has no effect: no training set of this datamodule reads it. Add"),
        ({"batching": "bucket"}, "must be longest, buckets, packed or null. Did you mean 'buckets'?"),
        ({"per_device_batch_size": "x"}, "per_device_batch_size is 'x', and must be a whole number, at least 1"),
    ],
)
def test_batch_sizes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_config(config(**changes), CHOICES)
    assert message in str(caught.value)


def older(**val: Any) -> DictConfig:
    attached = {"_target_": "a.D", "collator": {"_target_": "a.B"}}
    managers = {"train": {"lm": attached}, "val": val, "test": {"lm": attached}}
    return config(collators={}, datamodule={"dataset_managers": managers})


def test_an_older_model_leaves_out_the_loaders_that_it_does_not_know(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    cfg = older(
        lm={"_target_": "a.D", "collator": "${collators.lm}"}, x={"_target_": "a.D", "collator": "${collators.infill}"}
    )
    check_config(cfg, CHOICES)
    assert {split: list(named) for split, named in cfg.datamodule.dataset_managers.items()} == {
        "train": ["lm"], "val": [], "test": ["lm"],
    }  # fmt: skip
    assert "Left out, as model_type 'arlm' attaches no collator to them: val/lm, val/x." in caplog.text
    # Training data that it doesn't know are a mistake.
    cfg = older()
    cfg.datamodule.dataset_managers.train.more = {"_target_": "a.D", "collator": "${collators.lm}"}
    with pytest.raises(MissingRoleError, match="it has: none"):
        check_config(cfg, CHOICES)


def test_a_loader_whose_data_set_was_removed_is_removed_too() -> None:
    cfg = config()
    cfg.datamodule.dataset_managers.val.left = {"collator": "${collators.lm}"}
    check_config(cfg, CHOICES)
    assert list(cfg.datamodule.dataset_managers.val) == ["lm", "gone"]
