"""Every source file says its one idea in its first line, and is no longer than one idea needs."""

import ast
from pathlib import Path

from workspace import ROOT

MAX_LINES = 700
FILES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("tests/**/*.py")])


def problems(path: Path) -> list[str]:
    """What is wrong with a file."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    found = []
    if not docstring.partition("\n")[0].strip():
        found.append(f"{name}: there is no docstring, or its first line is empty")
    if not text.startswith(('"""', 'r"""')):
        found.append(f"{name}: something stands above the docstring")
    if (lines := len(text.splitlines())) > MAX_LINES:
        found.append(f"{name} has {lines} lines: are these two ideas?")
    return found


def test_files() -> None:
    assert len(FILES) > 300
    assert [problem for path in FILES for problem in problems(path)] == []
