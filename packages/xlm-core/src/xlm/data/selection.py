"""Which rows of a source are used, and how its text files are read: slices, filters, no duplicates."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Any

from xlm.data.functional import nested_value
from xlm.data.hashing import code_version
from xlm.errors import DataError
from xlm.utils.imports import get_function
from xlm.utils.text_files import AmountRead

if TYPE_CHECKING:
    from xlm.data.sources import Source

_BOUND = r"(-?\d+%?)?"
_SLICE = re.compile(rf"(.*?)\[\s*{_BOUND}\s*:\s*{_BOUND}\s*\]")
_TABS = ("\\t", "tab")


@dataclass(frozen=True)
class Reading:
    """How files are read and which rows are used.

    Args:
        delimiter: between the cells of CSV and TSV files; None: a comma, or a tab in TSV files.
        encoding: of text files; None: UTF-8, or UTF-16 with a byte order mark.
        filter: dotted path of a function `row -> bool`; rows for which it is false are left out.
        dedup: leave out rows that are equal to an earlier one in the `columns`.
        columns: None: all columns.
        skip_empty: leave out rows without text in any of the `columns`.

    Raises:
        DataError: an unknown encoding, a delimiter of several characters, or a value of another kind.
    """

    delimiter: str | None = None
    encoding: str | None = None
    filter: str | None = None
    dedup: bool = False
    columns: tuple[str, ...] | None = None
    skip_empty: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Reading:
        """From a config."""
        columns = options.get("columns")
        return cls(**{**options, "columns": None if columns is None else tuple(columns)})

    def __post_init__(self) -> None:
        for name in ("delimiter", "encoding", "filter"):
            if not isinstance(value := getattr(self, name), str | None):
                raise DataError(f"reading.{name} is {value!r}, and must be a text or null.")
        for name in ("dedup", "skip_empty"):
            if not isinstance(value := getattr(self, name), bool):
                raise DataError(f"reading.{name} is {value!r}, and must be true or false.")
        if self.delimiter in _TABS:
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '\r\n"'):
            raise DataError(
                f"reading.delimiter is {self.delimiter!r}, and must be one character, such as ; or | or \\t."
            )
        if self.encoding is not None:
            try:
                " ".encode(self.encoding)  # not a codec of bytes, such as hex
                object.__setattr__(self, "encoding", codecs.lookup(self.encoding).name)
            except LookupError as error:
                known = "utf-8, utf-16, latin-1, cp1252, shift_jis and the other encodings of Python"
                raise DataError(f"reading.encoding is {self.encoding!r}, and must be one of {known}.") from error

    def of_files(self) -> dict[str, str]:
        """What changes the rows of files, for their identity."""
        found = {"delimiter": self.delimiter, "encoding": self.encoding}
        return {name: value for name, value in found.items() if value is not None}

    def selected(self, source: Source) -> Source:
        """The rows that are used."""
        if self.filter is not None:
            source = Filtered(source, self.filter)
        if self.skip_empty:
            source = WithText(source, self.columns)
        return Unique(source, self.columns) if self.dedup else source


AS_USUAL = Reading()


@dataclass(frozen=True)
class Selection:
    """Some rows of another source; `removed` counts the others, by reason."""

    source: Source
    removed: Counter[str] = field(default_factory=Counter, compare=False, repr=False, kw_only=True)

    @property
    def name(self) -> str:
        return self.source.name

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row for _, row in self._numbered_rows(tokenizer))

    def where(self, number: int) -> str:
        found = next(islice(self._numbered_rows(None), number, None), None)
        return self.source.where(number if found is None else found[0])

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        raise NotImplementedError


@dataclass(frozen=True)
class Slice(Selection):
    """Rows `start:stop`, where a bound may be negative or a percentage, as in `datasets`."""

    start: str | None
    stop: str | None

    def identity(self) -> dict[str, Any]:
        return {"slice": [self.start, self.stop], "of": self.source.identity()}

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        start, stop = self._bounds(tokenizer)
        return islice(enumerate(self.source.rows(tokenizer)), start, stop)

    def _bounds(self, tokenizer: Any) -> tuple[int, int | None]:
        bounds = [bound for bound in (self.start, self.stop) if bound is not None]
        if all(bound.isdecimal() for bound in bounds):
            return int(self.start or 0), None if self.stop is None else int(self.stop)
        before = AmountRead.num_bytes
        length = sum(1 for _ in self.source.rows(tokenizer))
        AmountRead.num_bytes = before  # the rows are read again
        start = 0 if self.start is None else _place(self.start, length)
        return start, length if self.stop is None else _place(self.stop, length)


def _place(bound: str, length: int) -> int:
    number = int(bound.removesuffix("%"))
    if bound.endswith("%"):
        number = round(number * length / 100)
    return min(max(number + length if bound.startswith("-") else number, 0), length)


def without_slice(name: str) -> tuple[str, tuple[str | None, str | None] | None]:
    """`corpus.txt[:95%]` as `corpus.txt` and `(None, "95%")`; None for a name without a slice."""
    found = _SLICE.fullmatch(name)
    return (name, None) if found is None else (found.group(1), (found.group(2), found.group(3)))


@dataclass(frozen=True)
class Filtered(Selection):
    """The rows for which a function is true."""

    function: str

    def identity(self) -> dict[str, Any]:
        code = code_version(get_function(self.function, key="reading.filter"))
        return {"filter": self.function, "code": code, "of": self.source.identity()}

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        function = get_function(self.function, key="reading.filter")
        self.removed.clear()
        for number, row in enumerate(self.source.rows(tokenizer)):
            try:
                wanted = function(row)
            except Exception as error:
                error.add_note(f"In the filter {self.function}, for {self.source.where(number)}.")
                raise
            if wanted:
                yield number, row
            else:
                self.removed["filtered"] += 1


@dataclass(frozen=True)
class WithText(Selection):
    """The rows in which a column (None: of all) holds more than blanks. Rows without the columns stay, for messages."""

    columns: Sequence[str] | None

    def identity(self) -> dict[str, Any]:
        columns = None if self.columns is None else list(self.columns)
        return {"with_text": columns, "of": self.source.identity()}

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        self.removed.clear()
        for number, row in enumerate(self.source.rows(tokenizer)):
            columns = row if self.columns is None and isinstance(row, Mapping) else self.columns or ()
            values = [nested_value(row, column) for column in columns] if isinstance(row, Mapping) else []
            if values and all(isinstance(value, str) and not value.strip() for value in values):
                self.removed["empty"] += 1
            else:
                yield number, row


@dataclass(frozen=True)
class Unique(Selection):
    """The rows without those that are equal to an earlier one in some columns (None: in all of them)."""

    columns: Sequence[str] | None

    def identity(self) -> dict[str, Any]:
        columns = None if self.columns is None else list(self.columns)
        return {"unique": columns, "of": self.source.identity()}

    def _numbered_rows(self, tokenizer: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        seen: set[bytes] = set()
        self.removed.clear()
        for number, row in enumerate(self.source.rows(tokenizer)):
            digest = self._digest(row)
            if digest is None or digest not in seen:
                yield number, row
            else:
                self.removed["duplicates"] += 1
            if digest is not None:
                seen.add(digest)

    def _digest(self, row: Any) -> bytes | None:
        """None for a row without those columns, which preprocessing reports."""
        values: Any = row
        if self.columns is not None and isinstance(row, Mapping):
            values = [nested_value(row, column) for column in self.columns]
            if all(value is None for value in values):
                return None
        text = json.dumps(values, sort_keys=True, default=str, ensure_ascii=True)
        return blake2b(text.encode(), digest_size=16).digest()


def removed_from(source: Any) -> dict[str, int]:
    """The numbers of rows that a source and those within it left out, by reason."""
    found: Counter[str] = Counter()
    while source is not None:
        found.update(getattr(source, "removed", {}))
        source = getattr(source, "source", None)
    return dict(found)
