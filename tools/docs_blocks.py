"""Finds the code blocks of a Markdown page and what the page says about running them.

Every fenced block in a shell or in Python runs. A comment on the line above a fence says more:

    <!-- docs: slow -->                  takes minutes as written: run it with few training steps
    <!-- docs: overrides="a=1 b=2" -->   the same, with these overrides instead of the usual ones
    <!-- docs: needs=gpu,network -->     runs only where that is at hand (also: name of a program)
    <!-- docs: fails -->                 must end with an error
    <!-- docs: check -->                 console: the output must be as printed, `...` is anything
    <!-- docs: continue -->              Python: goes on from the Python block before it
    <!-- docs: file=configs/x.yaml -->   not run, but written to that file (any language)
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

SHELL = {"bash", "sh", "shell", "console"}
PYTHON = {"python", "py"}
FLAGS = {"slow", "fails", "check", "continue"}
KEYS = {"overrides", "needs", "file"}

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
COMMENT = re.compile(r"^\s*<!--\s*docs:\s*(?P<text>.*?)\s*-->\s*$")


class DocsError(Exception):
    """A page cannot be read: an unknown annotation, or a fence without an end."""


@dataclass(frozen=True)
class Block:
    """One block of a page; `line` is the line of its fence, counted from 1."""

    page: Path
    line: int
    language: str
    code: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        """Whether this block does anything when the page is run."""
        return "file" in self.notes or self.language in SHELL | PYTHON

    @property
    def needs(self) -> list[str]:
        """What must be at hand for it."""
        return [need for need in self.notes.get("needs", "").split(",") if need]

    @property
    def where(self) -> str:
        """Its place, as editors print it."""
        return f"{self.page}:{self.line}"


def read_notes(text: str, where: str) -> dict[str, str]:
    """Annotation → its keys and values (a flag's value is ""); DocsError for a key that means nothing."""
    notes = {}
    for word in shlex.split(text):
        key, equals, value = word.partition("=")
        if key not in (KEYS if equals else FLAGS):
            known = ", ".join(sorted(FLAGS) + sorted(f"{k}=…" for k in KEYS))
            raise DocsError(f"{where}: {word!r} means nothing here. Known: {known}")
        notes[key] = value
    return notes


def language(info: str) -> str:
    """First word of a fence's info, without decoration: `python title="x"` and `{.python}` are python."""
    match = re.match(r"\{?\.?([\w+-]+)", info.strip())
    return match[1].lower() if match else ""


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page in order, in any language; DocsError if a fence has no end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks, notes, i = [], dict[str, str](), 0
    while i < len(lines):
        start = i + 1
        if comment := COMMENT.match(lines[i]):
            notes = read_notes(comment["text"], f"{page}:{start}")
        elif fence := FENCE.match(lines[i]):
            end = closing(lines, i, fence)
            if end is None:
                raise DocsError(f"{page}:{start}: this fence has no end")
            code = "\n".join(line.removeprefix(fence["indent"]) for line in lines[i + 1 : end])
            blocks.append(Block(page, start, language(fence["info"]), code, notes))
            notes, i = {}, end
        elif lines[i].strip() and notes:
            raise DocsError(f"{page}:{start}: a docs comment must stand right above its block")
        i += 1
    return blocks


def closing(lines: list[str], start: int, fence: re.Match[str]) -> int | None:
    """Index of the line that ends a fence: the same character, at least as often, and nothing else."""
    mark = fence["fence"]
    for i in range(start + 1, len(lines)):
        text = lines[i].strip()
        if len(text) >= len(mark) and set(text) == {mark[0]}:
            return i
    return None


def commands(block: Block) -> list[tuple[str, str]]:
    """Commands of a shell block, each with the output printed below it (always "" but for console blocks)."""
    if block.language != "console":
        return [(block.code, "")]
    found: list[tuple[list[str], list[str]]] = []
    for line in block.code.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif not found:
            raise DocsError(f"{block.where}: a console block begins with a command, '$ …'")
        elif not found[-1][1] and (found[-1][0][-1].endswith("\\") or line.startswith("> ")):
            found[-1][0].append(line.removeprefix("> "))
        else:
            found[-1][1].append(line)
    return [("\n".join(command), "\n".join(output)) for command, output in found]
