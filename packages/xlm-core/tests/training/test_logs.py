"""The CSV of metrics, and the results."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from xlm.training.progress import print_results, write_results
from xlm.training.train_log import CSVMetrics, read_metrics


@pytest.fixture
def logger(tmp_path: Path) -> CSVMetrics:
    logger = CSVMetrics(str(tmp_path / "run"))
    for step in (1, 2, 3):
        values = {"train/lm/accumulated_loss": 1 / step, "train/lr": 0.1, "train/tokens_per_second": 5.0, "epoch": 0}
        logger.log_metrics(values, step)
    logger.log_metrics({"val/lm/accumulated_loss": 0.25}, 2)
    return logger


def test_values_come_back_exactly(logger: CSVMetrics) -> None:
    rows = list(read_metrics(logger.path))
    assert (3, "train/lm/accumulated_loss", 1 / 3) in [row[:3] for row in rows]
    assert len(rows) == 10


def test_a_cut_last_line_is_passed_over(logger: CSVMetrics) -> None:
    with logger.path.open("a") as file:
        file.write("4,train/l")
    assert len(list(read_metrics(logger.path))) == 10


def test_rows_of_steps_done_again_are_dropped(logger: CSVMetrics) -> None:
    logger.drop_after(1)
    assert {row[0] for row in read_metrics(logger.path)} == {1}
    logger.log_metrics({"train/lr": 0.2}, 2)
    assert [row[2] for row in read_metrics(logger.path) if row[0] == 2] == [0.2]


def test_a_validation_that_is_done_again_is_dropped(logger: CSVMetrics) -> None:
    logger.drop_after(2, validations=0)
    assert {row[1].split("/")[0] for row in read_metrics(logger.path) if row[0] == 2} == {"train"}


def test_dropping_from_a_file_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    CSVMetrics(str(tmp_path)).drop_after(3)
    assert list(tmp_path.iterdir()) == []


def test_results_say_how_many_examples_they_are_over(tmp_path: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    print_results("run", {"test/prediction/exact_match": 0.5}, {"test/prediction": 5000}, console)
    line = next(text for text in console.export_text().splitlines() if "exact_match" in text)
    assert "0.5000" in line
    assert "5,000" in line
    path = write_results(tmp_path / "a" / "results.json", {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1}
