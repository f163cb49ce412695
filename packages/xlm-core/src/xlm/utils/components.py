"""The live objects of the current run, by name: what the late resolvers `${tokenizer:…}` and friends read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xlm.errors import ConfigError, did_you_mean, nearest_names

_components: dict[str, Any] = {}


def set_component(name: str, obj: Any) -> None:
    """Make `obj` the run's `name` (tokenizer, noise_schedule, datamodule, lightning_module, …)."""
    _components[name] = obj


def get_component(name: str) -> Any:
    """The run's `name`; ConfigError when it was not set (yet)."""
    if name not in _components:
        known = ", ".join(sorted(_components)) or "none"
        hint = did_you_mean(nearest_names(name, _components, 1))
        raise ConfigError(
            f"The component '{name}' does not exist at this point of the run; so far: {known}. {hint}".rstrip(),
            key=name,
        )
    return _components[name]


def has_component(name: str) -> bool:
    """Whether the run has a `name` by now."""
    return name in _components


def current_components() -> dict[str, Any]:
    """All of the run's by name."""
    return dict(_components)


def clear_components() -> None:
    """Forget all of them, at the end of a run."""
    _components.clear()


@contextmanager
def components(**named: Any) -> Iterator[None]:
    """For a while exactly these, so that a model can be built beside a run, or beside another model."""
    before = dict(_components)
    _components.clear()
    _components.update(named)
    try:
        yield
    finally:
        _components.clear()
        _components.update(before)
