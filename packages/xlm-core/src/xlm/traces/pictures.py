"""A trace as an animated GIF, and as a PNG that shows a few moments; both can be read on a phone and have a legend."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from xlm.traces.document import Document
from xlm.traces.terminal import Colour, Film, colour_at, films, timeline
from xlm.utils import palette

Place = tuple[float, float]

SCALE = 2  # everything is drawn larger by this factor, for antialiasing
WIDTH, MARGIN, GAP = 300, 14, 10
UNIT, RADIUS = 46, 15
# Sizes of letters: names, counts and the legend, tokens, nodes. On a phone the picture has two thirds of its size.
NAME, SMALL, TOKEN, NODE = 16, 14, 15, 14
LINE = 30
PAPER, CARD, INK, SOFT, EDGE, RIGHT, WRONG = map(
    palette.rgb, (palette.PAPER, palette.CARD, palette.INK, palette.SOFT, palette.EDGE, palette.RIGHT, palette.WRONG)
)
FRAME_MS, LAST_MS = 550, 2500
MAX_CARDS = 8
COLUMNS = 2
COLOURS = 192
MAX_FRAMES = 32


def write_gif(path: Path, doc: Document) -> Path:
    """The first prompt's samples side by side, with a frame for each moment (or for every few of many)."""
    shown = films(doc)[:MAX_CARDS]
    *earlier, last = timeline(shown)
    moments = [*earlier[:: -(-len(earlier) // MAX_FRAMES) or 1], last]
    frames = [_grid([[_card(film, t) for film in row] for row in _rows(shown)], shown) for t in moments]
    # One palette for all frames, so that nothing flickers.
    palette = _stacked(frames).quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)
    return path


def write_strip(path: Path, doc: Document, num_moments: int = 4) -> Path:
    """Each sample of the first prompt at a few moments, from the first call to the end, two in a row."""
    shown = films(doc)[:MAX_CARDS]
    rows = []
    for film in shown:
        chosen = sorted({max(1, round(film.calls * (n + 1) / num_moments)) for n in range(num_moments)})
        cards = [_card(film, t if t < film.calls else max(film.rows)) for t in chosen]
        rows += [cards[n : n + COLUMNS] for n in range(0, len(cards), COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    _grid(rows, shown).quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    return path


def _rows(shown: Sequence[Film]) -> list[Sequence[Film]]:
    columns = min(len(shown), COLUMNS)
    return [shown[n : n + columns] for n in range(0, len(shown), columns)]


def _grid(rows: Sequence[Sequence[Image.Image]], shown: Sequence[Film]) -> Image.Image:
    """Cards on a background with the legend below them, in the final size."""
    heights = [max(card.height for card in row) for row in rows]
    gap = GAP * SCALE
    width = max(len(row) for row in rows) * (WIDTH * SCALE + gap) + gap
    marks = legend(shown)
    lines = _legend_lines(marks, width / SCALE - 2 * MARGIN)
    page = Image.new("RGB", (width, sum(heights) + gap * (len(rows) + 1) + LINE * SCALE * len(lines)), PAPER)
    pen = ImageDraw.Draw(page)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for n, card in enumerate(row):
            left = gap + n * (WIDTH * SCALE + gap)
            pen.rounded_rectangle((left, top, left + card.width - 1, top + height - 1), 12 * SCALE, CARD)
            page.paste(card, (left, top), _corners(card.size))
        top += height + gap
    for n, line in enumerate(lines):
        _draw_legend(pen, line, top / SCALE + n * LINE)
    return page.resize((page.width // SCALE, page.height // SCALE), Image.Resampling.LANCZOS)


def legend(shown: Sequence[Film]) -> dict[str, str]:
    """The marks that appear in these films, and their meaning."""
    cells = [(film, cell) for film in shown for row in film.rows.values() for cell in row if not cell.is_prompt]
    roles = {film.role(cell.token) for film, cell in cells}
    found = {"scale": "first to last call", "new": "new in this call"} if any(cell.born for _, cell in cells) else {}
    found |= {"mask": "mask"} if "mask" in roles else {}
    found |= {"back": "masked again"} if any(moment % 1 for film in shown for moment in film.rows) else {}
    if any(film.graph for film in shown):
        found |= {"start": "start", "goal": "goal", "right": "right", "wrong": "wrong", "invented": "not in the graph"}
    return found


# The width of each mark of the legend.
_MARKS = {
    "scale": 60, "new": 22, "mask": 20, "back": 20, "start": 16, "goal": 20, "right": 24, "wrong": 34, "invented": 40,
}  # fmt: skip


def _legend_lines(marks: Mapping[str, str], width: float) -> list[dict[str, tuple[float, str]]]:
    """The entries of each line with their places from the left."""
    lines: list[dict[str, tuple[float, str]]] = []
    x = width
    for name, text in marks.items():
        size = _MARKS[name] + 6 + _font(SMALL).getlength(text) / SCALE
        if x + size > width:
            lines.append({})
            x = 0.0
        lines[-1][name] = MARGIN + x, text
        x += size + 18
    return lines


def _draw_legend(pen: ImageDraw.ImageDraw, line: Mapping[str, tuple[float, str]], top: float) -> None:
    middle = top + LINE / 2 - 4
    for name, (x, text) in line.items():
        width = _MARKS[name]
        end = (x + width, middle)
        if name == "scale":
            for n in range(width):
                box = _scaled(x + n, middle - 4, x + n + 1, middle + 4)
                pen.rectangle(box, colour_at(1 + n, width))
        elif name == "new":
            _token(pen, x, middle - 11, width, "a", None, colour_at(1, 2), 1, 1)
        elif name in ("mask", "back"):
            _token(pen, x, middle - 11, width, "", "mask", EDGE, 0.5 if name == "back" else 0, 0.5)
        elif name in ("start", "goal"):
            _node(pen, x + width / 2, middle, 7, name == "start", name == "goal", None)
        else:
            _line(pen, (x, middle), end, RIGHT if name == "right" else WRONG, is_dashed=name == "invented")
            if name != "right":
                _cross(pen, x + width / 2, middle)
        _text(pen, (x + width + 6, middle), text, SMALL, SOFT, anchor="lm")


def _stacked(frames: Sequence[Image.Image]) -> Image.Image:
    """Scale all frames to half the size, in one image."""
    small = [frame.reduce(2) for frame in frames]
    stack = Image.new("RGB", (small[0].width, sum(frame.height for frame in small)))
    for n, frame in enumerate(small):
        stack.paste(frame, (0, n * frame.height))
    return stack


def _corners(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), 12 * SCALE, 255)
    return mask


def _card(film: Film, moment: float) -> Image.Image:
    """One sample at one moment; its height is the same at every moment."""
    graph = film.graph
    height = 46 + (_graph_height(graph) if graph else 0) + _tokens(None, film, 0, 0)[1] + MARGIN
    card = Image.new("RGB", (WIDTH * SCALE, int(height * SCALE)), CARD)
    pen = ImageDraw.Draw(card)
    _text(pen, (MARGIN, MARGIN), film.run["name"], NAME, INK, bold=True)
    _text(pen, (WIDTH - MARGIN, MARGIN), film.count(moment), SMALL, SOFT, anchor="ra")
    top = 42.0
    if graph:
        _graph(pen, film, graph, moment, top)
        top += _graph_height(graph)
    _tokens(pen, film, moment, top)
    return card


def _tokens(pen: ImageDraw.ImageDraw | None, film: Film, moment: float, top: float) -> tuple[float, float]:
    """Draw the row of tokens (None: only measure the greatest height); returns where it ends and its height."""
    moments = list(film.rows) if pen is None else [film.reached(moment)]
    tallest = 0.0
    for t in moments:
        x, y = float(MARGIN), top
        for cell in film.at(t):
            text = film.text(cell)
            role = film.role(cell.token)
            is_wide = text.startswith(" ") or film.graph is not None
            word = text.strip()
            width = 20.0 if role == "mask" else _font(TOKEN).getlength(word) / SCALE + 8
            x += 4 if is_wide and x > MARGIN else 0
            if x + width > WIDTH - MARGIN:
                x, y = float(MARGIN), y + LINE
            if pen is not None:
                _token(pen, x, y, width, word, role, colour_at(cell.born, film.calls), cell.born, t)
            x += width
        tallest = max(tallest, y + LINE - top)
    return top + tallest, tallest


def _token(
    pen: ImageDraw.ImageDraw, x: float, y: float, width: float, word: str, role: str | None, colour: Colour,
    born: float, moment: float,
) -> None:  # fmt: skip
    box = _scaled(x, y, x + width, y + 24)
    if role == "mask":
        if born % 1 and born == moment:
            for n in range(1, 4):
                pen.line(_scaled(x + 2, y + 6 * n + 4, x + width - 2, y + 6 * n - 6), SOFT, SCALE)
            pen.rounded_rectangle(box, 5 * SCALE, None, INK, 2 * SCALE)
        else:
            pen.rounded_rectangle(box, 5 * SCALE, None, EDGE, SCALE)
        return
    if born:
        is_new = born == moment
        fill = _mixed(colour, CARD, 0.5 if is_new else 0.28)
        pen.rounded_rectangle(box, 5 * SCALE, fill, colour if is_new else None, SCALE)
    _text(pen, (x + width / 2, y + 12), word, TOKEN, SOFT if role else INK, anchor="mm")


def _graph_height(graph: Mapping[str, Any]) -> float:
    return (max(node["y"] for node in graph["nodes"]) + 1) * UNIT * _shrink(graph) + 12


def _shrink(graph: Mapping[str, Any]) -> float:
    columns = max(node["x"] for node in graph["nodes"]) + 1
    return min(1.0, (WIDTH - 2 * MARGIN) / (columns * UNIT))


def _graph(pen: ImageDraw.ImageDraw, film: Film, graph: Mapping[str, Any], moment: float, top: float) -> None:
    """Nodes and edges, with the edges of the answer so far drawn over them."""
    size = _shrink(graph)
    left = (WIDTH - (max(node["x"] for node in graph["nodes"]) + 1) * UNIT * size) / 2
    places = {
        node["id"]: (left + (node["x"] + 0.5) * UNIT * size, top + (node["y"] + 0.5) * UNIT * size)
        for node in graph["nodes"]
    }
    known = {tuple(edge) for edge in graph["edges"]}
    good = {tuple(edge) for edge in graph["good"]}
    for tail, head in graph["edges"]:
        pen.line(_scaled(*places[tail], *places[head]), EDGE, SCALE * 2)
    crosses = []
    for tail, head in film.edges(moment):
        if tail in places and head in places:
            colour = RIGHT if (tail, head) in good else WRONG
            _line(pen, places[tail], places[head], colour, is_dashed=(tail, head) not in known)
            if colour == WRONG:
                crosses.append(_free_point(places[tail], places[head], list(places.values())))
    born = {film.text(cell).strip(): cell.born for cell in film.at(moment) if cell.born}
    for name, (x, y) in places.items():
        is_source, is_goal = name == graph["source"], name == graph["goal"]
        _node(pen, x, y, RADIUS * size, is_source, is_goal, colour_at(born[name], film.calls) if name in born else None)
        _text(pen, (x, y), name, max(9, round(NODE * size)), CARD if is_source else INK, anchor="mm")
    for x, y in crosses:
        _cross(pen, x, y)


def _node(
    pen: ImageDraw.ImageDraw, x: float, y: float, r: float, is_source: bool, is_goal: bool, mark: Colour | None
) -> None:
    if is_goal:
        pen.ellipse(_scaled(x - r - 4, y - r - 4, x + r + 4, y + r + 4), CARD, INK, SCALE)
    fill = INK if is_source else _mixed(mark, CARD, 0.35) if mark else CARD
    pen.ellipse(_scaled(x - r, y - r, x + r, y + r), fill, INK if is_source or is_goal else mark or EDGE, SCALE)


def _free_point(start: Place, end: Place, nodes: Sequence[Place]) -> Place:
    """The point of a line that is farthest from all nodes, for its mark."""
    shares = (0.5, 0.4, 0.6, 0.3, 0.7)
    points = [(start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share) for share in shares]
    return max(points, key=lambda point: round(min(math.dist(point, node) for node in nodes)))


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    """The mark of a wrong edge, which can be seen without colors."""
    pen.ellipse(_scaled(x - 7, y - 7, x + 7, y + 7), CARD, WRONG, SCALE)
    pen.line(_scaled(x - 3.2, y - 3.2, x + 3.2, y + 3.2), WRONG, 2 * SCALE)
    pen.line(_scaled(x - 3.2, y + 3.2, x + 3.2, y - 3.2), WRONG, 2 * SCALE)


def _line(pen: ImageDraw.ImageDraw, start: Place, end: Place, colour: Colour, is_dashed: bool) -> None:
    pieces = 9 if is_dashed else 1
    for n in range(0, pieces, 2):
        a, b = n / pieces, (n + 1) / pieces
        points = [s + (e - s) * share for share in (a, b) for s, e in zip(start, end, strict=True)]
        pen.line(_scaled(*points), colour, SCALE * 4)


def _mixed(colour: Colour, ground: Colour, share: float) -> Colour:
    r, g, b = (round(c * share + other * (1 - share)) for c, other in zip(colour, ground, strict=True))
    return r, g, b


def _scaled(*numbers: float) -> tuple[float, ...]:
    return tuple(number * SCALE for number in numbers)


def _text(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "la",
    bold: bool = False,
) -> None:  # fmt: skip
    pen.text((at[0] * SCALE, at[1] * SCALE), text, colour, _font(size, bold), anchor=anchor)


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, so that pictures look the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size * SCALE)
