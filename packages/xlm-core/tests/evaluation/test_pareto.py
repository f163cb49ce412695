"""The best trade-offs if the quality is a perplexity, and the picture of a sweep, read from the figure."""

from __future__ import annotations

import json
import math
from itertools import combinations, product
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from xlm.evaluation.pareto import Point, draw, front, sweep_figure, table
from xlm.utils.palette import SERIES


@pytest.mark.parametrize("name", ["judge_perplexity", "judge_perplexity_mdlm"])
def test_a_low_perplexity_with_a_low_entropy_beats_nothing(name: str) -> None:
    def point(perplexity: float, entropy: float, calls: float) -> Point:
        return Point({}, {name: (perplexity, 1.0), "entropy": (entropy, None)}, 9, calls, calls)

    repeats, good, worse, slow = point(5, 0.3, 1), point(50, 3, 1), point(60, 2.9, 2), point(40, 3, 3)
    # All of its texts are empty.
    nothing = point(math.nan, 0, 1)
    points = [slow, worse, good, repeats, nothing]
    assert front(points, name, "network_calls") == [repeats, good, slow]
    assert math.isnan(Point.from_dict(json.loads(json.dumps(nothing.as_dict()))).metrics[name][0])
    header, rows = table(points, name)
    assert [dict(zip(header, row, strict=True))["best"] for row in rows] == [
        "network_calls seconds",
        "",
        *rows[0][-1:] * 2,
        "",
    ]
    assert dict(zip(header, rows[0], strict=True))["entropy_se"] == ""


def measured(options: dict[str, float], match: float, calls: float | None, seconds: float) -> Point:
    return Point(options, {"exact_match": (match, 0.02)}, 500, calls, seconds)


@pytest.fixture(scope="module")
def steps() -> Figure:
    """Seven settings of one option, one of them beaten."""
    found = {1: 0.30, 2: 0.40, 3: 0.52, 4: 0.56, 6: 0.67, 8: 0.665, 15: 0.74}
    points = [measured({"max_steps": n}, match, n, 1.07 * n) for n, match in found.items()]
    return sweep_figure(points, "exact_match", "steps")


def labels(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


def test_axes_of_calls_count_in_powers_of_two(steps: Figure) -> None:
    calls, seconds = steps.axes
    assert [text.get_text() for text in calls.get_xticklabels()] == ["1", "2", "4", "8", "16"]
    assert [text.get_text() for text in seconds.get_xticklabels()] == ["1", "2", "4", "8", "16", "32"]
    assert (calls.get_xlabel(), seconds.get_xlabel()) == ("network calls per sample", "seconds for 500 samples")
    assert calls.get_ylim() == pytest.approx((0, 1), abs=0.04)
    assert calls.get_ylabel() == "share of examples"


def test_every_point_has_its_label(steps: Figure) -> None:
    for axes in steps.axes:
        assert {label.get_text() for label in labels(axes)} == {"1", "2", "3", "4", "6", "8", "15"}
        place = axes.transData.transform
        for label in labels(axes):
            box, (x, y) = label.get_window_extent(), place(label.xy)
            away = math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
            assert away < 30, "next to its point"
    assert "The labels are max_steps" in steps.get_supxlabel()


def check_labels(figure: Figure) -> None:
    """Labels overlap neither each other, nor points, lines or the edge of the panel."""
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in labels(axes)]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        inside = axes.get_window_extent()
        for box in boxes:
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1
            for line in axes.get_lines():
                path = line.get_path().transformed(line.get_transform())
                assert not any(box.contains(*vertex) for vertex in path.vertices)
                assert line.get_linestyle() == "None" or not path.intersects_bbox(box, filled=False)
        legend = axes.get_legend()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(inside)


def test_labels_do_not_overlap(steps: Figure) -> None:
    check_labels(steps)
    assert steps.axes[0].get_lines()[-1].get_color() == SERIES[0]


def test_of_many_points_those_with_room_have_labels() -> None:
    points = [
        measured({"num_steps": n, "temperature": t, "top_p": p}, 0.5 + n / 1000 + t / 100, n, n + t + p)
        for n, t, p in product(range(10, 20), (0.5, 1.0), (0.9, 1.0))
    ]
    figure = sweep_figure(points, "exact_match", "many")
    check_labels(figure)
    assert 3 <= len(labels(figure.axes[0])) < len(points)


def test_a_sweep_without_calls_or_with_equal_ones_can_be_drawn(tmp_path: Path) -> None:
    unknown = [measured({"x": n}, math.nan if n == 3 else 0.5, None, 2.0) for n in (1, 2, 3)]
    assert [axes.get_xlabel() for axes in sweep_figure(unknown, "exact_match", "t").axes] == ["seconds for 500 samples"]
    equal = [measured({"x": n}, 0.1 * n, 8, 2.0) for n in (1, 2)]
    assert [text.get_text() for text in sweep_figure(equal, "exact_match", "t").axes[0].get_xticklabels()] == [
        "8",
        "16",
    ]
    assert draw(tmp_path / "new/sweep.png", equal, "exact_match", "t").read_bytes().startswith(b"\x89PNG")
