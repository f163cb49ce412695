"""Examples of a stream from its raw rows: preprocessing, packing and `too_long`, row by row, while a run trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice, takewhile
from typing import Any

from xlm.data.collate import Limit, Side, truncate_ids
from xlm.data.fitting import PROMPT, SETTING, TEXT, forget_bytes
from xlm.data.functional import GROUP_SIZE, NUM_BYTES
from xlm.data.mapping import RowError, RowFunction
from xlm.data.sources import Source
from xlm.data.streams import Lane, Raw, Stream
from xlm.errors import DataError

Example = dict[str, Any]

# Examples that a run keeps in memory to shuffle a stream.
SHUFFLE_BUFFER = 16_384
# Rows of a part that is held out from a stream and has no file of its own: finding all would read the whole stream.
HELD_OUT_OF_STREAM = 1000


@dataclass(frozen=True)
class Preparation:
    """Makes the examples of a group of raw rows; picklable if its functions are.

    Args:
        function: one example per row.
        columns: the columns to keep; None: all.
        before_group, group: a function of one example, and one of the columns of a group that returns columns.
        limits: the most tokens of a column.
        policy: `too_long`; None: an error where the collator would raise one.
        name: of the data set, for messages.
    """

    function: RowFunction
    keep: Callable[[Example], Example] | None = None
    before_group: Callable[[Example], Example] | None = None
    group: Callable[[dict[str, list[Any]]], dict[str, list[Any]]] | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    policy: str | None = None
    name: str = "The data set"

    @property
    def is_early(self) -> bool:
        """Whether the number of examples differs from that of rows, so that rows must be processed when read."""
        return self.group is not None or self.policy in ("drop", "split")

    @property
    def group_size(self) -> int:
        """Raw rows that are processed together."""
        return 1 if self.group is None else GROUP_SIZE

    def with_limits(self, limits: Mapping[str, Limit]) -> Preparation:
        """The same with these limits.

        Raises:
            DataError: prompts would be split, or texts into nothing.
        """
        if self.policy == "split" and PROMPT in limits:
            raise DataError(
                f"{self.name}: too_long=split is for texts without prompts. Choose truncate, drop or error."
            )
        if self.policy == "split" and any(limit.tokens < 1 for limit in limits.values()):
            raise DataError(f"{self.name}: texts cannot be split into pieces of less than one token.")
        return replace(self, limits=dict(limits))

    def __call__(self, rows: list[Raw], where: Callable[[int], str]) -> list[Example]:
        """The examples of consecutive rows; `DataError` with the place of a row that cannot be used."""
        try:
            examples = self.function(rows, 0)
        except RowError as error:
            raise DataError(f"{where(error.row)}: {error}") from error
        if self.group is not None:
            examples, where = self._grouped(examples), lambda number: f"block {number + 1} of {self.name}"
        if self.keep is not None:
            examples = [self.keep(example) for example in examples]
        if not self.limits:
            return examples
        return list(chain.from_iterable(self._fitted(e, where, number) for number, e in enumerate(examples)))

    def _grouped(self, examples: list[Example]) -> list[Example]:
        assert self.group is not None
        if self.before_group is not None:
            examples = [self.before_group(example) for example in examples]
        columns = self.group({name: [example[name] for example in examples] for name in examples[0]})
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _fitted(self, example: Example, where: Callable[[int], str], number: int) -> Sequence[Example]:
        """The example as `too_long` has it: none, one, or several."""
        for column, limit in self.limits.items():
            if len(example[column]) <= limit.tokens:
                continue
            if self.policy == "drop":
                return ()
            if self.policy == "split":
                return _split(example, limit.tokens)
            if self.policy == "error" or (self.policy is None and limit.truncate == "error"):
                raise DataError(_refusal(self.name, where(number), column, limit, len(example[column])))
            if self.policy == "truncate" and limit.truncate in ("error", None):
                end: Side = "left" if column == PROMPT else "right"
                example = {**example, column: truncate_ids(example[column], limit.tokens, end)}
                forget_bytes(example)
        return (example,)


class StreamOfSource:
    """A source as a stream, after its first row has been prepared as a check.

    Args:
        limits_of: the most tokens of each column, given the names of the columns.

    Raises:
        DataError: there is no row, or the first one cannot be used.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        preparation: Preparation,
        limits_of: Callable[[Sequence[str]], Mapping[str, Limit]],
    ) -> None:
        self._source, self._tokenizer = source, tokenizer
        stream = Stream(source, tokenizer, None, None)
        numbered = ((piece, n, row) for piece in stream.pieces for n, row in enumerate(piece.rows(0, tokenizer)))
        piece, number, first = next((each for each in numbered if stream.is_used(each[2])), (None, 0, {}))
        if piece is None:
            raise DataError(f"{preparation.name}: {source.name} has no rows.")
        found = preparation([first], lambda _: piece.where(number))
        self._preparation = preparation.with_limits(limits_of(list(found[0]))) if found else preparation
        self._preparation([first], lambda _: piece.where(number))

    def stream(self, seed: int, buffer: int, shuffle: bool = True) -> Stream:
        """The stream of a run."""
        made = self._preparation
        early, late = (made, None) if made.is_early else (None, made)
        return Stream(self._source, self._tokenizer, early, late, made.group_size, buffer, seed, shuffle)

    def first(self, most: int) -> list[Example]:
        """The first examples, in the order of the source."""
        lane = Lane(self.stream(0, 1, shuffle=False), 0, 1)
        found = (example for position in count() for example in lane.fetch([position]))
        return [example.columns for example in islice(takewhile(lambda each: each.epoch == 0, found), most)]


def _split(example: Example, size: int) -> list[Example]:
    ids = example[TEXT]
    unknown = {NUM_BYTES: None} if NUM_BYTES in example else {}
    return [{**example, TEXT: ids[start : start + size], **unknown} for start in range(0, len(ids), size)]


def _refusal(name: str, where: str, column: str, limit: Limit, length: int) -> str:
    what, choices = ("prompt", "truncate or drop") if column == PROMPT else ("text", "truncate, drop or split")
    setting = limit.setting or SETTING[column]
    return (
        f"{name}: the {what} in {where} has {length:,} tokens, more than the {limit.tokens:,} that fit ({setting}).\n"
        f"Raise {setting}, or set too_long to {choices}."
    )
