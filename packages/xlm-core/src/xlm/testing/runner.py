"""Checks the properties of one model, each at most once, and says of each whether it holds, and if not, why."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from xlm.errors import ConfigError, XLMError, did_you_mean, nearest_names
from xlm.testing.properties import Inapplicable, Property, TooManyCalls, Violation
from xlm.testing.table import PROPERTIES

if TYPE_CHECKING:
    from xlm.testing.subject import Subject

Status = Literal["passed", "failed", "inapplicable"]
WAITS = "waits for "


@dataclass(frozen=True)
class Outcome:
    """What became of a property; `reason` unless it passed."""

    prop: Property
    status: Status
    reason: str = ""

    @property
    def message(self) -> str:
        """The property's line, why it doesn't hold, and what to do: three or more lines."""
        return f"{self.prop.name}: {self.prop.proves}\n{self.reason}\nWhat to do: {self.prop.remedy}"


class Runner:
    """The outcomes of one subject, found when they are asked for."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, name: str) -> Outcome:
        """The outcome of a property, after those that it needs."""
        if name not in self._outcomes:
            self._outcomes[name] = self._find(find_property(name))
        return self._outcomes[name]

    def broken_below(self, name: str) -> list[Outcome]:
        """The failed properties for which this one waits; empty if it was checked itself."""
        outcome = self.outcome(name)
        if outcome.status != "inapplicable" or not outcome.reason.startswith(WAITS):
            return []
        below = [self.outcome(needed) for needed in (*find_property(name).needs, "ends")]
        failed = [other for other in below if other.status == "failed"]
        deeper = [other for needed in find_property(name).needs for other in self.broken_below(needed)]
        return [*failed, *deeper]

    def _find(self, prop: Property) -> Outcome:
        for needed in prop.needs:
            before = self.outcome(needed)
            if before.status == "failed":
                return Outcome(prop, "inapplicable", f"{WAITS}'{needed}'")
            if before.status == "inapplicable":
                return Outcome(prop, "inapplicable", before.reason)
        try:
            with self.subject.active():
                prop.load()(self.subject)
        except Inapplicable as reason:
            return Outcome(prop, "inapplicable", str(reason))
        except TooManyCalls as error:
            # An endless predictor is one mistake: the line of `ends`.
            if prop.name != "ends" and self.outcome("ends").status == "failed":
                return Outcome(prop, "inapplicable", f"{WAITS}'ends'")
            return Outcome(prop, "failed", f"The predictor doesn't end: {error}")
        except (Violation, XLMError) as error:
            return Outcome(prop, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - a model may raise anything, and whatever it is breaks the property
            return Outcome(prop, "failed", self._described(error))
        return Outcome(prop, "passed")

    def _described(self, error: Exception) -> str:
        """The error's first line, and where it was raised: in the model's own code, if that is on the way."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if self.subject.owns(frame.filename)]
        place = (own or frames)[-1]
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        return f"{said} ({place.filename}:{place.lineno})"


def find_property(name: str) -> Property:
    """The property of that name; ConfigError names the nearest."""
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

    Of chosen ones that wait for others which fail, those come too: no mistake goes without its line.

    Args:
        name: as `xlm models` lists it.
        search: one more folder that may hold an xlm_models.json.
        experiment: whose model and data are checked; by default the model's one on star graphs, if it has one.
        overrides: of that experiment, such as a smaller network.
        properties: names of those to check; all by default.
        environ, cwd: where models are searched, by default as the command line would.

    Raises:
        ConfigError: there is no property of such a name.
    """
    from xlm.testing.subject import Subject

    chosen = [find_property(p) for p in properties] or PROPERTIES
    with TemporaryDirectory(prefix="xlm_check_") as folder:
        subject = Subject(
            name,
            Path(folder),
            search=search,
            experiment=experiment,
            overrides=overrides,
            environ=environ,
            cwd=cwd,
        )
        runner = Runner(subject)
        told = {prop.name for prop in chosen}
        for prop in chosen:
            outcome = runner.outcome(prop.name)
            for broken in runner.broken_below(prop.name):
                if broken.prop.name not in told:
                    told.add(broken.prop.name)
                    yield broken
            yield outcome
