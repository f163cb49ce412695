"""Boards: valid and invalid ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xlm.errors import DataError
from xlm.traces.document import grid


def test_a_board_holds_what_it_is_given_and_goes_through_json() -> None:
    cells, right = [["1", None, "3"], [None, "5", None]], [["1", "2", "3"], ["4", "5", "6"]]
    drawing = grid(cells, right, fills=[(0, 1), (1, 2)], box=(1, 3), title="x")
    assert json.loads(json.dumps(drawing)) == drawing == {
        "kind": "grid", "cells": cells, "right": right, "fills": [[0, 1], [1, 2]], "box": [1, 3], "title": "x",
    }  # fmt: skip
    assert grid([[None]]) == {"kind": "grid", "cells": [[None]]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cells": []}, r"same length; cells has \[\]"),
        ({"cells": [["1", "2"], ["3"]]}, r"same length; cells has \[2, 1\]"),
        ({"cells": [["1"]], "right": [["1", "2"]]}, r"same length; right has \[2\]"),
        ({"cells": [["1"]], "fills": [(0, 1)]}, r"has 1 × 1 cells, but fills contains others: \[\(0, 1\)\]"),
        ({"cells": [["1"]], "box": (0, 3)}, "are 0 × 3 cells, but need at least one"),
    ],
)
def test_what_is_no_board(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        grid(**options)
