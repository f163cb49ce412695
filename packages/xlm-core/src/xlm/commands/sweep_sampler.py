"""`xlm sweep_sampler`: one checkpoint with many settings of its sampler, quality against network calls."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from omegaconf import DictConfig, OmegaConf

from xlm.compose.checks import read_part
from xlm.data.rows import SubsetRows
from xlm.decoding.options import unsaid
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.evaluation.pareto import PERPLEXITY, Point, StoredPoint, draw, qualities, table, write_tables
from xlm.evaluation.text_quality.texts import WrittenText, written_texts
from xlm.harness import Harness
from xlm.inference.session import Session, display_path, fewer_than_asked, start
from xlm.inference.sources import chosen_weights, load_chosen
from xlm.inference.texts import TextScoring, loaders_of_texts, scorer_of
from xlm.metrics import MetricWrapper
from xlm.protocols import call_at
from xlm.schemas import ScorerOptions, Sweep
from xlm.training.flops import synchronize
from xlm.training.parts import num_rows
from xlm.training.progress import write_results
from xlm.training.rng import random_state_of
from xlm.utils.annotations import options_in
from xlm.utils.columns import Column
from xlm.utils.consoles import print_table
from xlm.utils.files import output_file, output_folder
from xlm.utils.imports import get_function
from xlm.utils.json_shapes import misfit
from xlm.utils.run_record import config_hash

Values = dict[str, tuple[float, float | None]]


class Scoring(Protocol):
    """Collects the samples of one setting; `quality` is the main number, `record` what the numbers depend on."""

    quality: str
    record: dict[str, Any]

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        """Add the samples of a batch."""

    def finish(self) -> Values:
        """Value and standard error by name, quality first; resets the collection."""


def scoring_of(session: Session, harness: Harness, split: str, name: str, options: Sweep) -> Scoring:
    """Score by a judge if one is named, else by the loader's metrics.

    Raises:
        ConfigError: there is no metric and no judge, the metric or judge doesn't exist, or both are named.
    """
    texts = [loader for loader in loaders_of_texts(session, split) if loader == name]
    judge, metric = scorer_of(options, "sweep", texts, split), options.metric
    if judge is None:
        return ByMetrics(harness, _metrics(harness, split, name, metric, bool(texts)))
    if metric is not None:
        raise ConfigError(
            f"sweep.metric={metric} cannot be combined with sweep.judge: a judge gives perplexity and entropy, and the "
            "tables have all other numbers.",
            key="sweep.metric",
        )
    return AsTexts(TextScoring.of(session, options, judge, harness.device))


class ByMetrics:
    """Scores each example with all metrics; the first metric is the quality."""

    def __init__(self, harness: Harness, metrics: list[MetricWrapper]) -> None:
        self.quality = metrics[0].name
        self.record: dict[str, Any] = {}
        self._harness, self._metrics = harness, metrics
        self._values: dict[str, list[float]] = {metric.name: [] for metric in metrics}

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        for row in range(num_rows):
            one, its = _row(batch, row, num_rows), _row(predictions, row, num_rows)
            for metric in self._metrics:
                metric.reset()
                metric.update(one, its, self._harness.tokenizer)
                self._values[metric.name].append(float(metric.compute()))
                metric.reset()

    def finish(self) -> Values:
        found: Values = {name: _mean_and_error(values) for name, values in self._values.items()}
        self._values = {name: [] for name in self._values}
        return found


class AsTexts:
    """Scores all texts of a setting together: perplexity and the other numbers of text quality."""

    def __init__(self, judging: TextScoring) -> None:
        judge = judging.judge
        self.quality = judge.named(PERPLEXITY) if judge else PERPLEXITY
        self.record: dict[str, Any] = {"text_quality": {"judge": judge.describe() if judge else None}}
        self._judging = judging
        self._texts: list[WrittenText] = []

    def add(self, batch: Mapping[str, Any], predictions: Mapping[str, Any], num_rows: int) -> None:
        self._texts += written_texts(predictions, self._judging.session.tokenizer)

    def finish(self) -> Values:
        found, told = self._judging.measure({"texts": self._texts})
        self.record, self._texts = {"text_quality": told}, []
        # A number can be undefined, for example the perplexity if all texts are empty.
        return {
            name: (math.nan if estimate.value is None else estimate.value, estimate.se)
            for name, estimate in found["texts"].numbers.items()
        }


def _metrics(harness: Harness, split: str, name: str, chosen: str | None, is_of_texts: bool) -> list[MetricWrapper]:
    """The loader's metrics, with the chosen one (default: the first) in front."""
    found = [metric for metric in harness.metrics_at(split, name) if metric.name != "steps_taken"]
    names = [metric.name for metric in found]
    if not found:
        hint = " Give a causal language model as a judge: sweep.judge=…" if is_of_texts else ""
        raise ConfigError(f"The loader {split}/{name} has no metric, so the quality of samples is unknown.{hint}")
    if chosen is not None and chosen not in names:
        hint = did_you_mean(nearest_names(chosen, names, 1))
        raise ConfigError(f"{split}/{name} has no metric '{chosen}'; it has {', '.join(names)}. {hint}".rstrip())
    return sorted(found, key=lambda metric: metric.name != (chosen or names[0]))


