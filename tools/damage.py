"""Damages files at random, the same for the same seed, for tests of the code that reads them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

# Bytes that a text file should not have, and marks of other encodings.
_ODD_BYTES = (
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\r",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\x1b[31m",
    b'"',
    b",",
    b"\n\n",
)
_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\x00\x00", b"\x1f\x8b", b"PK\x03\x04")
_NUMBERS = (b"-1", b"1e999", b"NaN", b"9" * 25, b"9" * 5000, b"0.5", b"0x1F")
_DEEP = 5000


def _nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def _values(random: Random) -> Any:
    """A value that a reader may not expect at a place of JSON or YAML."""
    return random.choice(
        (
            None, True, False, 0, -1, 3, 2**63, 10**400, 0.5, float("nan"), float("inf"), -float("inf"), "", " ", "x",
            "..", "/",
            "../../x", "\x00", "\x1b[31m", "<b>", "\ud800", "é" * 300, "a\nb", [], {}, [None], [[]], {"": None},
            {"a": {"b": []}}, ["x", 1], _nested(30),
        )
    )  # fmt: skip


def _flip(content: bytes, random: Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged)


def _truncate(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content))]


def _cut_out(content: bytes, random: Random) -> bytes:
    start, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:]


def _insert(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content) + 1)
    new = random.choice((*_ODD_BYTES, *_NUMBERS, random.randbytes(random.choice((1, 4, 300)))))
    return content[:place] + new + content[place:]


def _duplicate(content: bytes, random: Random) -> bytes:
    start, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:]


def _mark(content: bytes, random: Random) -> bytes:
    return random.choice(_MARKS) + content


def _line_ends(content: bytes, random: Random) -> bytes:
    return content.replace(b"\n", random.choice((b"\r\n", b"\r", b"\n\n", b"", b"\x00\n")))


def _other_encoding(content: bytes, random: Random) -> bytes:
    text = content.decode("utf-8", errors="replace")
    return text.encode(random.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-7")), errors="replace")


def _number(content: bytes, random: Random) -> bytes:
    """Another number in place of one of the digits."""
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if not places:
        return _insert(content, random)
    place = random.choice(places)
    return content[:place] + random.choice(_NUMBERS) + content[place + 1 :]


def _whole(content: bytes, random: Random) -> bytes:
    """Another file altogether."""
    return random.choice(
        (
            b"", b"\n", b" ", b"\0", b"null", b"[]", b"{}", b'""', b"0", b"true", b"---", b"[" * _DEEP,
            b'{"a":' * _DEEP, b"NaN", b"<html></html>", b"- a\n- b\n", b"&a [*a]\n",
            b"!!python/object:os.system x\n", random.randbytes(500),
            b"a" * 100_000, b"," * 1000, b'"',
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        )
    )  # fmt: skip


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _truncate, _cut_out, _insert, _duplicate, _mark, _line_ends, _other_encoding, _number, _whole,
)  # fmt: skip


def _places(node: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every node below a node of JSON."""
    found: list[tuple[Any, Any]] = []
    waiting = [node]
    while waiting:
        container = waiting.pop()
        for key, child in list(container.items()) if isinstance(container, dict) else enumerate(container):
            found.append((container, key))
            if isinstance(child, dict | list):
                waiting.append(child)
    return found


def other_node(tree: Any, random: Random) -> Any:
    """A copy of a tree of JSON in which one node has another value or name, or is gone, or is there twice."""
    tree = copy.deepcopy(tree)
    places = _places(tree) if isinstance(tree, dict | list) else []
    if not places or random.random() < 0.05:
        return _values(random)
    container, key = random.choice(places)
    what = random.randrange(4)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[random.choice(("", "x", f"{key} ", "\ud800", "_target_"))] = container.pop(key)
    elif what == 1:
        container.append(copy.deepcopy(container[key]))
    else:
        container[key] = _values(random)
    return tree


def _other_json(content: bytes, random: Random) -> bytes:
    return json.dumps(other_node(json.loads(content), random)).encode()


def _other_json_line(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    place = random.choice([place for place, line in enumerate(lines) if line.strip()])
    lines[place] = _other_json(lines[place], random)
    return b"\n".join(lines)


def _other_yaml(content: bytes, random: Random) -> bytes:
    text = yaml.safe_dump(other_node(yaml.safe_load(content), random), sort_keys=False)
    return text.encode("utf-8", errors="surrogatepass")


def _other_cell(content: bytes, random: Random) -> bytes:
    lines = content.split(b"\n")
    place = random.choice([place for place, line in enumerate(lines) if line.strip()])
    tab = b"\t" if b"\t" in content else b","
    cells = lines[place].split(tab)
    cells[random.randrange(len(cells))] = random.choice(
        (b"", *_NUMBERS, *_ODD_BYTES, b"x" * 200_000, b"=1+1", b'"a', b"None")
    )
    lines[place] = tab.join(cells)
    return b"\n".join(lines)


_BY_ENDING: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _other_json, ".jsonl": _other_json_line, ".yaml": _other_yaml, ".csv": _other_cell, ".tsv": _other_cell,
}  # fmt: skip


def _removed(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


OTHER_KINDS: tuple[Callable[[Path], None], ...] = (_removed, _folder, _link_to_itself, _link_to_nothing)


def damage(path: Path, random: Random, content_only: bool = False) -> str:
    """Damage a file in place; returns what was done.

    Args:
        content_only: never put something else in its place, such as a folder.
    """
    content = path.read_bytes()
    if not content_only and random.random() < 0.04:
        change = random.choice(OTHER_KINDS)
        change(path)
        return change.__name__
    by_ending = _BY_ENDING.get(path.suffix)
    function = by_ending if by_ending and random.random() < 0.6 else random.choice(BYTES)
    path.write_bytes(function(content, random))
    return function.__name__
