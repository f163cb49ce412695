"""Records how rows are written, change by change, while somebody asks for it; predictors report to `recording()`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from xlm.errors import ConfigError
from xlm.protocols import Tokenizer

_DIGITS = 4  # of a probability
Kind = Literal["insert", "write", "delete"]


class Written(TypedDict, total=False):
    """A token, and what the network said of it.

    `p`: the probability that the network gave the token there, at temperature 1 and before filters.
    `others`: the likeliest other tokens, as [token, probability].
    """

    token: int
    p: float
    others: list[tuple[int, float]]


class Change(Written):
    """One change of a row; the changes of a step are applied one after the other.

    `do`: "insert" puts `token` before what stands at `at`, or at the end; "write" replaces what stands there (a mask
        by a token, or the reverse); "delete" takes it away.
    `slot`, `slot_p`: for an insertion into a chosen gap, the position before the step behind which it lies, and the
        probability of that gap.
    """

    do: Kind
    at: int
    slot: NotRequired[int]
    slot_p: NotRequired[float]


class Step(TypedDict):
    """The changes that followed one network call, counted per row from 1; call 0 needed no network.

    `stop`: where the network says whether the row is complete, the probability that it is.
    """

    call: int
    changes: list[Change]
    stop: NotRequired[float]


@dataclass
class Trace:
    """A row as it was given (without padding), and every step from there to what was predicted.

    `answer_start`: tokens before it are the prompt, special tokens included. `truth`: the answer as the data has it.
    """

    given: list[int]
    answer_start: int
    truth: list[int] | None = None
    steps: list[Step] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Network calls so far."""
        return max((step["call"] for step in self.steps), default=0)


def replay(given: Sequence[int], steps: Sequence[Step]) -> list[int]:
    """The row after these steps: all of a trace's give exactly the predicted ids, without padding."""
    ids = list(given)
    for step in steps:
        for change in step["changes"]:
            at = change["at"]
            if change["do"] == "insert":
                ids.insert(at, change["token"])
            elif change["do"] == "write":
                ids[at] = change["token"]
            else:
                del ids[at]
    return ids


