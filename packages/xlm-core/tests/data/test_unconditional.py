"""Examples without content."""

from __future__ import annotations

from xlm.data.manager import EmptyExamples


def test_so_many_and_each_its_own() -> None:
    examples = list(EmptyExamples(None, 3))
    assert examples == [{"input_ids": []}] * 3
    assert len(EmptyExamples(None, 3)) == 3
    examples[0]["input_ids"].append(1)
    assert examples[1] == {"input_ids": []}
