"""`xlm report` and `xlm runs`: compare runs on one page, or list them one per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xlm.commands.words import run_of_model
from xlm.errors import ConfigError
from xlm.reports.filters import check_filters, matches
from xlm.reports.listing import as_lines, as_object, sort_runs
from xlm.reports.run import distinct_names, named_runs, names_below, read_run, run_folders, runs_folder
from xlm.schemas import Report, Runs
from xlm.utils.columns import output_width, print_sentence

if TYPE_CHECKING:
    from xlm.reports.document import Report as Content

FOLDER = Path("reports")
_MAX_NAME = 80


def write_report(words: Sequence[str], options: Report) -> int:
    """Write `<output>.html`, `.md`, `.csv` and `_pairs.csv`, and print their paths; returns 0.

    Raises:
        ConfigError: no runs are named, or one doesn't exist.
    """
    from xlm.reports.document import build_report
    from xlm.reports.page import as_markdown, pairs_csv, render_page, values_csv
    from xlm.utils.files import output_file, replace_text

    names = [*options.runs, *words]
    if not names:
        raise ConfigError("Which runs? xlm report runs=[a,b], or xlm report a b. `xlm runs` lists them.", key="runs")
    runs = named_runs([run_of_model(name) for name in names])
    page = output_path(options.output, [run.name for run in runs])
    for path in (page, page.with_suffix(".md"), page.with_suffix(".csv"), page.with_name(f"{page.stem}_pairs.csv")):
        output_file(path, "output")
    report = build_report(runs, options.title or None, options.split)
    texts = {page: render_page(report), page.with_suffix(".md"): as_markdown(report)}
    texts[page.with_suffix(".csv")] = values_csv(report)
    if report.pairs:
        texts[page.with_name(f"{page.stem}_pairs.csv")] = pairs_csv(report)
    for path, text in texts.items():
        replace_text(path, text)
    for run in runs:
        for problem in run.problems:
            print_sentence(f"{run.name}: {problem}")
    print_sentence(f"{_counted(len(runs), 'run')}, {_comparisons(report)}")
    print_sentence(f"Written to {page}; beside it {', '.join(p.name for p in texts if p != page)}.")
    return 0


def _comparisons(report: Content) -> str:
    if report.pairs:
        return f"{_counted(len(report.pairs), 'paired comparison')}."
    return f"no paired comparison: {report.no_pairs or 'it needs two runs.'}"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def output_path(said: str, names: Sequence[str]) -> Path:
    """The page's path: as given (report.html in a folder), else in reports/, named after the runs."""
    if said:
        path = Path(said)
        if path.is_dir() or said.endswith("/"):
            return path / "report.html"
        return path if path.suffix == ".html" else path.with_name(f"{path.name}.html")
    name = "+".join(name.replace("/", "-") for name in names)
    return FOLDER / f"{name if len(name) <= _MAX_NAME else f'{len(names)}_runs'}.html"


def print_runs(words: Sequence[str], options: Runs) -> int:
    """Print the runs of a folder (by default runs/) that match all other words and settings; returns 0.

    Raises:
        ConfigError: an unknown order, or a setting that none of the runs has.
    """
    folders = [Path(word) for word in words if Path(word).is_dir()]
    filters = [word for word in words if not Path(word).is_dir()]
    places = folders or [runs_folder()]
    found = [run for folder in places for run in run_folders(folder)]
    names = names_below(places[0], found) if len(places) == 1 else distinct_names(found)
    runs = [read_run(folder, name) for folder, name in zip(found, names, strict=True)]
    if runs:
        check_filters(runs, filters)
    runs = sort_runs([run for run in runs if all(matches(run, word) for word in filters)], options.sort)
    if options.json:
        print(json.dumps([as_object(run) for run in runs], indent=2, ensure_ascii=False))
    elif runs:
        print("\n".join(as_lines(runs, output_width(), metric=options.sort)))
    else:
        where = ", ".join(map(str, places))
        matching = f" that matches '{' '.join(filters)}'" if filters else ""
        print_sentence(f"There is no run{matching} in {where}.")
    return 0
