"""The notebooks of the documentation run, and their pages show what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from docs_notebooks import as_markdown, executed, notebooks

BOOKS = notebooks()


def cells(book: Any) -> list[Any]:
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def kinds_of_outputs(cell: Any) -> list[list[str]]:
    return [sorted(output.get("data", [output["output_type"]])) for output in cell["outputs"]]


@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    book = json.loads(path.read_text())
    assert [cell["execution_count"] for cell in cells(book)] == list(range(1, len(cells(book)) + 1))
    outputs_of = [output for cell in cells(book) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs_of} <= {"execute_result", "display_data", "stream"}
    assert {output.get("name", "stdout") for output in outputs_of} == {"stdout"}, "no warnings"
    assert path.stat().st_size < 300_000
    text, outputs = as_markdown(book)
    assert text.startswith("# ")
    assert [text.count(f"<!-- output {n} -->") for n in range(len(outputs))] == [1] * len(outputs)
    assert text.count("```python\n") == len(cells(book)) >= len(outputs) > 0


@pytest.mark.slow  # a kernel imports everything and trains two models
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = executed(path, tmp_path)
    stored = json.loads(path.read_text())
    assert list(map(kinds_of_outputs, cells(book))) == list(map(kinds_of_outputs, cells(stored)))
    shown = [o.get("data", {}).get("text/html", "") for cell in cells(book) for o in cell["outputs"]]
    bars = [html for html in shown if "<progress" in html]
    assert len(bars) == 2
    assert all('value="200" max="200"' in html for html in bars), "the bar has replaced itself"
    assert [html.count("<iframe srcdoc=") for html in shown].count(1) == 1
    assert (tmp_path / "trace.html").is_file()
