"""The colors of every picture and page; readers who confuse red and green, or blue and yellow, can tell them apart.

`tests/utils/test_palette.py` simulates the three kinds of color blindness and measures the distances.
"""

from __future__ import annotations

Rgb = tuple[int, int, int]

# Runs and series, in the order of use: on light and on dark ground.
SERIES = ("#2c649a", "#d17800", "#640353", "#2d9f85", "#aa71e5", "#a32d0a", "#232706", "#2d01a9")
SERIES_ON_DARK = ("#2987ff", "#f1ce33", "#ff78b2", "#0af4a6", "#adb1ff", "#ee480e", "#d9f3fd", "#96707b")
# The order of tokens, from the first network call to the last: from blue to yellow, without red and green.
ORDER = ("#2b45c4", "#5d62d0", "#8f90b8", "#c6b277", "#f2c230")
# Verdicts always have a second mark: ✓ and ✗, solid and dashed.
RIGHT, WRONG = "#00805a", "#d0021b"
RIGHT_ON_DARK, WRONG_ON_DARK = "#4fd6a0", "#ff5c50"
# Background, surface, text, quiet text, fine lines, edges.
PAPER, CARD, INK, SOFT, LINE, EDGE = "#f6f6f9", "#ffffff", "#1c1d26", "#62646f", "#e2e3ea", "#c9cbd6"
_DARK = ("#101118", "#191b24", "#e9eaf1", "#a0a3b4", "#2a2d3a", "#474b5e")
_NAMES = ("paper", "card", "ink", "soft", "line", "edge")


def rgb(color: str) -> Rgb:
    """`#2c649a` as three numbers from 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def css() -> str:
    """The colors as CSS variables for light and dark pages: `--ink`, `--right`, `--c0` to `--c7`, `--order`, …"""
    light = dict(zip(_NAMES, (PAPER, CARD, INK, SOFT, LINE, EDGE), strict=True)) | {"right": RIGHT, "wrong": WRONG}
    dark = dict(zip(_NAMES, _DARK, strict=True)) | {"right": RIGHT_ON_DARK, "wrong": WRONG_ON_DARK}
    light |= {f"c{n}": color for n, color in enumerate(SERIES)} | {"order": ", ".join(ORDER)}
    dark |= {f"c{n}": color for n, color in enumerate(SERIES_ON_DARK)}
    return (
        f":root {{ {_variables(light)} color-scheme: light dark; }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(dark)} }} }}\n"
    )


def _variables(colors: dict[str, str]) -> str:
    return " ".join(f"--{name}: {color};" for name, color in colors.items())
