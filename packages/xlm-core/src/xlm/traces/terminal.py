"""A trace in the terminal: one frame per moment, in place where that can be, one after the other elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from xlm.traces.document import Document
from xlm.traces.moments import Film, colour_at, films, timeline

SECONDS = 0.5


def replay_in_terminal(doc: Document, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show every prompt's samples being written; without a terminal there is no animation and no waiting."""
    for prompt in dict.fromkeys(sample["prompt"] for run in doc["runs"] for sample in run["samples"]):
        shown = films(doc, prompt)
        drawing = shown[0].sample["drawing"] or {}
        title = str(drawing.get("title") or prompt or "From nothing")
        console.print(Text(title, style="bold"))
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                for moment in timeline(shown):
                    live.update(frame(shown, moment), refresh=True)
                    sleep(SECONDS)
        else:
            for moment in timeline(shown):
                console.print(frame(shown, moment, is_steady=False), "")


def frame(shown: Sequence[Film], moment: float, is_steady: bool = True) -> Group:
    """All samples at one moment, a line each; below a star graph's line, the edges that it names.

    A steady frame is as high with edges as without.
    """
    width = max(len(film.run["name"]) for film in shown)
    digits = max(len(str(film.calls)) for film in shown)
    lines: list[Text] = []
    for film in shown:
        line = Text(f"{film.run['name']:<{width}}  {film.count(moment):>{2 * digits + 4}}  ", style="default")
        lines.append(line.append_text(row(film, moment)))
        if film.graph is not None and (is_steady or film.edges(moment)):
            lines.append(Text(" " * (width + 2 * digits + 8)).append_text(edges(film, moment)))
    return Group(*lines)


def row(film: Film, moment: float) -> Text:
    """The tokens at a moment, coloured by when they appeared; what is new is bold, a place taken back reversed."""
    text = Text()
    for cell in film.at(moment):
        word, role = film.text(cell), film.role(cell.token)
        lead = word[: len(word) - len(word.lstrip())]
        text.append(lead)
        is_new = bool(cell.born) and cell.born == film.reached(moment)
        if role is not None or not cell.born:
            text.append(word.lstrip(), style="bold reverse red" if is_new and cell.born % 1 else "dim")
        else:
            r, g, b = colour_at(cell.born, film.calls)
            new = "bold reverse " if is_new else ""
            text.append(word.lstrip(), style=f"{new}rgb({r},{g},{b})")
    return text


def edges(film: Film, moment: float) -> Text:
    """The answer's edges so far: right, wrong, or not in the graph at all."""
    graph = film.graph or {"edges": [], "good": []}
    known, good = ({tuple(edge) for edge in graph[key]} for key in ("edges", "good"))
    text = Text()
    for edge in film.edges(moment):
        style, mark = ("green", "✓") if edge in good else ("red", "✗") if edge in known else ("red strike", "✗")
        text.append(f"{edge[0]}→{edge[1]}", style=style).append(f" {mark}  ", style=style.split()[0])
    return text
