"""`xlm sweep_sampler`: one checkpoint under many settings of its sampler, quality against network calls and seconds."""

from __future__ import annotations

import inspect
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from xlm.compose.values import read_part
from xlm.data.rows import SubsetRows
from xlm.decoding.options import unsaid
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.evaluation.pareto import Point, draw, qualities, table, write_tables
from xlm.harness import Harness, num_rows
from xlm.jobs.checkpoint_choice import chosen_weights, load_chosen
from xlm.jobs.options import fewer_than_asked
from xlm.jobs.session import Session, shown, start
from xlm.jobs.sweep_scoring import Scoring, scoring_of
from xlm.protocols import call_at
from xlm.schemas import Judged, Sweep
from xlm.training.peak import synchronize
from xlm.training.results import write_results
from xlm.training.rng import random_state_of
from xlm.utils.imports import get_function
from xlm.utils.options import options_in
from xlm.utils.outputs import output_file, output_folder
from xlm.utils.run_record import config_hash

NUM_EXAMPLES = 500
POINTS = "points.jsonl"
FILES = (POINTS, "sweep.csv", "sweep.md", "sweep.json", "sweep.png")
_FILLED = ("self", "tokenizer", "noise_schedule", "model")


def run(cfg: DictConfig) -> list[Point]:
    """Measure every combination of the `sweep.<option>=[…]` of the command line that has not been measured yet.

    Raises:
        ConfigError: an option that neither the job nor the predictor has or that the predictor never reads, or a value
            that the predictor refuses.
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
        if point is None:
            if not is_warm:
                # Otherwise the first setting would pay for what is set up once.
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
    """The job's own options, and the values of each of the predictor's; ConfigError for one that neither has."""
    own, others = read_part(cfg, Sweep)
    if not cfg.get("predictor"):
        raise ConfigError("model_type has no predictor (predictor: null), so there is no sampler to sweep over.")
    taken = inspect.signature(get_function(cfg.predictor["_target_"])).parameters
    swept = [name for name in taken if name not in _FILLED]
    for name in others:
        if name not in swept:
            hint = did_you_mean([f"sweep.{near}" for near in nearest_names(name, [*options_in(Sweep), *swept], 1)])
            raise ConfigError(
                f"Unknown option 'sweep.{name}': neither the job nor its sampler has it "
                f"({', '.join(swept)}). {hint}".rstrip(),
                key=f"sweep.{name}",
            )
    grid = {name: value if isinstance(value, list) else [value] for name, value in others.items()}
    if empty := [name for name, values in grid.items() if not values]:
        raise ConfigError(f"sweep.{empty[0]} has no values.", key=f"sweep.{empty[0]}")
    if not grid:
        raise ConfigError(f"Nothing to sweep over: give sweep.<option>=[…], of {', '.join(swept)}.")
    return own, grid


def _check_read(harness: Harness, grid: Mapping[str, list[Any]], settings: list[dict[str, Any]]) -> None:
    """ConfigError for an option that the sampler of no setting reads; of others, the predictors say where it isn't."""
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
    """The name of the split's first prediction loader, what goes through its first examples, how many there are."""
    datamodule = session.datamodule
    managers = datamodule.dataset_managers[split]
    name = next((name for name in managers if datamodule.role(split, name) == "prediction"), None)
    if name is None:
        raise ConfigError(f"datamodule.dataset_managers.{split} has no prediction loader to draw samples for.")
    manager = managers[name]
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
    """Predict all batches with one predictor, timing that alone."""
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
    """What has to be the same for a point to be taken over from an earlier start."""
    state = weights.stat()
    parts = {name: cfg.get(name) for name in ("model", "predictor", "datamodule", "collators", "seed")}
    text = OmegaConf.to_yaml(OmegaConf.create(parts), resolve=False)
    size = [cfg.per_device_val_batch_size, cfg.trainer.get("precision"), own.apply_ema]
    judged = {name: getattr(own, name) for name in options_in(Judged)}
    size += [f"{name}={value}" for name, value in judged.items() if value != options_in(Judged)[name].default]
    return config_hash(f"{text}{weights.resolve()}{state.st_size}{state.st_mtime_ns}{own.split}{num_examples}{size}")


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def _read(path: Path, key: str) -> dict[str, Point]:
    """Points of earlier starts, by their options; a line that a kill cut off is passed over."""
    found: dict[str, Point] = {}
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry.get("key") == key:
            point = Point.from_dict(entry["point"])
            found[_text(point.options)] = point
    return found


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
    form = ".4f" if abs(value) < 100 else ".1f"  # a perplexity has no four decimals
    return f"{value:{form}}" if error is None else f"{value:{form}} ± {error:{form}}"


def _write(
    session: Session, trainer: Any, points: list[Point], quality: str, folder: Path, record: dict[str, Any]
) -> None:
    """Tables, picture and record; the table on the screen too."""
    record = {**session.write_record(trainer, "sweep_sampler"), **record, "quality": quality}
    write_tables(folder, points, quality)
    write_results(folder / "sweep.json", {**record, "points": [point.as_dict() for point in points]})
    title = f"{session.cfg.job_name}, {record['split']}, n = {points[0].n:,}"
    draw(folder / "sweep.png", points, quality, title)
    session.console.print(_screen(points, quality, title))
    session.console.print(f"Table and picture are in {shown(folder)}.", soft_wrap=True)


def _screen(points: list[Point], quality: str, title: str) -> Table:
    """As much as fits a terminal: quality and cost; the other metrics are in the files."""
    header, rows = table(points, quality)
    screen = Table(title=title, title_justify="left")
    options = list(points[0].options)
    names = qualities(quality)
    for name in (*options, *(metric.replace("_", " ") for metric in names), "calls", "seconds", "samples/s"):
        screen.add_column(name, justify="right")
    screen.add_column("best")
    for point, row in zip(points, rows, strict=True):
        values = dict(zip(header, row, strict=True))
        told = [values[name] for name in (*options, "network_calls", "seconds", "samples_per_second")]
        best = {"network_calls seconds": "both", "network_calls": "calls"}.get(values["best"], values["best"])
        screen.add_row(*told[: len(options)], *(_value(point, name) for name in names), *told[len(options) :], best)
    return screen
