"""The picture of the README is drawn from the tables of the experiment log."""

from __future__ import annotations

import family_curves
from xlm.utils.palette import SERIES


def test_the_tables_of_the_log_give_the_curves() -> None:
    curves = family_curves.read_curves(family_curves.SOURCE.read_text(encoding="utf-8"))
    assert [(curve.data, curve.family) for curve in curves] == [
        (data, family) for data in ("star_easy", "star_medium") for family in family_curves.FAMILIES
    ]
    ilm = curves[-1]
    assert ilm.shares[:4] == [0, 0, 0.04, 0.14]
    assert ilm.shares[-1] == 0.91
    assert 26 < ilm.minutes[-1] < 28, "5,000 of 5,233 steps in 28 CPU minutes"
    figure = family_curves.draw(curves)
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylabel() == "share of validation graphs"
    assert right.get_ylim()[1] < 1.1
    assert [line.get_color() for line in right.get_lines()[:4]] == list(SERIES[:4])
    assert len({line.get_marker() for line in right.get_lines()[:4]}) == 4, "families differ without colors too"
