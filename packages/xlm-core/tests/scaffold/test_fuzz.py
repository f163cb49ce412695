"""Names, models files and variables of every kind: never a traceback, and nothing touched that should not be."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from xlm.scaffold.cli import main

NAMES = (
    st.text(max_size=30)
    | st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
    | st.sampled_from(["toy_model", "seq2_seq", "class", "os", "torch", "..", ".", "a/b", "-x", "--"])
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
ENTRIES = st.dictionaries(
    st.sampled_from(["toy_model", "other", "b", "a b", ""]) | st.text(max_size=8),
    st.sampled_from(["toy_model", "other", "../other", "/", ".", ""]) | st.text(max_size=8),
    max_size=4,
)
CONTENTS = (
    st.none()
    | st.binary(max_size=40)
    | JSON.map(lambda value: json.dumps(value).encode())
    | ENTRIES.map(lambda value: json.dumps(value).encode())
)
VARIABLES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [".", "..", "/", "nowhere:.", "json:torch", "toy_model", "a:b", "~nobody", "xlm.scaffold.template.template_model"]
)
FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@contextlib.contextmanager
def folder_with(content: bytes | None, environ: dict[str, str]) -> Iterator[Path]:
    """A current directory with an xlm_models.json, a file and a neighbour's folder in it."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as base:
        work = Path(base) / "work"
        (work / "other").mkdir(parents=True)
        (work / "other" / "precious.txt").write_text("precious")
        (work / "notes.txt").write_text("precious")
        if content is not None:
            (work / "xlm_models.json").write_bytes(content)
        os.chdir(work)
        try:
            with mock.patch.dict(os.environ, environ):
                yield work
        finally:
            os.chdir(before)


def scaffold(*arguments: str) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as stop:  # argparse, for --help and its abbreviations
            code = int(stop.code or 0)
    return code, err.getvalue()


def check(work: Path, name: str, before: dict[str, Any], after: dict[str, Any], done: tuple[int, str]) -> None:
    """One sentence and nothing changed; or one new folder and one new entry."""
    code, said = done
    if code:
        assert after == before
        assert said.startswith("Error: ")
        assert "Traceback" not in said
        return
    new = {path for path in after if path not in before}
    assert all(path == name or path.startswith(f"{name}/") or path == "xlm_models.json" for path in new)
    assert {path: after[path] for path in before if path != "xlm_models.json"} == {
        path: content for path, content in before.items() if path != "xlm_models.json"
    }
    pairs = json.loads(before.get("xlm_models.json") or b"{}", object_pairs_hook=list)
    listed = json.loads((work / "xlm_models.json").read_bytes(), object_pairs_hook=list)
    assert listed == [*pairs, (name, name)]


@pytest.fixture
def fuzz(tree: Any) -> Any:
    def run(name: str, content: bytes | None, environ: dict[str, str]) -> None:
        with folder_with(content, environ) as work:
            before = tree(work)
            done = scaffold("--", name)
            check(work, name, before, tree(work), done)
            beside = os.listdir(work.parent)
            assert beside == ["work"], "nothing is written outside"

    return run


@FUZZ
@given(NAMES | st.just("toy_model"), CONTENTS, VARIABLES | st.just("."), VARIABLES | st.just(""))
@example("toy_model", b'{"other": "other"}', ".", "")
@example("toy_model", b"\xef\xbb\xbf{}", ".", "")
@example("toy_model", b"[" * 100_000, ".", "")
@example("toy_model", b'{"a": 1e999}', ".", "")
def test_names_models_files_and_variables(
    fuzz: Any, name: str, content: bytes | None, path: str, packages: str
) -> None:
    fuzz(name, content, {"XLM_MODELS_PATH": path, "XLM_MODELS_PACKAGES": packages})


@FUZZ
@given(st.lists(st.text(max_size=12) | st.sampled_from(["--dry-run", "--layout", "--template", "--output-dir"])))
def test_options(tree: Any, arguments: list[str]) -> None:
    with folder_with(None, {}) as work:
        before = tree(work)
        code, said = scaffold("toy_model", "--dry-run", *arguments)
        assert tree(work) == before
        assert code == 0 or said.startswith("Error: ")
