"""The palette with normal and with simulated color vision."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt
import pytest

from xlm.utils import palette

Array = npt.NDArray[np.float64]
# Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color vision deficiency (2009),
# full severity, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Linear RGB to OKLab (Ottosson, 2020).
TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def linear(color: str) -> Array:
    c = np.array(palette.rgb(color)) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def distance(one: str, other: str, vision: str) -> float:
    """The distance in OKLab, where black and white are 100 apart."""
    seen = [np.clip(VISION[vision] @ linear(color), 0, 1) for color in (one, other)]
    a, b = (100 * TO_LAB @ np.cbrt(TO_LMS @ light) for light in seen)
    return float(np.linalg.norm(a - b))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [palette.SERIES, palette.SERIES_ON_DARK])
def test_series_differ_for_every_reader(colors: tuple[str, ...], vision: str) -> None:
    closest = min(combinations(colors, 2), key=lambda pair: distance(*pair, vision))
    assert distance(*closest, vision) > 11, closest


def scale(stops: tuple[str, ...]) -> list[str]:
    """The colors between the stops."""
    found = []
    for low, high in pairwise(stops):
        a, b = np.array(palette.rgb(low)), np.array(palette.rgb(high))
        found += [
            "#{:02x}{:02x}{:02x}".format(*np.round(a + (b - a) * share).astype(int)) for share in (0, 0.25, 0.5, 0.75)
        ]
    return [*found, stops[-1]]


@pytest.mark.parametrize("vision", VISION)
def test_wrong_is_not_a_color_of_the_order(vision: str) -> None:
    closest = min(scale(palette.ORDER), key=lambda color: distance(color, palette.WRONG, vision))
    assert distance(closest, palette.WRONG, vision) > 15, closest
    assert distance(palette.RIGHT, palette.WRONG, vision) > 9
    steps = [distance(a, b, vision) for a, b in pairwise(palette.ORDER)]
    assert min(steps) > 6, "the order can be read"


def test_colors_stand_out_from_their_ground() -> None:
    for color in (*palette.SERIES, palette.RIGHT, palette.WRONG):
        assert contrast(color, palette.CARD) > 3
    for color in (*palette.SERIES_ON_DARK, palette.RIGHT_ON_DARK, palette.WRONG_ON_DARK):
        assert contrast(color, palette._DARK[1]) > 3.9
    assert contrast(palette.SOFT, palette.PAPER) > 4.5, "small text"


def test_variables_for_pages() -> None:
    light, dark = palette.css().split("@media")
    assert "--c7: #2d01a9;" in light
    assert "--wrong: #ff5c50;" in dark
    assert {line.split(":")[0] for line in dark.split("--")[1:]} <= {
        line.split(":")[0] for line in light.split("--")[1:]
    }
