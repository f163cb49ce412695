"""Every source file says its job in its first line and can be read in one sitting."""

import ast
from pathlib import Path

import pytest

from workspace import ROOT

MAX_LINES = 400
FILES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("tests/**/*.py")])


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_first_line_is_a_docstring(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{name(path)} has no docstring"
    assert text.startswith(('"""', 'r"""')), f"{name(path)}: something stands above the docstring"
    assert docstring.splitlines()[0].strip(), f"{name(path)}: the first line is empty"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{name(path)} has {lines} lines: it has two jobs"