def _row(values: Mapping[str, Any], row: int, B: int) -> dict[str, Any]:
    """One example of a batch or of its outputs."""
    return {
        key: value[row : row + 1]
        if (isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == B)
        or (isinstance(value, list | tuple) and len(value) == B)
        else value
        for key, value in values.items()
    }


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(variance / len(values))


NUM_EXAMPLES = 500
POINTS = "points.jsonl"
FILES = (POINTS, "sweep.csv", "sweep.md", "sweep.json", "sweep.png")
_FILLED = ("self", "tokenizer", "noise_schedule", "model")


def run(cfg: DictConfig) -> list[Point]:
    """Measure all combinations of the `sweep.<option>=[…]` on the command line that have not been measured yet.

    Raises:
        ConfigError: an option is unknown or is never read by the predictor, or the predictor rejects a value.
        CheckpointError: no checkpoint, or one that cannot be read or does not fit.
    """
    own, grid = _options(cfg)
    split, num_examples = own.split, own.num_examples or NUM_EXAMPLES
    output_folder(cfg.paths.run_dir, "paths.run_dir")
    default = Path(cfg.paths.run_dir) / f"sweep_{split}"
    folder = output_folder(default if own.output_path is None else own.output_path, "sweep.output_path")
    for name in FILES:
        output_file(folder / name, "sweep.output_path")
    chosen = chosen_weights(cfg, "sweep")
    session = start(cfg, chosen.tokenizer)
    harness = session.harness()
    settings = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    _check_read(harness, grid, settings)
    weights = load_chosen(harness, chosen, own.apply_ema)
    trainer = session.trainer([], [])
    harness.to(trainer.strategy.root_device).eval()
    predictors = [harness.predictor_with(options) for options in settings]
    name, batches, available = _batches(session, harness, split, num_examples)
    examples = f"examples in {split}/{name}"
    if said := fewer_than_asked("sweep.num_examples", own.num_examples, available, examples):
        session.console.print(said, highlight=False, soft_wrap=True)
    scoring = scoring_of(session, harness, split, name, own)
    key = _key(cfg, weights, own, num_examples)
    known = _read(folder / POINTS, key)
    points: list[Point] = []
    is_warm = False
    for options, predictor in zip(settings, predictors, strict=True):
        point = known.get(_text(options))
        if point is None or not _has_all(point, points, scoring.quality):
            if not is_warm:
                # Otherwise the first setting would include the cost of the one-time setup.
                call_at(predictor.predict, next(batches()), 0, 0, name)
                is_warm = True
            with random_state_of(cfg.seed):
                point = _measure(harness, predictor, options, scoring, name, batches)
            _append(folder / POINTS, key, point)
            session.console.print(
                f"{len(points) + 1}/{len(settings)}  {_line(point, scoring.quality)}", highlight=False, soft_wrap=True
            )
        points.append(point)
    record = {"weights": str(weights), "split": split, "loader": name, **scoring.record}
    _write(session, trainer, points, scoring.quality, folder, record)
    return points


