"""Reads xlm_models.json: {model name: directory relative to this file}."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from xlm.errors import ModelsFileError

FILE_NAME = "xlm_models.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")  # it becomes part of file names


def read_models_file(path: Path, label: str) -> tuple[list[tuple[str, Path]], list[ModelsFileError]]:
    """The (name, absolute directory) pairs of `path`, and an error for each part that cannot be used.

    A name may occur twice; whether that is a conflict depends on the directories. `label` names the file in errors.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        return [], [ModelsFileError(label, f"it cannot be read as JSON: {_first_line(error)}")]
    if not isinstance(pairs, _Pairs):
        reason = f'an object such as {{"my_model": "my_model"}} is needed, not {_kind(pairs)}.'
        return [], [ModelsFileError(label, reason)]
    entries: list[tuple[str, Path]] = []
    errors: list[ModelsFileError] = []
    for name, value in pairs:
        try:
            entries.append((name, _directory(path, label, name, value)))
        except ModelsFileError as error:
            errors.append(error)
    return entries, errors


class _Pairs(list[tuple[str, Any]]):
    """A JSON object that keeps repeated keys, so that they can be reported."""


def _directory(path: Path, label: str, name: str, value: Any) -> Path:
    if not _NAME.fullmatch(name):
        reason = f"{name!r} cannot name a model: letters, digits, '_', '-' and '.' only."
        raise ModelsFileError(label, reason, name=name)
    if not isinstance(value, str):
        reason = f"the directory of model '{name}' must be a string, not {_kind(value)}."
        raise ModelsFileError(label, reason, name=name)
    if not value:
        raise ModelsFileError(label, f"the directory of model '{name}' is empty.", name=name)
    try:
        return (path.parent / value).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"the directory of model '{name}' is no usable path: {_first_line(error)}"
        raise ModelsFileError(label, reason, name=name) from error


def _kind(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return {bool: "true or false", int: "a number", float: "a number", str: "a string"}.get(type(value), "null")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
