"""`xlm repeat`: trains again from a run's record, compares to the last bit, and says what is different."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.errors import CheckpointError, ConfigError
from xlm.schemas import Repeat

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from xlm.training.identical import Part

_SUFFIX = "_repeat"
_RECORD = "record_train.json"
_SHOWN_CIRCUMSTANCES = ("device", "hardware", "versions", "code", "git", "precision")


def run_repeat(words: Sequence[str], options: Repeat) -> int:
    """Repeat a finished run in a new folder, and write `repeat.json` there; returns 0 if all is equal, else 1.

    Killed, the same command continues. On other ranks than the first, it only trains.

    Raises:
        ConfigError: no run is named, several are, or its training data have changed.
        NotAllowedError: another machine's run names functions that are not made for configurations, without trust.
        CheckpointError: the folder is not that of a finished training run.
    """
    from xlm.external_models import activate, discover
    from xlm.inference.session import display_path
    from xlm.training.identical import compare_runs
    from xlm.training.progress import write_results
    from xlm.utils.consoles import plain_console
    from xlm.utils.rank_zero import is_first_process

    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    activate(found.models, folders=found.folders)
    original = _named_run([*([options.run] if options.run else []), *words])
    record = _record_of(original)
    cfg = _configuration(original, options)
    folder = Path(cfg.paths.run_dir)
    shown = display_path(original)
    _use_threads_of(record)
    changes = list(_changes(record, _circumstances(cfg, record)))
    console = plain_console(soft_wrap=True)
    if is_first_process():
        console.print(f"Repeating {shown} in {display_path(folder)}.", highlight=False, markup=False)
        for change in changes:
            console.print(f"Different from its record: {change}", highlight=False, markup=False)
    _train(cfg, original)
    if not is_first_process():
        return 0
    parts = compare_runs(original, folder)
    reasons = _reasons(parts, changes, record, read_record(folder))
    is_equal = all(part.is_equal for part in parts)
    write_results(
        folder / "repeat.json",
        {
            "repeats": str(original),
            "is_equal": is_equal,
            "parts": [asdict(part) for part in parts],
            "changes": changes,
            "reasons": reasons,
        },
    )
    for line in _lines(parts):
        console.print(line, highlight=False, markup=False)
    if is_equal:
        console.print(f"The repeat equals {shown} to the last bit.", highlight=False, markup=False)
        return 0
    console.print(f"The repeat differs from {shown}.", highlight=False, markup=False)
    for reason in reasons:
        console.print(reason, highlight=False, markup=False)
    return 1


def _named_run(names: Sequence[str]) -> Path:
    """The folder of the one run that is named."""
    from xlm.commands.words import run_of_model
    from xlm.reports.run import named_runs

    if not names:
        raise ConfigError("Which run? xlm repeat runs/x. `xlm runs` lists them.", key="run")
    runs = named_runs([run_of_model(name) for name in names])
    if len(runs) > 1:
        found = ", ".join(str(run.folder) for run in runs[:3])
        raise ConfigError(f"xlm repeat takes one run, but {' '.join(names)} names {len(runs)}: {found}.", key="run")
    return runs[0].folder


def read_record(run: Path) -> dict[str, Any]:
    """The record of a run's last start; empty without one."""
    from xlm.reports.files import read_mapping

    return read_mapping(run / _RECORD, [])


def _record_of(original: Path) -> dict[str, Any]:
    """The record of a finished run; CheckpointError for other folders."""
    from xlm.reports.files import read_mapping
    from xlm.training.checkpoints import LAST

    record = read_record(original)
    for name in ("config.yaml", f"checkpoints/{LAST}"):
        if not record or not (original / name).exists():
            missing = name if record else _RECORD
            raise CheckpointError(
                f"{original} cannot be repeated: it has no {missing}. Name a run of xlm train that has ended."
            )
    if "step" not in read_mapping(original / "results.json", []):
        command = " ".join(map(str, record.get("command") or ["xlm train …"]))
        raise CheckpointError(
            f"{original} has not ended (it has no results.json), so there is nothing to compare with. "
            f"Finish it first, with its own command:\n  {command}"
        )
    return record


