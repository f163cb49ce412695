"""Recorded rows of one or several runs as one JSON-able document, and as one HTML file that opens from disk."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xlm.decoding.trace import Step, Trace, replay
from xlm.errors import ConfigError, DataError, as_line
from xlm.protocols import Tokenizer
from xlm.utils.files import replace_text
from xlm.utils.imports import get_function

FORMAT = "xlm-trace/1"
ROLES = ("pad", "mask", "bos", "eos", "cls", "sep", "unk")

# From a prompt's text to the drawing of a page; None if it cannot be read.
View = Callable[[str], Mapping[str, Any] | None]


class Sample(TypedDict):
    """One row; `ids` follows from `given` and `steps`. `text` and `truth` are the answer without special tokens.

    `calls`: network calls. `drawing`: the task's drawing of the prompt.
    """

    prompt: str
    given: list[int]
    answer_start: int
    steps: list[Step]
    ids: list[int]
    calls: int
    text: str
    truth: str | None
    drawing: Mapping[str, Any] | None


class Run(TypedDict):
    """What one trained model generated.

    `tokens`: the text of each token id, including its leading space. `special`: role → id.
    """

    name: str
    model: str
    checkpoint: str
    sampler: dict[str, Any]
    tokens: dict[str, str]
    special: dict[str, int]
    samples: list[Sample]


class Document(TypedDict):
    """The content of trace.json. Samples with the same prompt are shown side by side."""

    format: str
    title: str
    runs: list[Run]


def find_view(name: str | None) -> View | None:
    """The task's drawing function by its dotted name (`trace_view` of a datamodule config); BadTargetError if none."""
    if not name:
        return None
    view: View = get_function(name, key="trace_view")
    return view


def describe_run(
    name: str,
    traces: Sequence[Trace],
    tokenizer: Tokenizer,
    *,
    model: str = "",
    checkpoint: str = "",
    sampler: Mapping[str, Any] | None = None,
    view: View | None = None,
    prompts: Sequence[str] = (),
    truths: Sequence[str | None] = (),
) -> Run:
    """One run of a document; `prompts` as the user gave them, otherwise read from the rows.

    `truths` are used for traces without a truth.
    """
    special = {role: token for role in ROLES if (token := getattr(tokenizer, f"{role}_token_id", None)) is not None}
    samples = [
        _sample(
            trace,
            prompts[n] if n < len(prompts) else _prompt(trace, tokenizer, special),
            truths[n] if n < len(truths) else None,
            tokenizer,
            view,
        )
        for n, trace in enumerate(traces)
    ]
    return {
        "name": name,
        "model": model,
        "checkpoint": checkpoint,
        "sampler": {key: value for key, value in (sampler or {}).items() if value is not None},
        "tokens": _texts(_used(samples), tokenizer, special),
        "special": special,
        "samples": samples,
    }


def _sample(trace: Trace, prompt: str, truth: str | None, tokenizer: Tokenizer, view: View | None) -> Sample:
    ids = replay(trace.given, trace.steps)
    return {
        "prompt": prompt,
        "given": trace.given,
        "answer_start": trace.answer_start,
        "steps": trace.steps,
        "ids": ids,
        "calls": trace.calls,
        "text": _plain(ids[trace.answer_start :], tokenizer),
        "truth": truth if trace.truth is None else _plain(trace.truth, tokenizer),
        "drawing": view(prompt) if view is not None else None,
    }


def _prompt(trace: Trace, tokenizer: Tokenizer, special: Mapping[str, int]) -> str:
    """The tokens before the answer; a text with gaps is its own prompt, and final masks are only empty space."""
    behind = trace.given[trace.answer_start :]
    if all(token in special.values() for token in behind):
        return _plain(trace.given[: trace.answer_start], tokenizer)
    unseen = set(special.values()) - {special.get("mask"), special.get("unk")}
    kept = [token for token in trace.given if token not in unseen]
    while kept and kept[-1] == special.get("mask"):
        kept.pop()
    return tokenizer.decode(kept).strip()


