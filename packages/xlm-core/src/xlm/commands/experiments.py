"""`xlm experiments`: lists the experiments of core and of the models that were found, with their data and model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from xlm.errors import as_line
from xlm.external_models import Discovery, core_config_dir, discover
from xlm.external_models.package import config_dirs_of
from xlm.schemas import Experiments
from xlm.utils.columns import Column, output_width, print_sentence, table_lines

_GROUP = "experiment"
_OVERRIDE = "override "
_MOST_LEVELS = 20


@dataclass(frozen=True)
class Experiment:
    """An experiment: the family and the dataset that it chooses ("" if none), and the start of a comment about it."""

    name: str
    model: str
    data: str
    about: str
    source: str


def print_experiments(words: Sequence[str], options: Experiments) -> int:
    """Print the experiments that match all words; returns 0."""
    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    every = find_experiments(found)
    chosen = [each for each in every if all(_matches(each, word) for word in words)]
    if options.json:
        print(json.dumps([asdict(each) for each in chosen], indent=2, ensure_ascii=False))
    elif not chosen:
        print_sentence(f"There is no experiment that matches '{' '.join(words)}'. There are {len(every)} without it.")
    else:
        columns = [Column("name"), Column("model"), Column("data"), Column("about")]
        rows = [[as_line(text) or "-" for text in (e.name, e.model, e.data, e.about)] for e in chosen]
        print("\n".join(table_lines(columns, rows, output_width())))
        print()
        print_sentence("xlm train experiment=NAME trains one. Where no model is shown, add model_type= and model=.")
    return 0


def find_experiments(found: Discovery) -> list[Experiment]:
    """All experiments, sorted by name; of files with one name, Hydra uses the first."""
    places = {core_config_dir(): "xlm-core"} | {model.config_dir: model.name for model in found.models.values()}
    places |= {own: "own configs" for folder in found.folders for own in config_dirs_of(folder) if own not in places}
    files: dict[str, tuple[Path, str]] = {}
    for place, source in places.items():
        folder = place / _GROUP
        for file in sorted(folder.rglob("*.yaml")):
            files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), (file, source))
    entries = []
    for name, (file, source) in sorted(files.items()):
        choices = _choices(name, files)
        model, data = choices.get("model_type", ""), choices.get("datamodule", "")
        # An experiment without a model is its data.
        about = ("" if model else _about_data(data, places)) or _about(file)
        entries.append(Experiment(name, model, data, about, source))
    return entries


def _choices(name: str, files: Mapping[str, tuple[Path, str]], levels: int = _MOST_LEVELS) -> dict[str, str]:
    """Group → member of the groups that an experiment chooses, also by way of those that it builds on."""
    found: dict[str, str] = {}
    if name not in files or not levels:
        return found
    defaults = _loaded(files[name][0]).get("defaults")
    for entry in defaults if isinstance(defaults, list) else ():
        if isinstance(entry, str):
            found |= _choices(entry.removeprefix(f"/{_GROUP}/"), files, levels - 1)
        for group, member in entry.items() if isinstance(entry, dict) else ():
            key = str(group).removeprefix(_OVERRIDE).strip().removeprefix("/")
            if key == _GROUP:
                found |= _choices(str(member), files, levels - 1)
            elif member is not None:
                found[key] = str(member)
    return found


def _about_data(data: str, places: Iterable[Path]) -> str:
    files = [place / "datamodule" / f"{data}.yaml" for place in places]
    return next((_about(file) for file in files if data and file.is_file()), "")


def _loaded(file: Path) -> dict[str, Any]:
    """The mapping in a file; empty for one that cannot be read, which Hydra reports when it is used."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _about(file: Path) -> str:
    """The first sentence of the comment at the start of a file."""
    lines = []
    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            for line in text:
                if not line.startswith("#"):
                    break
                comment = line.lstrip("#").strip()
                if not comment.startswith("@package"):
                    lines.append(comment)
    except OSError:
        return ""
    return " ".join(lines).strip().partition(". ")[0].rstrip(".:")


def _matches(experiment: Experiment, word: str) -> bool:
    """Whether a word is part of an experiment's row, or a pattern for its name."""
    texts = (experiment.name, experiment.model, experiment.data, experiment.about, experiment.source)
    return any(word.lower() in text.lower() for text in texts) or fnmatchcase(experiment.name, word)
