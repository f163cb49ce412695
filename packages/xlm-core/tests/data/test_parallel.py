"""Preprocessing in several processes gives the same rows as in one, in order."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from xlm.data.functional import token_ids_to_input_ids
from xlm.data.mapping import map_rows
from xlm.errors import DataError


def rows(n: int) -> list[dict[str, Any]]:
    return [{"token_ids": [i], "n": i} for i in range(n)]


@pytest.mark.parametrize("num_workers", [None, 0, 1, 2])
@pytest.mark.parametrize("n", [0, 7, 7001])
def test_order_and_values(num_workers: int | None, n: int) -> None:
    expected = [{"n": i, "input_ids": [i]} for i in range(n)]
    assert list(map_rows(token_ids_to_input_ids, iter(rows(n)), num_workers)) == expected


def killed(row: dict[str, Any]) -> dict[str, Any]:
    if row["n"] == 1500:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(DataError, match=r"One of the 2 processes that prepare data was killed.* num_dataset_workers=…"):
        list(map_rows(killed, iter(rows(9000)), 2))


def test_errors_come_through() -> None:
    with pytest.raises(DataError, match="none of the columns token_ids"):
        list(map_rows(token_ids_to_input_ids, [{"x": 1}], 2))