def _options(cfg: DictConfig) -> tuple[Sweep, dict[str, list[Any]]]:
    """The job's own options, and the values for each option of the predictor; ConfigError for an unknown option."""
    own, others = read_part(cfg, Sweep)
    if not cfg.get("predictor"):
        raise ConfigError("model_type has no predictor (predictor: null), so there is no sampler to sweep over.")
    taken = inspect.signature(get_function(cfg.predictor["_target_"])).parameters
    swept = [name for name in taken if name not in _FILLED]
    for name in others:
        if name not in swept:
            hint = did_you_mean([f"sweep.{near}" for near in nearest_names(name, [*options_in(Sweep), *swept], 1)])
            raise ConfigError(
                f"Unknown option 'sweep.{name}'. Options of the sampler: {', '.join(swept)}. {hint}".rstrip(),
                key=f"sweep.{name}",
            )
    grid = {name: value if isinstance(value, list) else [value] for name, value in others.items()}
    if empty := [name for name, values in grid.items() if not values]:
        raise ConfigError(f"sweep.{empty[0]} has no values.", key=f"sweep.{empty[0]}")
    if not grid:
        raise ConfigError(f"Nothing to sweep over. Give sweep.<option>=[…] for one of: {', '.join(swept)}.")
    return own, grid


def _check_read(harness: Harness, grid: Mapping[str, list[Any]], settings: list[dict[str, Any]]) -> None:
    """ConfigError for an option that is not read in any setting; predictors report the other unread options."""
    with unsaid():
        unread = [getattr(harness.predictor_with(options), "unread", None) or {} for options in settings]
    for name in grid:
        reasons = [found.get(name) for found in unread]
        if None not in reasons:
            why = "; ".join(dict.fromkeys(str(reason) for reason in reasons))
            raise ConfigError(f"sweep.{name} would change nothing: {why}.", key=f"sweep.{name}")


def _batches(
    session: Session, harness: Harness, split: str, num_examples: int
) -> tuple[str, Callable[[], Iterator[Any]], int]:
    """The name of the split's first prediction loader, an iterator over its first examples, and their number."""
    datamodule = session.datamodule
    found = datamodule.first_loader(split, "prediction")
    if found is None:
        raise ConfigError(f"datamodule.dataset_managers.{split} has no prediction loader to generate samples for.")
    name = found[1]
    manager = datamodule.dataset_managers[split][name]
    manager.setup(datamodule.tokenizer, datamodule.cache_dir, datamodule.num_dataset_workers)
    assert manager.rows is not None
    rows = SubsetRows(manager.rows, range(min(num_examples, len(manager.rows))))
    loader = manager.get_dataloader(split, datamodule.tokenizer, seed=datamodule.seed, rows=rows)

    def batches() -> Iterator[Any]:
        for batch in loader:
            yield harness.transfer_batch_to_device(batch, harness.device, 0)

    return name, batches, len(manager.rows)


@torch.no_grad()
def _measure(
    harness: Harness,
    predictor: Any,
    options: dict[str, Any],
    scoring: Scoring,
    name: str,
    batches: Callable[[], Iterator[Any]],
) -> Point:
    """Predict all batches with one predictor, and time only the prediction."""
    seconds, calls, n = 0.0, 0.0, 0
    counts_calls = True
    for batch_idx, batch in enumerate(batches()):
        synchronize(harness.device)
        begun = time.perf_counter()
        predictions = call_at(predictor.predict, batch, batch_idx, 0, name)
        synchronize(harness.device)
        seconds += time.perf_counter() - begun
        B = num_rows(batch)
        told = predictions.get("network_calls")
        counts_calls &= told is not None
        if told is not None:
            calls += float(torch.as_tensor(told, dtype=torch.float64).expand(B).sum())
        n += B
        scoring.add(batch, predictions, B)
    return Point(options, scoring.finish(), n, calls / n if counts_calls else None, seconds)


