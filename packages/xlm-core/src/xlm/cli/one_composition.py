"""Composes a single run once: Hydra composes it twice, the first time only to read `hydra.mode`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig

# What Hydra appends to the overrides if nothing sets the mode.
_MODE_OF_RUN = "hydra.mode=RUN"


@contextmanager
def one_composition() -> Iterator[None]:
    """Inside of the block, the configuration in which Hydra looks for the mode becomes that of the run.

    Sweeps are composed as Hydra does. Of errors, the first is raised again.
    """
    compose = ConfigLoaderImpl.load_configuration
    kept: list[tuple[list[str], DictConfig | Exception]] = []

    def load(
        self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **options: Any
    ) -> DictConfig:
        before = kept.pop() if kept else None
        if run_mode == RunMode.MULTIRUN and options.get("validate_sweep_overrides") is False:
            words = list(overrides)
            try:
                found = compose(self, config_name, words, RunMode.RUN)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised when the run asks
                kept.append((words, error))
                return compose(self, config_name, overrides, run_mode, **options)  # may be a sweep, which has others
            kept.append((words, found))
            return found
        if before is not None and run_mode == RunMode.RUN and (same := _of_run(overrides, *before)) is not None:
            return same
        return compose(self, config_name, overrides, run_mode, **options)

    ConfigLoaderImpl.load_configuration = load  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def _of_run(overrides: list[str], words: list[str], found: DictConfig | Exception) -> DictConfig | None:
    """What was found with `words`, as the configuration with `overrides`; None if they differ in more than the mode."""
    has_mode = overrides == [*words, _MODE_OF_RUN]
    if not has_mode and overrides != words:
        return None
    if isinstance(found, Exception):
        raise found
    if has_mode:
        found.hydra.mode = RunMode.RUN
        found.hydra.overrides.hydra.append(_MODE_OF_RUN)
    return found
