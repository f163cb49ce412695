"""Trains the shipped networks through the parts of `xlm train`: tokens/s, MFU and memory, on a GPU with compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.devices import peak_of
from benchmarks.measure import OURS, Case, Setting, Spent, Way
from benchmarks.networks import FAMILIES

_WARMUP = 10


def cases(setting: Setting) -> list[Case]:
    """Every family at the size of the setting; a repetition is a run of its own."""
    steps = 3 if setting.is_quick else 200
    compiled = "compiled" if setting.is_compiled else "not compiled"
    shape = f"star_medium, packed, B {setting.batch_size}, `{setting.size}`, {compiled}, {steps} steps"
    return [Case("shipped", family, shape, "tokens", _opening(family, steps), 0, 1) for family in FAMILIES]


def words(family: str, setting: Setting) -> list[str]:
    """The run: random graphs with prompts, packed, so that no position is padding."""
    workers = 0 if setting.device == "cpu" else 4
    precision = [] if setting.device == "cpu" else ["++trainer.precision=bf16-mixed"]
    return [
        f"experiment=star_medium_{family}", f"model={setting.size}_{family}", "job_name=bench", "loggers=debug",
        "trainer_strategy=single_device", f"trainer.accelerator={'gpu' if setting.device == 'cuda' else 'cpu'}",
        "trainer.limit_val_batches=0", "++trainer.enable_checkpointing=false", "batching=packed",
        f"per_device_batch_size={setting.batch_size}", f"num_dataloader_workers={workers}",
        f"datamodule.dataset_managers.train.lm.num_examples={8 * setting.batch_size}",
        f"dataloader_pin_memory={str(setting.device == 'cuda').lower()}", *precision,
    ]  # fmt: skip


def _opening(family: str, steps: int) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        from golden import in_an_empty_folder

        with in_an_empty_folder():
            yield [Way(OURS, lambda: measure(family, steps, setting))]

    return opened


def measure(family: str, num_steps: int, setting: Setting) -> Spent:
    """Train one family; the steps after the warm-up count."""
    import time

    import torch

    from xlm.compose import load_config
    from xlm.inference.session import start
    from xlm.training.estimate import MeasureSteps
    from xlm.training.flops import matmul_peak
    from xlm.utils.instantiate import clear_components

    def run(steps: int, warmup: int, is_compiled: bool) -> Any:
        lengths = [f"trainer.max_steps={steps + warmup}", f"compile={str(is_compiled).lower()}"]
        session = start(load_config([*words(family, setting), *lengths]))
        for split in ("val", "test", "predict"):
            session.datamodule.dataset_managers[split] = {}
        callback = MeasureSteps(warmup, counts_flops=not is_compiled)
        trainer = session.trainer([callback], [])
        harness = session.harness()
        trainer.fit(harness, datamodule=session.datamodule)
        size = sum(parameter.numel() for parameter in harness.parameters())
        clear_components()
        return callback.measured, size, trainer.strategy.root_device

    # Operators of a compiled loss are not visible: they are counted in one step of the same batches without it.
    counted = run(1, 1, is_compiled=False)[0]
    cpu = time.process_time()
    found, num_parameters, device = run(num_steps, min(_WARMUP, num_steps), setting.is_compiled)
    cpu = time.process_time() - cpu
    seconds, name = sum(found.seconds), torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    positions = found.shape.positions
    values = {"parameters": float(num_parameters), "seconds_per_step": found.typical_seconds}
    if counted.flops is not None:
        speed = counted.flops.of(found.shape) / seconds
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        values["gflops"], values["of_measured_peak"] = speed / 1e9, speed / matmul_peak(device, dtype)
        if (peak := peak_of(name)) is not None:
            values["mfu"] = speed / peak
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return Spent(cpu, seconds, found.tokens or positions, memory, values)
