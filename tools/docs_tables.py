"""Tables of the page about the architecture, made from the files: modules by first lines, decisions by titles.

A hook of mkdocs; `python tools/docs_tables.py` prints both.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "xlm-core" / "src" / "xlm"
DECISIONS = ROOT / "docs" / "developers" / "decisions"
# Copied by xlm-scaffold, not imported.
_TEMPLATE = CORE / "scaffold" / "template"


def modules_table(root: Path = CORE) -> str:
    """Every module below a package by folder, with the first line of its docstring."""
    lines = ["| file | what it is |", "|---|---|"]
    folders = sorted({path.parent for path in root.rglob("*.py") if not path.is_relative_to(_TEMPLATE)})
    for folder in folders:
        if folder != root:
            lines.append(f"| **`{folder.relative_to(root).as_posix()}/`** | {_cell(folder / '__init__.py')} |")
        files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
        lines += [f"| `{path.name}` | {_cell(path)} |" for path in files]
    return "\n".join(lines)


def decisions_table(folder: Path = DECISIONS) -> str:
    """Every note of a decision, with its title."""
    lines = ["| note | choice |", "|---|---|"]
    for path in sorted(folder.glob("*.md")):
        number, _, title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(" ")
        lines.append(f"| [{number}](decisions/{path.name}) | {title} |")
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page asks for them."""
    for marker, table in (("<!-- modules -->", modules_table), ("<!-- decisions -->", decisions_table)):
        if marker in markdown:  # the tables take a second
            markdown = markdown.replace(marker, table())
    return markdown


def _cell(path: Path) -> str:
    """The first line of a module's docstring for a cell of a table; nothing where there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return (docstring or "").partition("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    print(modules_table(), decisions_table(), sep="\n\n")
