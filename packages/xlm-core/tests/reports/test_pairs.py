"""Predictions of two runs, matched by example and compared."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xlm.reports.document import build_report
from xlm.reports.pairs import (
    all_pairs,
    compare,
    predicted_places,
    read_predictions,
    same_examples,
    side_by_side,
    why_no_pairs,
)
from xlm.reports.quantities import mcnemar
from xlm.reports.run import read_run

if TYPE_CHECKING:
    from .conftest import WriteRun


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(prompt: str, prediction: str, truth: str, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "prediction": prediction, "truth": truth, **more}


def test_counts_by_hand(write_run: WriteRun) -> None:
    # right: 0 1 2 3 4 against 0 1 5; neither: 6 7
    a = write_run("a", answers=["0 0", "1 1", "2 2", "3 3", "4 4", "x", "x", "x"])
    b = write_run("b", answers=["0 0", "1 1", "x", "x", "x", "5 5", "x", "x"])
    (pair,) = all_pairs(same_examples([read_run(a), read_run(b)]))
    assert (pair.first, pair.second, pair.place) == ("a", "b", "test/prediction")
    assert (pair.both, pair.only_first, pair.only_second, pair.neither, pair.n) == (2, 3, 1, 2, 8)
    assert pair.difference == pytest.approx(5 / 8 - 3 / 8)
    assert pair.p == pair.p_holm == mcnemar(3, 1) == pytest.approx(2 * (1 + 4) / 16)


def test_the_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [row(f"p{i}", rng.choice("xy"), rng.choice("xy")) for i in range(40)]
    others = [row(r["prompt"], rng.choice("xy"), r["truth"]) for r in rows]
    first = read_predictions(write_rows(tmp_path / "a", *rows))
    straight = read_predictions(write_rows(tmp_path / "b", *others))
    shuffled = read_predictions(write_rows(tmp_path / "c", *rng.sample(others, 40)))
    pair = compare(first, straight, "test/x", ("a", "b"))
    assert pair == compare(first, shuffled, "test/x", ("a", "b"))
    assert pair is not None
    assert pair.n == 40
    turned = compare(straight, first, "test/x", ("b", "a"))
    assert turned is not None
    assert (turned.only_first, turned.difference, turned.p) == (pair.only_second, -pair.difference, pair.p)


def test_equal_prompts_are_told_apart_by_their_truth_and_then_by_their_order(tmp_path: Path) -> None:
    first = read_predictions(write_rows(tmp_path / "a", row("p", "1", "1"), row("p", "1", "2"), row("p", "2", "2")))
    second = read_predictions(write_rows(tmp_path / "b", row("p", "2", "2"), row("p", "2", "2"), row("p", "1", "1")))
    pair = compare(first, second, "test/x", ("a", "b"))
    assert pair is not None
    assert (pair.both, pair.only_first, pair.only_second, pair.neither) == (2, 0, 1, 0)


def test_an_id_goes_before_the_prompt(tmp_path: Path) -> None:
    first = read_predictions(write_rows(tmp_path / "a", row("p [MASK]", "1", "1", example_id=7)))
    second = read_predictions(write_rows(tmp_path / "b", row("p", "2", "1", example_id=7)))
    pair = compare(first, second, "test/x", ("a", "b"))
    assert pair is not None
    assert pair.only_first == 1


def test_other_prompts_with_the_same_truths_are_the_same_examples(tmp_path: Path) -> None:
    first = read_predictions(write_rows(tmp_path / "a", row("p [MASK]", "1", "1"), row("q [MASK]", "2", "2")))
    second = read_predictions(write_rows(tmp_path / "b", row("p ", "1", "1"), row("q ", "x", "2")))
    pair = compare(first, second, "test/x", ("a", "b"))
    assert pair is not None
    assert (pair.both, pair.only_first) == (1, 1)
    # A prompt that both write alike by chance doesn't leave the others out.
    mixed = read_predictions(write_rows(tmp_path / "m", row("p [MASK]", "1", "1"), row("q ", "2", "2")))
    pair = compare(first, mixed, "test/x", ("a", "m"))
    assert pair is not None
    assert pair.n == 2
    third = read_predictions(write_rows(tmp_path / "c", row("p ", "1", "1"), row("q ", "x", "3")))
    assert compare(first, third, "test/x", ("a", "c")) is None


def test_a_verdict_in_the_row_goes_before_the_comparison_of_texts(tmp_path: Path) -> None:
    rows = read_predictions(write_rows(tmp_path / "a", row("p", "2,1", "1,2", exact_match=True)))
    assert [found.right for found in rows.values()] == [True]


def test_runs_on_other_data_are_not_compared(write_run: WriteRun) -> None:
    a, b = write_run("a", answers=["0 0", "1 1"]), write_run("b", answers=["0 0"])
    c = write_run("c")
    write_rows(c / "predictions" / "test" / "prediction" / "step_00000007.jsonl", row("else", "1", "1"))
    groups = same_examples([read_run(folder) for folder in (a, b, c)])
    assert [list(group.predictions) for group in groups] == [["a", "b"], ["c"]]
    assert [(pair.first, pair.second, pair.n) for pair in all_pairs(groups)] == [("a", "b", 1)]


def test_the_test_goes_before_validation_where_two_have_it(write_run: WriteRun) -> None:
    a, b = write_run("a", answers=["0 0"]), write_run("b")
    for folder in (a, b):
        write_rows(folder / "predictions" / "val" / "prediction" / "step_00000010.jsonl", row("v", "1", "1"))
        write_rows(folder / "predictions" / "val" / "prediction" / "step_00000020.jsonl", row("v", "2", "1"))
        (folder / "predictions" / "val" / "prediction" / "step_00000030.jsonl.part").write_text("{")
    runs = [read_run(a), read_run(b)]
    assert predicted_places(b)["val/prediction"].name == "step_00000020.jsonl"
    (pair,) = all_pairs(same_examples(runs))
    assert (pair.place, pair.neither) == ("val/prediction", 1)
    assert same_examples(runs, "test") == []


def test_samples_show_first_where_runs_differ(write_run: WriteRun) -> None:
    a = write_run("a", answers=["0 0", "1 1", "2 2", "x"])
    b = write_run("b", answers=["0 0", "x", "2 2", "x"])
    (group,) = same_examples([read_run(a), read_run(b)])
    rows = side_by_side(list(group.predictions.values()), 3)
    assert [rows[0][0].prompt, rows[0][0].right, rows[0][1].right] == ["what is 1", True, False]
    assert len(rows) == 3


def reason(folders: list[Path], split: str | None = None) -> str:
    runs = [read_run(folder) for folder in folders]
    groups = same_examples(runs, split)
    assert all_pairs(groups) == []
    return why_no_pairs(runs, groups, split)


def test_the_reason_for_no_pairs(write_run: WriteRun) -> None:
    a, b, none = write_run("a", answers=["0 0"]), write_run("b"), write_run("none")
    assert reason([a]) == ""
    assert reason([b, none]).startswith("none of the runs has predictions. `xlm eval` writes them")
    assert reason([a, none]).startswith("only a has predictions. ")
    assert reason([a, none], "val").startswith("none of the runs has predictions for val data. ")
    other = b / "predictions/val/prediction/step_1.jsonl"
    write_rows(other, row("what is 0", "0 0", "0 0"))
    assert reason([a, b]) == (
        "the runs have predictions in different places: a in test/prediction, b in val/prediction."
    )
    same = write_rows(b / "predictions/test/prediction/step_1.jsonl", row("else", "1", "2"))
    assert reason([a, b]) == (
        "the predictions in test/prediction are for different examples, with different prompts and answers."
    )
    for folder in (a, b):
        write_rows(folder / "predictions/test/prediction/step_30.jsonl", {"prompt": "p", "prediction": "x"})
    same.unlink()
    assert reason([a, b]).startswith("the predictions have no correct answers to compare them with")


@pytest.mark.parametrize(
    ("second", "third", "is_best"),
    [
        (range(40), range(40), True),  # 100 examples: 90 right against 40
        (range(86), range(40), False),  # 4 examples more: p = 0.125
        (range(80), range(40), True),  # p = 0.002, with Holm's correction 0.004
        (range(90), range(40), False),  # equal
    ],
)
def test_a_value_is_best_if_the_paired_test_says_so(
    write_run: WriteRun, second: range, third: range, is_best: bool
) -> None:
    def answers(right: range) -> list[str]:
        return [f"{i} {i}" if i in right else "x" for i in range(100)]

    runs = [
        read_run(write_run(name, model="mlm", answers=answers(right)))
        for name, right in (("a", range(90)), ("b", second), ("c", third))
    ]
    (test, _) = build_report(runs).values
    match = next(j for j, column in enumerate(test.columns) if column.label == "exact match")
    assert ((0, match) in test.best) == is_best
    assert all(row == 0 for row, column in test.best if column == match)


def test_without_pairs_the_standard_errors_decide(write_run: WriteRun) -> None:
    def best(values: dict[str, tuple[float, int]]) -> set[str]:
        folders = []
        for name, (value, n) in values.items():
            folder = write_run(f"{name}-{len(values)}-{value}-{n}", model="mlm")
            results = {"metrics": {"test/prediction/valid": value}, "n": {"test/prediction": n}}
            (folder / "results.json").write_text(json.dumps(results))
            folders.append(folder)
        (found,) = (v for v in build_report([read_run(f) for f in folders]).values if v.split == "test")
        return {list(values)[row] for row, _ in found.best}

    assert best({"a": (0.5, 100), "b": (0.6, 100)}) == set()
    assert best({"a": (0.5, 1000), "b": (0.6, 1000)}) == {"b"}
    assert best({"a": (0.0, 1), "b": (1.0, 1)}) == set(), "both standard errors are 0, but one example says little"
    assert best({"a": (0.0, 50), "b": (1.0, 50)}) == {"b"}
    assert best({"a": (0.5, 1000), "b": (0.6, 1000), "c": (0.601, 1000)}) == set()
    assert best({"a": (0.5, 1000)}) == set(), "nothing to compare with"
