"""Commands."""

from __future__ import annotations

import hydra
import torch

from xlm.utils.rich_utils import print_config_tree


def show_schedule(cfg) -> None:
    """Print the configuration and the share of masked tokens at a few times."""
    print_config_tree(cfg.noise_schedule, resolve=True, save_to_file=cfg.get("schedule_file", False))
    schedule = hydra.utils.instantiate(cfg.noise_schedule)
    shares = ", ".join(f"{float(share):.3f}" for share in schedule(torch.linspace(0, 1, 5)))
    print(f"FLEXLM SCHEDULE {shares}")


def generate(cfg) -> None:
    """A command of the name of a built-in one."""
    raise RuntimeError("the built-in job of this name comes first")
