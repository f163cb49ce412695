"""A report as Markdown, and its values and pairs as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence

from xlm.reports.document import Report, Samples, Values, decimals
from xlm.reports.run import Measured

VALUE_FIELDS = ("run", "model", "data", "metric", "value", "standard_error", "n", "source")
PAIR_FIELDS = (
    "place", "first", "second", "n", "both_right", "only_first", "only_second", "neither",
    "difference", "low", "high", "p_mcnemar", "p_holm",
)  # fmt: skip
_MAX_TEXT = 300


def as_markdown(report: Report) -> str:
    """Everything but the curves."""
    parts = [f"# {_escaped(report.title)}", "", f"Made on {report.made} by `xlm report`.", ""]
    runs = [
        [r.name, r.model, r.data, state, str(r.folder)] for r, state in zip(report.runs, report.states, strict=True)
    ]
    parts += ["## Runs", "", *_table(["run", "model", "data", "state", "folder"], runs), ""]
    parts += [f"- {run.name}: {_escaped(problem)}" for run in report.runs for problem in run.problems]
    for values in report.values:
        parts += [f"## Results on {values.split}", "", *_results(report, values), ""]
    if report.pairs:
        parts += ["## Paired comparison", "", *_pairs(report), ""]
    names = [run.name for run in report.runs]
    parts += ["## Cost", "", *_table(["", *names], [[key, *row] for key, row in report.costs.items()]), ""]
    if report.differences:
        rows = [[f"`{key}`", *row] for key, row in report.differences.items()]
        parts += ["## Settings that differ", "", *_table(["key", *names], rows), ""]
    for samples in report.samples:
        parts += _samples(samples)
    return "\n".join(parts).rstrip() + "\n"


def values_csv(report: Report) -> str:
    """A row for each run and measured value."""
    rows = [
        (run.name, run.model, run.data, name, repr(m.value), "" if m.error is None else repr(m.error), m.n, m.source)
        for run in report.runs
        for name, m in sorted(run.measured.items())
    ]
    return _csv(VALUE_FIELDS, rows)


def pairs_csv(report: Report) -> str:
    """A row for each pair of runs."""
    rows = [
        (p.place, p.first, p.second, p.n, p.both, p.only_first, p.only_second, p.neither, p.difference, *p.interval,
         p.p, p.p_holm)
        for p in report.pairs
    ]  # fmt: skip
    return _csv(PAIR_FIELDS, rows)


def with_error(measured: Measured | None) -> str:
    """`0.5320 ± 0.0071`: the value and its standard error, to two digits of the latter."""
    if measured is None:
        return "–"
    if not measured.error:
        return decimals(measured.value)
    places = min(6, max(0, 1 - math.floor(math.log10(measured.error))))
    return f"{measured.value:,.{places}f} ± {measured.error:,.{places}f}"


def p_text(p: float) -> str:
    """A p-value as it is written: no more digits than matter."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _results(report: Report, values: Values) -> list[str]:
    rows = []
    for i, run in enumerate(report.runs):
        cells = [with_error(m) for m in values.rows[i]]
        rows.append([run.name, *(f"**{c}**" if (i, j) in values.best else c for j, c in enumerate(cells))])
    return [
        *_table(["run", *(column.label for column in values.columns)], rows),
        "",
        "± is the standard error.",
        *(_escaped(remark) for remark in values.remarks),
    ]


def _pairs(report: Report) -> list[str]:
    rows = []
    for p in report.pairs:
        low, high = p.interval
        rows.append([
            p.first, p.second, p.place, str(p.n), str(p.only_first), str(p.only_second),
            f"{p.difference:+.3f} [{low:+.3f}, {high:+.3f}]", p_text(p.p), p_text(p.p_holm),
        ])  # fmt: skip
    titles = ["A", "B", "on", "n", "only A right", "only B right", "A − B [95 %]", "p", "p (Holm)"]
    return _table(titles, rows)


def _samples(samples: Samples) -> list[str]:
    parts = [f"## Samples of {samples.place}", ""]
    for rows in samples.rows:
        parts += [f"Prompt: {_code(rows[0].prompt)}", ""]
        if rows[0].truth is not None:
            parts += [f"- answer: {_code(rows[0].truth)}"]
        for name, row in zip(samples.names, rows, strict=True):
            mark = "" if row.right is None else " ✓" if row.right else " ✗"
            parts.append(f"- {_escaped(name)}{mark}: {_code(row.prediction)}")
        parts.append("")
    return parts


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines]


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """A text as code on one line, whatever is in it."""
    shown = json.dumps(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …", ensure_ascii=False)
    # Longer than any run of backticks inside.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{shown}{fence}" if fence == "`" else f"{fence} {shown} {fence}"


def _csv(fields: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    return out.getvalue()
