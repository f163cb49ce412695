"""The cells of a row at each moment, and a trace in the terminal, one frame per moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from xlm.decoding.trace import takes_back
from xlm.traces.document import Document, Run, Sample
from xlm.utils.palette import ORDER, Rgb, rgb

# Early tokens are blue, late ones yellow, as on the page.
STOPS = tuple(rgb(color) for color in ORDER)
Colour = Rgb


@dataclass(frozen=True)
class Cell:
    """A token in a row. `key` stays the same while it moves; `born` is the moment that wrote it, 0 if it was given."""

    key: int
    token: int
    born: float
    is_prompt: bool = False


def moments(sample: Sample) -> dict[float, list[Cell]]:
    """The row at each moment, in order; tokens added or cut off without a call belong to the moment before."""
    cells = [Cell(n, token, 0, n < sample["answer_start"]) for n, token in enumerate(sample["given"])]
    now: float = 0
    found, next_key = {now: cells}, len(cells)
    for step in sample["steps"]:
        if step["call"] > 0:
            now = int(now) + 1
        elif takes_back(step):
            now = int(now) + 0.5
        cells = list(cells)
        for change in step["changes"]:
            at = change["at"]
            if change["do"] == "insert":
                cells.insert(at, Cell(next_key, change["token"], now))
                next_key += 1
            elif change["do"] == "write":
                cells[at] = replace(cells[at], token=change["token"], born=now)
            else:
                del cells[at]
        found[now] = cells
    return found


def colour_at(born: float, calls: int) -> Colour:
    """The color of a token written at moment `born` of `calls`."""
    share = (born - 1) / (calls - 1) if calls > 1 else 0.0
    place = min(max(share, 0.0), 1.0) * (len(STOPS) - 1)  # half a moment before the first call, or after the last
    low = min(int(place), len(STOPS) - 2)
    r, g, b = (round(a + (z - a) * (place - low)) for a, z in zip(STOPS[low], STOPS[low + 1], strict=True))
    return r, g, b


@dataclass(frozen=True)
class Film:
    """A sample of a run with all its moments and the texts of its tokens."""

    run: Run
    sample: Sample
    rows: Mapping[float, Sequence[Cell]]

    @classmethod
    def of(cls, run: Run, sample: Sample) -> Film:
        """The film of a sample."""
        return cls(run, sample, moments(sample))

    @property
    def calls(self) -> int:
        """Network calls."""
        return int(max(self.rows))

    def reached(self, moment: float) -> float:
        """The last moment of this film that is not after another film's `moment`."""
        return max(own for own in self.rows if own <= moment)

    def at(self, moment: float) -> list[Cell]:
        """The answer at a moment, or at the end if that is earlier."""
        return [cell for cell in self.rows[self.reached(moment)] if not cell.is_prompt]

    def count(self, moment: float) -> str:
        """`3 / 8` after the third call, `3½ / 8` when tokens were taken back after it."""
        here = self.reached(moment)
        return f"{int(here)}{'½' if here % 1 else ''} / {self.calls}"

    def role(self, token: int) -> str | None:
        """The role of a special token; None for a word."""
        found = [role for role, other in self.run["special"].items() if other == token and role != "unk"]
        return found[0] if found else None

    def text(self, cell: Cell) -> str:
        """The text shown for a cell, including its leading space."""
        role = self.role(cell.token)
        if role is not None:
            return {"mask": " ▁", "eos": " ⏎"}.get(role, f" [{role.upper()}]")
        return self.run["tokens"].get(str(cell.token), f" #{cell.token}")

    def edges(self, moment: float) -> list[tuple[str, str]]:
        """Pairs of words of the answer that are both written, by their final positions."""
        end = [cell.key for cell in self.at(max(self.rows)) if self.role(cell.token) is None]
        now = {cell.key: cell for cell in self.at(moment) if self.role(cell.token) is None}
        words = [self.text(now[key]).strip() if key in now else None for key in end]
        return [(a, b) for a, b in zip(words[::2], words[1::2], strict=False) if a is not None and b is not None]

    @property
    def graph(self) -> Mapping[str, Any] | None:
        """The drawing, if it is a graph."""
        drawing = self.sample["drawing"]
        return drawing if drawing is not None and drawing.get("kind") == "graph" else None


def timeline(shown: Sequence[Film]) -> list[float]:
    """Every moment of several films, in order."""
    return sorted({moment for film in shown for moment in film.rows})


def films(doc: Document, prompt: str | None = None) -> list[Film]:
    """The samples of one prompt (None: the first one's), by number, then by run."""
    if prompt is None:
        prompt = doc["runs"][0]["samples"][0]["prompt"]
    chosen = [[Film.of(run, sample) for sample in run["samples"] if sample["prompt"] == prompt] for run in doc["runs"]]
    longest = max(map(len, chosen))
    return [of_run[n] for n in range(longest) for of_run in chosen if n < len(of_run)]


SECONDS = 0.5


def replay_in_terminal(doc: Document, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Replay the generation of every prompt's samples; without a terminal there is no animation and no waiting."""
    for prompt in dict.fromkeys(sample["prompt"] for run in doc["runs"] for sample in run["samples"]):
        shown = films(doc, prompt)
        drawing = shown[0].sample["drawing"] or {}
        title = str(drawing.get("title") or prompt or "Unconditional sample")
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
    """All samples at one moment, a line each; below the line of a star graph, the edges in its answer.

    A steady frame has the same height with and without edges.
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
    """The tokens at a moment, colored by when they appeared; new tokens are bold, tokens taken back are reversed."""
    text = Text()
    for cell in film.at(moment):
        word, role = film.text(cell), film.role(cell.token)
        lead = word[: len(word) - len(word.lstrip())]
        text.append(lead)
        is_new = bool(cell.born) and cell.born == film.reached(moment)
        if role is not None or not cell.born:
            text.append(word.lstrip(), style="bold reverse" if is_new and cell.born % 1 else "dim")
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
