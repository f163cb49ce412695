"""Trains families on the same data, side by side, for the same CPU time, and prints one row of each.

python tools/compare.py [--families arlm mlm] [--data star_mini] [--minutes 8] [--folder runs/compare] [override …]

Without --minutes each family takes the steps of its own experiment. With it, the cost of a step is measured first, and
`trainer.max_steps` follows from it. Overrides go to every family; `datamodule=sudoku difficulty=mini` is another task
with the settings of <data>_<family>. Runs that are there already go on or are only tested.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

XLM = (sys.executable, "-m", "xlm")
# Two short runs tell the cost of a step: the difference leaves out what a start costs.
_PROBES = (20, 80)


def measured(result: dict[str, Any], name: str) -> float | None:
    """A metric of the first test loader that has it, in the order of the results."""
    return next(
        (v for key, v in result["metrics"].items() if key.startswith("test/") and key.endswith(f"/{name}")), None
    )


def percent(result: dict[str, Any], name: str) -> str:
    """A metric as percent, or nothing where no loader has it."""
    value = measured(result, name)
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 0) -> str:
    """A number for the table, or nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


COLUMNS = {
    "family": lambda r: r["family"],
    "parameters": lambda r: number(r["parameters"]),
    "steps": lambda r: number(r["step"]),
    "CPU min": lambda r: number(r["training"]["cpu_seconds"] / 60, 1),
    "valid": lambda r: percent(r, "valid"),
    "exact match": lambda r: percent(r, "exact_match"),
    "token accuracy": lambda r: percent(r, "token_accuracy"),
    "training tokens/s": lambda r: number(r["training"]["tokens_per_second"]),
    "samples/s": lambda r: number(measured(r, "samples_per_second")),
    "calls per sample": lambda r: number(measured(r, "network_calls"), 1),
    "memory": lambda r: f"{number(r['training']['peak_memory_mib'])} MiB",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 when a family's run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["arlm", "mlm"], metavar="NAME")
    parser.add_argument("--data", default="star_mini", help="the experiments are <data>_<family>")
    parser.add_argument("--minutes", type=float, help="CPU minutes of training for each family")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"))
    parser.add_argument("--parallel", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    arguments, overrides = parser.parse_known_args(argv)
    if unknown := [text for text in overrides if text.startswith("-")]:
        parser.error(f"no such option: {unknown[0]}")
    console = Console(soft_wrap=not sys.stdout.isatty())
    runs = [Run(name, arguments.data, arguments.folder, overrides) for name in arguments.families]
    size = max(1, min(arguments.parallel, len(runs)))
    for start in range(0, len(runs), size):
        group = runs[start : start + size]
        threads = max(1, (os.cpu_count() or 1) // len(group))
        workers = [threading.Thread(target=run.run, args=(arguments.minutes, threads, console)) for run in group]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    show([run.result for run in runs if run.result is not None], arguments.data, console)
    for run in runs:
        if run.error:
            console.print(f"[red]{run.family} failed:[/red] {run.error}", highlight=False)
    return int(any(run.error for run in runs))


class Run:
    """The training of one family, in a process of its own."""

    def __init__(self, family: str, data: str, folder: Path, overrides: Iterable[str]) -> None:
        self.family = family
        self.data = data
        self.folder = folder
        self.overrides = list(overrides)
        self.result: dict[str, Any] | None = None
        self.error = ""

    def run(self, minutes: float | None, threads: int, console: Console) -> None:
        """Train and test; `result` or `error` is there afterwards."""
        try:
            steps = [] if minutes is None else [f"trainer.max_steps={self._affordable(minutes * 60, threads)}"]
            name = f"{self.data}_{self.family}"
            self._xlm(name, steps, threads, console)
            self.result = {"family": self.family, **self._results(name)}
        except RuntimeError as error:
            self.error = str(error)

    def _affordable(self, cpu_seconds: float, threads: int) -> int:
        """Steps that take so many CPU seconds. A run that began before keeps its number."""
        config = self.folder / f"{self.data}_{self.family}" / "config.yaml"
        if config.is_file():
            from omegaconf import OmegaConf

            return int(OmegaConf.load(config).trainer.max_steps)
        costs = []
        for steps in _PROBES:
            name = f"probes/{self.data}_{self.family}_{steps}"
            quick = [f"trainer.max_steps={steps}", "trainer.limit_val_batches=0", "trainer.limit_test_batches=1"]
            self._xlm(name, quick, threads, None)
            costs.append(self._results(name)["training"]["cpu_seconds"])
        return max(1, round(cpu_seconds * (_PROBES[1] - _PROBES[0]) / (costs[1] - costs[0])))

    def _xlm(self, name: str, options: list[str], threads: int, console: Console | None) -> None:
        command = [*XLM, "train", f"experiment={self.data}_{self.family}", f"job_name={name}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            [*command, f"paths.log_dir={self.folder.resolve()}", *self.overrides, *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = self._follow(process.stdout, console)
        if process.returncode:
            raise RuntimeError("\n".join(lines[-15:]) or f"exit status {process.returncode}")

    def _follow(self, output: IO[str], console: Console | None) -> list[str]:
        """Every line; those about progress are shown with the family's name in front."""
        lines = []
        for line in output:
            lines.append(line.rstrip())
            if console is not None and line.startswith("step "):
                console.print(f"[bold]{self.family:>6}[/bold]  {line.rstrip()}", highlight=False)
        return lines

    def _results(self, name: str) -> dict[str, Any]:
        results: dict[str, Any] = json.loads((self.folder / name / "results.json").read_text())
        return results


def show(results: list[dict[str, Any]], data: str, console: Console) -> None:
    """A table on a terminal; in a file or pipe, the same as Markdown."""
    if not results:
        return
    cells = {name: [cell(result) for result in results] for name, cell in COLUMNS.items()}
    cells = {name: texts for name, texts in cells.items() if any(texts)}
    rows = [list(row) for row in zip(*cells.values(), strict=True)]
    if not console.is_terminal:
        for line in (list(cells), ["---"] * len(cells), *rows):
            console.print("| " + " | ".join(line) + " |", highlight=False)
        return
    table = Table(title=data, title_justify="left")
    for column in cells:
        table.add_column(column, justify="left" if column == "family" else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