def _key(cfg: DictConfig, weights: Path, own: Sweep, num_examples: int) -> str:
    """A hash of everything that must be the same to reuse a point of an earlier start."""
    state = weights.stat()
    parts = {name: cfg.get(name) for name in ("model", "predictor", "datamodule", "collators", "seed")}
    text = OmegaConf.to_yaml(OmegaConf.create(parts), resolve=False)
    size = [cfg.per_device_val_batch_size, cfg.trainer.get("precision"), own.apply_ema]
    judged = {name: getattr(own, name) for name in options_in(ScorerOptions)}
    size += [f"{name}={value}" for name, value in judged.items() if value != options_in(ScorerOptions)[name].default]
    return config_hash(f"{text}{weights.resolve()}{state.st_size}{state.st_mtime_ns}{own.split}{num_examples}{size}")


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


class _Line(TypedDict):
    key: str
    point: StoredPoint


def _read(path: Path, key: str) -> dict[str, Point]:
    """Points of earlier starts, by their options; a damaged line is skipped."""
    found: dict[str, Point] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if misfit(entry, _Line) is None and entry["key"] == key:
            point = Point.from_dict(entry["point"])
            found[_text(point.options)] = point
    return found


def _has_all(point: Point, points: list[Point], quality: str) -> bool:
    """Whether a stored point has the quality, and the metrics of the other points."""
    return quality in point.metrics and all(point.metrics.keys() == other.metrics.keys() for other in points[:1])


def _append(path: Path, key: str, point: Point) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + json.dumps({"key": key, "point": point.as_dict()}) + "\n")


def _line(point: Point, quality: str) -> str:
    options = ", ".join(f"{name}={value}" for name, value in point.options.items())
    told = ", ".join(f"{name} {_value(point, name)}" for name in qualities(quality))
    calls = "" if point.network_calls is None else f", {point.network_calls:.1f} calls"
    return f"{options}: {told}{calls}, {point.samples_per_second:.1f} samples/s"


def _value(point: Point, name: str) -> str:
    value, error = point.metrics[name]
    form = ".4f" if abs(value) < 100 else ".1f"  # four decimals are too many for a perplexity
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form}}"


def _write(
    session: Session, trainer: Any, points: list[Point], quality: str, folder: Path, record: dict[str, Any]
) -> None:
    """Write tables, picture and record, and print the table."""
    record = {**session.write_record(trainer, "sweep_sampler"), **record, "quality": quality}
    write_tables(folder, points, quality)
    write_results(folder / "sweep.json", {**record, "points": [point.as_dict() for point in points]})
    title = f"{session.cfg.job_name}, {record['split']}, n = {points[0].n:,}"
    draw(folder / "sweep.png", points, quality, title)
    session.console.print(title, style="italic", highlight=False, soft_wrap=True)
    print_table(session.console, *_screen(points, quality))
    session.console.print(f"The table and the picture are in {display_path(folder)}.", soft_wrap=True)


def _screen(points: list[Point], quality: str) -> tuple[list[Column], list[list[str]]]:
    """The table for the terminal: quality and cost only; the files have the other metrics."""
    header, rows = table(points, quality)
    options = list(points[0].options)
    names = qualities(quality)
    titles = [*options, *(metric.replace("_", " ") for metric in names), "calls", "seconds", "samples/s"]
    shown = []
    for point, row in zip(points, rows, strict=True):
        values = dict(zip(header, row, strict=True))
        told = [values[name] for name in (*options, "network_calls", "seconds", "samples_per_second")]
        best = {"network_calls seconds": "both", "network_calls": "calls"}.get(values["best"], values["best"])
        numbers = [*told[: len(options)], *(_value(point, name) for name in names), *told[len(options) :]]
        shown.append([*map(str, numbers), best])
    return [*(Column(name, is_figure=True) for name in titles), Column("best")], shown
