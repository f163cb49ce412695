"""Prompts from a list, a file of lines or of JSON lines, and standard input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from xlm.errors import ConfigError, DataError
from xlm.inference.writer import Prompt, read_prompts


def test_of_the_command_line() -> None:
    assert read_prompts(None, None) is None
    assert read_prompts(["a", 3], None) == [Prompt("a"), Prompt("3")]
    assert read_prompts("a b", None) == [Prompt("a b")]
    assert read_prompts([""], None) == [Prompt("")]


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("p.txt", "a b\n\n  \nc\n", [Prompt("a b"), Prompt("c")]),
        ("p.txt", '{"prompt": "a"}\n', [Prompt('{"prompt": "a"}')]),
        ("p.jsonl", '{"prompt": "a\\nb", "id": 7}\n{"prompt": ""}', [Prompt("a\nb", {"id": 7}), Prompt("")]),
        ("p.jsonl", '"c"\n', [Prompt("c")]),
    ],
)  # fmt: skip
def test_of_a_file(tmp_path: Path, name: str, text: str, prompts: list[Prompt]) -> None:
    (tmp_path / name).write_text(text)
    assert read_prompts(None, tmp_path / name) == prompts


@pytest.mark.parametrize("arguments", [("-", None), (None, "-")])
def test_of_standard_input(monkeypatch: pytest.MonkeyPatch, arguments: tuple[Any, Any]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert read_prompts(*arguments) == [Prompt("a"), Prompt("b")]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "a", "id": 1}\n'))
    assert read_prompts(*arguments) == [Prompt("a", {"id": 1})]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(DataError, match="There is no prompt in standard input"):
        read_prompts(*arguments)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "There is no prompt in .*p.txt. Write one prompt per line"),
        ("p.jsonl", b'"a"\nb\n', "p.jsonl, line 2 is not JSON"),
        ("p.jsonl", b'{"text": "a"}\n', 'p.jsonl, line 1 has no text under "prompt"'),
        ("p.jsonl", b"3\n", 'line 1 has no text under "prompt"'),
    ],
)
def test_files_without_prompts(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompts(None, tmp_path / name)


def test_none_where_some_were_promised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file of prompts at"):
        read_prompts(None, tmp_path / "none")
    with pytest.raises(ConfigError, match="are both given"):
        read_prompts(["a"], "p.txt")
    with pytest.raises(ConfigError, match="is an empty list"):
        read_prompts([], None)
