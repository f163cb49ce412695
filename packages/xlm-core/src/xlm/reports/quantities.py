"""Rules for which numbers of runs can be compared, their errors, and paired tests in exact arithmetic."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.reports.run import Run


# The settings that determine what a loss measures, as pairs; the family comes first.
Kind = tuple[tuple[str, str], ...]
NLL, GIVEN_LENGTH = "nll", "nll_given_length"
_PER_TOKEN = "_per_token"
# The last parts of the names of metrics of which more, or less, is better.
HIGHER = ("exact_match", "token_accuracy", "accuracy", "valid", "success", "samples_per_second")
LOWER = ("accumulated_loss", "nll_per_token", "nll_per_sequence", "perplexity", "bits_per_byte", "network_calls")
# The last parts of the names of shares: their axes run from 0 to 1.
_SHARES = ("exact_match", "valid", "success", "accuracy", "padding", "mfu")
# Losses with a larger quotient of the largest and the smallest value are drawn on a logarithmic axis.
LOSS_SPAN = 10.0
_TITLES = {"accumulated_loss": "loss", "lr": "learning rate"}
# Units of metrics; the losses of all families here are mean negative log-probabilities.
_UNITS = {
    "loss": "nats", "accumulated_loss": "nats", "nll_per_token": "nats per token", "token_ce": "nats per token",
    "nll_per_sequence": "nats per sequence", "bits_per_byte": "bits per byte", "entropy": "nats",
    "exact_match": "share of examples", "valid": "share of examples", "success": "share of examples",
    "token_accuracy": "share of tokens", "accuracy": "share", "padding": "share of positions", "mfu": "share of peak",
    "lr": "learning rate", "tokens_per_second": "tokens/s", "examples_per_second": "examples/s",
    "samples_per_second": "samples/s", "network_calls": "calls per sample",
}  # fmt: skip
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,([\w.]+))?\}")
_MAX_REFERENCES, _MAX_KINDS = 10, 6
# The loader of a loss, and how it is computed, don't change what it measures.
_NOT_ITS_KIND = ("model", "tokenizer", "noise_schedule", "chunk_elements")


def name_of(record: Mapping[str, Any]) -> str | None:
    """The name of the likelihood in a record, `nll` or another; None without a likelihood."""
    return next((str(key).removesuffix(_PER_TOKEN) for key in record if str(key).endswith(_PER_TOKEN)), None)


def as_named_today(record: Mapping[str, Any], config: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A likelihood's record with current names: older ones with given lengths were also called `nll`."""
    # A record that says which bytes it counts already uses a separate name for likelihoods with given lengths.
    if "bytes" in record or name_of(record) != NLL or text_length(config, place) != "given":
        return dict(record)
    beyond = GIVEN_LENGTH.removeprefix(NLL)
    names = {f"{NLL}{end}": f"{GIVEN_LENGTH}{end}" for end in (_PER_TOKEN, "_per_sequence")}
    names |= {name: f"{name}{beyond}" for name in ("perplexity", "bits_per_byte")}
    return {names.get(key, key): value for key, value in record.items()}


def text_length(config: Mapping[str, Any], place: str) -> str | None:
    """How the loss of a loader (`split/name`) treats the length of a text; None if its collator has no such setting."""
    split, _, name = place.partition("/")
    manager = _at(config, f"datamodule.dataset_managers.{split}.{name}")
    collator = _resolved(config, manager.get("collator")) if isinstance(manager, Mapping) else None
    if not isinstance(collator, Mapping):
        return None
    said, on_padding = (_resolved(config, collator.get(key)) for key in ("text_length", "loss_on_padding"))
    older = {"True": "learnt", "False": "given"}.get(str(on_padding))
    return older or (said if isinstance(said, str) else None)


def is_loss(name: str) -> bool:
    """Whether a metric is a loss, which measures something different for each family and choice of options."""
    return "loss" in name.rpartition("/")[2]


def is_fraction(name: str) -> bool:
    """Whether a metric is a share of something, from 0 to 1: of examples, tokens, positions."""
    last = name.rpartition("/")[2]
    return last in _SHARES or last.endswith(("_accuracy", "_share"))


def metric_title(name: str) -> str:
    """`exact_match` as `exact match`; the loss and the learning rate by their usual names."""
    last = name.rpartition("/")[2]
    return _TITLES.get(last, last.replace("_", " "))


