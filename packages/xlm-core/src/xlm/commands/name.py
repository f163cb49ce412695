"""Prints the name of a run without running it, so that scripts can find its folder."""

from __future__ import annotations

from omegaconf import DictConfig


def run(cfg: DictConfig) -> str:
    """Print and return `job_name`."""
    name = str(cfg.job_name)
    print(name)
    return name
