"""Everything that a scaffold would write, worked out and checked without writing anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from xlm.errors import ScaffoldError
from xlm.external_models import Discovery, core_config_dir, discover
from xlm.scaffold.copying import COMMANDS, renamed
from xlm.scaffold.names import check_name
from xlm.scaffold.project import project_files
from xlm.scaffold.registry import check_registry
from xlm.scaffold.request import Request
from xlm.scaffold.templates import Template, find_template


@dataclass(frozen=True)
class Plan:
    """What will be written: `files` as {path relative to `root`: text}; `warnings` is what to say beside it."""

    request: Request
    root: Path
    files: dict[str, str]
    experiments: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def make_plan(request: Request, environ: Mapping[str, str], cwd: Path) -> Plan:
    """The plan for `request`, or the first reason why it cannot be carried out, as an XLMError."""
    check_name(request.name)
    check_target(request)
    check_registry(request.output_dir, request.name)
    places = [discover(environ, folder) for folder in dict.fromkeys([cwd, request.output_dir])]
    for found in places:
        _check_free(request.name, found)
    template = renamed(find_template(request.template, _template_places(request, places)), request.name)
    _check_configs(request.name, template, places)
    files = project_files(request, template)
    warnings = dict.fromkeys(str(error) for found in places for error in found.errors)
    return Plan(request, request.root, files, _experiments(template), tuple(warnings))


def check_target(request: Request) -> None:
    """ScaffoldError if there is something where the package should be, or the folder cannot be written to."""
    if os.path.lexists(request.root):
        raise ScaffoldError(f"{request.shown(request.root)}/ already exists.", name=request.name)
    module = request.root.with_suffix(".py")
    if os.path.lexists(module):
        raise ScaffoldError(f"{request.shown(module)} exists, and would be another module '{request.name}'.")
    folder = request.output_dir
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise ScaffoldError(f"{there} is no directory.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ScaffoldError(f"{there} cannot be written to: its permissions don't allow it.")


def _check_free(name: str, found: Discovery) -> None:
    model = found.models.get(name)
    if model:
        raise ScaffoldError(f"'{name}' is taken: a model of {model.source}, in {model.root}.", name=name)
    if name in found.unusable:
        reason = found.unusable[name].error
        raise ScaffoldError(f"'{name}' is taken, by a model that cannot be used. {reason}", name=name)


def _template_places(request: Request, places: list[Discovery]) -> Discovery:
    """What was found from the current directory; from the output directory if only that has the template."""
    return next((found for found in places if request.template in found.models), places[0])


def _check_configs(name: str, template: Template, places: Iterable[Discovery]) -> None:
    """ScaffoldError if a config file would have the path of one of core's or of another model's: Hydra takes one."""
    owners = {"xlm-core": core_config_dir()}
    for found in places:
        owners |= {f"the model '{model.name}'": model.config_dir for model in found.models.values()}
    for path in template.configs:
        owner = next((owner for owner, folder in owners.items() if (folder / path).exists()), None)
        if owner and path != COMMANDS:
            group, _, member = path.removesuffix(".yaml").rpartition("/")
            raise ScaffoldError(f"'{name}' is taken: {owner} has a {group} called '{member}'.", name=name)


def _experiments(template: Template) -> tuple[str, ...]:
    names = [Path(path).stem for path in template.configs if path.startswith("experiment/")]
    return tuple(sorted(names, key=lambda name: (not name.startswith("star_easy_"), name)))