def axis_title(name: str) -> str:
    """The unit of a metric for the title of its axis; its own name if the unit is unknown."""
    last = name.rpartition("/")[2]
    if last in _UNITS:
        return _UNITS[last]
    if last.endswith("_ce") or "nll" in last:
        return "nats"
    return "share" if is_fraction(last) else last.replace("_", " ")


def loss_kind(run: Run, name: str) -> Kind:
    """What the loss with this full name measures: equal for runs whose losses are the same quantity."""
    loss = run.config.get("loss")
    options = loss if isinstance(loss, Mapping) else {}
    found = {str(key): _resolved(run.config, value) for key, value in options.items() if key not in _NOT_ITS_KIND}
    length = text_length(run.config, name.rpartition("/")[0])
    settings = {
        key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in found.items()
    }
    return (("family", run.model), *sorted(settings.items()), *([("text_length", length)] if length else []))


def kinds_in_words(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """Each kind described by its family, and by the settings that differ within the family."""
    different = list(dict.fromkeys(kinds))
    words = {}
    for kind in different:
        family, *settings = kind
        kin = [other for other in different if other[0] == family]
        own = [f"{key}={value}" for key, value in settings if not all((key, value) in other for other in kin)]
        words[kind] = ", ".join([family[1], *own])
    return words


def remarks(runs: Sequence[Run], split: str) -> list[str]:
    """A sentence for each likelihood and for the losses of a split that are not compared with others."""
    if len(runs) < 2:
        return []
    having: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for place, (name, of) in run.likelihoods.items():
            if place.startswith(f"{split}/") and name != NLL:
                having.setdefault((name, "" if name == GIVEN_LENGTH else of), []).append(run.name)
    sentences = [f"{', '.join(dict.fromkeys(names))}: {_why(*which)}" for which, names in having.items()]
    names = [(run, name) for run in runs for name in run.measured if name.startswith(f"{split}/") and is_loss(name)]
    return sentences + losses_remark(names)


def losses_remark(names: Sequence[tuple[Run, str]], layout: str = "each has its own column") -> list[str]:
    """A sentence if the losses of runs are different quantities; otherwise none."""
    words = list(kinds_in_words(loss_kind(run, name) for run, name in names).values())
    if len(words) < 2:
        return []
    shown = [*words[:_MAX_KINDS], *([f"{len(words) - _MAX_KINDS} more"] if len(words) > _MAX_KINDS else [])]
    return [f"The losses of {' · '.join(shown)} are different quantities and not compared with each other: {layout}."]


def _why(name: str, of: str) -> str:
    if name == GIVEN_LENGTH:
        return f"{name} is given the length of each text, so it is not a likelihood of the text and is not compared."
    return f"{name} is {of or 'a likelihood of another kind'}, so it is not compared with nll."


def _at(config: Mapping[str, Any], path: str) -> Any:
    node: Any = config
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _resolved(config: Mapping[str, Any], value: Any) -> Any:
    """A value, or the value of the key that it refers to; configurations are stored with references."""
    for _ in range(_MAX_REFERENCES):
        found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            break
        referred = _at(config, found[1])
        # The default of `${oc.select:key,default}`, if the key is missing.
        value = found[2] if referred is None else referred
    return value


def share_error(share: float, n: int) -> float:
    """Standard error of a share of `n` independent examples, √(p (1 − p) / n)."""
    return math.sqrt(max(share * (1 - share), 0.0) / n)


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share (Wilson, 1927): also valid at 0 and 1, where the standard error is 0."""
    z2 = _z(level) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * max(share * (1 - share), 0.0) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact McNemar test of whether one model alone is right more often than the other.

    Under the null hypothesis, each example on which they differ favors either with probability ½, independently of
    the others: a binomial test.
    """
    n = only_first + only_second
    term = total = 1
    for k in range(min(only_first, only_second)):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def paired_interval(only_first: int, only_second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two shares on the same `n` examples, first minus second.

    Wald's interval after adding one example to each kind of disagreement: Bonett and Price, Adjusted Wald confidence
    interval for a difference of binomial proportions based on paired data, J. Educ. Behav. Stat. 37 (2012).
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = _z(level) * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(-1.0, first - second - half), min(1.0, first - second + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for multiple tests (Holm, 1979), in the given order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
