"""The xlm_models.json of the output directory: checked before anything is written, replaced in one step."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from xlm.errors import ScaffoldError
from xlm.external_models.discovery import MODELS_FILE, read_models_file
from xlm.utils.files import replace_text


def check_registry(folder: Path, name: str) -> None:
    """An error if the folder's xlm_models.json cannot take a model `name` that lies in `folder/name`."""
    path = folder / MODELS_FILE
    if not os.path.lexists(path):
        return
    if not path.exists():
        raise ScaffoldError(f"{path} is a link to a file that does not exist.")
    entries, errors = read_models_file(path, str(path))
    if errors:
        raise errors[0]
    for listed, directory in entries:
        if listed == name:
            raise ScaffoldError(f"'{name}' is taken: {path} lists it already, as {directory}.", name=name)
        if directory == (folder / name).resolve():
            raise ScaffoldError(f"{path} lists the directory {name}/ already, as the model '{listed}'.", name=name)


def add_entry(folder: Path, name: str) -> None:
    """List the model `name`, which lies in `folder/name`, behind all other entries."""
    check_registry(folder, name)
    path = (folder / MODELS_FILE).resolve()  # a link stays a link
    pairs: list[tuple[str, Any]] = []
    mode = None
    if path.exists():
        # As pairs: an object that repeats a key keeps all of them.
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
        mode = stat.S_IMODE(path.stat().st_mode)
    replace_text(path, as_json([*pairs, (name, name)]))
    if mode is not None:
        with contextlib.suppress(OSError):  # a file system without modes is no reason to take the model back
            path.chmod(mode)


def is_listed(folder: Path, name: str) -> bool:
    """Whether the folder's xlm_models.json has an entry of that name."""
    path = folder / MODELS_FILE
    return path.exists() and name in dict(read_models_file(path, str(path))[0])


def as_json(pairs: list[tuple[str, Any]]) -> str:
    """A JSON object of strings, one entry a line."""
    lines = ",\n".join(f"  {_quoted(key)}: {_quoted(value)}" for key, value in pairs)
    return f"{{\n{lines}\n}}\n"


def _quoted(text: str) -> str:
    readable = json.dumps(text, ensure_ascii=False)
    try:
        readable.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(text)  # half of a surrogate pair, which only an escape can spell
    return readable
