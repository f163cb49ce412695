"""Measures XLM beside other implementations of the same work, in turns: one table for each area, as JSON and Markdown.

hatch run bench                              every area but `shipped`, about an hour on one thread
hatch run bench training start --quick       two areas, small, to see that they work
hatch run bench generation --only mdlm       the cases with that word
hatch run bench training --against main      this tree and another commit in turns, without peers
hatch run bench shipped --device cuda        the shipped networks in bf16, compiled: tokens/s, MFU, memory

Areas: training, generation, collators, preparation, start, discovery, reports, loop, scaling, shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.measure import Case, Figure, Setting, Spent, Way, figure_of
from benchmarks.tables import markdown, table
from benchmarks.worker import AREAS, cases_of
from workspace import ROOT

TOOLS = Path(__file__).parent
HERE = "here"


class Side:
    """A worker process that has the packages of one source tree."""

    def __init__(self, root: Path, setting: Setting, threads: int, only_ours: bool) -> None:
        sources = [str(path) for path in sorted(root.glob("packages/*/src"))]
        environ = {
            "PYTHONPATH": os.pathsep.join([*sources, str(TOOLS)]),
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps([asdict(setting), threads, only_ours])],
            env=os.environ | environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, **request: Any) -> Any:
        """The answer to a request; RuntimeError with the worker's traceback if it failed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"the worker ended with {self.process.wait()}"}
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def measure(case: Case, sides: dict[str, Side], repetitions: int, device: str) -> list[Figure]:
    """The figures of one case; every round runs it once on every side, the sides in alternating order."""
    ways = {name: side.ask(open=case.key) for name, side in sides.items()}
    if len({tuple(way["name"] for way in found) for found in ways.values()}) > 1:
        raise RuntimeError(f"The other version has other ways to do it: {ways}")
    spent: dict[tuple[str, int], list[Spent]] = {}
    for number in range(repetitions):
        for name in sorted(sides, key=list(sides).index, reverse=bool(number % 2)):
            for place, found in enumerate(sides[name].ask(repeat=True)):
                spent.setdefault((name, place), []).append(Spent(**found))
    for side in sides.values():
        side.ask(close=True)
    figures = []
    for place in range(len(ways[HERE])):
        for name, found in ways.items():
            # Two versions are compared way by way, peers with ours.
            base = spent[HERE, place if len(sides) > 1 else 0]
            way = found[place]
            shown = Way(way["name"] if name == HERE else f"{way['name']}, {name}", lambda: None)
            figure = figure_of(case, shown, spent[name, place], base, device)
            figure.memory_mib = way.get("memory_mib", figure.memory_mib)
            if way.get("operations"):
                busy = figure.wall if device == "cuda" else figure.cpu
                figure.gflops, figure.peak_share = way["operations"] / busy / 1e9, way["seconds_alone"] / busy
            figures.append(figure)
    return figures


@contextmanager
def tree_of(revision: str) -> Iterator[Path]:
    """The files of another commit, in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        git("worktree", "add", "--detach", "--quiet", str(place), revision)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def git(*words: str) -> str:
    """What a git command prints."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def commit_here() -> str:
    """The commit of this tree, and whether it has changes."""
    try:
        return git("describe", "--always", "--dirty=, changed", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run(options: argparse.Namespace, setting: Setting, output: Path) -> dict[str, Any]:
    """Measure the chosen areas; the files are written again after every case."""
    from benchmarks.devices import machine

    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": commit_here(),
        "against": options.against,
        "command": shlex.join(["hatch", "run", "bench", *options.words]),
        "precision": setting.precision,
        "setting": asdict(setting),
        "machine": machine(setting.device) | {"threads": options.threads},
        "figures": [],
        "failures": {},
    }
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(tree_of(options.against)) if options.against else None
        trees = {HERE: ROOT} | ({} if other is None else {options.against: other})
        sides = {
            name: stack.enter_context(Side(root, setting, options.threads, other is not None))
            for name, root in trees.items()
        }
        for area in options.areas or [area for area in AREAS if area != "shipped"]:
            for case in cases_of(area, setting):
                if options.only not in case.key:
                    continue
                count = options.repetitions or (1 if setting.is_quick else case.repetitions)
                try:
                    figures = measure(case, sides, count, setting.device)
                except RuntimeError as error:
                    record["failures"][case.key] = str(error)
                    print(f"{case.key} failed:\n{error}", file=sys.stderr, flush=True)
                else:
                    record["figures"] += [figure.as_dict() for figure in figures]
                    print("\n".join(table([figure.as_dict() for figure in figures])[2:]), flush=True)
                write(record, output)
    return record


def write(record: dict[str, Any], output: Path) -> None:
    """`bench.json` and `bench.md`."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "bench.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (output / "bench.md").write_text(markdown(record), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 if a case failed or there is no such device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA", help="all but `shipped` by default")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains it")
    parser.add_argument("--quick", action="store_true", help="small shapes, one repetition")
    parser.add_argument("--against", metavar="REV", help="another commit, measured in turns with this tree")
    parser.add_argument("--repetitions", type=int, metavar="N", help="instead of each case's own number")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for every way")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", default="small", help="shipped: the network, SIZE_FAMILY")
    parser.add_argument("--batch-size", type=int, default=256, help="shipped: rows of a step")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="shipped: compile=true")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of bench.json and bench.md")
    options = parser.parse_args(argv)
    options.words = sys.argv[1:] if argv is None else list(argv)
    if unknown := [area for area in options.areas if area not in AREAS]:
        parser.error(f"no area {unknown[0]!r}; areas: {', '.join(AREAS)}")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print("There is no CUDA device. --device cpu shows that the script works.", file=sys.stderr)
            return 1
    setting = Setting(options.device, options.quick, options.size, options.batch_size, options.compile)
    record = run(options, setting, options.output)
    print(f"Written to {options.output / 'bench.md'} and {options.output / 'bench.json'}.")
    return int(bool(record["failures"]))


if __name__ == "__main__":
    sys.exit(main())
