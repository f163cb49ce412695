"""Rows in Arrow files are read as they were written, in any order, in any process."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data import rows as module
from xlm.data.rows import ArrowRows, ListRows, SubsetRows, write_rows
from xlm.errors import DataError

ids = st.lists(st.integers(0, 2**40), max_size=6)
examples = st.fixed_dictionaries({"input_ids": ids, "text": st.text(max_size=5), "score": st.floats(-1, 1)})


@settings(deadline=None, max_examples=30)
@given(st.lists(examples, min_size=1, max_size=12), st.data())
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, written: list[dict[str, Any]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = ArrowRows(write_rows(folder, iter(written)))
    order = data.draw(st.lists(st.integers(0, len(written) - 1), max_size=20))
    assert len(rows) == len(written)
    assert rows.fetch(order) == [written[i] for i in order]


def test_several_files_and_types_that_widen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_FILE", 4)
    monkeypatch.setattr(module, "_ROWS_PER_CHUNK", 2)
    written: list[dict[str, Any]] = [{"ids": []} for _ in range(5)] + [{"ids": [2**40, i]} for i in range(6)]
    files = write_rows(tmp_path, written)
    assert len(files) == 3
    rows = ArrowRows(files)
    assert rows.fetch([10, 0, 5, 4, 3, 10]) == [written[i] for i in (10, 0, 5, 4, 3, 10)]
    again = pickle.loads(pickle.dumps(rows))
    assert again.fetch(list(range(11))) == written
    assert rows.column_names == ["ids"]


@pytest.mark.parametrize("index", [-1, 3])
def test_beyond_the_end_is_an_error(tmp_path: Path, index: int) -> None:
    rows = ArrowRows(write_rows(tmp_path, [{"ids": [i]} for i in range(3)]))
    with pytest.raises(IndexError):
        rows.fetch([0, index])


def test_token_ids_take_four_bytes_where_they_fit(tmp_path: Path) -> None:
    small = write_rows(tmp_path, [{"ids": list(range(1000))} for _ in range(50)])[0].stat().st_size
    assert small < 50 * 1000 * 4 * 1.1


def test_rows_that_differ_in_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="need the same columns; one has b, the first a"):
        write_rows(tmp_path, [{"a": 1}, {"b": 2}])


def test_none_and_nested_values_survive(tmp_path: Path) -> None:
    written = [{"ids": None, "edges": [[0, 1], [1, 2]]}, {"ids": [1], "edges": []}]
    assert ArrowRows(write_rows(tmp_path, written)).fetch([0, 1]) == written


def test_no_rows(tmp_path: Path) -> None:
    assert write_rows(tmp_path, []) == []
    assert len(ArrowRows([])) == 0
    assert ArrowRows([]).fetch([]) == []


def test_lists_and_subsets_give_fresh_dicts() -> None:
    rows = ListRows([{"a": 1}, {"a": 2}, {"a": 3}])
    rows.fetch([1])[0]["a"] = 99
    subset = SubsetRows(rows, [2, 1])
    assert subset.fetch([0, 1, 0]) == [{"a": 3}, {"a": 2}, {"a": 3}]
    assert len(subset) == 2
