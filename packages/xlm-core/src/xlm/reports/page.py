"""A report as one HTML file that opens from disk, as Markdown, and its values and pairs as CSV."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xlm.errors import printable
from xlm.reports.document import Report, Samples, Values, decimals, interval, metric_label
from xlm.reports.pairs import Paired
from xlm.reports.quantities import LOSS_SPAN, axis_title, is_fraction
from xlm.reports.run import Measured, is_share
from xlm.utils import palette
from xlm.utils.text import csv_cell

VALUE_FIELDS = ("run", "model", "data", "metric", "value", "standard_error", "n", "source")
PAIR_FIELDS = (
    "place", "first", "second", "n", "both_right", "only_first", "only_second", "neither",
    "difference", "low", "high", "p_mcnemar", "p_holm",
)  # fmt: skip
_MAX_CELL = 300
BOLD = (
    "Bold values are better than those of all other runs on the same dataset by more than the error: Holm's p < 0.05 "
    "in the paired test of exact match, or else the 95 % interval of the difference excludes 0. Values without ± are "
    "compared as they are."
)


def as_markdown(report: Report) -> str:
    """Everything except the curves, as Markdown."""
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
    elif report.no_pairs:
        parts += ["## Paired comparison", "", f"None: {_escaped(report.no_pairs)}", ""]
    names = [run.name for run in report.compared]
    parts += [few_of_many(report), ""] if few_of_many(report) else []
    parts += ["## Cost", "", *_table(["", *names], [[key, *row] for key, row in report.costs.items()]), ""]
    if report.differences:
        rows = [[f"`{key}`", *row] for key, row in report.differences.items()]
        parts += ["## Settings that differ", "", *_table(["key", *names], rows), ""]
    for samples in report.samples:
        parts += _samples(samples)
    return "\n".join(parts).rstrip() + "\n"


def few_of_many(report: Report) -> str:
    """A sentence for a report of more runs than it can show side by side; otherwise empty."""
    if len(report.compared) == len(report.runs):
        return ""
    return (
        f"The tables of results have all {len(report.runs):,} runs; comparison, curves, cost, settings and samples "
        f"show the {len(report.compared)} with the best exact match or loss."
    )


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
    """A p-value with the digits that matter."""
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _results(report: Report, values: Values) -> list[str]:
    rows = []
    for i, run in enumerate(report.runs):
        cells = [with_error(m) for m in values.rows[i]]
        rows.append([run.name, *(f"**{c}**" if (i, j) in values.best else c for j, c in enumerate(cells))])
    return [
        *_table(["run", *(column.label for column in values.columns)], rows),
        "",
        f"± is the standard error. {BOLD}",
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
    """A text as itself in Markdown: no links, pictures, tags or code."""
    return re.sub(r"([\\|\[\]<>`])", r"\\\1", " ".join(printable(text).split()))


def _code(text: str) -> str:
    """A text as code on one line, with any content."""
    shown = json.dumps(text if len(text) <= _MAX_CELL else text[:_MAX_CELL] + " …", ensure_ascii=False)
    # Longer than any run of backticks inside.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{shown}{fence}" if fence == "`" else f"{fence} {shown} {fence}"


def _csv(fields: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


FOLDER = Path(__file__).parent / "page_files"
NUM_COLOURS = len(palette.SERIES)
_MAX_TEXT = 700
_FEW_KEYS = 4


def render_page(report: Report) -> str:
    """The whole page; its hashes allow the script and styles, everything else is blocked."""
    script = f'"use strict";\n(() => {{\n{(FOLDER / "report.js").read_text(encoding="utf-8")}\n}})();\n'
    style = palette.css() + (FOLDER / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"with_error": with_error, "p_text": p_text}
    names = [run.name for run in report.compared]
    others = [run.name for run in report.runs if run.name not in names]
    reach = max((abs(bound) for pair in report.pairs for bound in pair.interval), default=1.0)
    curves = _curves(report)
    return environment.get_template("report.html.jinja").render(
        report=report,
        bold=BOLD,
        log=any(panel["log"] for panel in curves["panels"]),
        colour={name: index % NUM_COLOURS for index, name in enumerate([*names, *others])},
        names=names,
        few_of_many=few_of_many(report),
        bar=bar,
        forest=lambda pair: forest(pair, reach),
        sections=sections(report),
        marked=marked,
        clipped=clipped,
        data=Markup(_embedded(curves)),
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; base-uri 'none'; "
        "form-action 'none'",
    )


def bar(values: Values, row: int, column: int) -> dict[str, float] | None:
    """Value and 95 % interval of a share, in per cent; None for values without natural limits."""
    measured, name = values.rows[row][column], values.columns[column].name
    if measured is None or not (is_share(name) or name.endswith("accuracy")) or not 0 <= measured.value <= 1:
        return None
    low, high = interval(name, measured) or (measured.value, measured.value)
    return {"value": _percent(measured.value), "low": _percent(low), "high": _percent(high)}


def forest(pair: Paired, reach: float) -> dict[str, float]:
    """Difference and interval on a scale from −reach (0) to reach (100)."""
    low, high = pair.interval
    return {key: _percent((1 + v / reach) / 2) for key, v in (("value", pair.difference), ("low", low), ("high", high))}


def sections(report: Report) -> dict[str, dict[str, list[str]]]:
    """The settings that differ, by their first key; small sections are combined into the first one."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, row in report.differences.items():
        found.setdefault(key.partition(".")[0], {})[key] = row
    few = {key: row for rows in found.values() if len(rows) <= _FEW_KEYS for key, row in rows.items()}
    many = {name: rows for name, rows in found.items() if len(rows) > _FEW_KEYS}
    return {"general": few, **many} if few else many


def marked(prediction: str, truth: str | None) -> list[tuple[str, bool]]:
    """The words of a prediction in groups, each with whether they are in the truth too, in the same order.

    `‸` marks words of the truth that are missing without a replacement.
    """
    if truth is None or len(prediction) > _MAX_TEXT:
        return [(clipped(prediction), True)]
    words, wanted = prediction.split(), truth.split()
    stretches: list[tuple[str, bool]] = []
    end, wanted_end = 0, 0
    for match in SequenceMatcher(None, words, wanted, autojunk=False).get_matching_blocks():
        if match.a > end:
            stretches.append((" ".join(words[end : match.a]), False))
        elif match.b > wanted_end:
            stretches.append(("‸", False))
        if match.size:
            stretches.append((" ".join(words[match.a : match.a + match.size]), True))
        end, wanted_end = match.a + match.size, match.b + match.size
    return stretches


def clipped(text: str) -> str:
    """A text, cut if it is too long for a page."""
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def _curves(report: Report) -> dict[str, Any]:
    panels = []
    for panel in report.panels:
        split, _, rest = panel.name.partition("/")
        loader, _, metric = rest.rpartition("/")
        label = f"{metric_label(metric)}, {split}" + (f" ({loader})" if loader else "")
        label += f", {panel.kind}" if panel.kind else ""
        values = [value for curve in panel.curves for value in curve.values]
        is_share = is_fraction(metric) and min(values) >= 0 and max(values) <= 1
        spans_decades = min(values) > 0 and max(values) >= LOSS_SPAN * min(values)
        panels.append({
            **asdict(panel), "label": label, "unit": axis_title(metric), "share": is_share, "loss": "loss" in metric,
            "log": "loss" in metric and spans_decades,
        })  # fmt: skip
    return {"runs": [run.name for run in report.compared], "colours": NUM_COLOURS, "panels": panels}


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _embedded(data: Any) -> str:
    """JSON in which no text can close its HTML element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
