"""Runs the code blocks of the documentation, page by page, each page in a folder of its own.

    python tools/run_docs.py                  README.md, docs/ and the packages' READMEs
    python tools/run_docs.py docs/cli.md      these pages
    python tools/run_docs.py --list           only say what would run

Blocks of a page follow each other as in one terminal: folder and exported variables carry over. What a page
may say about a block is in docs_blocks.py. Two programs are stood in for, so that a page neither installs
packages nor starts the run that it is part of: `pip install` checks that the names exist here, and
`hatch run NAME` runs that script of hatch.toml in the present environment (one that is pytest only collects).
`xlm` commands with overrides are copies of a process that has imported the libraries (warm_xlm.py).
"""

from __future__ import annotations

import argparse
import atexit
import doctest
import functools
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs_blocks import SHELL, Block, DocsError, commands, read_blocks
from warm_xlm import warm_xlm

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
SHORT = (
    "++trainer.max_steps=4 ++trainer.val_check_interval=2 ++trainer.limit_val_batches=2 "
    "++trainer.limit_test_batches=2 ++trainer.limit_predict_batches=2"
)
TIMEOUT_S = 600.0

# A command goes on where the one before it stopped.
SESSION = """\
set -euo pipefail
if [ -f {state}/env ]; then . {state}/env; fi
cd "$(cat {state}/cwd)"
export XLM_DOCS_OVERRIDES={overrides}
trap 'pwd > {state}/cwd; export -p > {state}/env' EXIT
{command}
"""

# Overrides go to commands that have overrides already, so `xlm models` and `xlm --help` stay as they are; training a
# tokenizer composes nothing. `debug=overfit` ends by itself within seconds, and fails if it is ended before.
XLM = """\
#!/bin/sh
case "$*" in
  train_tokenizer*|*debug=overfit*) exec {xlm} "$@" ;;
  *=*) exec {xlm} "$@" $XLM_DOCS_OVERRIDES ;;
  *) exec {bin}/xlm "$@" ;;
esac
"""
STAND_IN = """\
#!/bin/sh
exec {python} {tools}/docs_commands.py {name} "$@"
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one block: "ran", "wrote", "needs …" (not run) or "failed", with seconds and output."""

    block: Block
    status: str
    seconds: float = 0.0
    output: str = ""


def pages(root: Path = ROOT) -> list[Path]:
    """All pages that are run, in reading order."""
    found = [
        root / "README.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted(root.glob("packages/*/README.md")),
    ]
    return [page for page in found if page.is_file()]


def missing(block: Block) -> str | None:
    """The first thing that a block needs and that is not at hand."""
    for need in block.needs:
        if need == "gpu":
            there = shutil.which("nvidia-smi") is not None
        elif need == "network":
            there = os.environ.get("XLM_DOCS_NETWORK") == "1"
        else:
            there = shutil.which(need) is not None
        if not there:
            return need
    return None


@functools.cache
def shared_home() -> Path:
    """The home of the pages that this process runs: libraries read it at import."""
    folder = tempfile.TemporaryDirectory(prefix="xlm-home-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


class Session:
    """A folder and a PATH for one page."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.bin = folder / "work", folder / "state", folder / "bin"
        for path in (self.folder, self.state, self.bin):
            path.mkdir(exist_ok=True)
        (self.state / "cwd").write_text(str(self.folder))
        self.env = {
            "HOME": str(shared_home()),
            "PATH": os.pathsep.join(map(str, (self.bin, BIN, "/usr/local/bin", "/usr/bin", "/bin"))),
            "LANG": "C.UTF-8",
            "COLUMNS": "110",
            "NO_COLOR": "1",
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        self.python_code = ""
        self._program("xlm", XLM.format(bin=BIN, xlm=shlex.join(warm_xlm(self.env))))
        for name in ("hatch", "pip"):
            self._program(name, STAND_IN.format(python=sys.executable, tools=ROOT / "tools", name=name))

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def command(self, command: str, overrides: str = "") -> tuple[int, str]:
        """Run one shell command; its exit code and everything it printed."""
        script = SESSION.format(state=self.state, overrides=shlex.quote(overrides), command=command)
        try:
            done = subprocess.run(
                ["bash", "-c", script],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            printed = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout
            return 124, f"{printed or ''}\nNo end after {TIMEOUT_S:.0f} s; is `slow` missing above the block?"
        return done.returncode, done.stdout

    def write(self, block: Block) -> Outcome:
        """Write a block to the file it names, below the present folder."""
        cwd = Path((self.state / "cwd").read_text().strip())
        file = cwd / block.notes["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.code + "\n", encoding="utf-8")
        return Outcome(block, "wrote")

    def python(self, block: Block) -> tuple[int, str]:
        """Run a Python block as a script, or as a doctest if it shows a prompt."""
        self.python_code = (self.python_code if "continue" in block.notes else "") + block.code + "\n"
        prompt = block.code.lstrip().startswith(">>>")
        file = self.state / f"line_{block.line}.{'txt' if prompt else 'py'}"
        file.write_text(self.python_code, encoding="utf-8")
        module = "-m doctest -o ELLIPSIS -o NORMALIZE_WHITESPACE " if prompt else ""
        return self.command(f'PYTHONPATH="$PWD" python {module}{file}', self.overrides(block))

    def shell(self, block: Block) -> tuple[int, str]:
        """Run a shell block up to the first command that fails; with `check`, compare what is printed."""
        output = ""
        for command, expected in commands(block):
            code, printed = self.command(command, self.overrides(block))
            output += printed
            if "check" in block.notes and not same_output(expected, printed):
                return 1, f"{output}\nThe page promises this output:\n{expected}"
            if code:
                return code, output
        return 0, output

    def overrides(self, block: Block) -> str:
        """What is appended to the block's `xlm` commands."""
        return block.notes.get("overrides", SHORT if "slow" in block.notes else "")

    def run(self, block: Block) -> Outcome:
        """Do what a block says."""
        if need := missing(block):
            return Outcome(block, f"needs {need}")
        if "file" in block.notes:
            return self.write(block)
        start = time.perf_counter()
        code, output = self.shell(block) if block.language in SHELL else self.python(block)
        passed = (code != 0) == ("fails" in block.notes) and code != 124
        return Outcome(block, "ran" if passed else "failed", time.perf_counter() - start, output)


def same_output(expected: str, printed: str) -> bool:
    """Whether output is as promised: `...` is anything, any white space is one space."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", printed.strip() + "\n", flags)


def run_page(page: Path, folder: Path) -> Iterator[Outcome]:
    """Run a page's blocks in an empty folder, up to and including the first that fails."""
    session = Session(folder)
    for block in read_blocks(page):
        if block.runs:
            outcome = session.run(block)
            yield outcome
            if outcome.status == "failed":
                return


def main(argv: list[str] | None = None) -> int:
    """Run pages and print a line for each block; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the blocks, run nothing")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    args = parser.parse_args(argv)
    failed = False
    for page in args.pages or pages():
        try:
            if args.list:
                print("\n".join(f"{b.where} {b.language} {b.notes or ''}" for b in read_blocks(page) if b.runs))
                continue
            with tempfile.TemporaryDirectory() as folder:
                for outcome in run_page(page, Path(folder)):
                    print(f"{outcome.block.where} {outcome.status} {outcome.seconds:.1f} s", flush=True)
                    if outcome.status == "failed":
                        failed = True
                        print(outcome.output)
        except DocsError as error:
            failed = True
            print(error, file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
