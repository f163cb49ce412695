"""What `xlm trace` is asked for: runs, prompts, options of samplers; as `xlm generate` takes them, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xlm.cli.words import as_value
from xlm.errors import ConfigError
from xlm.schemas import TraceRuns

STAGES = {"test": "test", "val": "validate"}
_OF_SAMPLER = "predictor"


@dataclass(frozen=True)
class Request(TraceRuns):
    """What `xlm trace` is asked for.

    Args:
        sampler: whose → option → value: "" is everybody's, else a run's name or a family's.
    """

    sampler: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_request(words: Sequence[str], options: TraceRuns) -> Request:
    """The request of runs, options of samplers and the command's own options; ConfigError if no run is named."""
    sampler: dict[str, dict[str, Any]] = {}
    runs: list[str] = []
    for text in words:
        whose, dot, option = text.partition("=")[0].lstrip("+").rpartition(".")
        is_of_sampler = whose == _OF_SAMPLER or whose.endswith(f".{_OF_SAMPLER}")
        if "=" in text and dot and option.isidentifier() and is_of_sampler:
            name = whose.removesuffix(_OF_SAMPLER).removesuffix(".")
            sampler.setdefault(name, {})[option] = as_value(text)
        else:
            runs.append(text)
    runs += options.runs
    if not runs:
        raise ConfigError("Which runs? xlm trace runs/a runs/b, or runs=[runs/a,runs/b], or a trace.json.")
    given = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    return Request(**{**given, "runs": tuple(runs)}, sampler=sampler)