class Recorder:
    """Collects the traces of the rows that are predicted, in the order of the batches.

    Args:
        limit: most rows; later ones leave no trace and cost nothing.
        num_others: how many other tokens are noted beside each written one.
    """

    def __init__(self, limit: int | None = None, num_others: int = 3) -> None:
        self.traces: list[Trace] = []
        self.limit = limit
        self.num_others = num_others
        self._batch: list[Trace | None] = []
        self._rows: list[int] = []  # row of the batch for each row that is worked on: a block may hold only some
        self._places: list[list[int]] = []  # column → position in the row

    @property
    def is_full(self) -> bool:
        """Whether no further row is recorded."""
        return self.limit is not None and len(self.traces) >= self.limit

    @property
    def listens(self) -> bool:
        """Whether any row of this batch is recorded; of a batch to come, whether any can be."""
        return not self.is_full or any(trace is not None for trace in self._batch)

    def begin(
        self,
        ids: Integer[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
        answer_start: Tensor | int,
        truth: Integer[Tensor, "batch target"] | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        """A batch as the network will see it; `answer_start` is a column, `truth` may be padded."""
        mask = mask.bool()
        start = torch.as_tensor(answer_start, device=ids.device).expand(len(ids))
        columns = torch.arange(ids.shape[1], device=ids.device)
        starts = (mask & (columns < start[:, None])).sum(dim=1).tolist()
        room = len(ids) if self.limit is None else max(0, self.limit - len(self.traces))
        self._batch = [None] * len(ids)
        for row in range(min(room, len(ids))):
            trace = Trace(ids[row][mask[row]].tolist(), starts[row])
            if truth is not None:
                trace.truth = [token for token in truth[row].tolist() if token != pad_token_id and token >= 0]
            self._batch[row] = trace
            self.traces.append(trace)
        self._rows = list(range(len(ids)))
        self._places = (mask.long().cumsum(dim=1) - 1).tolist()

    def step(self, rows: Integer[Tensor, " rows"]) -> None:
        """A network call in which these rows take part."""
        for row in rows.tolist():
            if (trace := self._trace(row)) is not None:
                trace.steps.append({"call": trace.calls + 1, "changes": []})

    def wrote(
        self,
        rows: Integer[Tensor, " changes"],
        columns: Integer[Tensor, " changes"],
        tokens: Integer[Tensor, " changes"],
        logits: Float[Tensor, "changes vocab"] | None = None,
    ) -> None:
        """Tokens took the places of others in the last step; `logits` are those of all that was allowed there."""
        here = self._recorded(rows)
        notes = self._notes(tokens[here], None if logits is None else logits[here])
        for row, column, note in zip(rows[here].tolist(), columns[here].tolist(), notes, strict=True):
            self._add(row, _change("write", self._place(row, column), note))

    def appended(
        self,
        rows: Integer[Tensor, " changes"],
        tokens: Integer[Tensor, " changes"],
        logits: Float[Tensor, "changes vocab"] | None = None,
    ) -> None:
        """A token was put at the end of each of these rows in the last step."""
        here = self._recorded(rows)
        notes = self._notes(tokens[here], None if logits is None else logits[here])
        for row, note in zip(rows[here].tolist(), notes, strict=True):
            if (trace := self._trace(row)) is not None:
                self._add(row, _change("insert", len(trace.given) + _growth(trace.steps), note))

    def inserted(
        self,
        row: int,
        slots: Sequence[int],
        slot_probabilities: Sequence[float],
        tokens: Integer[Tensor, " changes"],
        logits: Float[Tensor, "changes vocab"],
    ) -> None:
        """Tokens were put into the gaps right of these positions of one row in the last step."""
        notes = list(zip(slots, slot_probabilities, self._notes(tokens, logits), strict=True))
        for earlier, (slot, p, note) in enumerate(sorted(notes, key=lambda entry: entry[0])):
            change = _change("insert", slot + 1 + earlier, note)
            change["slot"], change["slot_p"] = slot, _rounded(p)
            self._add(row, change)

    def said(self, rows: Integer[Tensor, " rows"], complete: Float[Tensor, " rows"]) -> None:
        """The probability with which the network called each of these rows complete in the last step."""
        for row, p in zip(rows.tolist(), complete.tolist(), strict=True):
            if (trace := self._trace(row)) is not None:
                trace.steps[-1]["stop"] = _rounded(p)

    def masked(self, taken_back: Bool[Tensor, "rows length"], mask_token_id: int) -> None:
        """Tokens were taken back without asking the network: a moment of its own between two calls."""
        rows, columns = taken_back.nonzero(as_tuple=True)
        for row in rows.unique().tolist():
            self._open_free(row)
        self.wrote(rows, columns, torch.full_like(columns, mask_token_id))

    def removed(self, gone: Bool[Tensor, "rows length"]) -> None:
        """What stands at these columns is no part of the prediction: what was filled behind EOS."""
        for row, columns in enumerate(gone):
            places = sorted((self._place(row, c) for c in columns.nonzero().squeeze(1).tolist()), reverse=True)
            self._remove(row, places)

    def new_block(self, rows: Tensor, start: int, first: int, width: int, keep: int, mask_token_id: int) -> None:
        """These rows of the batch go on in a block of `width` columns behind column `start`.

        It begins with the answer's token `first`. Its first `keep` columns are there already; masks follow. From here
        on, rows and columns are those of the block's batch.
        """
        self._rows = list(range(len(self._batch)))
        for row in rows.tolist():
            if (trace := self._trace(row)) is not None:
                end = trace.answer_start + first + keep
                self._open_free(row)
                for column in range(width - keep):
                    self._add(row, {"do": "insert", "at": end + column, "token": mask_token_id})
        self._rows = rows.tolist()
        begins = [trace.answer_start if (trace := self._batch[row]) else 0 for row in self._rows]
        self._places = [[first + begin + column - start for column in range(start + width)] for begin in begins]

    def shortened(self, num_answer_tokens: int) -> None:
        """All answers of the batch end after so many tokens."""
        self._rows = list(range(len(self._batch)))
        for row, trace in enumerate(self._batch):
            if trace is not None:
                length = len(replay(trace.given, trace.steps))
                self._remove(row, list(range(length - 1, trace.answer_start + num_answer_tokens - 1, -1)))

    def reorder(self, numbers: Sequence[int]) -> None:
        """The last traces belong to the rows of these numbers (0 … n − 1) of what was asked for: put them in order."""
        if self.limit is not None and len(self.traces) >= self.limit:
            return
        first = len(self.traces) - len(numbers)
        pairs = sorted(zip(numbers, self.traces[first:], strict=True), key=lambda pair: pair[0])
        self.traces[first:] = [trace for _, trace in pairs]

    def _trace(self, row: int) -> Trace | None:
        return self._batch[self._rows[row]]

    def _recorded(self, rows: Tensor) -> Tensor:
        """Which of these are recorded, as indices."""
        here = [n for n, row in enumerate(rows.tolist()) if self._trace(row) is not None]
        return torch.tensor(here, dtype=torch.long, device=rows.device)

    def _place(self, row: int, column: int) -> int:
        return self._places[row][column]

    def _add(self, row: int, change: Change) -> None:
        if (trace := self._trace(row)) is not None:
            trace.steps[-1]["changes"].append(change)

    def _open_free(self, row: int) -> None:
        """A step that needs no network."""
        if (trace := self._trace(row)) is not None:
            trace.steps.append({"call": 0, "changes": []})

    def _remove(self, row: int, places: list[int]) -> None:
        if places:
            self._open_free(row)
            for place in places:
                self._add(row, {"do": "delete", "at": place})

    def _notes(self, tokens: Tensor, logits: Tensor | None) -> list[Written]:
        """Token, probability and other likely tokens of each change."""
        if logits is None:
            return [{"token": token} for token in tokens.tolist()]
        p = logits.double().softmax(dim=-1)
        own = p.gather(-1, tokens[:, None]).squeeze(-1)
        best = p.scatter(-1, tokens[:, None], 0).topk(min(self.num_others, p.shape[-1]), dim=-1)
        notes: list[Written] = []
        for token, share, others, shares in zip(
            tokens.tolist(), own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
        ):
            near = [(other, rounded) for other, q in zip(others, shares, strict=True) if (rounded := _rounded(q))]
            notes.append({"token": token, "p": _rounded(share), "others": near})
        return notes


_RECORDER: ContextVar[Recorder | None] = ContextVar("xlm_trace_recorder", default=None)


def recording() -> Recorder | None:
    """Whom to tell what is written; None where nobody asked, or enough was recorded."""
    recorder = _RECORDER.get()
    return recorder if recorder is not None and recorder.listens else None


def begin_trace(batch: Mapping[str, Any], answer_start: Tensor | int, tokenizer: Tokenizer) -> None:
    """Tell whoever records about a batch (`input_ids`, `attention_mask`, `target_ids` if any); else nothing."""
    if (recorder := recording()) is not None:
        truth = batch.get("target_ids")
        recorder.begin(batch["input_ids"], batch["attention_mask"], answer_start, truth, tokenizer.pad_token_id)


@contextmanager
def record(limit: int | None = None, num_others: int = 3) -> Iterator[Recorder]:
    """Record what predictors write inside this block; ConfigError inside another."""
    if _RECORDER.get() is not None:
        raise ConfigError("Something is being recorded already, and one recorder can listen at a time.")
    recorder = Recorder(limit, num_others)
    token = _RECORDER.set(recorder)
    try:
        yield recorder
    finally:
        _RECORDER.reset(token)


def _growth(steps: Sequence[Step]) -> int:
    """By how many tokens a row is longer after these steps."""
    by = {"insert": 1, "write": 0, "delete": -1}
    return sum(by[change["do"]] for step in steps for change in step["changes"])


def takes_back(step: Step) -> bool:
    """Whether tokens were masked again without asking the network, which is shown by itself.

    Masks that are added for a further block, and what is cut off behind the end, belong to the call before.
    """
    return step["call"] == 0 and any(change["do"] == "write" for change in step["changes"])


def _change(do: Kind, at: int, written: Written) -> Change:
    change: Change = {"do": do, "at": at}
    change.update(written)  # type: ignore[typeddict-item]  # a part of it, as its base class is
    return change


def _rounded(p: float) -> float:
    return round(p, _DIGITS)


# A written text and the order of its pieces, as predictions show it.

# Roles whose tokens are no part of a text. An unknown word is one.
_UNSEEN = ("pad", "mask", "bos", "eos", "cls", "sep")


class Writing(TypedDict):
    """JSON-able. `steps[i]` is when `pieces[i]` appeared, from 0; -1 where it was given.

    `gap` stands for a piece that isn't there yet: "" where tokens are inserted, a sign where places wait for theirs.
    """

    pieces: list[str]
    steps: list[int]
    gap: str


def writing(ids: Sequence[int], steps: Sequence[int], tokenizer: Tokenizer, gap: str) -> Writing:
    """The pieces of a row of token ids, special tokens left out; together they are its text."""
    unseen = {getattr(tokenizer, f"{role}_token_id", None) for role in _UNSEEN}
    kept = [(token, step) for token, step in zip(ids, steps, strict=True) if token not in unseen]
    return {"pieces": pieces([token for token, _ in kept], tokenizer), "steps": [step for _, step in kept], "gap": gap}


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text, the space before it included."""
    if not ids:
        return []
    # A token's text may depend on the one before: whether a space stands between them.
    alone = tokenizer.batch_decode([[token] for token in ids])
    pairs = tokenizer.batch_decode([list(pair) for pair in pairwise(ids)])
    rest = [
        both[len(before) :] if both.startswith(before) else both for before, both in zip(alone, pairs, strict=False)
    ]
    return [alone[0], *rest]


def snapshots(written: Writing, count: int = 5) -> list[list[tuple[str, bool]]]:
    """The text at up to `count` moments, the last being its end: pieces there so far, and whether each is new."""
    moments = sorted({step for step in written["steps"] if step >= 0})
    if not moments:
        return []
    count = min(count, len(moments))
    chosen = [moments[(len(moments) - 1) * (n + 1) // count] for n in range(count)]
    shown, previous = [], -1
    for moment in chosen:
        line: list[tuple[str, bool]] = []
        for piece, step in zip(written["pieces"], written["steps"], strict=True):
            if step <= moment:
                line.append((piece, step > previous))
            elif written["gap"]:
                line.append((_blank(piece, written["gap"]), False))
        shown.append(line)
        previous = moment
    return shown


def _blank(piece: str, gap: str) -> str:
    """A gap that takes the place of a piece, with its space."""
    return (" " if piece.startswith(" ") else "") + gap
