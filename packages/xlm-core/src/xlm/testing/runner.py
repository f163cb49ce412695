"""Checks the properties of a model, each at most once, and reports which hold and why others don't."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from xlm.errors import ConfigError, XLMError, did_you_mean, nearest_names
from xlm.testing.contract import PROPERTIES, Inapplicable, Property, TooManyCalls, Violation

if TYPE_CHECKING:
    from xlm.testing.model_under_test import ModelUnderTest

Status = Literal["passed", "failed", "inapplicable"]
WAITS = "waits for "


@dataclass(frozen=True)
class Outcome:
    """The result of checking a property; `reason` is empty if it passed."""

    prop: Property
    status: Status
    reason: str = ""

    @property
    def message(self) -> str:
        """The property's line, why it doesn't hold, and what to do: three or more lines."""
        return f"{self.prop.name}: {self.prop.proves}\n{self.reason}\nWhat to do: {self.prop.remedy}"


class Runner:
    """Checks properties of one model on request and keeps their outcomes."""

    def __init__(self, model: ModelUnderTest) -> None:
        self.model = model
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """The outcome of a property; the properties that it needs are checked first."""
        if name not in self._outcomes:
            self._outcomes[name] = self._check(find_property(name))
        return self._outcomes[name]

    def broken_below(self, name: str) -> list[Outcome]:
        """The failed properties that this one waits for; empty if it was checked itself."""
        outcome = self.outcome(name)
        if outcome.status != "inapplicable" or not outcome.reason.startswith(WAITS):
            return []
        below = [self.outcome(needed) for needed in (*find_property(name).needs, "ends")]
        failed = [other for other in below if other.status == "failed"]
        deeper = [other for needed in find_property(name).needs for other in self.broken_below(needed)]
        return [*failed, *deeper]

    def _check(self, prop: Property) -> Outcome:
        for needed in prop.needs:
            before = self.outcome(needed)
            if before.status == "failed":
                return Outcome(prop, "inapplicable", f"{WAITS}'{needed}'")
            if before.status == "inapplicable":
                return Outcome(prop, "inapplicable", before.reason)
        try:
            with self.model.active():
                prop.load()(self.model)
        except Inapplicable as reason:
            return Outcome(prop, "inapplicable", str(reason))
        except TooManyCalls as error:
            # A predictor that does not stop is one mistake, reported by `ends`.
            if prop.name != "ends" and self.outcome("ends").status == "failed":
                return Outcome(prop, "inapplicable", f"{WAITS}'ends'")
            return Outcome(prop, "failed", f"The predictor doesn't end: {error}")
        except (Violation, XLMError) as error:
            return Outcome(prop, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - a model may raise any error, and each one violates the property
            return Outcome(prop, "failed", self._described(error))
        return Outcome(prop, "passed")

    def _described(self, error: Exception) -> str:
        """The error's first line and its place, which is in the model's own code if the traceback goes through it."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if self.model.owns(frame.filename)]
        place = (own or frames)[-1]
        lines = str(error).strip().splitlines()
        text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        return f"{text} ({place.filename}:{place.lineno})"


def find_property(name: str) -> Property:
    """The property of that name; ConfigError suggests the nearest one."""
    for prop in PROPERTIES:
        if prop.name == name:
            return prop
    names = [prop.name for prop in PROPERTIES]
    hint = did_you_mean(nearest_names(name, names)) or f"Properties: {', '.join(names)}."
    raise ConfigError(f"There is no property '{name}'. {hint}", key="property")


def check_model(
    name: str,
    *,
    search: Path | str | None = None,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    properties: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Outcome]:
    """The outcome of each property of the model `name`, one after the other.

    If a chosen property waits for one that fails, the failed one is reported too.

    Args:
        name: the model's name in `xlm models`.
        search: one more folder that may hold an xlm_models.json.
        experiment: the experiment to check; by default the model's one on star graphs if it has one.
        overrides: of that experiment, such as a smaller network.
        properties: names of the properties to check; all by default.
        environ, cwd: where to search for models; by default as the command line does.

    Raises:
        ConfigError: there is no property of such a name.
    """
    from xlm.testing.model_under_test import ModelUnderTest  # needs torch

    chosen = [find_property(p) for p in properties] or PROPERTIES
    with TemporaryDirectory(prefix="xlm_check_") as folder:
        model = ModelUnderTest(
            name,
            Path(folder),
            search=search,
            experiment=experiment,
            overrides=overrides,
            environ=environ,
            cwd=cwd,
        )
        runner = Runner(model)
        reported = {prop.name for prop in chosen}
        for prop in chosen:
            outcome = runner.outcome(prop.name)
            for broken in runner.broken_below(prop.name):
                if broken.prop.name not in reported:
                    reported.add(broken.prop.name)
                    yield broken
            yield outcome


def overfit(folder: Path, *overrides: str, metric: str = "val/prediction/exact_match") -> float:
    """The last value of a metric after `xlm train debug=overfit <overrides>`, run in a folder on the CPU for minutes.

    A run that has not learnt its batch has a value too.

    Raises:
        Violation: the run failed, with its error output; or it has no such metric, with the names of those it has.
    """
    command = [sys.executable, "-m", "xlm", "train", "job_name=overfit", "debug=overfit", "trainer_strategy=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *overrides], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode and "Not learnt: " not in done.stderr:
        raise Violation(done.stderr.strip())
    files = (folder / "runs").rglob("metrics.csv")
    rows = [row for file in files for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())]
    values = [float(row["value"]) for row in rows if row["name"] == metric]
    if not values:
        names = sorted({row["name"] for row in rows})
        raise Violation(f"The run has no metric {metric}. Its metrics are: {', '.join(names)}.")
    return values[-1]
