"""Incomplete and damaged files: complete parts are read, and the rest gives one sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlm.reports.document import build_report
from xlm.reports.files import number, read_mapping, read_points, read_rows
from xlm.reports.listing import as_lines, as_object
from xlm.reports.page import as_markdown, render_page
from xlm.reports.run import read_run

RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "metrics",
        "n",
        "likelihood",
        "training",
        "step",
        "started",
        "command",
        "parameters",
        "test/lm",
        "value",
        "se",
        "git",
    ]
)
RECORDS = st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=6)


def test_numbers() -> None:
    assert [number(v) for v in (1, 2.5, True, "3", None, math.nan, math.inf, 10**400)] == [1.0, 2.5, *[None] * 6]


@RELAXED
@given(st.binary(max_size=200))
def test_any_bytes_are_read(tmp_path: Path, content: bytes) -> None:
    for name in ("a.json", "a.yaml", "metrics.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(content)
    problems: list[str] = []
    assert isinstance(read_mapping(tmp_path / "a.json", problems), dict)
    assert isinstance(read_mapping(tmp_path / "a.yaml", problems), dict)
    assert all(problem.endswith(".") and "\n" not in problem for problem in problems)
    assert all(math.isfinite(point.value) for point in read_points(tmp_path / "metrics.csv"))
    assert all(isinstance(row, dict) for row in read_rows(tmp_path / "a.jsonl"))


@RELAXED
@given(
    rows=st.lists(st.tuples(st.integers(0, 10**6), st.floats(allow_nan=False, allow_infinity=False)), max_size=20),
    data=st.data(),
)
def test_a_table_cut_anywhere_loses_no_whole_row(
    tmp_path: Path, rows: list[tuple[int, float]], data: st.DataObject
) -> None:
    lines = [f"{step},val/x,{value!r},17.25\n" for step, value in rows]
    text = "step,name,value,time\n" + "".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    (tmp_path / "metrics.csv").write_text(text[:cut])
    points = [(point.step, point.value) for point in read_points(tmp_path / "metrics.csv")]
    whole = max(0, text[:cut].count("\n") - 1)
    assert points[:whole] == rows[:whole]
    # The cut row may still read as one, with a shorter time.
    assert len(points) <= whole + 1


@RELAXED
@given(st.lists(RECORDS, max_size=5), st.data())
def test_rows_before_a_cut_are_kept(tmp_path: Path, records: list[dict[str, object]], data: st.DataObject) -> None:
    lines = [json.dumps(record) + "\n" for record in records]
    text = "".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    (tmp_path / "a.jsonl").write_text(text[:cut])
    whole = text[:cut].count("\n")
    assert json.dumps(list(read_rows(tmp_path / "a.jsonl"))[:whole]) == json.dumps(records[:whole])


@settings(RELAXED, max_examples=25)
@given(results=RECORDS, started=RECORDS, evaluation=RECORDS, config=VALUES, row=VALUES)
def test_a_report_comes_of_any_records(
    tmp_path: Path,
    results: dict[str, object],
    started: dict[str, object],
    evaluation: dict[str, object],
    config: object,
    row: object,
) -> None:
    contents = {"results": results, "record_train": started, "eval_test": evaluation, "config": config}
    for name, content in contents.items():
        (tmp_path / f"{name}.{'yaml' if name == 'config' else 'json'}").write_text(json.dumps(content))
    place = tmp_path / "predictions" / "val" / "prediction"
    place.mkdir(parents=True, exist_ok=True)
    (place / "step_00000001.jsonl").write_text(json.dumps({"prompt": row, "prediction": row, "truth": row}))
    run = read_run(tmp_path)
    assert len(as_lines([run])) >= 2
    json.dumps(as_object(run))
    report = build_report([run])
    assert render_page(report).endswith("</html>\n")
    assert as_markdown(report).startswith("# ")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"metrics": {"test/x/y"')
    problems: list[str] = []
    assert read_mapping(tmp_path / "results.json", problems) == {}
    assert len(problems) == 1
    assert problems[0].startswith("results.json is damaged: ")


@pytest.mark.parametrize("content", ["[1]", "3", "null"])
def test_a_record_is_an_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    problems: list[str] = []
    assert read_mapping(tmp_path / "results.json", problems) == {}
    assert problems == ["results.json is damaged: it does not contain an object."]
