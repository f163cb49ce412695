"""Moments, the animation, the strip and the replay in the terminal."""

from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from xlm.traces.document import Document
from xlm.traces.pictures import INK, RIGHT, WIDTH, WRONG, legend, write_gif, write_strip
from xlm.traces.terminal import STOPS, Colour, Film, colour_at, films, replay_in_terminal, timeline


def words(film: Film, moment: int) -> str:
    return "".join(film.text(cell) for cell in film.at(moment)).strip()


def test_moments_follow_the_calls_and_end_with_the_answer(doc: Document) -> None:
    ilm, mlm, _ = films(doc)
    assert [words(ilm, t) for t in range(6)] == ["", "0", "0 2", "0 1 2", "0 1 1 2", "0 1 1 2"]
    assert [words(mlm, t) for t in (0, 1, 2, 6)] == ["▁ ▁ ▁ ▁ ▁ ▁", "▁ ▁ ▁ ▁ ▁ ⏎", "▁ ▁ ▁ ▁ ⏎ ⏎", "0 1 1 2 ⏎"]
    assert words(mlm, 99) == words(mlm, 6)


def test_a_cell_keeps_its_key_while_others_are_inserted(doc: Document) -> None:
    film = films(doc)[0]
    places = [[cell.key for cell in film.at(t)] for t in range(5)]
    for before, after in pairwise(places):
        assert [key for key in after if key in before] == before


def test_what_is_taken_back_is_a_moment_of_its_own(remasked: Document) -> None:
    film, once = films(remasked)
    assert timeline([film, once]) == [0, 1, 2, 2.5, 3]
    assert [words(film, t) for t in film.rows] == ["▁ ▁", "▁ 8", "6 8", "▁ ▁", "6 7"]
    assert [film.count(t) for t in film.rows] == ["0 / 3", "1 / 3", "2 / 3", "2½ / 3", "3 / 3"]
    assert [cell.born for cell in film.at(2.5)] == [2.5, 2.5]
    assert (words(once, 2.5), once.count(2.5)) == ("5 6 7", "1 / 1")


def test_pictures_and_the_terminal_show_what_is_taken_back(remasked: Document, tmp_path: Path) -> None:
    with Image.open(write_gif(tmp_path / "t.gif", remasked)) as gif:
        assert gif.n_frames == 5  # type: ignore[attr-defined]
        before, back = (pixels(gif, frame) for frame in (0, 3))
    assert back[INK] > before[INK] + 100, "the boxes of what was masked again have a dark edge"
    assert not back[WRONG], "and are not wrong"
    plain, _ = replayed(remasked, terminal=False)
    assert "2½ / 3   ▁ ▁" in plain
    coloured, waits = replayed(remasked, terminal=True)
    assert len(waits) == 5
    assert coloured.count("\x1b[1;7;39m▁") == 2


def test_edges_are_read_by_where_their_words_stand_at_the_end(doc: Document) -> None:
    ilm, mlm, wrong = films(doc)
    assert [ilm.edges(t) for t in (2, 3, 4)] == [[], [("0", "1")], [("0", "1"), ("1", "2")]]
    assert [mlm.edges(t) for t in (3, 4, 6)] == [[], [("1", "2")], [("0", "1"), ("1", "2")]]
    assert wrong.edges(6) == [("0", "3"), ("3", "2")]


def test_colours_run_from_the_first_call_to_the_last() -> None:
    assert colour_at(1, 9) == STOPS[0]
    assert colour_at(9, 9) == STOPS[-1]
    assert colour_at(1, 1) == colour_at(0.5, 9) == STOPS[0]
    assert colour_at(9.5, 9) == STOPS[-1]


def test_the_animation_has_a_frame_for_each_call(doc: Document, tmp_path: Path) -> None:
    with Image.open(write_gif(tmp_path / "new/t.gif", doc)) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (7, 0)  # type: ignore[attr-defined]
        first = gif.convert("RGB").tobytes()
        gif.seek(6)
        assert gif.convert("RGB").tobytes() != first
        assert gif.width > 2 * WIDTH


def test_the_strip_shows_moments_two_in_a_row(doc: Document, tmp_path: Path) -> None:
    with Image.open(write_strip(tmp_path / "new/t.png", doc, num_moments=3)) as strip:
        assert 2 * WIDTH < strip.width < 3 * WIDTH, "a phone shows letters of 15 pixels with 9"
        found = pixels(strip)
        assert min(found[RIGHT], found[WRONG]) > 50, "edges that are right, and edges that are wrong"


def test_the_legend_has_the_marks_that_appear(doc: Document, remasked: Document, boards: Document) -> None:
    assert list(legend(films(doc))) == ["scale", "new", "mask", "start", "goal", "right", "wrong", "invented"]
    assert list(legend(films(remasked))) == ["scale", "new", "mask", "back"]
    assert "start" not in legend(films(boards))


def pixels(image: Image.Image, frame: int = 0) -> Counter[Colour]:
    """How many pixels have about one of the colors of verdicts and of text."""
    image.seek(frame)
    found: Counter[Colour] = Counter()
    colors: Any = image.convert("RGB").getcolors(2**20)
    for count, color in colors:
        for named in (RIGHT, WRONG, INK):
            found[named] += count * all(abs(a - b) < 16 for a, b in zip(named, color, strict=True))
    return found


def replayed(doc: Document, terminal: bool) -> tuple[str, list[float]]:
    waits: list[float] = []
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=100, color_system="truecolor" if terminal else None
    )
    replay_in_terminal(doc, console, waits.append)
    return console.file.getvalue(), waits  # type: ignore[attr-defined]


def test_without_a_terminal_frames_follow_each_other_and_nothing_waits(doc: Document) -> None:
    text, waits = replayed(doc, terminal=False)
    assert waits == []
    assert text.startswith("From 0 to 2\n")
    assert "\x1b" not in text, "no cursor is moved"
    assert text.count("ilm ") == 7
    assert "0→1 ✓" in text
    assert "3→2 ✗" in text


def test_in_a_terminal_frames_are_shown_in_place(doc: Document) -> None:
    text, waits = replayed(doc, terminal=True)
    assert len(waits) == 7 + 2, "six calls on the graph, one on the text, and what was given"
    assert "\x1b[" in text
