"""What a token costs when one size changes: training steps and texts of the four families, nothing beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks import generation, training
from benchmarks.measure import OURS, Case, Setting, Way
from benchmarks.networks import FAMILIES, Shape

TRAINING = ({"d": 64}, {"d": 256}, {"layers": 8}, {"L": 32}, {"L": 512}, {"V": 8000}, {"V": 50257}, {"B": 1}, {"B": 64})
TEXTS = ({"d": 64}, {"d": 256}, {"layers": 8}, {"L": 32}, {"L": 128}, {"V": 8000}, {"B": 1}, {"B": 32})


def cases(setting: Setting) -> list[Case]:
    """A case for a family's training and one for its texts; each way has another size, the first none."""
    found = []
    for name, base, changes, way_of, repetitions in (
        ("training", Shape(), TRAINING, training.ours, 5),
        ("texts", Shape(B=8, L=64), TEXTS, _texts, 3),
    ):
        usual, changed = (training.QUICK, changes[:2]) if setting.is_quick else (base, changes)
        shapes = [usual, *(replace(usual, **change) for change in changed)]
        found += [
            Case("scaling", f"{family}, {name}", str(usual), "tokens", _opening(way_of, family, shapes), 1, repetitions)
            for family in FAMILIES
        ]
    return found


def _opening(
    way_of: Callable[[str, Shape, Setting], Way], family: str, shapes: list[Shape]
) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        yield [replace(way_of(family, shape, setting), name=_name(shape, shapes[0])) for shape in shapes]

    return opened


def _name(shape: Shape, base: Shape) -> str:
    """`xlm, L 512`: what differs from the base."""
    return ", ".join([OURS, *(f"{size} {value:,}" for size, value in vars(shape).items() if value != vars(base)[size])])


def _texts(family: str, shape: Shape, setting: Setting) -> Way:
    with torch.no_grad():
        way = generation.ways(family, shape, setting)[0]

    def run() -> None:
        with torch.no_grad(), setting.autocast():
            way.run()

    return replace(way, run=run)
