"""Models of other kinds: without predictor or loss, with means of their own, random losses, older configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.testing.checks import invariance
from xlm.testing.runner import Runner

if TYPE_CHECKING:
    from .conftest import RunnerOf

LOSSES = "loss._target_=tidy.other_tidy."


@pytest.mark.parametrize("loss", ["MeanOverTokens", "MeanOverRows"])
def test_a_mean_over_terms_that_nobody_counts_can_be_checked(loss: str, runner_of: RunnerOf) -> None:
    runner = runner_of([LOSSES + loss])
    assert runner.outcome("batch-is-its-rows").status == "passed"
    assert runner.outcome("padding").status == "passed"


def test_a_maximum_is_no_mean(runner_of: RunnerOf) -> None:
    outcome = runner_of([LOSSES + "WorstToken"]).outcome("batch-is-its-rows")
    assert outcome.status == "failed"
    assert "not a mean over its rows" in outcome.reason


def test_a_loss_that_draws_noise_is_compared_with_nothing(runner_of: RunnerOf) -> None:
    runner = runner_of([LOSSES + "DrawsNoise", "predictor=null"])
    assert runner.outcome("batch-is-its-rows").reason.startswith("loss and predictor draw")
    assert runner.outcome("seed").status == "passed"


def test_a_model_without_predictor(runner_of: RunnerOf) -> None:
    runner = runner_of(["predictor=null"])
    for name in ("predicts", "ends", "keeps-prompt", "limits", "rows-are-json"):
        assert runner.outcome(name).reason == "the model has no predictor"
    for name in ("loss-falls", "batch-is-its-rows", "seed", "checkpoint", "hub"):
        assert runner.outcome(name).status == "passed", runner.outcome(name)


def test_a_model_without_loss(runner_of: RunnerOf) -> None:
    runner = runner_of(["loss=null"])
    assert runner.outcome("loss-finite").reason == "the model has no loss"
    for name in ("batch-types", "output-types", "keeps-prompt", "ends", "rows-are-json"):
        assert runner.outcome(name).status == "passed", runner.outcome(name)


def test_collators_and_metrics_for_each_split_and_dataloader(runner_of: RunnerOf) -> None:
    """The older style: no roles, everything attached where it is used."""
    outcomes = runner_of((), older_style)
    for name in ("composes", "loaders", "batch-types", "loss-finite", "batch-is-its-rows", "keeps-prompt", "trains"):
        assert outcomes.outcome(name).status == "passed", outcomes.outcome(name)
    places = [sample.place for sample in outcomes.model.samples]
    assert places == ["train/lm", "val/prediction"]


def older_style(folder: Path) -> None:
    configs = folder / "tidy/configs"
    (configs / "model_type/tidy.yaml").write_text(
        """# @package _global_
defaults:
  - /metrics@reported_metrics.train.lm.accumulated_loss: accumulated_loss
  - /metrics@reported_metrics.val.lm.accumulated_loss: accumulated_loss
  - /metrics@reported_metrics.val.prediction.exact_match: seq2seq_exact_match

model_name: tidy
loss:
  _target_: tidy.loss_tidy.TidyLoss
predictor:
  _target_: tidy.predictor_tidy.TidyPredictor
  max_length: ${block_size}
"""
    )
    (configs / "datamodule").mkdir()
    (configs / "datamodule/star_easy_tidy.yaml").write_text(
        """# @package _global_
defaults:
  - default
  - /datasets@datamodule.dataset_managers.train.lm: star_easy_train
  - /datasets@datamodule.dataset_managers.val.lm: star_easy_val
  - /datasets@datamodule.dataset_managers.val.prediction: star_easy_val_pred
  - /collator@datamodule.dataset_managers.train.lm.collator: seq2seq_tidy
  - /collator@datamodule.dataset_managers.val.lm.collator: seq2seq_tidy
  - /collator@datamodule.dataset_managers.val.prediction.collator: seq2seq_pred_tidy
  - _self_

input_block_size: 28
block_size: 14
global_components:
  tokenizer:
    _target_: xlm.datamodule.SimpleSpaceTokenizer.for_numbers
    vocab_size: 20
"""
    )
    (configs / "experiment/star_mini_tidy.yaml").write_text(
        """# @package _global_
defaults:
  - override /datamodule: star_easy_tidy
  - override /model_type: tidy
  - override /model: tidy
"""
    )


def test_a_second_device_is_compared_with_the_first(runner_of: RunnerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariance, "accelerators", lambda: ["cpu"])
    runner = runner_of()
    assert runner.outcome("devices").status == "passed"
    monkeypatch.setattr(invariance, "near", lambda *_: False)
    assert "on the CPU" in Runner(runner.model).outcome("devices").reason


def test_global_state_is_left_as_it_was(runner_of: RunnerOf) -> None:
    import os
    import random

    import torch

    from xlm import flags
    from xlm.utils.instantiate import has_component

    before = random.getstate(), torch.get_rng_state(), os.environ.copy(), dict(vars(flags))
    runner = runner_of()
    assert runner.outcome("seed").status == "passed"
    assert runner.outcome("collator-no-global-random").status == "passed"
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert os.environ == before[2]
    assert dict(vars(flags)) == before[3]
    assert not has_component("datamodule")
