"""Trains the `small` network of every family for some steps in bf16 with compile: tokens/s, MFU, memory.

hatch run bench-gpu                                    200 steps of each family on the CUDA device
hatch run bench-gpu --device cpu --steps 4 --size xtiny --no-compile arlm     shows that it works

MFU needs the peak of the device for dense bf16 products, which PEAKS has by name. For other devices it is left out; the
share of the peak that was measured with one large product is always printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golden import families, in_an_empty_folder

# Operations per second, dense bf16 with fp32 accumulation, from the data sheets of NVIDIA (SXM or the card itself).
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


def peak_of(name: str) -> float | None:
    """The peak of a device by its name, the longest entry that the name contains; None for an unknown device."""
    found = [entry for entry in PEAKS if f"{entry} " in f"{name} ".replace("-", " ")]
    return PEAKS[max(found, key=len)] if found else None


def words(family: str, options: argparse.Namespace) -> list[str]:
    """The run: random graphs with prompts, packed, so that no position is padding."""
    accelerator = "gpu" if options.device == "cuda" else options.device
    return [
        f"experiment=star_medium_{family}", f"model={options.size}_{family}", "job_name=bench", "loggers=debug",
        "trainer_strategy=single_device", f"trainer.accelerator={accelerator}", "++trainer.precision=bf16-mixed",
        "trainer.limit_val_batches=0", "++trainer.enable_checkpointing=false", "batching=packed",
        f"per_device_batch_size={options.batch_size}", f"num_dataloader_workers={options.workers}",
        f"datamodule.dataset_managers.train.lm.num_examples={8 * options.batch_size}",
        f"dataloader_pin_memory={str(options.device == 'cuda').lower()}",
    ]  # fmt: skip


def measure(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one family; the median step after the warm-up counts."""
    import torch

    from xlm.compose import load_config
    from xlm.inference.session import start
    from xlm.training.estimate import MeasureSteps
    from xlm.training.flops import matmul_peak
    from xlm.utils.instantiate import clear_components
    from xlm.utils.run_record import device_name

    def run(num_steps: int, is_compiled: bool) -> Any:
        lengths = [f"trainer.max_steps={num_steps}", f"compile={str(is_compiled).lower()}"]
        cfg = load_config([*words(family, options), *lengths])
        session = start(cfg)
        for split in ("val", "test", "predict"):
            session.datamodule.dataset_managers[split] = {}
        steps = MeasureSteps(min(options.warmup, num_steps - 1), counts_flops=not is_compiled)
        trainer = session.trainer([steps], [])
        harness = session.harness()
        trainer.fit(harness, datamodule=session.datamodule)
        size = sum(parameter.numel() for parameter in harness.parameters())
        clear_components()
        return steps.measured, size, trainer.strategy.root_device

    # Operators of a compiled loss are not visible: they are counted in one step of the same batches without it.
    counted = run(2, is_compiled=False)[0]
    found, num_parameters, device = run(options.steps + options.warmup, is_compiled=options.compile)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device_name(device.type)
    positions = found.shape.positions / len(found.seconds)
    operations = None if counted.flops is None else counted.flops.of(found.shape) / len(found.seconds)
    speed = None if operations is None else operations / found.typical_seconds
    peak, measured = peak_of(name), matmul_peak(device, torch.bfloat16)
    return {
        "family": family,
        "parameters": num_parameters,
        "device": name,
        "compiled": options.compile,
        "steps": len(found.seconds),
        "seconds_per_step": found.typical_seconds,
        "tokens_per_second": (found.tokens or positions * len(found.seconds)) / sum(found.seconds),
        "operations_per_second": speed,
        "mfu": None if peak is None or speed is None else speed / peak,
        "share_of_measured_peak": None if speed is None else speed / measured,
        "peak_memory_mib": None if found.peak_bytes is None else torch.cuda.max_memory_allocated(device) / 2**20,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        f"{row['family']:<8}{row['parameters']:>14,}{row['seconds_per_step']:>12.4f}{row['tokens_per_second']:>12,.0f}"
        f"{shown(row['mfu'], '.1%'):>8}{shown(row['share_of_measured_peak'], '.1%'):>10}"
        f"{shown(row['peak_memory_mib'], ',.0f'):>12}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, and write `bench_gpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="families; by default all")
    parser.add_argument("--steps", type=int, default=200, help="measured steps")
    parser.add_argument("--warmup", type=int, default=10, help="steps before them, in which the loss is compiled")
    parser.add_argument("--size", default="small", help="network: small_FAMILY and so on")
    parser.add_argument("--batch-size", type=int, default=256, help="rows of a step")
    parser.add_argument("--workers", type=int, default=4, help="processes that collate batches")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--output", type=Path, default=Path("bench_gpu.json"), help="file to write")
    options = parser.parse_args(argv)
    output = options.output.absolute()
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("There is no CUDA device. --device cpu shows that the script works.", file=sys.stderr)
            return 1
    rows = []
    print(f"{'family':<8}{'parameters':>14}{'s per step':>12}{'tokens/s':>12}{'MFU':>8}{'of peak':>10}{'MiB':>12}")
    for family in options.families or families():
        with in_an_empty_folder():
            rows.append(measure(family, options))
        print(line(rows[-1]), flush=True)
        output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"Written to {output}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
