"""Changes the code that numbers depend on, line by line, and counts the changes that no test notices.

python tools/mutants.py                       every target below
python tools/mutants.py sampling losses       these
python tools/mutants.py --list                the names of the targets
python tools/mutants.py loaders --only '*[05]'  every fifth mutant: those whose number ends with 0 or 5

A target is a few modules and the tests that should notice. Every changed version (mutant) is run by mutmut in a copy of
the repository's packages; what survives is printed as a diff. The exit code is 1 if a target's score, the share of
mutants that a test noticed, is below its floor. Many survivors are equal in behaviour (`device=None` on a CPU), so no
floor is 1. `hatch run mutants:run sampling` has what is needed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workspace import ROOT, read_packages


class Target(NamedTuple):
    """Modules to change, as paths below a package's `src`; the tests that run; the least score."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    floor: float


TARGETS = {
    "sampling": Target(("xlm/sampling.py",), ("xlm-core/test_sampling.py",), 0.8),
    "noise": Target(("xlm/noise.py",), ("xlm-core/test_noise.py",), 0.8),
    "elbo": Target(
        ("xlm/masked/elbo.py", "xlm/masked/loss.py"),
        ("xlm-core/masked/test_elbo.py", "xlm-core/masked/test_loss.py"),
        0.8,
    ),
    "losses": Target(
        tuple(f"{name}/loss_{name}.py" for name in ("arlm", "mlm", "mdlm", "ilm")),
        tuple(f"xlm-{name}/test_loss_{name}.py" for name in ("arlm", "mlm", "mdlm", "ilm")),
        0.8,
    ),
    "unmasking": Target(
        ("xlm/masked/unmasking.py",),
        ("xlm-core/masked/test_unmasking.py", "xlm-core/masked/test_semi_autoregressive.py"),
        0.8,
    ),
    "discovery": Target(
        ("xlm/external_models/discovery.py", "xlm/external_models/package.py"),
        ("xlm-core/external_models",),
        0.8,
    ),
    "loaders": Target(
        ("xlm/data/loaders.py", "xlm/data/batching.py"),
        ("xlm-core/data/test_loaders.py", "xlm-core/data/test_samplers.py", "xlm-core/data/test_batching.py"),
        0.8,
    ),
}
# Mutants that a run counts as noticed: a failed test, an endless loop, a crash.
NOTICED = ("killed", "timeout", "suspicious", "segfault")
NOT_RUN = "not checked"
# `mutmut show` of all of its arguments: one process, since importing mutmut takes longer than showing a mutant.
SHOW = "import sys; from mutmut.__main__ import cli; [cli(['show', n], standalone_mode=False) for n in sys.argv[1:]]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the targets; 1 if one of them is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--list", action="store_true", help="print the targets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at the same time")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="PATTERN", help="only mutants whose name matches: '*collate*', '*[05]'"
    )
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}. There are: {', '.join(TARGETS)}.")
    low = []
    for name in arguments.targets or TARGETS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="xlm-mutants-") as folder:
            score = run_target(TARGETS[name], Path(folder), arguments.jobs, arguments.only)
        print(f"{name}: {score:.1%} noticed, {time.monotonic() - start:.0f} s", flush=True)
        if score < TARGETS[name].floor:
            low.append(f"{name} is at {score:.1%}, below {TARGETS[name].floor:.0%}")
    if low:
        print("; ".join(low), file=sys.stderr)
    return 1 if low else 0


def run_target(target: Target, folder: Path, jobs: int, only: Sequence[str] = ()) -> float:
    """Print the surviving mutants as diffs, and return the share that a test noticed, of those that match `only`."""
    lay_out(target, folder)
    # The copy alone: an environment may have the repository's packages on the path.
    environment = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1"}

    def python(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[:3])} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    python("-m", "mutmut", "run", "--max-children", str(jobs), *only)
    lines = python("-m", "mutmut", "results", "--all", "true").splitlines()
    pairs = [tuple(map(str.strip, line.split(": "))) for line in lines if ": " in line]
    states = Counter(state for _, state in pairs if state != NOT_RUN)
    if survivors := [mutant for mutant, state in pairs if state not in (*NOTICED, NOT_RUN)]:
        shown = python("-c", SHOW, *survivors).splitlines()
        print("\n".join(line for line in shown if line.startswith("# ") or is_change(line)))
    print(", ".join(f"{state}: {count}" for state, count in states.most_common()))
    return sum(states[state] for state in NOTICED) / max(sum(states.values()), 1)


def is_change(line: str) -> bool:
    """Whether a line of a diff was added or removed."""
    return line.startswith(("+", "-")) and not line.startswith(("+++", "---"))


def lay_out(target: Target, folder: Path) -> None:
    """One `src` of all packages and one folder of tests, as mutmut expects them."""
    ignore = shutil.ignore_patterns("__pycache__")
    for package in read_packages(ROOT).values():
        shutil.copytree(package.path / "src", folder / "src", dirs_exist_ok=True, ignore=ignore)
        shutil.copytree(package.path / "tests", folder / "tests" / package.path.name, ignore=ignore)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    modules = [f"src/{module}" for module in target.modules]
    if missing := [module for module in modules if not (folder / module).is_file()]:
        raise SystemExit(f"no such module: {', '.join(missing)}")
    (folder / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\n"
        'pythonpath = ["tools"]\n'
        'addopts = ["--import-mode=importlib", "-p", "no:cacheprovider", "-m", "not slow"]\n'
        'markers = ["slow: long", "gpu: needs a CUDA device"]\n'
        "[tool.mutmut]\n"
        'source_paths = ["src"]\n'
        f"only_mutate = {modules!r}\n"
        'also_copy = ["tools"]\n'
        f"pytest_add_cli_args_test_selection = {[f'tests/{path}' for path in target.tests]!r}\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
