"""What is chosen for a person's own data, where it can be seen without data."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from xlm.compose.fit_to_data import keys_of_preset, monitored_for, optimizer_for

ANSWERED: dict[str, Any] = {
    "predictor": {"_target_": "p"},
    "datamodule": {"dataset_managers": {"val": {"prediction": {"part": "val"}}}},
    "metric_inputs": {"seq2seq_exact_match": "function"},
    "reported_metrics": {
        "val": {"prediction": {"exact_match": {"name": "exact", "update_fn": "${metric_inputs.seq2seq_exact_match}"}}}
    },
}


def test_short_answers_choose_the_best_checkpoint() -> None:
    cfg = OmegaConf.create(ANSWERED)
    chosen = {"monitored_metric": "val/prediction/exact", "monitored_mode": "max"}
    assert monitored_for(cfg, {}, [1, 2, 90]) == chosen
    assert monitored_for(cfg, {}, [1, 90, 90]) == {}  # long ones are hardly ever exact
    # Both keys belong together: a typed metric keeps its mode.
    assert monitored_for(cfg, {"monitored_metric": "val/lm/loss"}, [1]) == {}


@pytest.mark.parametrize(
    "missing",
    [
        "predictor",
        "datamodule.dataset_managers.val.prediction",
        "metric_inputs.seq2seq_exact_match",
        "reported_metrics.val.prediction",
    ],
)
def test_without_predictions_the_loss_chooses(missing: str) -> None:
    cfg = OmegaConf.create(ANSWERED)
    OmegaConf.update(cfg, missing, None, merge=False)
    assert monitored_for(cfg, {}, [1]) == {}


def test_a_rate_for_the_optimizer_that_is_given() -> None:
    assert optimizer_for("tiny_mlm", is_medium=False, asked=None) == {"optimizer": "muon"}
    assert optimizer_for("small_mlm", is_medium=False, asked=None) == {"optimizer": "adamw", "optimizer.lr": 3e-4}
    assert optimizer_for("tiny_mlm", is_medium=False, asked="adamw")["optimizer.lr"] == 1e-3
    assert optimizer_for("tiny_mlm", is_medium=True, asked="lion")["optimizer.lr"] == 1.5e-4
    assert optimizer_for("tiny_mlm", is_medium=False, asked="sgd") == {"optimizer": "sgd"}


def test_a_debugging_preset_says_what_it_sets() -> None:
    found = keys_of_preset("overfit")
    assert {"per_device_batch_size": "8", "trainer.max_steps": "5000", "lr_scheduler.name": "inverse_sqrt"}.items() <= (
        found.items()
    )
    assert "defaults" not in found
    assert not [key for key in keys_of_preset("profile") if key.startswith(("optimizer", "per_device_batch_size"))]
    assert keys_of_preset("") == {}
