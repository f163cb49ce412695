"""Import Python objects by their dotted paths in configs."""

from __future__ import annotations

import gc
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from xlm.errors import BadTargetError, did_you_mean, nearest_names


def get_object(path: str, *, key: str | None = None) -> Any:
    """The object named by `path` (`package.module.attribute…`); BadTargetError with the original reason otherwise.

    `key` is the configuration key that holds the path, for the message.
    """
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise BadTargetError(path, "A dotted path such as package.module.name is needed.", key=key)
    module, num_used = _import_longest(parts, path, key)
    found: Any = module
    for depth in range(num_used, len(parts)):
        try:
            found = getattr(found, parts[depth])
        except AttributeError as error:
            reason = f"AttributeError: {error}."
            if inspect.ismodule(found) and depth < len(parts) - 1:
                reason = f"ModuleNotFoundError: No module named '{'.'.join(parts[: depth + 1])}'."
            hint = did_you_mean(nearest_names(parts[depth], dir(found), 1))
            raise BadTargetError(path, f"{reason} {hint}".rstrip(), key=key) from error
    return found


def get_function(path: str, *, key: str | None = None) -> Callable[..., Any]:
    """The callable named by the dotted `path`; BadTargetError if there is none."""
    found = get_object(path, key=key)
    if not callable(found):
        raise BadTargetError(path, f"It is a {type(found).__name__}, which cannot be called.", key=key)
    return cast(Callable[..., Any], found)


def _import_longest(parts: list[str], path: str, key: str | None) -> tuple[Any, int]:
    """Import the deepest module along `parts`; returns it and the number of parts used."""
    module: Any = None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Only the name itself may be missing (it may be an attribute), not a module that it imports.
            if depth > 1 and error.name == name:
                return module, depth - 1
            raise BadTargetError(path, import_reason(error), key=key) from error
        except Exception as error:  # importing runs the module, which may raise any exception
            raise BadTargetError(path, import_reason(error), key=key) from error
    return module, len(parts)


def import_reason(error: BaseException | None) -> str:
    """The first cause of a failed import in one line, with file and line if a module's own code raised it."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    if error is None:
        return "It cannot be imported."
    reason = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    return f"{reason} ({frames[-1].filename}:{frames[-1].lineno})" if frames else reason


def _is_machinery(file_name: str) -> bool:
    path = file_name.replace("\\", "/")
    return path.startswith("<") or any(p in path for p in ("/importlib/", "/hydra/_internal/", "/xlm/utils/"))


@contextmanager
def rare_collections() -> Iterator[None]:
    """Inside of the block, Python rarely looks for garbage: importing makes a million objects that all stay."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 100_000) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
