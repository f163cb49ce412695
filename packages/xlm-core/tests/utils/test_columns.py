"""Tables at any width: nothing is cut, figures stay whole, and no line is longer than the terminal."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from xlm.training.progress import print_results
from xlm.utils.columns import Column, output_width, table_lines, wrapped

COLUMNS = (Column("name"), Column("model"), Column("step", is_figure=True), Column("loss", is_figure=True))
ROWS = (
    ("star_easy_mlm+xtiny_mlm,per_device_batch_size=16,train.lm.num_examples=400", "mlm", "1000/4000", "12.345"),
    ("b", "arlm", "20", "-"),
)


@pytest.mark.parametrize("width", [None, 120, 80, 60, 40, 25])
def test_every_figure_and_every_letter_is_there(width: int | None) -> None:
    lines = table_lines(COLUMNS, ROWS, width)
    assert all(cell_len(line) <= (width or 200) for line in lines)
    is_table = lines[0].split() == ["name", "model", "step", "loss"]
    assert is_table == (width is None or width >= 60)
    first = lines[0].index("model") if is_table else None
    names = "".join(line[:first].strip() for line in lines)
    assert all(row[0] in names for row in ROWS)
    words = " ".join(lines).replace(",", " ").split()
    assert {"1000/4000", "12.345", "20"} <= set(words)
    assert "…" not in names


def test_rows_stay_whole_in_a_file() -> None:
    assert len(table_lines(COLUMNS, ROWS)) == 3


def test_figures_end_in_one_column() -> None:
    lines = table_lines(COLUMNS, [("a", "mlm", "5", "0.5"), ("b", "mlm", "1000", "12.25")], 80)
    assert lines == ["name  model  step   loss", "a     mlm       5    0.5", "b     mlm    1000  12.25"]


def test_wide_letters_count_twice() -> None:
    lines = table_lines((Column("name"), Column("n", is_figure=True)), [("模型", "1"), ("größe", "22")], 30)
    assert {cell_len(line) for line in lines} == {9}


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("short", 10, ["short"]),
        ("a_name+another,seed=1", 16, ["a_name+another,", "  seed=1"]),
        ("prediction/token_accuracy", 14, ["prediction/", "  token_", "  accuracy"]),
        ("x" * 12, 5, ["xxxxx", "  xxx", "  xxx", "  x"]),
        ("a name with blanks", 10, ["a name", "  with", "  blanks"]),
        ("模型模型", 5, ["模型", "  模", "  型"]),
    ],
)
def test_wrapping(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines


def test_the_width_of_a_file_is_not_that_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_width(io.StringIO()) is None
    monkeypatch.setenv("COLUMNS", "57")
    assert output_width(io.StringIO()) == 57


METRICS = {
    "val/lm/accumulated_loss": 2.5,
    "test/prediction/samples_per_second": 1234567.891,
    "test/prediction/a_metric_with_a_very_long_name_that_goes_on": 1e-7,
}


@pytest.mark.parametrize("width", [80, 40])
def test_results_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for is_terminal in (True, False):
        console = Console(width=width, force_terminal=is_terminal, color_system=None, file=io.StringIO())
        results = {"val/lm/accumulated_loss": {"se": 0.01}}
        counts = {"test/prediction": 5_000_000, "val/lm": 20}
        print_results("a", METRICS, counts, console, results)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert {"2.5000", "0.0100", "20", "1234567.8910", "1.000e-07", "5,000,000"} <= set(
            text.replace(", ", " ").split()
        )
        assert "…" not in text
        if is_terminal:
            assert all(cell_len(line) <= width for line in text.splitlines())
        else:
            assert len(text.splitlines()) == 2 + len(METRICS)
