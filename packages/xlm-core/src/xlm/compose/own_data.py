"""`data.text=FILE`, the short form of a run on data of your own, becomes the overrides that it stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from xlm.errors import ConfigError, did_you_mean, nearest_names

# Short keys → the keys that they stand for.
_COLUMNS = {"data.prompt": "columns.prompt", "data.answer": "columns.answer", "data.messages": "columns.messages"}
SHORT_KEYS = {"data.text": "data_files.train", **_COLUMNS}
AUTOMATIC = "data.automatic"
_INTERNAL = (AUTOMATIC, "data.chosen", "data.overridden")
_KINDS = ("own_text", "own_infill", "own_pairs", "own_chat")
_COMPOSES = ("datamodule", "experiment")
_CHECKPOINTS = ("checkpoint_path", "ckpt_path")


def with_own_data(overrides: Sequence[str]) -> tuple[str, ...]:
    """Replace `data.text=`, `data.prompt=`, `data.answer=` and `data.messages=` by the overrides that they stand for.

    The datamodule follows from the columns. Without `model=` and `experiment=`, the network is chosen later, to fit
    the data (`xlm.compose.fit_to_data`).

    Raises:
        ConfigError: an unknown key `data.…`, a key without the other one that it needs, another datamodule, or
            `data_files` without data to replace.
    """
    given = {key.lstrip("+"): value for key, equals, value in (text.partition("=") for text in overrides) if equals}
    short = [key for key in given if key.startswith("data.") and key not in _INTERNAL]
    if not short:
        _check_data_files(given)
        return tuple(overrides)
    _check_short(short, given)
    kind = _kind(given)
    renamed = [_renamed(text) for text in overrides if text.lstrip("+").partition("=")[0] != "datamodule"]
    if not any(key in given for key in ("model", "experiment")) and "~model" not in overrides:
        # The options of a network that is chosen later.
        renamed = [f"++{text}" if text.startswith("model.") else text for text in renamed] + ["~model"]
    return (f"datamodule={kind}", *renamed, f"{AUTOMATIC}=true")


def _check_short(short: Sequence[str], given: dict[str, str]) -> None:
    for key in short:
        if key not in SHORT_KEYS:
            hint = did_you_mean(nearest_names(key, SHORT_KEYS, 1))
            known = f"The keys are {', '.join(f'{name}=' for name in SHORT_KEYS)}."
            raise ConfigError(f"There is no key '{key}'. {hint or known}", key=key)
        if not given[key].strip():
            raise ConfigError(f"{key}= is empty (an unset shell variable?).", key=key)
    if any(key.rpartition(".")[2] in _CHECKPOINTS for key in given):
        raise ConfigError(
            f"{short[0]}= is for a new run, and this command uses the data of its checkpoint. To use another file, "
            "for example for the test: data_files.test=FILE.",
            key=short[0],
        )
    if "data.text" not in given:
        raise ConfigError(f"{short[0]} names a column, but no file is given. Add data.text=FILE.", key=short[0])
    if "data_files.train" in given:
        raise ConfigError(
            "data.text= and data_files.train= both name the training data. Use only one of them.", key="data.text"
        )
    for key, other in (("data.prompt", "data.answer"), ("data.answer", "data.prompt")):
        if key in given and other not in given:
            raise ConfigError(f"{key} needs {other}: give the columns of the prompts and of the answers.", key=other)
    if "data.messages" in given and "data.prompt" in given:
        raise ConfigError("Give data.messages=, or data.prompt= and data.answer=, not both.", key="data.messages")


def _kind(given: dict[str, str]) -> str:
    kind = "own_pairs" if "data.prompt" in given else "own_chat" if "data.messages" in given else "own_text"
    named = given.get("datamodule")
    if named is None or named == kind:
        return kind
    if kind == "own_text" and named in _KINDS:
        return named
    raise ConfigError(
        f"datamodule={named} is another datamodule than that of data.text=, which is {kind} here. Remove it.",
        key="datamodule",
    )


def _renamed(text: str) -> str:
    key, equals, value = text.partition("=")
    return f"{SHORT_KEYS.get(key.lstrip('+'), key)}{equals}{value}" if equals else text


def _check_data_files(given: dict[str, str]) -> None:
    """ConfigError for `data_files` that would replace part of the default data, which nobody chose."""
    if "data_files" in given and not given["data_files"].startswith("{"):
        file = given["data_files"] or "FILE"
        raise ConfigError(
            f"data_files={file} does not say which split it is for. For a new run on your own texts: data.text={file}. "
            f"For one split: data_files.train={file}, data_files.val=… or data_files.test=….",
            key="data_files",
        )
    named = [key for key in given if key.startswith("data_files.")]
    composes = any(key in given for key in _COMPOSES) or any(
        key.rpartition(".")[2] in (*_CHECKPOINTS, "data") for key in given
    )
    if named and not composes and given.get("job_type") in (None, "train", "plan", "prepare_data", "eval", "generate"):
        raise ConfigError(
            f"{named[0]}={given[named[0]]} replaces data of a datamodule, but none is chosen. For a run on your own "
            f"texts: data.text={given[named[0]]}. Otherwise add datamodule=… or experiment=….",
            key=named[0],
        )


def name_of_data(named: str) -> str:
    """A short name for the data of an override: the stem of the file, or the folder of a pattern."""
    text = named.strip().strip("'\"")
    if text[:1] in ("[", "{"):
        first = text.strip("[]{} ").split(",")[0].strip().strip("'\"")
        rest = text.count(",")
        first = first.partition(":")[2].strip() if text.startswith("{") else first
        return f"{name_of_data(first)}-and-{rest}-more" if rest else name_of_data(first)
    text, _, bounds = text.partition("[")
    if bounds:
        return f"{name_of_data(text)}-{re.sub(r'[^0-9a-z%]+', '-', bounds).strip('-')}".replace("%", "percent")
    path = Path(text.rstrip("/") or text)
    while any(mark in path.name for mark in "*?") and path.parent != path:
        path = path.parent
    if path.name in ("train", "") and path.parent.name:
        path = path.parent
    stem = path.name
    while Path(stem).suffix and len(Path(stem).suffix) <= len(".parquet"):
        stem = Path(stem).stem
    return stem or "data"
