"""From raw graphs to ids, for every format of their columns."""

from __future__ import annotations

from typing import Any

import pytest

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.tasks.star import star_preprocess

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
ROW = {"edge_list": [[1, 2], [0, 1], [0, 3]], "source": 0, "goal": 2, "path": [[0, 1], [1, 2]]}
IDS = {"prompt_ids": [8, 9, 7, 8, 7, 10, 7, 9], "input_ids": [7, 8, 8, 9]}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"source": "0", "goal": " 2"},
        {"path": [0, 1, 2]},
        {"path": ["0", "1", "2"]},
        {"path": "[0, 1, 2]"},
        {"path": "0 1 2"},
        {"path": "0,1,2"},
        {"path": "0,1|1,2"},
        {"path": "0,1;1,2"},
        {"path": "[[0, 1], [1, 2]]"},
        {"path": "[(0, 1), (1, 2)]"},
        {"path": "[['0', '1'], ['1', '2']]"},
        {"edge_list": "[[1, 2], [0, 1], [0, 3]]"},
        {"edge_list": "(1,2) (0,1) (0,3)"},
        {"edge_list": "1,2|0,1|0,3"},
        {"edge_list": ((1, 2), (0, 1), (0, 3))},
    ],
)
def test_columns_of_every_form(change: dict[str, Any]) -> None:
    assert star_preprocess({**ROW, **change}, TOKENIZER) == IDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goal": 3}, "does not lead from its source 0 to its goal 3"),
        ({"path": []}, "does not lead from its source"),
        ({"path": ""}, "does not lead from its source"),
        ({"edge_list": [[1, 2, 3]]}, "edge_list must hold pairs or nodes, not"),
        ({"edge_list": [[0, 99]]}, "has no tokens for the node labels 99. Is vocab_size too small"),
    ],
)
def test_unusable_rows_say_why(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        star_preprocess({**ROW, **change}, TOKENIZER)


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match="needs the columns goal, path, but has only edge_list, source"):
        star_preprocess({"edge_list": [], "source": 1}, TOKENIZER)
