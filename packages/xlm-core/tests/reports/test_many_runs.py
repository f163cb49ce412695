"""Lists and reports of many runs: parts of configurations are read once, and the best runs are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from xlm.errors import ConfigError
from xlm.reports import files
from xlm.reports.document import MAX_COMPARED, build_report
from xlm.reports.files import Point, read_last, read_mapping, read_points
from xlm.reports.listing import as_lines, sort_runs
from xlm.reports.page import as_markdown, render_page, values_csv
from xlm.reports.run import Run, named_runs, read_run


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb:\n  c: [1, 2]\n  d: x\ne:\n- 1\n- f: 2\n",
        "# a comment\n\na: 1 # b: 2\n'b c': 3\n? d\n: 4\n",
        "a: 1\na: 2\n",
        "a: |\n  b: 1\n\n  c\nd: >\n  e\n",
        "a: {b: 1,\n  c: 2\n}\nd: [\n1,\n]\n",
        "a: 'x\n\n  y'\nb: plain\n  and more\n",
        "a: !!str 1\n<<: {b: 1, c: 2}\n",
        "---\na: 1\n...\n",
        "%YAML 1.1\n---\na: 1\n",
        "a: ${b}*4\nc: x & y\nd: '*'\n",
        "- 1\n- 2\n",
        "a: 1\n-b: 2\n",
        "",
        "text",
    ],
)
def test_parts_of_a_file_make_what_the_whole_makes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    found = yaml.safe_load(text)
    problems: list[str] = []
    assert read_mapping(path, problems) == (found if isinstance(found, dict) else {})
    assert bool(problems) != isinstance(found, dict)


@pytest.mark.parametrize(
    "text", ["a: [1\nb: 2\n", "a: 1\n\tb: 2\n", "a: *x\n", "a: 1\nb\nc: 2\n", "a: 'x\nb: 2\n", "  a: 1\nb: 2\n"]
)
def test_a_damaged_file_stays_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(text)
    problems: list[str] = []
    assert read_mapping(path, problems) == {}
    assert problems[0].startswith("config.yaml is damaged: ")


def test_parts_that_were_read_before_are_remembered(tmp_path: Path) -> None:
    files._part.cache_clear()
    for seed in range(20):
        (tmp_path / "config.yaml").write_text(f"seed: {seed}\nmodel:\n  width: 4\nloss:\n  name: x\n")
        assert read_mapping(tmp_path / "config.yaml", [])["seed"] == seed
    assert files._part.cache_info().misses == 22


@pytest.mark.parametrize("end", ["", "9,val/b,nan,4\n", "9,val/b,0.5", '9,"val/b', "x,y\n", "step,name,value,time\n"])
def test_the_last_rows_are_those_of_all_rows(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,name,value,time\n1,val/a,0.5,1\n1,val/b,2,1\n2,val/a,0.25,2\n{end}")
    assert read_last(path) == {point.name: point for point in read_points(path)}
    assert read_last(path)["val/a"] == Point(2, "val/a", 0.25, 2.0)
    assert read_last(tmp_path / "none.csv") == {}


def write_runs(folder: Path, count: int) -> None:
    for index in range(count):
        run = folder / f"run-{index:03d}"
        (run / "predictions/test/prediction").mkdir(parents=True)
        (run / "config.yaml").write_text(f"seed: {index}\nmodel_name: toy\n")
        values = {"test/prediction/exact_match": index / 100, "test/lm/accumulated_loss": 3 - index / 100}
        (run / "results.json").write_text(json.dumps({"step": 5, "metrics": values, "n": {"test/prediction": 100}}))
        rows = [{"prompt": str(n), "truth": "1", "prediction": str(int(n < index))} for n in range(5)]
        text = "\n".join(map(json.dumps, rows))
        (run / "predictions/test/prediction/step_00000005.jsonl").write_text(text)
        (run / "metrics.csv").write_text("step,name,value,time\n1,train/loss,3,1\n5,train/loss,2,2\n")


def test_a_report_of_many_runs_has_all_in_its_tables_and_compares_the_best(tmp_path: Path) -> None:
    write_runs(tmp_path, MAX_COMPARED + 10)
    runs = named_runs([str(tmp_path)])
    report = build_report(runs)
    assert [run.name for run in report.compared] == [f"run-{index:03d}" for index in range(10, MAX_COMPARED + 10)]
    assert [len(values.rows) for values in report.values] == [MAX_COMPARED + 10]
    assert len(report.pairs) == MAX_COMPARED * (MAX_COMPARED - 1) // 2
    assert {len(row) for row in (*report.costs.values(), *report.differences.values())} == {MAX_COMPARED}
    sentence = "The tables of results have all 34 runs; comparison, curves, cost, settings and samples show the 24 with"
    page, text = render_page(report), as_markdown(report)
    assert sentence in page
    assert sentence in text
    assert "34 runs, read on" in page
    assert page.count("run-000") == 1 + report.title.count("run-000") * 2
    assert "run-000" in values_csv(report)
    assert "The tables of results have all" not in as_markdown(build_report(runs[:MAX_COMPARED]))


def test_runs_are_sorted_by_any_metric(tmp_path: Path) -> None:
    write_runs(tmp_path, 3)
    runs: list[Run] = [read_run(folder) for folder in sorted(tmp_path.iterdir())]
    best_first = ["run-002", "run-001", "run-000"]
    for metric in ("test/prediction/exact_match", "test/lm/accumulated_loss"):
        ordered = sort_runs(runs, metric)
        assert [run.name for run in ordered] == best_first
        lines = as_lines(ordered, metric=metric)
        assert metric in lines[0].split()
    assert "2.98" in lines[1].split()
    with pytest.raises(ConfigError, match="Did you mean 'test/lm/accumulated_loss'"):
        sort_runs(runs, "test/lm/accumulated_los")