def _plain(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _used(samples: Iterable[Sample]) -> list[int]:
    """Every token id that a page may show."""
    used: set[int] = set()
    for sample in samples:
        used.update(sample["given"])
        for step in sample["steps"]:
            for change in step["changes"]:
                used.update([change["token"]] if "token" in change else [])
                used.update(token for token, _ in change.get("others", []))
    return sorted(used)


def _texts(ids: Sequence[int], tokenizer: Tokenizer, special: Mapping[str, int]) -> dict[str, str]:
    """The text that each token adds to the text before it; special tokens by their roles."""
    roles = {token: role.upper() for role, token in reversed(list(special.items())) if role != "unk"}
    words = [token for token in ids if token not in roles]
    texts = {token: f"[{role}]" for token, role in roles.items() if token in set(ids)}
    if words:
        before = tokenizer.decode([words[0]])
        for token, both in zip(words, tokenizer.batch_decode([[words[0], token] for token in words]), strict=True):
            texts[token] = both[len(before) :] if both.startswith(before) else tokenizer.decode([token])
    return {str(token): texts[token] for token in sorted(texts)}


def document(title: str, runs: Sequence[Run]) -> Document:
    """A document of these runs; ConfigError if nothing was recorded in one of them."""
    for run in runs:
        if not run["samples"]:
            raise ConfigError(
                f"Nothing was recorded for '{run['name']}': its predictor does not support traces "
                "(see docs/guide/trace.md), or it predicted nothing."
            )
    return {"format": FORMAT, "title": title, "runs": list(runs)}


def write_document(path: Path, doc: Document) -> None:
    """Write the JSON in compact form, replacing the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(doc, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_document(path: str | Path) -> Document:
    """The document in a file; DataError if it is not one."""
    try:
        doc: Document = json.loads(Path(path).read_text(encoding="utf-8"))
        found = doc["format"]
    except FileNotFoundError as error:
        raise DataError(f"There is no trace at {path}. `xlm generate … trace=true` writes one.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not a trace: it is not a JSON file written by trace=true.") from error
    if found != FORMAT:
        raise DataError(as_line(f"{path} has the format '{found}', but this version of xlm reads '{FORMAT}'."))
    if not _has_types(doc, Document):
        raise DataError(f"{path} is not a trace: its runs, samples or steps lack a part, or one has another type.")
    return doc


@cache
def _parts_of(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The entries of a TypedDict: type, and whether it must be there."""
    kinds, marks = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    required = {name for name in kind.__required_keys__ if get_origin(marks[name]) is not NotRequired}
    return {name: (part, name in required) for name, part in kinds.items()}


def _has_types(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file has the annotated type: TypedDicts, lists, mappings, unions, and plain types."""
    if is_typeddict(kind):
        parts_of = _parts_of(kind)
        return isinstance(value, dict) and all(
            _has_types(value[name], part) if name in value else not required
            for name, (part, required) in parts_of.items()
        )
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_has_types(value, part) for part in parts)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(_has_types(item, parts[0]) for item in value)
    if origin is tuple:
        items = parts * len(value) if isinstance(value, list) and parts[1:] == (...,) else parts
        return isinstance(value, list) and len(value) == len(items) and all(map(_has_types, value, items))
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_has_types(item, parts[1]) for item in value.values())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True if kind is Any else isinstance(value, bool) == (kind is bool) and isinstance(value, kind)


FOLDER = Path(__file__).parent / "page_files"
SCRIPTS = ("frames.js", "graph.js", "grid.js", "card.js", "page.js")


def render_page(doc: Document) -> str:
    """The whole page; its hashes allow the scripts and styles, everything else is blocked."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        doc=doc,
        data=Markup(_embedded(doc)),
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; base-uri 'none'",
    )


def write_page(path: Path, doc: Document) -> None:
    """Write the page, replacing the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render_page(doc))


def _embedded(doc: Document) -> str:
    """JSON in which no text can close its HTML element."""
    return json.dumps(doc, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


Cells = Sequence[Sequence[str | None]]


def grid(
    cells: Cells,
    right: Cells | None = None,
    fills: Sequence[tuple[int, int]] | None = None,
    box: tuple[int, int] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """A board; the words of an answer are put into its cells in order.

    Args:
        cells: rows of given labels, None for an open cell.
        right: the solution, like `cells`; a word is right if it equals its cell. None: only given cells are checked.
        fills: (row, column) of each word of the answer; None: an answer fills every cell, row by row.
        box: rows and columns of the boxes that thicker lines enclose.
        title: the heading; None shows the prompt.

    Raises:
        DataError: rows of different lengths, no cells, or a position outside the board.
    """
    width = len(cells[0]) if cells else 0
    for name, rows in (("cells", cells), ("right", right)):
        if rows is not None and (not width or len(rows) != len(cells) or any(len(row) != width for row in rows)):
            raise DataError(f"All rows of a grid must have the same length; {name} has {[len(row) for row in rows]}.")
    if fills is not None and not all(0 <= r < len(cells) and 0 <= c < width for r, c in fills):
        raise DataError(f"The grid has {len(cells)} × {width} cells, but fills contains others: {list(fills)}.")
    if box is not None and min(box) < 1:
        raise DataError(f"The boxes of a grid are {box[0]} × {box[1]} cells, but need at least one.")
    drawing: dict[str, Any] = {"kind": "grid", "cells": [list(row) for row in cells]}
    drawing |= {} if right is None else {"right": [list(row) for row in right]}
    drawing |= {} if fills is None else {"fills": [list(place) for place in fills]}
    drawing |= {} if box is None else {"box": list(box)}
    return drawing | ({} if title is None else {"title": title})
