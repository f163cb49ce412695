"""`xlm eval` on a bigram model: a comparable number with its error, and rejected options."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf import DictConfig

from xlm import flags
from xlm.cli.main import main
from xlm.commands import eval as evaluation
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.utils.instantiate import clear_components

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"
SIZES = (
    "datamodule.dataset_managers.test.lm.num_examples=30", "datamodule.dataset_managers.test.prediction.num_examples=5",
)  # fmt: skip
BIGRAM = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu", "loggers=debug",
    *SIZES,
)  # fmt: skip

Configure = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def trained(train_bigram: TrainBigram) -> Path:
    """A directory with the run `t`, and one with prepared data."""
    return train_bigram("trainer.max_steps=2", *SIZES)


@pytest.fixture
def configure(work_dir: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Composes evaluations, without train and validation data, of a run of two steps in an empty directory."""
    shutil.copytree(trained / "runs", work_dir / "runs")
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(trained / "cache"))

    def compose(*overrides: str) -> DictConfig:
        without = ("~datamodule.dataset_managers.train", "~datamodule.dataset_managers.val")
        return load_config([*BIGRAM, *without, *overrides])

    yield compose
    clear_components()
    flags.set_flags({"DEBUG": False, "DEBUG_OVERFIT": False})


def record(work_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((work_dir / "runs/t/eval_test.json").read_text())
    return found


def test_an_exact_likelihood_is_the_test_loss_whatever_the_batches(
    configure: Configure, work_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for batch_size in (30, 7):
        metrics = evaluation.run(configure(f"per_device_val_batch_size={batch_size}"))
        assert metrics["test/lm/nll_per_token"] == pytest.approx(metrics["test/lm/accumulated_loss"], rel=1e-6)
        likelihood = record(work_dir)["likelihood"]
        assert set(likelihood) == {"test/lm"}
        found.append(likelihood["test/lm"])
    one, other = found
    assert one["nll_per_token"] == pytest.approx(other["nll_per_token"], rel=1e-6)
    assert (one["kind"], one["exact"], one["num_samples"], one["estimator_se"]) == ("exact", True, 1, 0.0)
    assert (one["n"], one["num_tokens"]) == (30, 30 * 9)
    assert one["nll_per_sequence"]["value"] == pytest.approx(9 * one["nll_per_token"]["value"])
    assert one["perplexity"]["se"] == pytest.approx(one["perplexity"]["value"] * one["nll_per_token"]["se"])
    assert 0 < one["nll_per_token"]["se"] < 1
    # Labels of a graph are not text.
    assert "bits_per_byte" not in one
    screen = capsys.readouterr().out
    assert "test/lm: exact NLL of the whole sequence under the model" in screen
    assert "± s.e." in screen
    assert "30 examples, 270 tokens" in screen


def test_draws_of_an_exact_likelihood_are_said_to_have_no_effect(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation.run(configure("++eval.num_samples=5"))
    assert "eval.num_samples=5 has no effect: an exact likelihood needs no draws." in capsys.readouterr().out


def test_few_examples_get_more_draws_unless_their_number_is_given(configure: Configure, work_dir: Path) -> None:
    """As at the end of `xlm train data.text=`: 2,000 in all, at most 64 each."""
    bound = "loss._target_=bigram.components_bigram.LossWithDraws"
    for given, draws in ((), 64), (("++eval.num_samples=3",), 3):
        evaluation.run(configure(bound, *given))
        found = record(work_dir)["likelihood"]["test/lm"]
        assert (found["exact"], found["num_samples"]) == (False, draws)


def test_evaluating_twice_gives_the_same_digits(configure: Configure, work_dir: Path) -> None:
    found = []
    for _ in range(2):
        evaluation.run(configure())
        found.append({k: v for k, v in record(work_dir)["likelihood"]["test/lm"].items() if k != "seconds"})
    assert found[0] == found[1]


def test_no_draws_no_likelihood(configure: Configure, work_dir: Path) -> None:
    metrics = evaluation.run(configure("++eval.num_samples=0"))
    assert "test/lm/accumulated_loss" in metrics
    assert not [name for name in metrics if "nll" in name]
    assert record(work_dir)["likelihood"] == {}


def test_a_loss_without_likelihood_is_left_out_unless_asked_for(configure: Configure) -> None:
    other = "loss._target_=bigram.components_bigram.LossWithoutLikelihood"
    assert "test/lm/nll_per_token" not in evaluation.run(configure(other))
    with pytest.raises(ConfigError, match="LossWithoutLikelihood gives no likelihood"):
        evaluation.run(configure(other, "++eval.num_samples=3"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++eval.num_smaples=3", r"Unknown option 'eval.num_smaples'.*Did you mean 'eval.num_samples'"),
        ("++eval.num_samples=-1", "eval.num_samples is -1"),
        ("++eval.num_samples=many", "eval.num_samples is 'many'"),
        ("++eval.split=train", "eval.split is 'train', and must be val or test"),
    ],
)
def test_options_that_cannot_be(configure: Configure, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluation.run(configure(override))


def test_the_record_says_what_the_numbers_depend_on(configure: Configure, work_dir: Path) -> None:
    metrics = evaluation.run(configure("predictor.length=4"))
    found = record(work_dir)
    assert set(found["results"]) == set(found["metrics"]) <= set(metrics)
    for name, result in found["results"].items():
        assert result["value"] == found["metrics"][name]
        assert result["n"] == found["n"][name.rpartition("/")[0]]
    assert found["results"]["test/prediction/token_accuracy"]["se_over"] == "examples"
    assert found["sampler"]["length"] == 4
    assert (found["batch_size"], found["num_devices"], found["averaged_weights"]) == (64, 1, False)
    asked = {"command", "seed", "device", "versions", "git", "config_hash", "precision", "weights", "split"}
    assert asked <= set(found)


def test_a_checkpoint_brings_its_configuration(
    configure: Configure, work_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluation.run(configure())
    few = ("datamodule.dataset_managers.test.lm.num_examples=30",
           "datamodule.dataset_managers.test.prediction.num_examples=5")  # fmt: skip
    capsys.readouterr()
    args = ["eval", "eval.checkpoint_path=runs/t", "~datamodule.dataset_managers.train", *few, "job_name=again"]
    assert main(args) == 0, capsys.readouterr().err
    again = json.loads((work_dir / "runs/again/eval_test.json").read_text())["metrics"]
    timing = "test/prediction/samples_per_second"
    assert {k: v for k, v in again.items() if k != timing} == {k: metrics[k] for k in again if k != timing}
