"""`xlm.train`: trains in this process, in a script or a notebook, and returns the run."""

from __future__ import annotations

import base64
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from PIL import Image

from xlm import flags
from xlm.commands import train as job
from xlm.compose import load_config
from xlm.compose.devices import num_devices
from xlm.compose.messages import readable_error
from xlm.errors import ConfigError, TrainingInterrupted
from xlm.inference.session import display_path
from xlm.reports.files import read_mapping
from xlm.training.rng import random_state_of
from xlm.utils.closed_output import lasting_streams
from xlm.utils.consoles import is_notebook
from xlm.utils.instantiate import clear_components

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel

# Lightning sets these for the processes that load data.
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@dataclass(frozen=True)
class TrainingRun:
    """What `xlm.train` returns: where a run is, and what came out of it.

    Args:
        folder: of the run, with its checkpoints, `metrics.csv`, `curves.png`, `results.json` and configuration.
        metrics: the last validation and the test at the end, by the names in `results.json`, such as
            `test/prediction/exact_match`; empty for an interrupted run.
        interrupted: whether Ctrl-C (or a notebook's stop button) ended the run before its last step. The same call of
            `xlm.train` continues it.
    """

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def results(self) -> dict[str, Any]:
        """Each metric's `value`, standard error (`se`) and number of examples (`n`); empty for an interrupted run."""
        found: dict[str, Any] = read_mapping(self.folder / "results.json", []).get("results") or {}
        return {} if self.interrupted else found

    def load(self, **options: Any) -> TrainedModel:
        """The trained model: the best checkpoint, else the last; `options` are those of `xlm.load`."""
        from xlm.inference.trained import load

        return load(self.folder, **options)

    def __repr__(self) -> str:
        of_test = {name: value for name, value in self.metrics.items() if name.startswith("test/")}
        shown = [f"{name} {value:.4g}" for name, value in (of_test or self.metrics).items()]
        state = ["interrupted; the same call of xlm.train continues it"] if self.interrupted else []
        return f"TrainingRun({', '.join([display_path(self.folder), *state, *shown])})"

    def _repr_html_(self) -> str:
        state = " (interrupted; the same call continues it)" if self.interrupted else ""
        errors = {name: found.get("se") for name, found in self.results.items()}
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td>{value:.4g}</td>'
            f"<td>{f'± {error:.2g}' if (error := errors.get(name)) else ''}</td></tr>"
            for name, value in self.metrics.items()
        )
        table = f"<table>{rows}</table>" if rows else ""
        curves = self.folder / "curves.png"
        picture = f'<img alt="curves" style="max-width:100%" src="{_small(curves)}">' if curves.is_file() else ""
        return f"<p>Run <code>{escape(display_path(self.folder))}</code>{state}</p>{table}{picture}"


def _small(picture: Path) -> str:
    """A picture as the source of an image, at the size of a notebook's page."""
    with Image.open(picture) as image:
        image.thumbnail((900, 900))
        file = BytesIO()
        image.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def train(*overrides: str) -> TrainingRun:
    """Train a model, or continue its run: `xlm.train("experiment=star_mini_mlm", "trainer.max_steps=200")`.

    The same as `xlm train` in a terminal, with the same files, in this process: progress is shown in a notebook too,
    errors are raised, and global random state is as before afterwards. Ctrl-C, or the stop button of a notebook,
    finishes the step, saves and returns; the same call then continues. It can be called several times.

    Args:
        overrides: the words that follow `xlm train` in a terminal, each a text `key=value`. A list is passed as
            `xlm.train(*words)`.

    Returns:
        The run's `folder` and `metrics`; its `load()` gives the trained model.

    Raises:
        ConfigError: something in the words doesn't exist or doesn't fit, or the run would need several devices in a
            notebook.
        XLMError: its other subclasses, in `xlm.errors`, for whatever else `xlm train` would report. Nothing of a run
            that was saved is lost.
        TrainingInterrupted: SIGTERM, a closed terminal or a closed pipe ended the run, which was saved.
    """
    words = _checked(overrides)
    cfg = _composed(words)
    folder = Path(cfg.paths.run_dir).absolute()
    with _as_a_command(words), lasting_streams(), _leaving_no_trace(int(cfg.seed)):
        try:
            metrics = job.run(cfg)
        except TrainingInterrupted as stop:
            if stop.signum != SIGINT:
                raise
            return TrainingRun(folder, interrupted=True)
        except Exception as error:
            readable = readable_error(error, None, words, {})
            if readable is None or readable is error:
                raise
            raise readable from readable.__cause__
    return TrainingRun(folder, metrics)


def _checked(overrides: tuple[Any, ...]) -> list[str]:
    """The words; ConfigError for one that is not an override of a training run."""
    for word in overrides:
        if not isinstance(word, str):
            hint = "Pass a list as xlm.train(*words)." if isinstance(word, list | tuple) else ""
            raise ConfigError(f"{word!r} is not a text such as 'optimizer.lr=0.001'. {hint}".rstrip())
        if word.startswith("-") or ("=" not in word and not word.startswith("~")):
            raise ConfigError(f"{word!r} is not an override. Write key=value, such as 'optimizer.lr=0.001'.")
        if word.lstrip("+").startswith("job_type=") and word.partition("=")[2] != "train":
            raise ConfigError(f"xlm.train only trains, and cannot run {word}.", key="job_type")
    return [str(word) for word in overrides]


def _composed(words: list[str]) -> DictConfig:
    """The configuration, with one device in a notebook; ConfigError if several are requested there."""
    try:
        cfg = load_config(words)
    except ConfigError as error:
        if "--multirun" not in str(error):
            raise
        word = str(error).partition("'")[2].partition("'")[0]
        raise ConfigError(
            f"{word} has several values, but xlm.train trains one run. Call it once for each value.", key=error.key
        ) from error
    trainer = cfg.trainer
    count = num_devices(trainer.get("devices"), trainer.get("accelerator")) * int(trainer.num_nodes)
    if count == 1 or not _is_interactive():
        return cfg
    named = [word for word in words if word.lstrip("+").startswith(("trainer.", "trainer_strategy="))]
    if any(word.lstrip("+").startswith(("trainer.devices=", "trainer.num_nodes=")) for word in named):
        raise ConfigError(
            f"The run would use {count} devices, but a notebook trains on one. Leave out trainer.devices, or write the "
            "same words behind `xlm train` in a terminal, or behind `!xlm train` in a cell.",
            key="trainer.devices",
        )
    return load_config([*words, "trainer.devices=1"])


def _is_interactive() -> bool:
    """Whether this is a notebook or an interactive Python, whose `__main__` other processes cannot run."""
    return hasattr(sys, "ps1") or is_notebook()


@contextmanager
def _as_a_command(words: list[str]) -> Iterator[None]:
    """Let records name, and further processes of a run on several devices repeat, the command `xlm train`.

    Otherwise they would run the calling script again.
    """
    before = sys.argv
    sys.argv = [str(Path(sysconfig.get_path("scripts")) / "xlm"), "train", *words]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _leaving_no_trace(seed: int) -> Iterator[None]:
    """Restore what a run changes in its process: random state, debugging switches, live objects."""
    switches = {name: value for name, value in vars(flags).items() if isinstance(value, bool)}
    variables = {name: os.environ.get(name) for name in _SEED_VARIABLES}
    try:
        with random_state_of(seed):
            yield
    finally:
        clear_components()
        flags.set_flags(switches)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
