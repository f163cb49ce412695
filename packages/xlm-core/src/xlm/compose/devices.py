"""The number of devices of a run and its precision; imports torch only if it is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from xlm.errors import ConfigError


def num_cpus() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_accelerators() -> int:
    """Devices that `accelerator=auto` would use: the CUDA devices, else 1 (MPS or the CPU)."""
    import torch

    return max(torch.cuda.device_count(), 1)


def default_precision(accelerator: str = "auto") -> str:
    """`bf16-mixed` on CUDA, `32-true` on MPS and the CPU."""
    if accelerator in ("cpu", "mps"):
        return "32-true"
    import torch

    return "bf16-mixed" if torch.cuda.is_available() else "32-true"


def num_devices(devices: Any, accelerator: str | None = None) -> int:
    """The number of devices that Lightning uses for `trainer.devices`: a count, indices, "0,1", "auto" or -1."""
    if isinstance(devices, str) and devices.strip().lstrip("-").isdigit():
        devices = int(devices)
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if devices in ("auto", -1, None):
        return 1 if accelerator in ("cpu", "mps") else num_accelerators()
    if isinstance(devices, int) and not isinstance(devices, bool) and devices > 0:
        return devices
    if isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) > 0:
        return len(devices)
    raise ConfigError(f"trainer.devices is {devices!r}, and must be a count, a list of indices, 'auto' or -1.")


def find_grad_accum(
    global_batch_size: int | None,
    per_device_batch_size: int,
    devices: Any,
    num_nodes: int,
    accelerator: str | None = None,
) -> int:
    """Batches that each device accumulates per optimizer step; ConfigError if that is not a whole number.

    A global batch size of None means one batch per device.
    """
    if global_batch_size is None:
        return 1
    sizes = {
        "global_batch_size": global_batch_size,
        "per_device_batch_size": per_device_batch_size,
        "trainer.num_nodes": num_nodes,
    }
    for key, size in sizes.items():
        check_positive(key, size)
    check_divisible(global_batch_size, per_device_batch_size, num_nodes)
    count = num_devices(devices, accelerator)
    check_divisible(global_batch_size, per_device_batch_size, num_nodes, count)
    return global_batch_size // (per_device_batch_size * count * num_nodes)


def check_positive(key: str, size: Any) -> None:
    """ConfigError unless `size` is a positive whole number."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(f"{key} must be a positive whole number, not {size!r}.", key=key)


def check_divisible(
    global_batch_size: int, per_device_batch_size: int, num_nodes: int = 1, num_devices: int | None = None
) -> None:
    """ConfigError unless the global batch is a whole number of rounds; an unknown number of devices is ignored."""
    one_round = per_device_batch_size * num_nodes * (num_devices or 1)
    if global_batch_size % one_round == 0:
        return
    factors = f"per_device_batch_size {per_device_batch_size}"
    factors += f" × {num_devices} devices" if num_devices else ""
    factors += f" × {num_nodes} nodes" if num_nodes > 1 or num_devices else ""
    product = f" = {one_round}" if num_devices or num_nodes > 1 else ""
    below = global_batch_size // one_round * one_round
    choices = [str(size) for size in (below, below + one_round) if size]
    raise ConfigError(
        f"global_batch_size {global_batch_size} is not divisible by {factors}{product}. "
        f"It could be {' or '.join(choices)}.",
        key="global_batch_size",
    )
