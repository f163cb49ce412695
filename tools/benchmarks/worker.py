"""A process that measures cases for tools/bench.py, so that two versions of the code can take turns.

Each line of its input is a request in JSON, each line of its output the answer:

    {"open": "training: mlm, full rows"}   prepares a case and warms it up; answers with its ways
    {"repeat": true}                       runs every way once; answers with what each spent
    {"close": true}                        releases the case
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from dataclasses import asdict, replace
from typing import IO, Any

from benchmarks.measure import OURS, Case, Setting, Way, allocated_peak_mib, once

AREAS = {
    "training": "benchmarks.training",
    "generation": "benchmarks.generation",
    "collators": "benchmarks.data",
    "preparation": "benchmarks.data",
    "start": "benchmarks.commands",
    "discovery": "benchmarks.commands",
    "reports": "benchmarks.commands",
    "loop": "benchmarks.loops",
    "scaling": "benchmarks.scaling",
    "shipped": "benchmarks.shipped",
}


def cases_of(area: str, setting: Setting) -> list[Case]:
    """The cases of one area."""
    found: list[Case] = importlib.import_module(AREAS[area]).cases(setting)
    return [replace(case, warmup=0) if setting.is_quick else case for case in found if case.area == area]


class Worker:
    """Holds one open case.

    Args:
        only_ours: leave peers out, for a comparison of two versions.
    """

    def __init__(self, setting: Setting, only_ours: bool) -> None:
        self.setting = setting
        self.only_ours = only_ours
        self._stack = contextlib.ExitStack()
        self._ways: list[Way] = []
        self._round = 0

    def answer(self, request: dict[str, Any]) -> Any:
        """The answer to one request."""
        if "open" in request:
            return self._open(request["open"])
        if "repeat" in request:
            return self._repeat()
        self._close()
        return {}

    def _open(self, key: str) -> list[dict[str, Any]]:
        self._close()
        case = next(case for case in cases_of(key.split(":")[0], self.setting) if case.key == key)
        self._ways = self._stack.enter_context(case.open(self.setting))
        if self.only_ours:
            self._ways = [way for way in self._ways if way.name.startswith(OURS)]
        for way in self._ways:
            for _ in range(case.warmup):
                once(way, self.setting.device)
        return [{"name": way.name, **self._costs(way)} for way in self._ways]

    def _costs(self, way: Way) -> dict[str, float]:
        """Memory and matrix products of a way whose products are to be counted."""
        if not way.products:
            return {}
        import torch

        from benchmarks.products import counted, seconds_alone

        dtype = torch.bfloat16 if self.setting.device == "cuda" else torch.float32
        products = counted(way.run, way.products == "training")
        return {
            "memory_mib": allocated_peak_mib(way.run, self.setting.device),
            "operations": products.total,
            "seconds_alone": seconds_alone(products, self.setting.device, dtype),
        }

    def _repeat(self) -> list[dict[str, Any]]:
        """One round; every second one runs in the opposite order, so that none is always first."""
        self._round += 1
        places = list(range(len(self._ways)))
        order = places[::-1] if self._round % 2 else places
        found = {place: once(self._ways[place], self.setting.device) for place in order}
        return [asdict(found[place]) for place in places]

    def _close(self) -> None:
        self._stack.close()
        self._ways = []


def main() -> None:
    """Answer requests until the input ends."""
    setting, threads, only_ours = json.loads(sys.argv[1])
    # What libraries print must not mix with the answers.
    answers: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(threads)
    worker = Worker(Setting(**setting), only_ours)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception:  # noqa: BLE001 - whatever a case raises is reported, and the others go on
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
