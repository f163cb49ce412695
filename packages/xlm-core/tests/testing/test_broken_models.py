"""A deliberately broken model for each property fails by that line and no other; the one without mistakes has them all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from xlm.testing.properties import Property
from xlm.testing.runner import Outcome, Runner
from xlm.testing.subject import Subject
from xlm.testing.table import PROPERTIES

MODELS = Path(__file__).parent / "models"
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
    """A change of one file of a copy of the model's folder."""

    def change(folder: Path) -> None:
        (folder / file).write_text(text)

    return change


def experiment(lines: str) -> Change:
    text = f"# @package _global_\ndefaults:\n  - star_mini_tidy\n{lines}"
    return written("tidy/configs/experiment/zz_second.yaml", text)


@dataclass(frozen=True)
class Broken:
    """A mistake: overrides of the good model's run, or a change of a copy of its files; and what is said of it."""

    says: str
    overrides: list[str] = field(default_factory=list)
    change: Change | None = None


BROKEN: dict[str, Broken] = {
    "discovered": Broken("No module named 'absent'", change=written("tidy/__init__.py", "import absent\n")),
    "composes": Broken("model/absent", change=experiment("  - override /model: absent\n")),
    "composes-overfit": Broken(
        "global_batch_size",
        change=experiment("global_batch_size: ${if_else:${global_flags.DEBUG_OVERFIT},7,${per_device_batch_size}}\n"),
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
    "output-types": Broken("undeclared note", loss("UndeclaredKey")),
    "gradients": Broken("forgotten.weight, forgotten.bias", network("UnusedLayer")),
    "loss-falls": Broken("the loss went from", loss("Uphill")),
    "batch-is-its-rows": Broken("rows together", network("CentredBatch")),
    "padding": Broken("rows together", network("SeesPadding")),
    "devices": Broken("without device=", network("LeftOnTheCPU")),
    "predicts": Broken("For 4 rows of val/prediction, text is", predictor("OneText")),
    "ends": Broken("doesn't end", predictor("Endless")),
    "keeps-prompt": Broken("is not in what was predicted", predictor("Rewrites")),
    "limits": Broken("With max_length=3 the longest answer has 8 tokens", predictor("OwnLength")),
    "rows-are-json": Broken("Object of type Tensor", predictor("RowsOfTensors")),
    "seed": Broken("the losses of train/lm differ", network("UnseededNoise")),
    "checkpoint": Broken("is another one", network("ForgetsItsScale")),
    "hub": Broken(
        "from_pretrained fails",
        [
            *network("TakesAnObject"),
            "~model.d_model",
            "+model.sizes={_target_:tidy.broken_tidy.Sizes,d_model:16}",
        ],
    ),
    "trains": Broken("perplexities", ["metric_inputs.seq2seq_exact_match=tidy.broken_tidy.inputs_of_another_metric"]),
    "compile": Broken("without its loss_fn", loss("NeverCompiled")),
    "bf16": Broken("dtype", loss("FixedPrecision")),
    "two-processes": Broken("of two", loss("AveragesTwice")),
}


def subject(folder: Path, search: Path = MODELS, name: str = "tidy", overrides: list[str] | None = None) -> Subject:
    environ = {"XLM_MODELS_PATH": str(search)}
    return Subject(name, folder, environ=environ, cwd=folder, overrides=overrides or [])


def make(broken: Broken, folder: Path) -> Runner:
    """The runner of a broken model; a changed copy has a name of its own, since Python imports a name once."""
    if broken.change is None:
        return Runner(subject(folder, overrides=broken.overrides))
    name = f"tidy_{folder.name.replace('-', '_')}".lower()
    shutil.copytree(MODELS / "tidy", folder / "tidy")
    broken.change(folder / "tidy")
    for file in [file for file in (folder / "tidy").rglob("*") if file.suffix in (".py", ".yaml", ".toml")]:
        text = file.read_text().replace("tidy", name)
        file.unlink()
        renamed = folder / file.relative_to(folder).as_posix().replace("tidy/tidy/", f"tidy/{name}/").replace(
            "_tidy", f"_{name}"
        ).replace("/tidy.yaml", f"/{name}.yaml")
        renamed.parent.mkdir(parents=True, exist_ok=True)
        renamed.write_text(text)
    shutil.rmtree(folder / "tidy/tidy")
    (folder / "xlm_models.json").write_text(f'{{"{name}": "tidy"}}')
    return Runner(subject(folder, folder, name))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(subject(tmp_path_factory.mktemp("good")))


def slow_ones(names: Iterator[str] | list[str]) -> list[Any]:
    slow = {prop.name for prop in PROPERTIES if prop.slow}
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def test_each_property_has_a_broken_model() -> None:
    assert list(BROKEN) == [prop.name for prop in PROPERTIES]


@pytest.mark.parametrize("name", slow_ones([prop.name for prop in PROPERTIES]))
def test_the_good_model_has_the_property(good: Runner, name: str) -> None:
    assert good.outcome(name) == Outcome(property_of(name), "passed")


def property_of(name: str) -> Property:
    return next(prop for prop in PROPERTIES if prop.name == name)


@pytest.mark.parametrize("name", slow_ones(list(BROKEN)))
def test_the_broken_model_fails_by_that_line(name: str, tmp_path: Path) -> None:
    broken = BROKEN[name]
    outcome = make(broken, tmp_path).outcome(name)
    said = broken.says if broken.change is None else broken.says.replace("tidy", f"tidy_{tmp_path.name}".lower())
    assert outcome.status == "failed", outcome
    assert said.replace("-", "_") in outcome.reason.replace("-", "_")
    assert outcome.message.splitlines()[0] == f"{name}: {property_of(name).proves}"
    assert outcome.message.endswith(property_of(name).remedy)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BROKEN))
def test_the_broken_model_fails_nothing_else(name: str, tmp_path: Path) -> None:
    """Seconds each: the slow properties are tried only of their own broken models."""
    runner = make(BROKEN[name], tmp_path)
    tried = [prop.name for prop in PROPERTIES if not prop.slow or prop.name == name]
    assert [n for n in tried if runner.outcome(n).status == "failed"] == [name]
