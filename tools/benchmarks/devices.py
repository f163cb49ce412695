"""Peaks of devices from their data sheets, and descriptions of the machine."""

from __future__ import annotations

import os
import platform
from typing import Any

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


def machine(device: str) -> dict[str, Any]:
    """The device, its measured peak for matrix products, and the versions that figures depend on."""
    import lightning
    import torch
    import transformers

    from benchmarks.products import matmul_peak

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "matmul_peak_gflops": round(matmul_peak(device, dtype) / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "transformers": transformers.__version__,
    }


def processor() -> str:
    """The name of the processor, with the widest vector instructions that torch uses."""
    import torch

    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
