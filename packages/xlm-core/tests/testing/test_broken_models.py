"""For each property a model that violates it and nothing that it needs; the tidy model has all properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xlm.testing.contract import PROPERTIES
from xlm.testing.runner import Outcome, Runner, find_property

if TYPE_CHECKING:
    from .conftest import RunnerOf

Change = Callable[[Path], None]


def network(name: str) -> list[str]:
    return [f"model._target_=tidy.broken_tidy.{name}"]


def loss(name: str) -> list[str]:
    return [f"loss._target_=tidy.broken_tidy.{name}"]


def predictor(name: str) -> list[str]:
    return [f"predictor._target_=tidy.broken_tidy.{name}"]


def collator(name: str) -> list[str]:
    return [f"collators.seq2seq._target_=tidy.broken_tidy.{name}"]


def written(file: str, text: str) -> Change:
    """Overwrite one file of a copy of the model's folder."""

    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


def experiment(lines: str) -> Change:
    text = f"# @package _global_\ndefaults:\n  - star_mini_tidy\n{lines}"
    return written("tidy/configs/experiment/zz_second.yaml", text)


@dataclass(frozen=True)
class Broken:
    """A mistake, as overrides of the tidy model's run or a change of a copy of its files, and the expected message."""

    says: str
    overrides: list[str] = field(default_factory=list)
    change: Change | None = None


BROKEN: dict[str, Broken] = {
    "discovered": Broken("No module named 'absent'", change=written("tidy/__init__.py", "import absent\n")),
    "composes": Broken("model/absent", change=experiment("  - override /model: absent\n")),
    "composes-overfit": Broken(
        "max_tokens_per_batch",
        change=experiment("max_tokens_per_batch: ${if_else:${global_flags.DEBUG_OVERFIT},7,null}\n"),
    ),
    "targets": Broken("tidy.absent.f", change=experiment("metric_inputs:\n  token_accuracy: tidy.absent.f\n")),
    "wheel": Broken(
        "tidy/configs/",
        change=lambda folder: (folder / "pyproject.toml").write_text(
            (folder / "pyproject.toml").read_text() + 'exclude = ["*.yaml"]\n'
        ),
    ),
    "loaders": Broken("KeyError: 'noise'", ["datamodule.print_batch_fn=tidy.broken_tidy.print_batch_of_another_model"]),
    "batch-types": Broken("undeclared note", collator("UndeclaredField")),
    "collator-pickles": Broken("cannot be pickled", collator("HoldsALambda")),
    "collator-no-global-random": Broken("generator of torch", collator("DrawsGlobally")),
    "loss-finite": Broken("nan", loss("NotANumber")),
    "output-types": Broken("does not return TidyLossDict for train/lm: undeclared note", loss("UndeclaredKey")),
    "gradients": Broken("forgotten.weight, forgotten.bias", network("UnusedLayer")),
    "loss-falls": Broken("the loss went from", loss("Uphill")),
    "batch-is-its-rows": Broken("rows together", network("CentredBatch")),
    "padding": Broken("rows together", network("SeesPadding")),
    "devices": Broken("without device=", network("LeftOnTheCPU")),
    "predicts": Broken("For 4 rows of val/prediction, text is", predictor("OneText")),
    "ends": Broken("doesn't end", predictor("Endless")),
    "keeps-prompt": Broken("is not in the prediction", predictor("Rewrites")),
    "limits": Broken("With max_length=3 the longest answer has 8 tokens", predictor("OwnLength")),
    "rows-are-json": Broken("Object of type Tensor", predictor("RowsOfTensors")),
    "seed": Broken("the losses of train/lm differ", network("UnseededNoise")),
    "checkpoint": Broken("is different", network("ForgetsItsScale")),
    "hub": Broken(
        "from_pretrained fails",
        [
            *network("TakesAnObject"),
            "~model.d_model",
            "+model.sizes={_target_:tidy.broken_tidy.Sizes,d_model:16}",
        ],
    ),
    "trains": Broken("perplexities", ["metric_inputs.seq2seq_exact_match=tidy.broken_tidy.inputs_of_another_metric"]),
    "compile": Broken("does not call its loss_fn", loss("NeverCompiled")),
    "bf16": Broken("dtype", loss("FixedPrecision")),
    "two-processes": Broken("of two", loss("AveragesTwice")),
}


def slow_ones(names: Iterable[str]) -> list[Any]:
    slow = {prop.name for prop in PROPERTIES if prop.slow}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def test_each_property_has_a_broken_model() -> None:
    assert list(BROKEN) == [prop.name for prop in PROPERTIES]


@pytest.mark.parametrize("name", slow_ones([prop.name for prop in PROPERTIES]))
def test_the_good_model_has_the_property(good: Runner, name: str) -> None:
    assert good.outcome(name) == Outcome(find_property(name), "passed")


@pytest.mark.parametrize("name", slow_ones(BROKEN))
def test_the_broken_model_fails_by_that_line(name: str, runner_of: RunnerOf) -> None:
    """It has every property that this one needs: otherwise the outcome would be "waits for"."""
    broken = BROKEN[name]
    runner = runner_of(broken.overrides, broken.change)
    outcome = runner.outcome(name)
    assert outcome.status == "failed", outcome
    assert broken.says.replace("tidy", runner.model.name) in outcome.reason
    assert outcome.message.splitlines()[0] == f"{name}: {find_property(name).proves}"
    assert outcome.message.endswith(find_property(name).remedy)


def test_what_needs_a_broken_property_waits(runner_of: RunnerOf) -> None:
    outcome = runner_of(BROKEN["gradients"].overrides).outcome("loss-falls")
    assert (outcome.status, outcome.reason) == ("inapplicable", "waits for 'gradients'")
