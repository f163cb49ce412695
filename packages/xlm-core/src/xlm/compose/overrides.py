"""Prepares overrides for Hydra: quotes texts and paths as typed, adds sections that may be absent."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from xlm.compose.own_data import with_own_data
from xlm.errors import ConfigError
from xlm.schemas import SECTIONS_OF_JOBS
from xlm.utils.text import is_quoted, split

NULL = ("", "null")
_LOADS = ("checkpoint_path", "ckpt_path")
PATHS = frozenset(
    {
        *(f"{section}.{key}" for section in ("eval", "extract", "generation", "hub", "sweep") for key in _LOADS),
        "generation.prompt_file", "generation.output", "generation.output_path", "sweep.output_path",
        "plan.output_path", "extract.output_dir", "eval.judge", "sweep.judge", "resume_checkpoint_path",
        "checkpointing_dir", "data_files.train", "data_files.val", "data_files.test", "data_files.predict",
        *(f"paths.{name}" for name in ("root_dir", "work_dir", "data_dir", "cache_dir", "log_dir", "run_dir",
                                       "output_dir")),
    }
)  # fmt: skip
# Options of models and data that name a file or a hub id, by the last part of their key.
_PATH_NAMES = ("data_file", "full_name", "pretrained_model_name_or_path")
# Keys of files, folders or hub ids that a stored configuration may name by a relative path.
DATA_NAMES = ("data_files", *_PATH_NAMES)
_MANY = frozenset(name for name in PATHS if name.startswith("data_files."))
COLUMNS = ("columns.text", "columns.prompt", "columns.answer", "columns.messages")
TEXTS = frozenset({"job_name", "hub.commit_message", "hub.repo_id", "reading.delimiter", "reading.encoding", *COLUMNS})
_BRACKETS = (("[", "]"), ("{", "}"))
TEXT_LISTS = frozenset({"generation.prompts"})
_CALL = re.compile(r"\s*[A-Za-z_]\w*\(.*\)\s*")  # choice(a,b), range(3), glob(*)


def as_typed(override: str, multirun: bool = False) -> str:
    """An override, with its value quoted if the key takes a text, a path or a list of texts.

    Quoted values, null, interpolations, and lists for keys that take several files don't change. `~` at the start
    of a path is the home folder. With `multirun`, a comma separates values.
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    if not equals or name.startswith("~"):
        return override
    if name in TEXT_LISTS:
        return override if multirun else f"{key}={_texts(name, value)}"
    is_path = name in PATHS or ("." in name and name.rpartition(".")[2] in _PATH_NAMES)
    if not is_path and name not in TEXTS:
        return override
    if (value[:1], value[-1:]) in _BRACKETS and name not in TEXTS | (PATHS - _MANY):
        return override
    if is_path and not value.strip():
        raise ConfigError(f"{name}= is empty (an unset shell variable?), and must be a path.", key=name)
    if not multirun:
        return f"{key}={_quoted(value, is_path)}"
    if _CALL.fullmatch(value):
        return override
    return f"{key}={','.join(_quoted(part, is_path) for part in split(value))}"


def quote(text: str) -> str:
    """A text quoted for Hydra."""
    # Hydra reads a backslash as an escape only before a quotation mark.
    inner = re.sub(r"(\\*)'", lambda match: match.group(1) * 2 + r"\'", text)
    inner = re.sub(r"(\\+)\Z", lambda match: match.group(1) * 2, inner)
    return f"'{inner}'"


def _quoted(value: str, is_path: bool) -> str:
    if value in NULL or is_quoted(value):
        return value
    return quote(os.path.expanduser(value) if is_path else value)


def _texts(key: str, value: str) -> str:
    """A text, or a list of texts; ConfigError for a part that is not text."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return value if text in NULL or is_quoted(text) else quote(literal(value))
    parts = [part.strip() for part in split(text[1:-1])]
    for part in parts:
        if part.startswith(("[", "{")):
            raise ConfigError(
                f"{key}: {part} is not a text. Write a text with brackets in quotes: ['{part}'].", key=key
            )
    return (
        value
        if parts == [""]
        else f"[{','.join(p if p in NULL or is_quoted(p) else quote(literal(p)) for p in parts)}]"
    )


def literal(text: str) -> str:
    """A text with `${…}` escaped, so that it is not resolved; backslashes before it stay text too."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


OPTIONAL_SECTIONS = (*(f"{schema.section}." for schema in SECTIONS_OF_JOBS.values()), "post_training.")
_PLUSES = re.compile(rf"\+\+(?=(?:{'|'.join(map(re.escape, OPTIONAL_SECTIONS))}))")
SHORT_FORMS = {"interactive": "generation.interactive"}


def with_optional_sections(overrides: Sequence[str], multirun: bool = False) -> tuple[str, ...]:
    """Rewrite `eval.split=val` as `++eval.split=val`, since these sections are absent from most configs, and `data.…`.

    Texts and paths are quoted to stay as typed; with `multirun`, a comma separates values.
    """
    return tuple(_with_pluses(as_typed(text, multirun)) for text in with_own_data(overrides))


def without_pluses(text: str) -> str:
    """A text about overrides without the `++` that was added here."""
    return _PLUSES.sub("", text)


def _with_pluses(text: str) -> str:
    key, equals, value = text.partition("=")
    if equals and key in SHORT_FORMS:
        text = f"{SHORT_FORMS[key]}={value}"
    return f"++{text}" if text.startswith(OPTIONAL_SECTIONS) else text
