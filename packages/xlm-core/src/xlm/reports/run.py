"""One run read from its folder: choices, state, steps, cost and measured values; and how runs are found."""

from __future__ import annotations

import functools
import glob
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from xlm.errors import ConfigError, as_line, did_you_mean, nearest_names
from xlm.reports.files import Point, number, read_last, read_mapping, read_points
from xlm.reports.quantities import as_named_today, name_of, share_error
from xlm.utils.run_lock import find_holder

# A run that wrote within this many seconds, or within this many of its usual pauses, counts as running.
QUIET_SECONDS = 120.0
QUIET_PAUSES = 5.0
_ERROR_KEYS = ("se", "standard_error", "stderr", "error")


@dataclass(frozen=True)
class Measured:
    """A value, its standard error and number of examples if known, and its file."""

    value: float
    error: float | None
    n: int | None
    source: str


@dataclass(frozen=True)
class Run:
    """The contents of `folder`; `problems` are sentences about files that could not be read."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    started: Mapping[str, Any]  # the record of the newest start
    results: Mapping[str, Any]  # of training, when it has ended
    measured: Mapping[str, Measured]
    last: Mapping[str, Point]  # the last logged value of each name
    problems: list[str] = field(default_factory=list)
    written: float = 0.0  # when the run last wrote something, in seconds since the epoch
    # `split/loader` → the name of its likelihood, and what it covers
    likelihoods: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @functools.cached_property
    def points(self) -> list[Point]:
        """All logged values, read when they are needed: a list of many runs needs the last ones only."""
        return read_points(self.folder / "metrics.csv")

    @property
    def model(self) -> str:
        """The family."""
        return _text(self.config.get("model_name")) or "-"

    @property
    def data(self) -> str:
        """The dataset, from the command if given there."""
        said = dict(part.lstrip("+").split("=", 1) for part in self.command if isinstance(part, str) and "=" in part)
        if said.get("datamodule"):
            return said["datamodule"]
        if said.get("experiment"):
            return said["experiment"].strip("[]").split(",")[0].removesuffix(f"_{self.model}")
        return _data_of(self.config)

    @property
    def command(self) -> list[Any]:
        """The words of the command line."""
        command = self.started.get("command")
        return command if isinstance(command, list) else []

    @property
    def step(self) -> int | None:
        """The last known optimizer step."""
        steps = [point.step for point in self.last.values()]
        done = number(self.results.get("step"))
        return max([*steps, *([] if done is None else [int(done)])], default=None)

    @property
    def max_steps(self) -> int | None:
        """The planned number of steps, if known."""
        trainer = self.config.get("trainer")
        found = number(trainer.get("max_steps")) if isinstance(trainer, Mapping) else None
        return int(found) if found and found > 0 else None

    @property
    def training(self) -> Mapping[str, Any]:
        """Cost of training if it has ended: `cpu_seconds`, `wall_seconds`, `tokens_per_second`, `peak_memory_mib`."""
        training = self.results.get("training")
        return training if isinstance(training, Mapping) else {}

    @property
    def tokens_per_second(self) -> float | None:
        """Throughput of training: as recorded at the end, otherwise the median of logged values."""
        logged = [point.value for point in self.points if point.name == "train/tokens_per_second"]
        return number(self.training.get("tokens_per_second")) or (median(logged) if logged else None)

    def state(self, now: float | None = None) -> str:
        """`finished`, `running` or `interrupted`: from the run's lock, or without one from the time of its last output.

        `unknown` if nothing was trained or evaluated, for instance if the run only generated text.
        """
        holder = find_holder(self.folder, now)
        if holder is not None and holder[0].is_alive(holder[1]):
            return "running"
        ends = [record for record in (self.results, *self._evaluations()) if record]
        if any(not _later(self.started, record) for record in ends):
            return "finished"
        begun = any((self.folder / f"record_{job}.json").exists() for job in ("train", "eval"))
        if not ends and not begun and not self.last:
            return "unknown"
        if holder is not None:
            return "interrupted"
        quiet = (time.time() if now is None else now) - self.written
        return "running" if quiet < max(QUIET_SECONDS, QUIET_PAUSES * self._pause()) else "interrupted"

    def _evaluations(self) -> Iterator[dict[str, Any]]:
        if (self.folder / "record_train.json").exists():
            return
        for path in self.folder.glob("eval_*.json"):
            yield read_mapping(path, [])

    def _pause(self) -> float:
        """The longest recent pause between logged values, in seconds."""
        times = sorted({point.time for point in self.points[-2000:]})[-50:]
        return max((b - a for a, b in pairwise(times)), default=0.0)


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read a folder; no file is required, and a damaged file does not stop others from being read."""
    problems: list[str] = []
    records = {path.name: read_mapping(path, problems) for path in sorted(folder.glob("record_*.json"))}
    started = records.get("record_train.json") or next((record for record in records.values() if record), {})
    configs = [folder / "config.yaml", *sorted(folder.glob("config_*.yaml"))]
    config = next((found for path in configs if (found := read_mapping(path, problems))), {})
    results = read_mapping(folder / "results.json", problems)
    last = read_last(folder / "metrics.csv")
    sources = {"results.json": results} if results else {}
    for path in sorted(folder.glob("eval_*.json")):
        if record := read_mapping(path, problems):
            sources[path.name] = _with_names_of_today(record, config)
    return Run(
        name or folder.resolve().name, folder, config, started, results,
        {**_last_values(last), **_measured(sources)}, last, problems, _last_write(folder), _likelihoods(sources),
    )  # fmt: skip


