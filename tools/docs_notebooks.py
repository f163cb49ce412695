"""Notebooks of the documentation: runs them, and makes a page of each. A hook of mkdocs.

    python tools/docs_notebooks.py                 run all of them, and store their outputs
    python tools/docs_notebooks.py NOTEBOOK …      these

The page of `docs/notebooks/x.ipynb` is `x.md` beside it, which has `<!-- notebook: x.ipynb -->` where the cells belong.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
TIMEOUT_S = 600
# In the Markdown of a page, where an output belongs: Markdown would read parts of its HTML.
_PLACE = "<!-- output {} -->"
_NOTEBOOK = re.compile(r"<!-- notebook: ([\w-]+\.ipynb) -->")


def notebooks(folder: Path = FOLDER) -> list[Path]:
    """All notebooks of the documentation."""
    return sorted(folder.glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """A notebook after its cells were run in a folder; nbclient.exceptions.CellExecutionError if one fails."""
    import nbclient
    import nbformat

    book = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        record_timing=False, coalesce_streams=True,
    )  # fmt: skip
    client.execute()
    return book


def store(path: Path) -> None:
    """Run a notebook in an empty folder, and write it with its outputs."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        book = executed(path, Path(folder))
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(book, path)


def as_markdown(book: dict[str, Any]) -> tuple[str, list[str]]:
    """A notebook as Markdown, and the HTML of its outputs, which belong where `<!-- output N -->` stands."""
    parts: list[str] = []
    outputs: list[str] = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        if shown := "\n".join(map(_html, cell["outputs"])):
            parts.append(_PLACE.format(len(outputs)))
            outputs.append(f'<div class="notebook-output">\n{shown}\n</div>')
    return "\n\n".join(parts) + "\n", outputs


def _html(output: dict[str, Any]) -> str:
    """An output as HTML: its own, else its text."""
    data = output.get("data", {})
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(data.get("text/plain", output.get("text", [])))
    return f"<pre style='overflow-x:auto'>{text.replace('&', '&amp;').replace('<', '&lt;')}</pre>"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the cells of notebooks where a page asks for them, without the title, which the page has itself."""
    return _NOTEBOOK.sub(lambda match: _read(match[1])[0].partition("\n")[2].strip(), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Put the outputs of a notebook into its page."""
    path = FOLDER / f"{Path(page.file.src_uri).stem}.ipynb"
    if not page.file.src_uri.startswith("notebooks/") or not path.is_file():
        return html
    outputs = _read(path.name)[1]
    return re.sub(r"<!-- output (\d+) -->", lambda match: outputs[int(match[1])], html)


def _read(name: str) -> tuple[str, list[str]]:
    return as_markdown(json.loads((FOLDER / name).read_text(encoding="utf-8")))


def main(arguments: list[str]) -> int:
    """Run notebooks and store their outputs."""
    for path in [Path(name) for name in arguments] or notebooks():
        store(path)
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
