"""`xlm models` prints models or clear messages, never a traceback, for any xlm_models.json and variables."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xlm.cli.main import main
from xlm.errors import XLMError
from xlm.external_models import ModelPackage, discover, find_models

SOUND = json.dumps({"toy": "toy", "other": "toy/../toy", "lost": "./lost"}).encode()
names = (
    st.sampled_from(["toy", "lost", "link", "ring", "xlm", "os", ".", "..", "~", "", "a b", "toy\n", "\x1b[31m"])
    | st.text()
    | st.just("a" * 300)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=4,
)
# Python's json reads lone surrogates from escapes, and terminals cannot print them.
escapes = st.sampled_from([b'{"toy": "\\udcff"}', b'{"\\udcff": "toy"}', b'{"toy": "\\ud800"}', b'{"toy": "a\\u0000"}'])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with a part missing, repeated or replaced."""
    start, end = sorted((draw(st.integers(0, len(SOUND))), draw(st.integers(0, len(SOUND)))))
    middle = draw(st.just(b"") | st.just(SOUND[start:end] * 2) | st.binary(max_size=3))
    return SOUND[:start] + middle + SOUND[end:]


contents = (
    st.dictionaries(names, names | values, max_size=4).map(lambda made: json.dumps(made).encode())
    | values.map(lambda made: json.dumps(made).encode())
    | damaged()
    | escapes
    | st.binary(max_size=40)
    | st.none()  # a folder of that name
)
# A variable can have any bytes except zero.
variables = st.binary(max_size=20).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))) | st.lists(
    names.map(lambda name: name.replace("\0", "").encode("utf-8", "replace").decode()), max_size=4
).map(":".join)


@contextlib.contextmanager
def folder_with(here: bytes | None, below: bytes | None, path: str, packages: str) -> Iterator[Path]:
    """The current directory, with two such files, one valid model, a link to it, and a link to itself."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name)
        (folder / "toy" / "configs").mkdir(parents=True)
        (folder / "toy" / "__init__.py").touch()
        (folder / "link").symlink_to("toy")
        (folder / "ring").symlink_to("ring")
        (folder / "xlm-models").mkdir()
        for content, file in ((here, folder / "xlm_models.json"), (below, folder / "xlm-models" / "xlm_models.json")):
            if content is None:
                file.mkdir()
            else:
                file.write_bytes(content)
        with mock.patch.dict(os.environ, {"XLM_MODELS_PATH": path, "XLM_MODELS_PACKAGES": packages}):
            yield folder


def tree(folder: Path) -> dict[str, bytes]:
    """All paths in it, with the contents of files."""
    return {str(p): p.read_bytes() if p.is_file() and not p.is_symlink() else b"" for p in folder.rglob("*")}


def run_models() -> tuple[int, str, str]:
    """Exit code and output of `xlm models`, written to streams like those of a process."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=e) for e in ("strict", "backslashreplace")]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main(["models"])
    for stream in streams:
        stream.seek(0)
    return code, streams[0].read(), streams[1].read()


@settings(max_examples=100, deadline=None)
@given(here=contents, below=contents, path=variables, packages=variables)
@example(here=b"[" * 100_000, below=b"1" * 5000, path="", packages="")
@example(here=b'\xef\xbb\xbf{"toy": "toy"}', below=b"{}", path="ring:toy", packages="os:os.path:xlm:toy")
@example(here=b'{"toy": "toy", "toy": "xlm-models"}', below=b'{"toy": "../toy"}', path="~nobody", packages=".:..")
def test_xlm_models_lists_and_explains(here: bytes | None, below: bytes | None, path: str, packages: str) -> None:
    with folder_with(here, below, path, packages) as folder:
        before = tree(folder)
        code, out, err = run_models()
        assert tree(folder) == before, "a list changes nothing"
    assert code in (0, 1)
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert "Traceback" not in err
    lines = err.splitlines()
    errors = ("Error: ", "ExternalModelConflictError: ")
    assert all(line.startswith((*errors, "Warning: ", "  ", "Each model needs")) for line in lines), lines
    assert (code == 1) == any(line.startswith(errors) for line in lines)


@settings(max_examples=100, deadline=None)
@given(here=contents, below=contents, path=variables, packages=variables)
def test_find_models_finds_or_says_why_not(here: bytes | None, below: bytes | None, path: str, packages: str) -> None:
    with folder_with(here, below, path, packages) as folder:
        found = discover(os.environ, folder)
        assert not set(found.models) & set(found.unusable)
        assert all(isinstance(error, XLMError) and str(error) for error in found.errors)
        try:
            found.raise_errors()
        except XLMError as error:
            assert found.errors
            first = str(error).splitlines()[0]
            assert first.isprintable()
            assert len(first) > 20
            return
        assert not found.errors
        assert all(isinstance(model, ModelPackage) and model.config_dir.is_dir() for model in found.models.values())


@pytest.mark.parametrize(("content", "num_models"), [(SOUND, 2), (b'{"toy": "link"}', 1), (b"{}", 0)])
def test_sound_files_are_among_them(content: bytes, num_models: int) -> None:
    with folder_with(content, b"{}", "", "") as folder:
        found = [model for model in find_models(os.environ, folder).values() if model.root.parent == folder.resolve()]
    assert len(found) == num_models
