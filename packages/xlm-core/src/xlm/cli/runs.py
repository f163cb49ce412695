"""`xlm runs`: one line for each run: model, data, steps, main figures, whether it still runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from xlm.errors import as_line
from xlm.reports.listing import as_lines, as_object, sort_runs
from xlm.reports.run import DEFAULT_FOLDER, Run, distinct_names, read_run, run_folders
from xlm.schemas import Runs


def print_runs(words: Sequence[str], options: Runs) -> int:
    """Print the runs of a folder (by default runs/) that the other words choose; 0, whatever they are."""
    folders = [Path(word) for word in words if Path(word).is_dir()]
    filters = [word for word in words if not Path(word).is_dir()]
    found = [run for folder in folders or [DEFAULT_FOLDER] for run in run_folders(folder)]
    names = distinct_names(found)
    runs = [read_run(folder, name) for folder, name in zip(found, names, strict=True)]
    runs = sort_runs([run for run in runs if all(_chosen(run, word) for word in filters)], options.sort)
    if options.json:
        print(json.dumps([as_object(run) for run in runs], indent=2, ensure_ascii=False))
    elif runs:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(as_lines(runs, width)))
    else:
        where = ", ".join(str(folder) for folder in folders or [DEFAULT_FOLDER])
        matching = f" that matches '{' '.join(filters)}'" if filters else ""
        print(as_line(f"There is no run{matching} in {where}."))
    return 0


def _chosen(run: Run, word: str) -> bool:
    """Whether a word is part of what the table says of a run, or a pattern for one of them."""
    return any(
        word in text or fnmatchcase(text, word)
        for text in (run.name, str(run.folder), run.model, run.data, run.state())
    )
