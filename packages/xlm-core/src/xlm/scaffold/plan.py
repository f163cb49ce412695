"""Plans a scaffold without writing anything, and carries the plan out: all or nothing, even if interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm.errors import ScaffoldError, StorageError
from xlm.external_models import Discovery, core_config_dir, discover
from xlm.external_models.discovery import MODELS_FILE, read_models_file
from xlm.scaffold.names import check_name
from xlm.scaffold.project import Request, project_files
from xlm.scaffold.templates import COMMANDS, Template, find_template, renamed
from xlm.utils.files import replace_text


@dataclass(frozen=True)
class Plan:
    """What will be written: `files` as {path relative to `root`: text}, and `warnings` to show the user."""

    request: Request
    root: Path
    files: dict[str, str]
    experiments: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def make_plan(request: Request, environ: Mapping[str, str], cwd: Path) -> Plan:
    """The plan for `request`; XLMError with the first reason why it cannot be carried out. Writes nothing."""
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
    """ScaffoldError if the package's place is taken, or the folder cannot be written to."""
    if os.path.lexists(request.root):
        raise ScaffoldError(f"{request.shown(request.root)}/ already exists.", name=request.name)
    module = request.root.with_suffix(".py")
    if os.path.lexists(module):
        raise ScaffoldError(f"{request.shown(module)} already exists and is also imported as '{request.name}'.")
    folder = request.output_dir
    there = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not there.is_dir():
        raise ScaffoldError(f"{there} is not a directory.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ScaffoldError(f"{there} cannot be written to: permission denied.")


def _check_free(name: str, found: Discovery) -> None:
    model = found.models.get(name)
    if model:
        raise ScaffoldError(f"'{name}' is taken: a model of {model.source}, in {model.root}.", name=name)
    if name in found.unusable:
        reason = found.unusable[name].error
        raise ScaffoldError(f"'{name}' is taken, by a model that cannot be used. {reason}", name=name)


def _template_places(request: Request, places: list[Discovery]) -> Discovery:
    """The models found from the current directory, or from the output directory if only that finds the template."""
    return next((found for found in places if request.template in found.models), places[0])


def _check_configs(name: str, template: Template, places: Iterable[Discovery]) -> None:
    """ScaffoldError if core or another model has a config of the same path, because Hydra reads only one of them."""
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


def write(plan: Plan) -> None:
    """Write the package into a temporary folder, rename the folder, and list the model in xlm_models.json.

    Everything is undone if it fails or is interrupted. ScaffoldError for errors of the file system.
    """
    folder = plan.request.output_dir
    try:
        with _folder(folder), _lock(folder):
            check_target(plan.request)
            with tempfile.TemporaryDirectory(prefix=f".{plan.request.name}.", dir=folder) as staging:
                _write_files(Path(staging) / plan.request.name, plan.files)
                (Path(staging) / plan.request.name).rename(plan.root)
            try:
                add_entry(folder, plan.request.name)
            except BaseException:
                # If an interrupt comes after the model is listed, the complete model stays.
                if not is_listed(folder, plan.request.name):
                    shutil.rmtree(plan.root)
                raise
    except (OSError, StorageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or error
        raise ScaffoldError(f"{folder} cannot be written to: {reason}.") from error


def _write_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """Create the folder and its parents, and remove the new ones if the body fails."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in new:
            with contextlib.suppress(OSError):  # another process may have written into it
                path.rmdir()
        raise


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder, because two scaffolds at once would each write an xlm_models.json without the other's model."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_registry(folder: Path, name: str) -> None:
    """An error if the model `name` in `folder/name` cannot be added to the folder's xlm_models.json."""
    path = folder / MODELS_FILE
    if not os.path.lexists(path):
        return
    if not path.exists():
        raise ScaffoldError(f"{path} is a link to a file that does not exist.")
    entries, errors = read_models_file(path, str(path))
    if errors:
        raise errors[0]
    for listed, directory in entries:
        if listed == name:
            raise ScaffoldError(f"'{name}' is taken: {path} lists it already, as {directory}.", name=name)
        if directory == (folder / name).resolve():
            raise ScaffoldError(f"{path} lists the directory {name}/ already, as the model '{listed}'.", name=name)


def add_entry(folder: Path, name: str) -> None:
    """Add the model `name` in `folder/name` as the last entry of xlm_models.json, in one atomic step."""
    check_registry(folder, name)
    path = (folder / MODELS_FILE).resolve()  # a symbolic link stays one
    pairs: list[tuple[str, Any]] = []
    mode = None
    if path.exists():
        # As pairs, so that repeated keys are kept.
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
        mode = stat.S_IMODE(path.stat().st_mode)
    replace_text(path, as_json([*pairs, (name, name)]))
    if mode is not None:
        with contextlib.suppress(OSError):  # not every file system supports modes
            path.chmod(mode)


def is_listed(folder: Path, name: str) -> bool:
    """Whether the folder's xlm_models.json has an entry of that name."""
    path = folder / MODELS_FILE
    return path.exists() and name in dict(read_models_file(path, str(path))[0])


def as_json(pairs: list[tuple[str, Any]]) -> str:
    """A JSON object of strings, one entry per line."""
    lines = ",\n".join(f"  {_json_string(key)}: {_json_string(value)}" for key, value in pairs)
    return f"{{\n{lines}\n}}\n"


def _json_string(text: str) -> str:
    readable = json.dumps(text, ensure_ascii=False)
    try:
        readable.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(text)  # a lone surrogate can only be written as an escape
    return readable
