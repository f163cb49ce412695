"""`xlm plan`: estimates the size and cost of a run from its real objects and a few steps, without side effects."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from xlm.commands.few_steps import duration, quiet
from xlm.commands.train import resolve_length
from xlm.compose.checks import read_section
from xlm.errors import DataError
from xlm.harness import Harness
from xlm.inference.session import Session, display_path, start
from xlm.schemas import Plan
from xlm.training.ema import ExponentialMovingAverage
from xlm.training.estimate import (
    Measured,
    MeasureSteps,
    bytes_after_a_step,
    num_bytes,
    num_checkpoints,
    parts_of,
)
from xlm.training.flops import matmul_dtype, matmul_peak
from xlm.training.optim import build_optimizer
from xlm.training.progress import write_results
from xlm.training.rng import capture, restore
from xlm.utils.columns import Column
from xlm.utils.consoles import plain_console, print_table
from xlm.utils.files import output_file
from xlm.utils.run_record import run_record

WIDTH = 80


def run(cfg: DictConfig) -> dict[str, Any]:
    """Print the plan of the run that the configuration describes, write it to `plan.output_path`, and return it.

    The run's folder is not read or written, and global random states don't change. Without training data, the plan
    has only the parts that don't need data.

    Raises:
        ConfigError: an unknown option or a bad value.
    """
    options = read_section(cfg, Plan)
    path = output_file(options.output_path, "plan.output_path")
    before = capture()
    try:
        plan, is_first = _make(cfg, options.num_steps, options.num_warmup_steps)
    finally:
        restore(before)
    if is_first:
        console = plain_console(width=min(WIDTH, plain_console().width))
        print_plan(plan, console)
        console.print(f"Written to {display_path(write_results(path, plan))}.", soft_wrap=True)
    return plan


def _make(cfg: DictConfig, num_steps: int, num_warmup: int) -> tuple[dict[str, Any], bool]:
    """The plan, and whether this is the process that prints it."""
    session = start(quiet(cfg, num_steps + num_warmup))
    for split in ("val", "test", "predict"):
        session.datamodule.dataset_managers[split] = {}
    # Without steps no weight needs a value, and a network of any size can be built anywhere.
    with torch.device("meta") if num_steps == 0 else contextlib.nullcontext():
        harness = session.harness()
    measure = MeasureSteps(num_warmup, counts_flops=not cfg.get("compile"))
    callbacks: list[Callback] = [ExponentialMovingAverage(cfg.ema_decay)] if cfg.ema_decay else []
    trainer = session.trainer([*callbacks, measure], [])
    device = trainer.strategy.root_device
    plan: dict[str, Any] = {
        **run_record(OmegaConf.to_yaml(cfg, resolve=False), cfg.seed, device.type, Path.cwd()),
        "job_type": "plan",
        "run": str(cfg.job_name),
        "precision": str(trainer.precision),
        "parameters": _parameters(harness),
    }
    why_not = _NO_STEPS if num_steps == 0 else _why_no_steps(session, harness)
    if why_not is None:
        resolve_length(cfg, session.datamodule)
        trainer.fit(harness, datamodule=session.datamodule)
        found = measure.measured
        peak = matmul_peak(device, matmul_dtype(str(trainer.precision)))
        plan["data"] = _data(session, trainer, found)
        plan["flops"] = _flops(found, num_steps, peak)
        plan["time"] = _time(found, cfg.trainer.max_steps)
        kept = found.optimizer_bytes
        plan["memory_bytes"] = _states(harness, cfg, kept) | _activations(found)
    else:
        plan["not_measured"] = why_not
        # On the meta device a step costs nothing, however large the model is.
        kept = bytes_after_a_step(build_optimizer(cfg.optimizer, copy.deepcopy(harness.model).to("meta")))
        plan["memory_bytes"] = _states(harness, cfg, kept)
    stored = num_bytes(harness.model.state_dict().values()) + kept + plan["memory_bytes"]["averaged_weights"]
    plan["disk"] = _disk(cfg, stored)
    return plan, trainer.is_global_zero


_NO_STEPS = "No step is taken (plan.num_steps=0)."


def _why_no_steps(session: Session, harness: Harness) -> str | None:
    """Why no step can be run, as a sentence; None if one can."""
    if not session.datamodule.dataset_managers["train"]:
        return "There is no training data (datamodule.dataset_managers.train is empty)."
    if harness.loss_function is None:
        return "The model has no loss (loss: null)."
    try:
        session.datamodule.prepare_data()
    except DataError as error:
        return f"The training data cannot be read: {error}"
    return None


def _parameters(harness: Harness) -> dict[str, Any]:
    parts = parts_of(harness.top_level_named_modules())
    return {
        "trainable": sum(part.trainable for part in parts),
        "frozen": sum(part.frozen for part in parts),
        "parts": [part._asdict() for part in parts],
    }


def _states(harness: Harness, cfg: DictConfig, optimizer: int) -> dict[str, Any]:
    trainable = [p for p in harness.parameters() if p.requires_grad]
    return {
        "weights": num_bytes([*harness.model.parameters(), *harness.model.buffers()]),
        "gradients": num_bytes(trainable),
        "optimizer": optimizer,
        "averaged_weights": sum(4 * p.numel() for p in trainable) if cfg.ema_decay else 0,
    }


def _activations(found: Measured) -> dict[str, Any]:
    if found.peak_bytes is not None:
        return {"activations": found.peak_bytes, "activations_are": "peak of a step, gradients included"}
    return {"activations": found.saved_bytes, "activations_are": "kept by forward for backward, one batch"}


def _data(session: Session, trainer: Trainer, found: Measured) -> dict[str, Any]:
    managers = session.datamodule.dataset_managers["train"].values()
    steps, ranks = len(found.seconds), trainer.world_size
    is_endless = any(manager.is_endless for manager in managers)
    per_epoch = int(trainer.num_training_batches) / trainer.accumulate_grad_batches
    return {
        "examples": None if is_endless else sum(len(manager.rows) for manager in managers if manager.rows is not None),
        "examples_per_step": found.examples / steps * ranks,
        "positions_per_step": found.shape.positions / steps * ranks,
        "tokens_per_step": None if found.tokens is None else found.tokens / steps * ranks,
        "padding": found.padding,
        "steps_per_epoch": None if is_endless else math.ceil(per_epoch),
    }


def _flops(found: Measured, num_steps: int, peak: float) -> dict[str, Any] | None:
    if found.flops is None:
        return None
    per_step = found.flops.of(found.shape) / num_steps
    return {
        "per_position": found.flops.of(found.shape) / found.shape.positions,
        "per_token": found.flops.of(found.shape) / found.tokens if found.tokens else None,
        "per_step": per_step,
        "measured_matmul_peak_per_second": peak,
        "mfu": per_step / found.typical_seconds / peak,
    }


def _time(found: Measured, max_steps: int) -> dict[str, Any]:
    ends = {"least": min(found.seconds), "median": found.typical_seconds, "most": max(found.seconds)}
    return {
        "seconds_per_step": ends,
        "num_steps_measured": len(found.seconds),
        "max_steps": max_steps,
        "training_seconds": {name: value * max_steps for name, value in ends.items()} if max_steps > 0 else None,
    }


def _disk(cfg: DictConfig, one: int) -> dict[str, int]:
    count = num_checkpoints(cfg.get("callbacks") or {}, cfg.trainer.max_steps)
    return {"checkpoint_bytes": one, "num_checkpoints": count, "bytes": one * count}


def print_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print the plan as one table."""
    title = f"Plan of {plan['run']} ({plan['device'].partition(',')[0]}, {plan['precision']})"
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    columns = [Column("what"), Column("how much", is_figure=True), Column("")]
    print_table(console, columns, [row for section in _rows(plan) for row in section])
    if "not_measured" in plan:
        console.print(
            f"{plan['not_measured']}\nOperations, activations, steps per epoch and time need a training batch.",
            highlight=False,
        )


