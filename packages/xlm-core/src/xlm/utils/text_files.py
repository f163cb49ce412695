"""Text files exactly as written: the only reader for text, JSON lines and tables from users.

UTF-8 with or without a byte order mark, or UTF-16 with one. Lines end only at `\\n` or `\\r\\n`: a lone `\\r`, U+0085,
U+2028 and the like are part of a text. Cells of a table are text. An error names file and line, and how to convert
the file.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from shlex import quote
from typing import IO, Any, NamedTuple

from xlm.errors import DataError, as_line

# Longest first: the mark of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BLOCK = 2**20
_LONGEST_CELL = 2**31 - 1
# Endings of compressed files, which are unpacked while they are read.
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 80  # characters of a name in a message


class Line(NamedTuple):
    """One line, without its line ending; `where` describes its place: `file.txt, line 3`."""

    number: int
    text: str
    where: str


class Row(NamedTuple):
    """One value of JSON lines, or one row of a table, and its place."""

    value: Any
    where: str


def read_lines(source: Path | str | IO[bytes], name: str | None = None, encoding: str | None = None) -> Iterator[Line]:
    """The lines of a file, or of an open binary stream (with a `name`), read one by one.

    Args:
        encoding: None: UTF-8, or UTF-16 with its mark.

    Raises:
        DataError: the file cannot be opened, does not have the encoding, or contains a NUL byte.
    """
    if not isinstance(source, str | Path):
        yield from _lines(source, name or "the input", encoding=encoding)
        return
    shown = name or str(source)
    try:
        file = _opened(Path(source))
    except OSError as error:
        raise DataError(f"{as_line(shown)} cannot be read: {error.strerror or error}.") from error
    with file:
        lines = _lines(file, shown, _BLOCK if file.seekable() else 0, encoding)
        if Path(source).suffix in COMPRESSED:
            lines = _unpacked(lines, shown)
        yield from lines


def can_be_split(path: Path) -> bool:
    """Whether `lines_between` can read a file of lines: it is neither compressed nor UTF-16."""
    if path.suffix in COMPRESSED:
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return not any(start.startswith(mark) for mark, _ in _MARKS)


def lines_between(path: Path, start: int, end: int) -> Iterator[str]:
    """The lines, without line ends, that begin at a byte from `start` to before `end`, of a file that can be split.

    Consecutive ranges have each line once. Lines are those of `read_lines`; an error names file and line as there.

    Raises:
        DataError: a line is not UTF-8, or contains a NUL byte.
    """
    with path.open("rb") as file:
        if start:
            file.seek(start - 1)
            file.readline()  # the rest of a line that begins earlier
        place = file.tell()
        while place < end and (raw := file.readline()):
            place += len(raw)
            if place == len(raw):
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                text = _decoded(raw, f"{path}, line {line_number(path, place - len(raw))}", str(path))
            yield _without_end(text)


def line_number(path: Path, place: int) -> int:
    """The number, from 1, of the line that begins at byte `place`. Reads the file up to there."""
    number = 1
    with path.open("rb") as file:
        while place > 0 and (block := file.read(min(_BLOCK, place))):
            number += block.count(b"\n")
            place -= len(block)
    return number


class AmountRead:
    """How much this process has read, for displays of progress: bytes of files, and rows of data sets without any."""

    num_bytes = 0.0
    num_rows = 0
    #: The number of rows of the data set that is read; None for files.
    of_rows: int | None = None


class _CountedFile(io.FileIO):
    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        AmountRead.num_bytes += count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        AmountRead.num_bytes += len(block)
        return block

    def readall(self) -> bytes:
        return self.read()


class _UnpackedFile(io.BufferedReader):
    """A stream that unpacks a file, which it closes too."""

    def __init__(self, stream: Any, file: io.FileIO) -> None:
        super().__init__(stream)
        self._file = file

    def close(self) -> None:
        super().close()
        self._file.close()


def _opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends in one of COMPRESSED."""
    file = _CountedFile(path)
    if path.suffix == ".gz":
        return _UnpackedFile(gzip.GzipFile(fileobj=file), file)
    if path.suffix == ".bz2":
        return _UnpackedFile(bz2.BZ2File(file), file)
    if path.suffix == ".xz":
        return _UnpackedFile(lzma.LZMAFile(file), file)
    if path.suffix == ".zst":
        import pyarrow as pa  # only now: it takes a while, and other kinds do without

        return _UnpackedFile(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"), file)
    return io.BufferedReader(file)


def _unpacked(lines: Iterator[Line], name: str) -> Iterator[Line]:
    """The lines; an error of unpacking becomes a DataError."""
    try:
        yield from lines
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise DataError(f"{as_line(name)} cannot be unpacked: {reason}") from error


def read_text(path: Path | str, encoding: str | None = None) -> str:
    """A whole file, with lines ended by `\\n`; `DataError` as in `read_lines`."""
    return "\n".join(line.text for line in read_lines(path, encoding=encoding))


def read_json_lines(
    source: Path | str | IO[bytes], name: str | None = None, encoding: str | None = None
) -> Iterator[Row]:
    """The JSON value of each line that isn't blank.

    Raises:
        DataError: as in `read_lines` and `json_value`.
    """
    for line in read_lines(source, name, encoding):
        if line.text.strip():
            yield Row(json_value(line.text, line.where), line.where)


def json_value(text: str, where: str, expected: str = "") -> Any:
    """The value of the JSON `text`.

    Args:
        where: the place of the text for messages: `file.jsonl, line 3`.
        expected: a description of the expected format, added to the message if the text is not JSON.

    Raises:
        DataError: it is not JSON, or contains half of a surrogate pair (`"\\ud800"`), which is not text.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            line = f"line {error.lineno}, " if error.lineno > 1 else ""
            reason = f"{error.msg.removesuffix(' starting at')} ({line}character {error.colno})"
        raise DataError(f"{where} is not JSON: {reason}." + (f" {expected}" if expected else "")) from error
    # Only an escape can contain half a pair: UTF-8 cannot.
    if ("\\ud" in text or "\\uD" in text) and (place := _half_pair(value)) is not None:
        raise DataError(
            f"{where}{place} contains half of a surrogate pair (\\ud800 to \\udfff), which is not a character. "
            "Remove it, or write both halves."
        )
    return value


def read_json(path: Path | str, encoding: str | None = None) -> Any:
    """The single value of a JSON file; `DataError` as in `json_value`."""
    return json_value(read_text(path, encoding), str(path))


def read_table(path: Path | str, delimiter: str = ",", encoding: str | None = None) -> Iterator[Row]:
    """The rows of a CSV or TSV file as `{column: text}`; a cell is its exact text, `""` if missing.

    Raises:
        DataError: as in `read_lines`; no or repeated column names, a row of another width, an unclosed quote.
    """
    csv.field_size_limit(_LONGEST_CELL)
    number = 0

    def numbered() -> Iterator[str]:
        nonlocal number
        for line in read_lines(path, encoding=encoding):
            number = line.number
            yield line.text + "\n"

    rows = csv.reader(numbered(), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    start = 1
    while True:
        start = number + 1
        try:
            cells = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(f"{path}, line {start} is not a row of a table: {_table_reason(error)}.") from error
        if not cells:
            continue
        where = f"{path}, line {start}"
        if columns is None:
            columns = _column_names(cells, where)
        elif len(cells) != len(columns):
            raise DataError(
                f"{where} has {len(cells)} cells, but the first line names {len(columns)} columns "
                f"({', '.join(columns)[:_SHOWN]}). A cell with {delimiter!r} or a line break in it needs quotes."
            )
        else:
            yield Row(dict(zip(columns, cells, strict=True)), where)
    if columns is None:
        raise DataError(f"{path} is empty. Its first line must contain the names of the columns.")


def readable_rows(file: Iterable[str]) -> Iterator[list[str]]:
    """The rows of a CSV file that a killed process may have left incomplete; those that cannot be read are skipped."""
    rows = csv.reader(file)
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:  # an unclosed field: later rows may still be complete
            continue


def _table_reason(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "it has a carriage return in a cell without quotes"
    return f'{error}. A cell that begins with a quote ends with one, and quotes in it are doubled: "a ""b"" c"'


def _column_names(cells: list[str], where: str) -> list[str]:
    if repeated := sorted({name for name in cells if cells.count(name) > 1}):
        raise DataError(f"{where} names the column {repeated[0]!r} more than once.")
    return cells


def _lines(file: IO[bytes], name: str, block: int = 0, encoding: str | None = None) -> Iterator[Line]:
    """The lines; a file is read in blocks of about `block` bytes, a stream line by line."""
    name = as_line(name)
    first = file.readline()
    wide = [wide for mark, wide in _MARKS if encoding is None and first.startswith(mark)]
    if encoding is not None and encoding.startswith(("utf-16", "utf-32")):
        wide = [encoding]
    if wide:
        # Whole lines: the bytes of a line end may be part of other characters.
        yield from _decoded_lines(first + file.read(), wide[0], name)
        return
    raw, number = first, 0
    if encoding in (None, "utf-8"):
        raw = first.removeprefix(codecs.BOM_UTF8)
    while raw:
        number += 1
        where = f"{name}, line {number}"
        text = _without_end(_decoded(raw, where, name, encoding))
        if number == 1 and "\r" in text and not raw.endswith(b"\n"):
            _refuse_old_line_ends(text, name)
        yield Line(number, text, where)
        if block:
            texts = _plain_block(file, block, encoding)
            if texts is None:
                texts, block = [], 0  # one by one up to the line that is not text
            for text in texts:
                number += 1
                yield Line(number, text, f"{name}, line {number}")
        raw = file.readline()


def _plain_block(file: IO[bytes], size: int, encoding: str | None) -> list[str] | None:
    """The next lines, about `size` bytes; None, and nothing is consumed, if one of them is not text."""
    place = file.tell()
    raw = b"".join(file.readlines(size))
    try:
        text = raw.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        file.seek(place)
        return None
    lines = text.split("\n")
    if "\r\n" in text:
        # Text after the last line end is kept as it is.
        lines = [*(line.removesuffix("\r") for line in lines[:-1]), lines[-1]]
    return lines if lines[-1] else lines[:-1]


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _decoded(raw: bytes, where: str, name: str, encoding: str | None = None) -> str:
    if b"\0" in raw:
        raise DataError(
            f"{where} contains a NUL byte (byte {raw.index(0) + 1} of the line), so it is not text. "
            f"If it is UTF-16, convert it: {_iconv('utf-16le', name)}"
        )
    try:
        return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise DataError(
                f"{where} is not {encoding}: byte {error.start + 1} of the line is 0x{raw[error.start]:02x}. "
                "Set another encoding, or none for UTF-8."
            ) from error
        raise DataError(
            f"{where} is not UTF-8: byte {error.start + 1} of the line is 0x{raw[error.start]:02x}. "
            f"If it is Latin-1, convert it: {_iconv('latin1', name)}"
        ) from error


def _iconv(encoding: str, name: str) -> str:
    return f"iconv -f {encoding} -t utf-8" + (f" {quote(name)} > new" if Path(name).is_file() else "")


def _decoded_lines(raw: bytes, encoding: str, name: str) -> Iterator[Line]:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} begins like {encoding.upper()}, but is invalid from byte {error.start + 1} on."
        ) from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        where = f"{name}, line {number}"
        if "\0" in line:
            raise DataError(f"{where} contains a NUL character, so it is not text.")
        yield Line(number, line.removesuffix("\r"), where)


def _refuse_old_line_ends(text: str, name: str) -> None:
    """A message for a file with only `\\r` as line ends, which would be read as one line."""
    raise DataError(
        f"{name} has {text.count(chr(13))} lone carriage returns and no line feed. If these end its lines, convert it: "
        f"tr '\\r' '\\n' < {quote(name)} > new"
    )


def _half_pair(value: Any, place: str = "") -> str | None:
    """The place of a string with half of a surrogate pair in a JSON value, as `, column 'text'`; None without one."""
    if isinstance(value, str):
        return place if _SURROGATE.search(value) else None
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = [(key, item) for name, inner in value.items() for key, item in ((name, name), (name, inner))]
    elif isinstance(value, list):
        items = [(None, item) for item in value]
    for key, item in items:
        inside = place or ("" if key is None else f", column {as_line(ascii(key))}")
        if (found := _half_pair(item, inside)) is not None:
            return found
    return None


def name_of_kind(value: Any) -> str:
    """The kind of a value of JSON or of a table, in words: `a number`, `a list`, `null`."""
    names = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    names |= {dict: "an object", bytes: "bytes", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def checked_text(value: Any, column: str) -> str:
    """A value that must be text; otherwise `DataError` with the column."""
    if not isinstance(value, str):
        hint = " Decode them first." if isinstance(value, bytes) else ""
        raise DataError(f"column {column!r} holds {name_of_kind(value)}, not text.{hint}")
    if _SURROGATE.search(value):
        raise DataError(f"column {column!r} contains half of a surrogate pair, which is not a character.")
    return value
