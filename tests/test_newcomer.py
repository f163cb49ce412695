"""The lines of tests/newcomer/hour.sh, typed in a terminal of 80 columns: sentences and questions become models."""

from __future__ import annotations

import csv
import fcntl
import itertools
import json
import math
import os
import pty
import random
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from warm_xlm import warm_xlm
from workspace import ROOT, read_packages

SCRIPT = ROOT / "tests" / "newcomer" / "hour.sh"
COLUMNS = 80
FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\]8;.*?\x1b\\")
WORDS = (
    ("the old", "a young", "my", "the small", "her"),
    ("cat", "dog", "horse", "friend", "teacher", "sister"),
    ("sleeps", "waits", "sings", "works", "reads", "walks"),
    ("in the garden", "near the river", "under the tree", "behind the house", "at the station"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sentences = [" ".join(words) for words in itertools.product(*WORDS)]
    random.Random(0).shuffle(sentences)
    (tmp_path / "texts").mkdir()
    for n in range(5):
        lines = sentences[100 * n : 100 * (n + 1)]
        (tmp_path / "texts" / f"{n}.txt").write_text("".join(f"{line}\n" for line in lines))
    with (tmp_path / "qa.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        sums = [(a, b) for a in range(23) for b in range(22)][:500]
        rows.writerows((f"what is {a} plus {b}?", a + b) for a, b in sums)
    return tmp_path


class Terminal:
    """Types lines into bash in a folder; `shown` is what an 80-column terminal gets."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        programs.mkdir()
        command = shlex.join(warm_xlm(os.environ | {"COLUMNS": str(COLUMNS)}))
        for name, text in (("xlm", command), ("python", shlex.quote(sys.executable))):
            (programs / name).write_text(f'#!/bin/sh\nexec {text} "$@"\n')
            (programs / name).chmod(0o755)
        self.env = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TERM": "xterm"}
        self.env.pop("COLUMNS", None)

    def type(self, line: str) -> tuple[int, str]:
        """The exit status and the output of a line."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        process = subprocess.Popen(
            ["bash", "-c", line], cwd=self.folder, env=self.env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown: list[bytes] = []

        def read() -> None:
            # The terminal ends with an error once the last process has closed it.
            try:
                while part := os.read(ours, 65536):
                    shown.append(part)
            except OSError:
                pass

        reader = threading.Thread(target=read)
        reader.start()
        status = process.wait()
        reader.join(timeout=10)
        os.close(ours)
        return status, b"".join(shown).decode(errors="replace")


def lines_of(shown: str) -> list[str]:
    """Lines as they stand in the end, without colours; a line that was replaced counts with its last form."""
    return [line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", shown).split("\n")]


@pytest.mark.slow  # eight trainings of minutes
@pytest.mark.timeout(7200)
def test_a_newcomers_hour(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    terminal = Terminal(folder, tmp_path_factory.mktemp("bin") / "programs")
    told: dict[str, str] = {}
    for line in SCRIPT.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        status, shown = terminal.type(line)
        assert status == 0, f"$ {line}\n{shown}"
        assert "Traceback" not in shown, shown
        too_long = [text for text in lines_of(shown) if len(text) > COLUMNS]
        assert not too_long, f"$ {line}\n" + "\n".join(too_long)
        told[line] = "\n".join(lines_of(shown))
        print(f"$ {line}\n{told[line]}")  # the record, shown with -s or if something fails

    for family in FAMILIES:
        run = folder / "runs" / f"texts+{family}"
        results = json.loads((run / "results.json").read_text())
        likelihood = results["likelihood"]["test/lm"]
        bits = next(value["value"] for name, value in likelihood.items() if "bits_per_byte" in name)
        # The source has log2(5 · 6 · 6 · 5) bits a sentence of 31 bytes; who knows only letters pays four times that.
        assert math.log2(900) / 40 < bits < 1.0, (family, bits)
        assert likelihood["exact"] == (family == "arlm")
        for name in ("curves.png", "trace.html"):
            assert (run / name).stat().st_size > 5_000
        answers = json.loads((folder / "runs" / f"qa+{family}" / "results.json").read_text())
        assert answers["n"]["test/prediction"] >= 10
    assert "texts (5 files, " in told["xlm train data.text=texts model_type=arlm"]
    assert "bits" in told["xlm eval runs/texts+mdlm"]
    filled = told['xlm generate runs/texts+ilm "the old cat ___ the garden"']
    assert re.search(r"the old cat .*the garden", filled.partition("\n")[2])
    assert (folder / "trace.html").is_file() or list(folder.rglob("trace.html"))
    assert "1 text: " in told[next(line for line in told if line.startswith("python"))]
