"""The best trade-offs if the quality is a perplexity."""

from __future__ import annotations

import json
import math

import pytest

from xlm.evaluation.pareto import Point, front, table


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
