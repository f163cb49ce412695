"""Preprocessing in several processes gives the same rows as in one, in order."""

from __future__ import annotations

from typing import Any

import pytest

from xlm.data.cache import map_rows
from xlm.data.functional import token_ids_to_input_ids


def rows(n: int) -> list[dict[str, Any]]:
    return [{"token_ids": [i], "n": i} for i in range(n)]


@pytest.mark.parametrize("num_workers", [None, 0, 1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n", [0, 7, 7001])
def test_order_and_values(num_workers: int | None, n: int) -> None:
    expected = [{"n": i, "input_ids": [i]} for i in range(n)]
    assert list(map_rows(token_ids_to_input_ids, iter(rows(n)), num_workers)) == expected


@pytest.mark.slow
def test_errors_come_through() -> None:
    from xlm.errors import DataError

    with pytest.raises(DataError, match="none of the columns token_ids"):
        list(map_rows(token_ids_to_input_ids, [{"x": 1}], 2))
