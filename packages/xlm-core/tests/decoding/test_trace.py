"""The recorder: replay, limits, order, and nothing at all while nobody asks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xlm.decoding.trace import Recorder, Step, begin_trace, record, recording, replay, takes_back
from xlm.errors import ConfigError

LOGITS = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, -torch.inf]])


def begun(recorder: Recorder, num_rows: int = 2) -> None:
    """Rows `PAD 1 9 9` of which the first column is padding."""
    ids = torch.tensor([[0, 1, 9, 9]]).repeat(num_rows, 1)
    mask = torch.tensor([[False, True, True, True]]).repeat(num_rows, 1)
    recorder.begin(ids, mask, 2, torch.tensor([[4, 5, 0, -100]]).repeat(num_rows, 1), pad_token_id=0)


def test_nobody_listens_unless_asked() -> None:
    assert recording() is None
    with record() as recorder:
        assert recording() is recorder
    assert recording() is None


def test_one_recorder_at_a_time() -> None:
    with record(), pytest.raises(ConfigError, match="being recorded already"), record():
        pass


def test_positions_are_those_of_the_row_without_its_padding() -> None:
    recorder = Recorder(num_others=1)
    begun(recorder)
    recorder.step(torch.tensor([0, 1]))
    recorder.wrote(torch.tensor([0, 1]), torch.tensor([3, 2]), torch.tensor([2, 0]), LOGITS)
    first, second = recorder.traces
    assert (first.given, first.answer_start, first.truth) == ([1, 9, 9], 1, [4, 5])
    assert first.steps == [
        {"call": 1, "changes": [{"do": "write", "at": 2, "token": 2, "p": 0.6652, "others": [(1, 0.2447)]}]}
    ]
    assert replay(first.given, first.steps) == [1, 9, 2]
    assert replay(second.given, second.steps) == [1, 0, 9]


def test_a_limit_ends_the_listening_after_its_batch() -> None:
    with record(limit=3) as recorder:
        begun(recorder)
        begun(recorder)
        assert recording() is recorder
        recorder.step(torch.tensor([0, 1]))
        recorder.wrote(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, 1]), LOGITS)
        assert [len(trace.steps) for trace in recorder.traces] == [0, 0, 1]
        begun(recorder)
        assert recording() is None
        begin_trace({}, 0, tokenizer=None)  # type: ignore[arg-type]  # reads nothing of a batch that comes too late


def test_what_lies_behind_the_end_is_taken_away() -> None:
    recorder = Recorder()
    begun(recorder, 1)
    recorder.step(torch.tensor([0]))
    recorder.wrote(torch.tensor([0, 0]), torch.tensor([2, 3]), torch.tensor([1, 2]), LOGITS)
    recorder.removed(torch.tensor([[False, False, False, True]]))
    (trace,) = recorder.traces
    assert replay(trace.given, trace.steps) == [1, 1]
    assert (trace.calls, trace.steps[-1]["call"]) == (1, 0)


def test_insertions_of_one_step_move_each_other() -> None:
    recorder = Recorder()
    begun(recorder, 1)
    recorder.step(torch.tensor([0]))
    recorder.inserted(0, [2, 0], [0.25, 0.5], torch.tensor([1, 2]), LOGITS)
    recorder.said(torch.tensor([0]), torch.tensor([0.125]))
    (trace,) = recorder.traces
    assert replay(trace.given, trace.steps) == [1, 2, 9, 9, 1]
    assert trace.steps[0]["stop"] == 0.125
    assert [(c["slot"], c["slot_p"]) for c in trace.steps[0]["changes"]] == [(0, 0.5), (2, 0.25)]


def test_a_row_that_grows_after_changes_that_do_not_lengthen_it_grows_at_its_end() -> None:
    recorder = Recorder()
    begun(recorder, 1)
    recorder.step(torch.tensor([0]))
    recorder.wrote(torch.tensor([0]), torch.tensor([2]), torch.tensor([1]), LOGITS[:1])
    recorder.masked(torch.tensor([[False, False, True, False]]), 9)
    recorder.removed(torch.tensor([[False, False, False, True]]))
    recorder.step(torch.tensor([0]))
    recorder.appended(torch.tensor([0]), torch.tensor([2]), LOGITS[:1])
    (trace,) = recorder.traces
    assert replay(trace.given, trace.steps) == [1, 9, 2]
    assert trace.steps[-1]["changes"][0]["at"] == 2
    assert [takes_back(step) for step in trace.steps] == [False, True, False, False]


def test_rows_that_were_asked_for_in_another_order_are_put_in_order() -> None:
    recorder = Recorder()
    for token in (30, 10, 20):
        recorder.begin(torch.tensor([[token]]), torch.tensor([[True]]), 1)
    recorder.reorder([2, 0, 1])
    assert [trace.given for trace in recorder.traces] == [[10], [20], [30]]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[Step], list[list[int]]]:
    """A row, steps that fit it, and the row after each step."""
    row = draw(st.lists(st.integers(0, 9), max_size=5))
    start, steps, rows = list(row), [], []
    for call in range(1, draw(st.integers(1, 5))):
        changes: list[Any] = []
        for _ in range(draw(st.integers(0, 4))):
            do = draw(st.sampled_from(["insert", "write", "delete"] if row else ["insert"]))
            at = draw(st.integers(0, len(row) if do == "insert" else len(row) - 1))
            token = draw(st.integers(0, 9))
            changes.append({"do": do, "at": at} if do == "delete" else {"do": do, "at": at, "token": token})
            row = row[:at] + ([] if do == "delete" else [token]) + row[at + (do != "insert") :]
        steps.append(Step(call=call, changes=changes))
        rows.append(row)
    return start, steps, rows


@given(histories())
def test_a_replay_through_json_shows_every_moment(history: tuple[list[int], list[Step], list[list[int]]]) -> None:
    start, steps, rows = history
    steps = json.loads(json.dumps(steps))
    assert [replay(start, steps[: n + 1]) for n in range(len(steps))] == rows
