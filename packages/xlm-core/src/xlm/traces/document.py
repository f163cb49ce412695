"""Recorded rows of one or several runs as one JSON-able document, and as one HTML file that opens from disk."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from annotated_types import Ge, Le
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xlm.decoding.trace import Step, Trace, replay
from xlm.errors import ConfigError, DataError, as_line
from xlm.protocols import Tokenizer
from xlm.utils import palette
from xlm.utils.files import replace_text
from xlm.utils.imports import get_function
from xlm.utils.json_shapes import misfit
from xlm.utils.text_files import read_json

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
    """The document in a file.

    Raises:
        DataError: there is none, or its content is not that of a trace; the message names the first place at fault.
    """
    if not Path(path).exists():
        raise DataError(f"There is no trace at {path}. `xlm generate … trace=true` writes one.")
    try:
        doc = read_json(path)
        found = doc["format"]
    except (DataError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a trace: it is not a JSON file written by trace=true.") from error
    if found != FORMAT:
        raise DataError(f"{path} has the format {found!r}, but this version of xlm reads '{FORMAT}'.")
    if reason := misfit(doc, Document) or _damage(doc):
        raise DataError(as_line(f"{path} is not a trace: {reason}. Write it again with trace=true."))
    document: Document = doc
    return document


_Place = Annotated[float, Ge(0), Le(999)]  # of a node; a picture has a size


class _Node(TypedDict):
    id: str
    x: _Place
    y: _Place


class _Graph(TypedDict):
    nodes: list[_Node]
    edges: list[tuple[str, str]]
    good: list[tuple[str, str]]
    source: str
    goal: str


class _Grid(TypedDict):
    cells: list[list[str | None]]
    right: NotRequired[list[list[str | None]]]
    fills: NotRequired[list[tuple[int, int]]]
    box: NotRequired[tuple[int, int]]


def _damage(doc: Document) -> str | None:
    """The first sample that cannot be replayed or drawn, and why; None if all can."""
    if not doc["runs"]:
        return "it has no runs"
    for n, run in enumerate(doc["runs"]):
        if not run["samples"]:
            return f"runs[{n}] has no samples"
        for m, sample in enumerate(run["samples"]):
            if reason := _unreplayable(sample) or _undrawable(sample["drawing"]):
                return f"in runs[{n}].samples[{m}], {reason}"
    return None


def _unreplayable(sample: Sample) -> str | None:
    if not 0 <= sample["answer_start"] <= len(sample["given"]):
        return f"answer_start is {sample['answer_start']}, outside the {len(sample['given'])} given tokens"
    length = len(sample["given"])
    for step in sample["steps"]:
        for change in step["changes"]:
            inserts, deletes = change["do"] == "insert", change["do"] == "delete"
            if not 0 <= change["at"] < length + inserts:
                return f"a change is at {change['at']}, outside the row of {length} tokens"
            if not deletes and "token" not in change:
                return f"a change at {change['at']} has no token"
            length += inserts - deletes
    return None if replay(sample["given"], sample["steps"]) == sample["ids"] else "the steps don't lead to ids"


def _undrawable(drawing: Mapping[str, Any] | None) -> str | None:
    """Kinds of other programs are ignored."""
    if drawing is None or drawing.get("kind") not in ("graph", "grid"):
        return None
    if found := misfit(drawing, _Graph if drawing["kind"] == "graph" else _Grid, "drawing"):
        return found
    if drawing["kind"] == "grid":
        try:
            grid(drawing["cells"], *(drawing.get(name) for name in ("right", "fills", "box")))
        except DataError as error:
            return str(error).rstrip(".")
        return None
    names = {node["id"] for node in drawing["nodes"]}
    known = {drawing["source"], drawing["goal"]}.union(*drawing["edges"], *drawing["good"])
    return f"drawing.nodes lacks {min(known - names)!r}" if known - names else None


FOLDER = Path(__file__).parent / "page_files"
SCRIPTS = ("frames.js", "graph.js", "grid.js", "card.js", "page.js")


def render_page(doc: Document) -> str:
    """The whole page; its hashes allow the scripts and styles, everything else is blocked."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    style = palette.css() + (FOLDER / "page.css").read_text(encoding="utf-8")
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
