"""Copies the record of a run many times, with other seeds, values and times: for measuring what lists of runs cost."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

COPIED = ("config.yaml", "record_train.json", "results.json", "metrics.csv")


def copy_runs(source: Path, target: Path, count: int) -> None:
    """Make `count` runs below `target`; predictions are copied too, checkpoints are not."""
    draw = random.Random(0)
    texts = {name: (source / name).read_text(encoding="utf-8") for name in COPIED}
    predictions = {path.relative_to(source): path.read_text(encoding="utf-8")
                   for path in (source / "predictions").rglob("*.jsonl")}  # fmt: skip
    for index in range(count):
        folder = target / f"seed={index},optimizer.lr={10 ** draw.uniform(-4, -2):.3g}"
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_text(changed(name, text, index, draw), encoding="utf-8")
        for path, text in predictions.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        os.utime(folder / "metrics.csv", (1_700_000_000 + index, 1_700_000_000 + index))


def changed(name: str, text: str, index: int, draw: random.Random) -> str:
    """The text of one file with another seed and other values."""
    if name == "config.yaml":
        return re.sub(r"^seed: \d+$", f"seed: {index}", text, flags=re.M)
    if name == "metrics.csv":
        factor = draw.uniform(0.8, 1.2)
        head, *rows = text.splitlines()
        cells = [row.split(",") for row in rows]
        return "\n".join([head, *(f"{s},{n},{float(v) * factor},{t}" for s, n, v, t in cells)]) + "\n"
    record = json.loads(text)
    for section in (record.get("metrics") or {}, record.get("results") or {}):
        for key, value in section.items():
            section[key] = moved(value, draw)
    return json.dumps(record | {"seed": index})


def moved(value: object, draw: random.Random) -> object:
    """A value or the `value` of an object, moved by up to a tenth; shares stay shares."""
    if isinstance(value, dict):
        return {key: moved(child, draw) if key in ("value",) or isinstance(child, dict) else child
                for key, child in value.items()}  # fmt: skip
    if isinstance(value, float):
        found = value * draw.uniform(0.9, 1.1)
        return min(1.0, found) if 0 <= value <= 1 else found
    return value
