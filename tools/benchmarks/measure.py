"""Times several ways of doing one piece of work in turns, and finds what each costs besides time."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

OURS = "xlm"
XLM = (sys.executable, "-m", "xlm")


@dataclass(frozen=True)
class Setting:
    """Where and how carefully something is measured.

    Args:
        device: "cpu" or "cuda".
        is_quick: smaller shapes and fewer repetitions, to see that everything works.
        size, batch_size, is_compiled: of the area `shipped`: the network (`small` …), its rows, `compile=true`.
    """

    device: str = "cpu"
    is_quick: bool = False
    size: str = "small"
    batch_size: int = 256
    is_compiled: bool = True

    @property
    def precision(self) -> str:
        """fp32 on a CPU, bf16 by autocast on CUDA."""
        return "bf16-mixed" if self.device == "cuda" else "fp32"

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """What the arithmetic of this precision needs around it."""
        import torch

        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device == "cuda"):
            yield


@dataclass(frozen=True)
class Spent:
    """The cost of one repetition: seconds of all threads, seconds that passed, and the units of work that were done."""

    cpu: float
    wall: float
    units: float = 1
    memory_mib: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Way:
    """One way of doing the work.

    Args:
        name: `xlm`, or the peer's.
        run: one repetition. It may return `Spent` where only a part of it is to count.
        units: what a repetition produces, in the unit of its case.
        products: "training" or "inference" where the matrix products of `run` are to be counted, in the one with those
            of the backward pass.
    """

    name: str
    run: Callable[[], Spent | None]
    units: float = 1
    products: str = ""


@dataclass(frozen=True)
class Case:
    """Something to be measured: an area and a name, a shape in words, the unit of its work, and its ways.

    `open` gives the ways, ready to be run, and releases what they hold afterwards.
    """

    area: str
    name: str
    shape: str
    unit: str
    open: Callable[[Setting], Any]
    warmup: int = 1
    repetitions: int = 7

    @property
    def key(self) -> str:
        return f"{self.area}: {self.name}"


def once(way: Way, device: str) -> Spent:
    """Run one repetition."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    found = way.run()
    _wait(device)
    return replace(found or Spent(time.process_time() - cpu, time.perf_counter() - wall), units=way.units)


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def allocated_peak_mib(run: Callable[[], Any], device: str) -> float:
    """The most memory that tensors made in one repetition had at a time, in MiB; from torch's own allocator."""
    import torch

    if device == "cuda":
        _wait(device)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        _wait(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    profiler: Any = found.profiler
    now = most = 0
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def of_command(words: Sequence[str], folder: Path, environ: dict[str, str] | None = None) -> Spent:
    """The cost of a process with its children; RuntimeError with its output if it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # A process of its own measures the memory of this command and no earlier one.
    watched = [sys.executable, "-c", _WATCH, *words]
    # Without compiled modules on the disk, most of a start is compiling torch.
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | (environ or {})
    done = subprocess.run(watched, cwd=folder, env=given, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        said = done.stdout + done.stderr.rpartition("\n\n")[0]
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{said}")
    own_cpu, kib = (float(text) for text in done.stderr.splitlines()[-1].split())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(cpu - own_cpu, wall, memory_mib=kib / (2**20 if sys.platform == "darwin" else 2**10))


# Its last line of stderr: the CPU seconds of this small process itself, and the largest memory of the command.
_WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
own, child = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(f"\\n{own.ru_utime + own.ru_stime} {child.ru_maxrss}", file=sys.stderr)
sys.exit(code)
"""


@dataclass
class Figure:
    """What was measured of one way: seconds of one repetition and what follows from them.

    Args:
        cpu, wall: medians in seconds; `cpu_spread`, `wall_spread`: half of the middle 50 %, relative to the median.
        per_second: units per CPU second, on CUDA per second that passed.
        ratio: its cost over that of the first way, the median over the rounds; 1 for the first.
        gflops: billions of operations of its matrix products per second; `peak_share`: the time that those products
            take alone, one after the other at the same shapes, over its time.
    """

    area: str
    case: str
    way: str
    shape: str
    unit: str
    warmup: int
    repetitions: int
    cpu: float
    cpu_spread: float
    wall: float
    wall_spread: float
    per_second: float
    ratio: float
    memory_mib: float | None = None
    gflops: float | None = None
    peak_share: float | None = None
    values: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def spread(values: Sequence[float]) -> float:
    """Half of the interquartile range over the median; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0


def figure_of(case: Case, way: Way, spent: Sequence[Spent], first: Sequence[Spent], device: str) -> Figure:
    """Medians and spreads of the repetitions of one way; `first` are those of the way it is compared with."""
    cpu, wall = [found.cpu for found in spent], [found.wall for found in spent]
    relevant = wall if device == "cuda" else cpu
    reference = [found.wall if device == "cuda" else found.cpu for found in first]
    ratios = [
        (seconds / mine.units) / max(others / other.units, 1e-12)
        for seconds, mine, others, other in zip(relevant, spent, reference, first, strict=True)
    ]
    memory = [found.memory_mib for found in spent if found.memory_mib is not None]
    names = list(spent[0].values)
    return Figure(
        case.area, case.name, way.name, case.shape, case.unit, case.warmup, len(spent),
        statistics.median(cpu), spread(cpu), statistics.median(wall), spread(wall),
        statistics.median(found.units / max(seconds, 1e-9) for found, seconds in zip(spent, relevant, strict=True)),
        statistics.median(ratios), max(memory, default=None),
        values={name: statistics.median(found.values[name] for found in spent) for name in names},
    )  # fmt: skip
