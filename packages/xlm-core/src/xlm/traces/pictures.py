"""A trace as an animated GIF, and as a PNG that shows a few moments; both are small enough for a README."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from xlm.traces.document import Document
from xlm.traces.terminal import Colour, Film, colour_at, films, timeline

SCALE = 2  # everything is drawn larger by this factor, for antialiasing
WIDTH, MARGIN, GAP = 300, 14, 10
UNIT, RADIUS = 44, 14
PAPER, CARD, INK, SOFT, EDGE = (246, 246, 249), (255, 255, 255), (28, 29, 38), (106, 108, 123), (201, 203, 214)
RIGHT, WRONG = (22, 145, 90), (211, 55, 47)
FRAME_MS, LAST_MS = 550, 2500
MAX_CARDS = 8
COLOURS = 192
MAX_FRAMES = 32


def write_gif(path: Path, doc: Document) -> Path:
    """The first prompt's samples side by side, with a frame for each moment (or for every few of many)."""
    shown = films(doc)[:MAX_CARDS]
    *earlier, last = timeline(shown)
    moments = [*earlier[:: -(-len(earlier) // MAX_FRAMES) or 1], last]
    frames = [_grid([[_card(film, t) for film in row] for row in _rows(shown)]) for t in moments]
    # One palette for all frames, so that nothing flickers.
    palette = _stacked(frames).quantize(COLOURS, method=Image.Quantize.FASTOCTREE)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    path.parent.mkdir(parents=True, exist_ok=True)
    small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=True)
    return path


def write_strip(path: Path, doc: Document, num_moments: int = 4) -> Path:
    """A row for each sample of the first prompt at a few moments, from the first call to the end."""
    shown = films(doc)[:MAX_CARDS]
    rows = []
    for film in shown:
        chosen = sorted({max(1, round(film.calls * (n + 1) / num_moments)) for n in range(num_moments)})
        rows.append([_card(film, t if t < film.calls else max(film.rows)) for t in chosen])
    path.parent.mkdir(parents=True, exist_ok=True)
    _grid(rows).quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _rows(shown: Sequence[Film]) -> list[Sequence[Film]]:
    columns = 1 if len(shown) == 1 else 2
    return [shown[n : n + columns] for n in range(0, len(shown), columns)]


def _grid(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Cards on a background, with their final size."""
    heights = [max(card.height for card in row) for row in rows]
    gap = GAP * SCALE
    width = max(len(row) for row in rows) * (WIDTH * SCALE + gap) + gap
    page = Image.new("RGB", (width, sum(heights) + gap * (len(rows) + 1)), PAPER)
    pen = ImageDraw.Draw(page)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for n, card in enumerate(row):
            left = gap + n * (WIDTH * SCALE + gap)
            pen.rounded_rectangle((left, top, left + card.width - 1, top + height - 1), 12 * SCALE, CARD)
            page.paste(card, (left, top), _corners(card.size))
        top += height + gap
    return page.resize((page.width // SCALE, page.height // SCALE), Image.Resampling.LANCZOS)


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
    height = 44 + (_graph_height(graph) if graph else 0) + _tokens(None, film, 0, 0)[1] + MARGIN
    card = Image.new("RGB", (WIDTH * SCALE, int(height * SCALE)), CARD)
    pen = ImageDraw.Draw(card)
    _text(pen, (MARGIN, MARGIN), film.run["name"], 14, INK, bold=True)
    _text(pen, (WIDTH - MARGIN, MARGIN), film.count(moment), 12, SOFT, anchor="ra")
    top = 40.0
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
            width = 20.0 if role == "mask" else _font(13).getlength(word) / SCALE + 8
            x += 4 if is_wide and x > MARGIN else 0
            if x + width > WIDTH - MARGIN:
                x, y = float(MARGIN), y + 28
            if pen is not None:
                _token(pen, x, y, width, word, role, colour_at(cell.born, film.calls), cell.born, t)
            x += width
        tallest = max(tallest, y + 28 - top)
    return top + tallest, tallest


def _token(
    pen: ImageDraw.ImageDraw, x: float, y: float, width: float, word: str, role: str | None, colour: Colour,
    born: float, moment: float,
) -> None:  # fmt: skip
    box = _scaled(x, y, x + width, y + 22)
    if role == "mask":
        if born % 1 and born == moment:
            pen.rounded_rectangle(box, 5 * SCALE, _mixed(WRONG, CARD, 0.2), WRONG, 2 * SCALE)
        else:
            pen.rounded_rectangle(box, 5 * SCALE, None, EDGE, SCALE)
        return
    if born:
        is_new = born == moment
        fill = _mixed(colour, CARD, 0.45 if is_new else 0.2)
        pen.rounded_rectangle(box, 5 * SCALE, fill, colour if is_new else None, SCALE)
    _text(pen, (x + width / 2, y + 11), word, 13, SOFT if role else INK, anchor="mm")


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
    for tail, head in film.edges(moment):
        if tail in places and head in places:
            colour = RIGHT if (tail, head) in good else WRONG
            _line(pen, places[tail], places[head], colour, is_dashed=(tail, head) not in known)
    born = {film.text(cell).strip(): cell.born for cell in film.at(moment) if cell.born}
    for name, (x, y) in places.items():
        r = RADIUS * size
        is_source, is_goal = name == graph["source"], name == graph["goal"]
        mark = colour_at(born[name], film.calls) if name in born else None
        if is_goal:
            pen.ellipse(_scaled(x - r - 4, y - r - 4, x + r + 4, y + r + 4), CARD, INK, SCALE)
        fill = INK if is_source else _mixed(mark, CARD, 0.35) if mark else CARD
        pen.ellipse(_scaled(x - r, y - r, x + r, y + r), fill, INK if is_source or is_goal else mark or EDGE, SCALE)
        _text(pen, (x, y), name, max(8, round(12 * size)), CARD if is_source else INK, anchor="mm")


def _line(
    pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: Colour, is_dashed: bool
) -> None:
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