def _configuration(original: Path, options: Repeat) -> DictConfig:
    """The configuration of the run, for a new folder."""
    from omegaconf import open_dict

    from xlm.compose import register_resolvers
    from xlm.compose.checks import check_config
    from xlm.compose.messages import readable_errors
    from xlm.compose.naming import checked_job_name
    from xlm.inference.folders import find_relative_paths, name_of_run
    from xlm.inference.sources import check_trusted, find_source
    from xlm.inference.stored_config import add_newer_keys
    from xlm.training.checkpoints import LAST

    register_resolvers()
    source = find_source(original / "checkpoints" / LAST, config=original / "config.yaml")
    cfg = check_trusted(source, options.trust, "trust=true", runs_judges=True).config
    add_newer_keys(cfg)
    find_relative_paths(cfg, source.path)
    with open_dict(cfg), readable_errors():
        here = name_of_run(original / "checkpoints" / LAST, cfg.paths.log_dir)
        cfg.job_name = checked_job_name(options.job_name or f"{here or cfg.job_name}{_SUFFIX}")
        # A folder that was given for the first run must not be written again.
        cfg.paths.run_dir = "${.log_dir}/${job_name}"
        cfg.paths.output_dir = "${.run_dir}"
        cfg.checkpointing_dir = "${paths.run_dir}/checkpoints"
        cfg.resume_from_checkpoint = True
        if Path(cfg.paths.run_dir).resolve() == original.resolve():
            raise ConfigError(f"job_name={cfg.job_name} is the run itself. Give another job_name.", key="job_name")
        check_config(cfg, {"model_type": cfg.get("model_name"), "datamodule": "of the run"})
    return cfg


def _use_threads_of(record: Mapping[str, Any]) -> None:
    """Compute with as many threads as the run: sums that are divided differently differ in their last bits."""
    import torch

    number = re.match(r"cpu: (\d+) threads", str(record.get("device")))
    if number is not None:
        torch.set_num_threads(int(number[1]))


def _circumstances(cfg: DictConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of a start on this machine, on the same kind of device, would contain."""
    from omegaconf import OmegaConf

    from xlm.inference.session import code_of_run
    from xlm.utils.run_record import run_record

    kind = str(record.get("device")).partition(":")[0]
    now = run_record(OmegaConf.to_yaml(cfg, resolve=False), cfg.seed, _device_type(cfg, kind), Path.cwd())
    return {**now, "code": code_of_run()}


def _device_type(cfg: DictConfig, before: str) -> str:
    import torch

    wanted = cfg.trainer.get("accelerator")
    if wanted in ("cpu", "mps"):
        return str(wanted)
    return "cuda" if torch.cuda.is_available() else before if before != "cuda" else "cpu"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each recorded circumstance that has changed; what the old record lacks is not compared."""
    for name in _SHOWN_CIRCUMSTANCES:
        old, new = before.get(name), now.get(name)
        if old is None or new is None or old == new:
            continue
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            yield f"{name}: {old} → {new}"
            continue
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                label = {"versions": key, "code": f"source files of {key}", "git": f"git {key}"}.get(name, key)
                yield f"{label}: {old.get(key, 'none')} → {new.get(key, 'none')}"


def _train(cfg: DictConfig, original: Path) -> None:
    """Train, after checking that the prepared training data are those of the run."""
    from xlm.commands import train
    from xlm.compose.messages import is_foreign, translate
    from xlm.inference.session import display_path, start
    from xlm.training.checkpoints import LAST
    from xlm.training.resume import data_differences, load_checkpoint

    try:
        datamodule = start(cfg).datamodule
        datamodule.prepare_data()
        recorded = load_checkpoint(original / "checkpoints" / LAST).get("xlm_data") or {}
        if differences := data_differences(recorded, datamodule.contents("train")):
            raise ConfigError(
                f"The training data have changed since {display_path(original)} was trained, so a repeat cannot equal "
                "it; nothing was trained. They differ in:\n  " + "\n  ".join(differences)
            )
        train.run(cfg)
    except Exception as error:
        if not is_foreign(error):
            raise
        raise translate(error) from error


def _lines(parts: Sequence[Part]) -> Iterator[str]:
    width = max(len(part.name) for part in parts)
    for part in parts:
        yield f"  {part.name:<{width}}  " + (
            f"equal ({part.num_compared:,} {part.unit})" if part.is_equal else "; ".join(part.differences)
        )


def _reasons(
    parts: Sequence[Part], changes: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[str]:
    """Likely reasons why parts differ, as sentences; empty if none does."""
    if all(part.is_equal for part in parts):
        return []
    found = []
    if changes:
        found.append(f"Likely reason: {'; '.join(changes)}.")
    for record, which in ((before, "first run"), (after, "repeat")):
        if others := record.get("other_starts"):
            found.append(
                f"The {which} was also started with other settings, code or machines ({len(others)} of them); "
                "a repeat has only those of the last start."
            )
    if next(part for part in parts if part.name == "weights").is_equal:
        found.append("The weights are equal, so training was the same: validation, test data or metrics have changed.")
    elif str(before.get("device")).startswith("cuda"):
        found.append("Many CUDA kernels add in a random order. Train with +trainer.deterministic=true to repeat bits.")
    return found or [
        "Nothing that the records contain has changed. They do not contain environment variables, files that the "
        "model reads by itself, and data that are generated or streamed."
    ]
