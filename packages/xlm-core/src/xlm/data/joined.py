"""Several sources of raw examples as one: the parts of a mixture, for validation and for a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.data.locator import Source


@dataclass(frozen=True)
class JoinedSource:
    """Several sources in turns, one row of each, until all are read."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return "-".join(source.name for source in self.sources)

    def identity(self) -> dict[str, Any]:
        return {"in_turns": [source.identity() for source in self.sources]}

    def rows(self, tokenizer: Any) -> Iterator[dict[str, Any]]:
        return (row for _, _, row in self._in_turns(tokenizer))

    def where(self, number: int) -> str:
        found = next(islice(self._in_turns(None), number, None), None)
        return self.name if found is None else self.sources[found[0]].where(found[1])

    def _in_turns(self, tokenizer: Any) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """(source, number of the row in it, row)."""
        waiting = [(index, enumerate(source.rows(tokenizer))) for index, source in enumerate(self.sources)]
        while waiting:
            remaining = []
            for index, rows in waiting:
                if (found := next(rows, None)) is not None:
                    yield index, *found
                    remaining.append((index, rows))
            waiting = remaining