def _with_names_of_today(record: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "likelihood": {place: as_named_today(own, config, place) for place, own in _places(record)}}


def _likelihoods(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """The likelihood of each loader, with its name and what it covers, from the newest record."""
    found = {}
    for record in sorted(sources.values(), key=_started):
        for place, own in _places(record):
            if name := name_of(own):
                found[place] = name, _text(own.get("of"))
    return found


def _places(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each loader of a record with its likelihood."""
    section = record.get("likelihood")
    pairs = section.items() if isinstance(section, Mapping) else ()
    return [(str(place), own) for place, own in pairs if isinstance(own, Mapping)]


def _measured(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Measured]:
    """Every value of the records; if several have it, the value of the newest."""
    found: dict[str, Measured] = {}
    for source, record in sorted(sources.items(), key=lambda item: _started(item[1])):
        said = record.get("n")
        counts = said if isinstance(said, Mapping) else {}
        for section in ("metrics", "results", "likelihood"):
            for name, value, own in _values(record.get(section)):
                n = number(own.get("n"))
                n = number(counts.get(name.rpartition("/")[0])) if n is None else n
                found[name] = _with_error(name, value, own, None if not n or n < 1 else int(n), source)
    return found


def _values(node: Any, name: str = "") -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    """Each name and value below `node`, with the object that has its error and its n.

    A value is a number, or an object with `value`; a likelihood has its `n` next to its values.
    """
    if not isinstance(node, Mapping):
        return
    for key, child in node.items():
        path = f"{name}/{key}" if name else str(key)
        if isinstance(child, Mapping):
            value = number(child.get("value"))
            if value is not None:
                yield path, value, {"n": node.get("n"), **child}
            else:
                yield from _values(child, path)
        elif name == "" and (value := number(child)) is not None:
            yield path, value, {}


def _with_error(name: str, value: float, own: Mapping[str, Any], n: int | None, source: str) -> Measured:
    error = next((e for key in _ERROR_KEYS if (e := number(own.get(key))) is not None), None)
    if error is None and n and is_share(name) and 0 <= value <= 1:
        error = share_error(value, n)
    return Measured(value, error, n, source)


def is_share(name: str) -> bool:
    """Whether a metric is a share of `n` examples, so that n gives its error; shares of tokens are not."""
    return name.rpartition("/")[2] in ("exact_match", "valid", "accuracy", "success")


def _last_values(last: Mapping[str, Point]) -> dict[str, Measured]:
    """The last logged value of each metric, for runs that have not ended."""
    return {
        name: Measured(p.value, None, None, f"metrics.csv, step {p.step}")
        for name, p in last.items()
        if not name.startswith("train/")
    }


def _started(record: Mapping[str, Any]) -> float:
    """When a record's job started, in seconds since the epoch; 0 if unknown."""
    try:
        return datetime.strptime(str(record.get("started")), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _later(start: Mapping[str, Any], end: Mapping[str, Any]) -> bool:
    """Whether a job was started after the one that wrote these results."""
    return _started(start) > _started(end) > 0


def _last_write(folder: Path) -> float:
    times = []
    for pattern in ("*.json", "*.csv", "*.yaml", "*.jsonl", "checkpoints/*", "predictions/*/*/*"):
        for path in folder.glob(pattern):
            try:
                times.append(path.stat().st_mtime)
            except OSError:  # removed meanwhile
                continue
    return max(times, default=0.0)


def _data_of(config: Mapping[str, Any]) -> str:
    """A dataset by its source, if no command names it."""
    node: Any = config
    for key in ("datamodule", "dataset_managers"):
        node = node.get(key) if isinstance(node, Mapping) else None
    for split in node.values() if isinstance(node, Mapping) else ():
        for loader in split.values() if isinstance(split, Mapping) else ():
            if isinstance(loader, Mapping):
                source = loader.get("full_name") or loader.get("dataset_constructor_str")
                if source:
                    return str(source).removesuffix("/train").rpartition(".")[2]
    return "-"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


DEFAULT_FOLDER = Path("runs")


def runs_folder() -> Path:
    """The folder of all runs: `runs` in XLM_ROOT_DIR, by default in the current directory."""
    return Path(os.environ.get("XLM_ROOT_DIR") or "") / DEFAULT_FOLDER


MARKS = ("record_*.json", "results.json", "metrics.csv", "eval_*.json")
_MAX_DEPTH = 3
# Subfolders of a run's folder; they are not runs.
_INSIDE = ("checkpoints", "predictions", "tensorboard")


def is_run(folder: Path) -> bool:
    """Whether a folder has a file or folder that only a run writes."""
    return folder.is_dir() and any(next(folder.glob(mark), None) for mark in MARKS)


def run_folders(folder: Path, depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """The run folders at and below `folder`, by name, no deeper than `depth` levels and none inside another."""
    if is_run(folder):
        yield folder
    elif depth > 0:
        try:
            below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in _INSIDE)
        except OSError:
            return
        for path in below:
            if not path.name.startswith("."):
                yield from run_folders(path, depth - 1)


def named_runs(names: Sequence[str], base: Path | None = None) -> list[Run]:
    """The runs given by these names: a folder, a folder of runs, the name of a run below `base` (or the last part of
    its path, if that is unique), or a pattern. The default of `base` is `runs_folder()`.

    Raises:
        ConfigError: a name matches no run.
    """
    folders: list[Path] = []
    base = runs_folder() if base is None else base
    for name in names:
        folders += [found for found in _folders(name, base) if found not in folders]
    labels = distinct_names(folders)
    return [read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each folder's path, with as many earlier parts as are needed to distinguish them."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({p[-length:] for p in parts}) < len(folders) and length < max(map(len, parts)):
        length += 1
    repeated = [p[-1] for p in parts]
    return ["/".join(p[-length:] if repeated.count(p[-1]) > 1 else p[-1:]).lstrip("/") for p in parts]


def names_below(base: Path, folders: Sequence[Path]) -> list[str]:
    """The path of each folder below `base`, as `job_name` has it; the name of `base` itself."""
    return [folder.resolve().name if folder == base else folder.relative_to(base).as_posix() for folder in folders]


def _folders(name: str, base: Path) -> list[Path]:
    if any(c in name for c in "*?") or ("[" in name and not Path(name).exists()):
        found = [Path(p) for pattern in (name, str(base / name)) for p in sorted(glob.glob(pattern)) if is_run(Path(p))]
        if found:
            return found
    for path in (Path(name), base / name):
        if path.is_dir() and (found := list(run_folders(path))):
            return found
    named = [path for path in run_folders(base) if path.name == name]
    if len(named) == 1:
        return named
    raise ConfigError(_missing(name, base), key="runs")


def _missing(name: str, base: Path) -> str:
    if Path(name).is_dir():
        return as_line(
            f"{name} is not a run and contains no runs: it has no record_*.json, results.json or metrics.csv."
        )
    known = _names(base)
    hint = did_you_mean(nearest_names(Path(name).name, known))
    if not hint:
        hint = f"Runs: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}." if known else "There are no runs yet."
    return as_line(f"There is no run '{name}' in {base}, and no folder of this name. {hint}")


def _names(base: Path) -> list[str]:
    return _relative(run_folders(base), base)


def _relative(folders: Iterable[Path], base: Path) -> list[str]:
    return [folder.relative_to(base).as_posix() for folder in folders if folder != base]