def _rows(plan: Mapping[str, Any]) -> list[list[tuple[str, str, str]]]:
    parameters, memory, disk = plan["parameters"], plan["memory_bytes"], plan["disk"]
    frozen = f"{parameters['frozen']:,} frozen" if parameters["frozen"] else ""
    sections = [
        [
            ("parameters", f"{parameters['trainable'] + parameters['frozen']:,}", frozen),
            *(
                (f"  {part['name']}", f"{part['trainable'] + part['frozen']:,}", _frozen(part))
                for part in parameters["parts"]
            ),
        ],
        [
            (name.replace("_", " "), _mib(memory[name]), memory.get("activations_are", "") if last else "")
            for name, last in (
                ("weights", False),
                ("gradients", False),
                ("optimizer", False),
                ("averaged_weights", False),
                ("activations", True),
            )
            if memory.get(name)
        ],
    ]
    if "data" in plan:
        sections += [_data_rows(plan["data"]), _speed_rows(plan)]
    files = f"{disk['num_checkpoints']} files of {_mib(disk['checkpoint_bytes'])}"
    sections.append([("checkpoints", _mib(disk["bytes"]), files)])
    return sections


def _frozen(part: Mapping[str, Any]) -> str:
    return "frozen" if part["frozen"] and not part["trainable"] else ""


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tokens, padding = data["tokens_per_step"], data["padding"]
    size, steps = data["examples"], data["steps_per_epoch"]
    return [
        ("training examples", "without end" if size is None else f"{size:,}", ""),
        *([("steps per epoch", f"{steps:,}", f"of {data['examples_per_step']:,.0f} examples")] if steps else []),
        ("tokens per step", "unknown" if tokens is None else f"{tokens:,.0f}", "without padding"),
        ("padding", "unknown" if padding is None else f"{padding:.1%}", "of the measured positions"),
    ]


def _speed_rows(plan: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    flops, spent = plan["flops"], plan["time"]
    step, whole = spent["seconds_per_step"], spent["training_seconds"]
    rows = [
        ("time per step", duration(step["median"]), f"{duration(step['least'])} to {duration(step['most'])}, "
         f"{spent['num_steps_measured']} steps measured"),
    ]  # fmt: skip
    if whole is not None:
        between = f"{duration(whole['least'])} to {duration(whole['most'])}, no validation"
        rows.append((f"{spent['max_steps']:,} steps", duration(whole["median"]), between))
    if flops is None:
        rows.append(("operations", "unknown", "compiled, or no matrix products seen"))
    else:
        rows.append(("operations per position", f"{flops['per_position'] / 1e6:,.2f} M", "forward and backward"))
        rows.append(("operations per step", f"{flops['per_step'] / 1e9:,.2f} G", ""))
        peak = flops["measured_matmul_peak_per_second"]
        rows.append(("MFU", f"{flops['mfu']:.1%}", f"of a measured matmul peak, {peak / 1e9:,.0f} G/s"))
    return rows


def _mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
