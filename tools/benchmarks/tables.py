"""The figures of a run as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

HEAD = ("case", "way", "CPU s", "wall s", "units per s", "cost", "MiB", "GFLOP/s", "of peak")
NOTE = (
    "CPU and wall: median of the repetitions in seconds, ± half of the middle 50 %. Cost: CPU seconds per unit (CUDA: "
    "seconds) over those of the first way, the median over rounds in which all ways take turns. MiB: the most that "
    "tensors had at a time, or the memory of the process. Of peak: the time of the matrix products alone, at the same "
    "shapes, over the time of the whole."
)


def markdown(record: dict[str, Any]) -> str:
    """The whole page: the machine, then a table for each area."""
    machine = record["machine"]
    lines = [
        f"# Benchmarks, {record['date']}",
        "",
        f"Commit {record['commit']}; {machine['device']}, {machine['cores']} cores (load {machine['load'][0]}), "
        f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}, {record['precision']}, "
        f"{machine['matmul_peak_gflops']:,} GFLOP/s in one large product; "
        + ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "lightning", "transformers"))
        + ".",
        "",
        f"    {record['command']}",
        "",
        NOTE,
    ]
    for area in dict.fromkeys(figure["area"] for figure in record["figures"]):
        lines += ["", f"## {area}", "", *table(figure for figure in record["figures"] if figure["area"] == area)]
    lines += ["", *(f"- {case} failed: {text.strip().splitlines()[0]}" for case, text in record["failures"].items())]
    return "\n".join(lines).rstrip() + "\n"


def table(figures: Iterable[dict[str, Any]]) -> list[str]:
    """One row per way; the shape stands once for each case."""
    rows: list[Sequence[str]] = [HEAD, ["---"] * 2 + ["---:"] * (len(HEAD) - 2)]
    before = ""
    for figure in figures:
        case = figure["case"] if figure["case"] != before else ""
        shown = f"**{case}** {figure['shape']}; {figure['repetitions']} times after {figure['warmup']}" if case else ""
        before = figure["case"]
        values = "".join(f"; {name} {value:,.4g}" for name, value in figure["values"].items())
        rows.append(
            [
                shown,
                figure["way"] + values,
                f"{seconds(figure['cpu'])} ± {figure['cpu_spread']:.0%}",
                f"{seconds(figure['wall'])} ± {figure['wall_spread']:.0%}",
                f"{figure['per_second']:,.4g} {figure['unit']}",
                f"{figure['ratio']:.2f} ×",
                optional(figure["memory_mib"], ",.0f"),
                optional(figure["gflops"], ",.1f"),
                optional(figure["peak_share"], ".0%"),
            ]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def seconds(value: float) -> str:
    """Three digits that count."""
    return f"{value:.3g}"


def optional(value: float | None, form: str) -> str:
    """A value, or nothing."""
    return "" if value is None else format(value, form)
