"""A report as one HTML file that opens from disk: no network, and a policy that refuses everything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xlm.reports.document import Report, Values, interval, metric_label
from xlm.reports.pairs import Paired
from xlm.reports.plain import p_text, with_error
from xlm.reports.run import is_share

FOLDER = Path(__file__).parent / "page_files"
NUM_COLOURS = 8
_MAX_TEXT = 700
_FEW_KEYS = 4


def render_page(report: Report) -> str:
    """The whole page; script and styles are admitted by their hashes, everything else is refused."""
    script = f'"use strict";\n(() => {{\n{(FOLDER / "report.js").read_text(encoding="utf-8")}\n}})();\n'
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"with_error": with_error, "p_text": p_text}
    names = [run.name for run in report.runs]
    reach = max((abs(bound) for pair in report.pairs for bound in pair.interval), default=1.0)
    return environment.get_template("report.html.jinja").render(
        report=report,
        colour={name: index % NUM_COLOURS for index, name in enumerate(names)},
        names=names,
        bar=bar,
        forest=lambda pair: forest(pair, reach),
        sections=sections(report),
        marked=marked,
        clipped=clipped,
        data=Markup(_embedded(_curves(report))),
        script=Markup(script),
        style=Markup(style),
        policy=f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; base-uri 'none'; "
        "form-action 'none'",
    )


def bar(values: Values, row: int, column: int) -> dict[str, float] | None:
    """Value and 95 % interval of a share, in per cent; None for what has no natural ends."""
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
    """The settings that differ by their first key; those of sections with few of them come first, in one."""
    found: dict[str, dict[str, list[str]]] = {}
    for key, row in report.differences.items():
        found.setdefault(key.partition(".")[0], {})[key] = row
    few = {key: row for rows in found.values() if len(rows) <= _FEW_KEYS for key, row in rows.items()}
    many = {name: rows for name, rows in found.items() if len(rows) > _FEW_KEYS}
    return {"general": few, **many} if few else many


def marked(prediction: str, truth: str | None) -> list[tuple[str, bool]]:
    """The words of a prediction in stretches, and whether each is in the truth too, in the same order.

    `‸` stands where words of the truth are left out and nothing is in their place.
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
    """A text, cut where it is too long for a page."""
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"


def _curves(report: Report) -> dict[str, Any]:
    panels = []
    for panel in report.panels:
        split, _, rest = panel.name.partition("/")
        loader, _, metric = rest.rpartition("/")
        label = f"{metric_label(metric)}, {split}" + (f" ({loader})" if loader else "")
        label += f", {panel.kind}" if panel.kind else ""
        panels.append({**asdict(panel), "label": label, "log": "loss" in metric})
    return {"runs": [run.name for run in report.runs], "colours": NUM_COLOURS, "panels": panels}


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _embedded(data: Any) -> str:
    """JSON that no text inside can break out of its element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
