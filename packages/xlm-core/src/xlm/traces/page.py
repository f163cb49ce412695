"""A trace as one HTML file that opens from disk: no network, no inline handlers, and a policy that forbids both."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xlm.traces.document import Document
from xlm.utils.files import replace_text

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("frames.js", "graph.js", "grid.js", "card.js", "page.js")


def render_page(doc: Document) -> str:
    """The whole page; scripts and styles are admitted by their hashes, everything else is refused."""
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
    """Write the page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, render_page(doc))


def _embedded(doc: Document) -> str:
    """JSON that no text inside can break out of its element."""
    return json.dumps(doc, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
