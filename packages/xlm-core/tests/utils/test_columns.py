"""Tables at any width: nothing is cut, figures stay whole, and no line is longer than the terminal."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from xlm.training.progress import describe, print_results
from xlm.utils.columns import Column, lines_of_parts, output_width, sentence_lines, table_lines, wrapped
from xlm.utils.consoles import plain_console

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


def test_sentences_break_at_blanks_and_not_in_paths() -> None:
    path = "runs/" + "x" * 60
    text = f"All files are in {path}, the curves in {path}/curves.png."
    assert sentence_lines(text, None) == [text]
    lines = sentence_lines(text, 40)
    assert lines == ["All files are in", f"{path},", "the curves in", f"{path}/curves.png."]
    assert sentence_lines("  model  Net, 3 parameters (a 1, b 2)", 24, indent=" " * 9) == [
        "  model  Net, 3",
        "         parameters (a",
        "         1, b 2)",
    ]
    assert sentence_lines("one\n  two  three", 12) == ["one", "  two  three"]


def test_a_console_wraps_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    for is_terminal, expected in ((True, "one path/of/a/run\nthree\n"), (False, "one path/of/a/run three\n")):
        console = plain_console(width=20, force_terminal=is_terminal, color_system=None, file=io.StringIO())
        console.print("one path/of/a/run three", soft_wrap=True)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue() == expected


def test_parts_stay_whole() -> None:
    parts = ["step 10", "val/lm/loss 2.5", "val/match 0"]
    assert lines_of_parts(parts, None, gap="  ") == ["step 10  val/lm/loss 2.5  val/match 0"]
    assert lines_of_parts(parts, 28, gap="  ") == ["step 10  val/lm/loss 2.5", "  val/match 0"]
    assert lines_of_parts(parts, 5, gap="  ") == ["step 10", "  val/lm/loss 2.5", "  val/match 0"]


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


def test_the_line_of_progress_fits() -> None:
    values = {"train/lm/accumulated_loss": 2.5, "train/lr": 1e-3, "train/tokens_per_second": 1e6, "train/padding": 0.25}
    assert describe(values) == "loss 2.5000  lr 1.00e-03  1,000,000 tokens/s  25% padding"
    assert describe(values, 50) == "loss 2.5000  lr 1.00e-03  1,000,000 tokens/s"
    assert describe(values, 5) == ""
