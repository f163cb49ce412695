"""Every reader of users' text with every kind of file: read as written, or refused with file and line."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from xlm.commands.generate import _prompts
from xlm.data.locator import locate
from xlm.errors import DataError
from xlm.inference.prompts import read_prompts
from xlm.inference.texts import read_texts
from xlm.utils.text_files import read_json, read_lines, read_table

LONG = "x" * 2**20
# Two lines as they are meant, and the bytes of each file of lines; a text is what a reader gives for it.
WHOLE = {
    "plain": (["one", "two"], b"one\ntwo\n"),
    "mark": (["one", "two"], codecs.BOM_UTF8 + b"one\ntwo\n"),
    "crlf": (["one", "two"], b"one\r\ntwo\r\n"),
    "u0085": (["o\u0085ne", "two"], "o\u0085ne\ntwo\n".encode()),
    "u2028": (["o\u2028ne", "two"], "o\u2028ne\ntwo".encode()),
    "form feed": (["o\x0c\x0b\x1cne", "two"], b"o\x0c\x0b\x1cne\ntwo"),
    "1 MB": ([LONG, "two"], f"{LONG}\ntwo\n".encode()),
    "utf-16": (["oné", "two"], "oné\r\ntwo\r\n".encode("utf-16")),
}
REFUSED = {
    "latin-1": (
        "one\ncafé\n".encode("latin-1"),
        r"line {} is not UTF-8: byte \d+ of the line is 0xe9.*iconv -f latin1",
    ),
    "nul": (b"one\ntw\0o\n", r"line {} contains a NUL byte"),
    "half a pair": (b"one\nt\xed\xa0\x80\n", r"line {} is not UTF-8: byte \d+ of the line is 0xed"),
    "utf-16 without mark": ("one\ntwo\n".encode("utf-16-le"), r"line 1 contains a NUL byte.*iconv -f utf-16le"),
    "carriage returns": (b"one\rtwo\rthree", "lone carriage returns and no line feed.*tr "),
}


def rows(path: Path) -> list[str]:
    return [row["text"] for row in locate(str(path)).rows(None)]


def prompts(path: Path) -> list[str]:
    return [prompt.text for prompt in read_prompts(None, path) or []]


def texts(path: Path) -> list[str]:
    return [text.text for text in read_texts(str(path))[0]]


def of_stdin(read: Callable[[], list[str]]) -> Callable[[Path], list[str]]:
    """A reader of standard input under a terminal that says Latin-1."""

    def reader(path: Path) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="latin-1"))
            return read()

    return reader


def piped() -> list[str]:
    return [prompt.text for prompt in read_prompts("-", None) or []]


def conversed() -> list[str]:
    return list(_prompts(None, at_terminal=False))  # type: ignore[arg-type]


READERS: dict[str, tuple[str, Callable[[Path], list[str]]]] = {
    "data.txt": ("", rows),
    "data.jsonl": ("text", rows),
    "data.csv": ("text", rows),
    "data.tsv": ("text", rows),
    "prompts.txt": ("", prompts),
    "prompts.jsonl": ("prompt", prompts),
    "stdin.txt": ("", of_stdin(piped)),
    "stdin.jsonl": ("prompt", of_stdin(piped)),
    "conversation.txt": ("", of_stdin(conversed)),
    "texts.txt": ("", texts),
    "texts.jsonl": ("text", texts),
}


def written(tmp_path: Path, name: str, content: bytes) -> tuple[Path, Callable[[Path], list[str]]]:
    """A file of this content for a reader, its lines wrapped as the kind of file wants them; and the reader."""
    key, reader = READERS[name]
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
    mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
    body = content.decode(encoding).encode() if encoding else content.removeprefix(mark)
    end = b"\r\n" if b"\r\n" in body else b"\n"
    if name.endswith("sv"):
        body = key.encode() + end + body
    elif name.endswith(".jsonl"):
        lines = [line for line in body.split(end) if line]
        # JSON spells out the control characters that text may hold as they are.
        lines = [
            line.replace(b"\x0c", rb"\f").replace(b"\x0b", rb"\u000b").replace(b"\x1c", rb"\u001c") for line in lines
        ]
        body = b"".join(b'{"%s": "%s"}' % (key.encode(), line) + end for line in lines)
    path = tmp_path / name
    path.write_bytes(body.decode().encode(encoding) if encoding else mark + body)
    return path, reader


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("name", READERS)
def test_texts_come_as_they_were_written(tmp_path: Path, name: str, kind: str) -> None:
    expected, content = WHOLE[kind]
    path, read = written(tmp_path, name, content)
    assert read(path) == expected


# How whole lines are ended or coded is the same for all readers: told of files of lines alone.
OF_LINES = ("utf-16 without mark", "carriage returns")


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in READERS for kind in REFUSED if name.endswith(".txt") or kind not in OF_LINES],
)
def test_what_is_no_text_is_named_by_file_and_line(tmp_path: Path, name: str, kind: str) -> None:
    content, message = REFUSED[kind]
    path, read = written(tmp_path, name, content)
    with pytest.raises(DataError, match=message.format(3 if name.endswith("sv") else 2)) as caught:
        read(path)
    shown = {"stdin": "standard input", "conversation": "the input"}.get(path.stem, str(path))
    assert str(caught.value).startswith(shown)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".jsonl")])
def test_half_a_pair_and_broken_lines_of_json(tmp_path: Path, name: str) -> None:
    for line, message in (
        (rb"a\ud800", "line 2, column '.*' contains half of a surrogate pair"),
        (b'"', "line 2 is not JSON"),
    ):
        path, read = written(tmp_path, name, b"one\n" + line)
        with pytest.raises(DataError, match=message):
            read(path)


@pytest.mark.parametrize("name", READERS)
def test_an_empty_file_has_no_texts(tmp_path: Path, name: str) -> None:
    path, read = tmp_path / name, READERS[name][1]
    path.write_bytes(b"")
    try:
        assert read(path) == []
    except DataError as error:
        assert str(path) in str(error) or "standard input" in str(error)  # noqa: PT017 - some want a text


def test_cells_are_the_text_that_stands_there(tmp_path: Path) -> None:
    cells = ["007", "2024-01-05", "1.10", "12345678901234567890", "NA", "", "true", "1e3", " x ", LONG * 2, 'a "b", c']
    path = tmp_path / "a.csv"
    path.write_text(
        "n,text\n" + "".join(f'{n},"{cell.replace(chr(34), chr(34) * 2)}"\n' for n, cell in enumerate(cells))
    )
    assert rows(path) == cells
    path.write_text('n,text\n\n1,"a\nb"\n2,\n')
    assert [(row.value["text"], row.where[-6:]) for row in read_table(path)] == [("a\nb", "line 3"), ("", "line 5")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n3\n", "line 3 has 1 cells, but the first line names 2 columns"),
        ('a,b\n1,"2\n3,4\n', "line 2 is not a row of a table: unexpected end of data"),
        ("a,b\n1,2\r3\n", "line 2 is not a row of a table: it has a carriage return"),
        ("a,a\n1,2\n", "line 1 names the column 'a' more than once"),
        ("", "is empty. Its first line must contain the names of the columns"),
    ],
)
def test_broken_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    with pytest.raises(DataError, match=message):
        list(read_table(tmp_path / "a.csv"))


def test_whole_json_files_and_those_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{\r\n"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_text('{\n"a": }')
    with pytest.raises(DataError, match=r"a.json is not JSON: Expecting value \(line 2, character 6\)"):
        read_json(path)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_json(tmp_path)
    path.write_bytes(codecs.BOM_UTF16_LE + b"\x00")
    with pytest.raises(DataError, match="begins like UTF-16, but is invalid from byte"):
        read_json(path)


@pytest.mark.parametrize("block", [1, 5, 9, 2**20])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n", b"\n\n", b"caf\xe9\nmore\n", b"a\0\n"])
def test_a_file_in_blocks_gives_the_lines_of_a_stream(
    tmp_path: Path, block: int, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(source: Path | io.BytesIO) -> tuple[list[tuple[object, ...]], str]:
        found: list[tuple[object, ...]] = []
        try:
            found.extend(read_lines(source, "it"))
        except DataError as error:
            return found, str(error)
        return found, ""

    monkeypatch.setattr("xlm.utils.text_files._BLOCK", block)
    raw = "one\r\ntwö\n\n\u2028 \r three\nfour\n".encode() + end
    (tmp_path / "it").write_bytes(raw)
    assert lines(tmp_path / "it") == lines(io.BytesIO(raw))
