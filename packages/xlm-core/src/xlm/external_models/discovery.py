"""Finds model packages: directories with an xlm_models.json, entry points, and XLM_MODELS_PACKAGES."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from xlm.errors import (
    ExternalModelConflictError,
    ExternalModelError,
    ModelLayoutError,
    ModelNotInstalledError,
    ModelsFileError,
    UnknownModelError,
    as_line,
)
from xlm.external_models.package import (
    COMMANDS_FILE,
    ModelPackage,
    config_dirs_of,
    core_config_dir,
    read_directory,
    read_installed,
)

MODELS_FILE = "xlm_models.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")  # used in file names


def read_models_file(path: Path, label: str) -> tuple[list[tuple[str, Path]], list[ModelsFileError]]:
    """The (name, absolute directory) pairs of `path`, and an error for each unusable part.

    A name may occur twice; whether that is a conflict depends on the directories. `label` names the file in errors.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except (OSError, ValueError, RecursionError) as error:
        return [], [ModelsFileError(label, f"it cannot be read as JSON: {_first_line(error)}")]
    if not isinstance(pairs, _Pairs):
        reason = f'it must be an object such as {{"my_model": "my_model"}}, not {_kind(pairs)}.'
        return [], [ModelsFileError(label, reason)]
    entries: list[tuple[str, Path]] = []
    errors: list[ModelsFileError] = []
    for name, value in pairs:
        try:
            entries.append((name, _directory(path, label, name, value)))
        except ModelsFileError as error:
            errors.append(error)
    return entries, errors


class _Pairs(list[tuple[str, Any]]):
    """A JSON object that keeps repeated keys, so that they can be reported."""


def _directory(path: Path, label: str, name: str, value: Any) -> Path:
    if not _NAME.fullmatch(name):
        reason = f"{name!r} cannot name a model: use only letters, digits, '_', '-' and '.'."
        raise ModelsFileError(label, reason, name=name)
    if not isinstance(value, str):
        reason = f"the directory of model '{name}' must be a string, not {_kind(value)}."
        raise ModelsFileError(label, reason, name=name)
    if not value:
        raise ModelsFileError(label, f"the directory of model '{name}' is empty.", name=name)
    try:
        return (path.parent / value).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"the directory of model '{name}' is not a usable path: {_first_line(error)}"
        raise ModelsFileError(label, reason, name=name) from error


def _kind(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return {bool: "true or false", int: "a number", float: "a number", str: "a string"}.get(type(value), "null")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


ENTRY_POINT_GROUP = "xlm.models"
PACKAGES_VARIABLE = "XLM_MODELS_PACKAGES"


@dataclass(frozen=True)
class InstalledEntry:
    """A claim that the import package `package` is the model `name`."""

    name: str
    package: str
    source: str
    version: str | None


def entry_point_entries() -> Iterator[InstalledEntry]:
    """One entry for each entry point of the group `xlm.models` in this environment."""
    # Sorted, because users cannot see the order of installation.
    for point in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        distribution = point.dist
        owner = distribution.name if distribution else "an unknown distribution"
        version = distribution.version if distribution else None
        yield InstalledEntry(point.name, point.value.partition(":")[0].strip(), f"entry point of {owner}", version)


def listed_entries(value: str) -> Iterator[InstalledEntry]:
    """One entry for each name in `value`, a colon-separated list of import packages."""
    for package in dict.fromkeys(part.strip() for part in value.split(":")):
        if package:
            yield InstalledEntry(package.rpartition(".")[2], package, PACKAGES_VARIABLE, _version_of(package))


def locate_package(package: str, regular: bool = False) -> Path | None:
    """The directory of an importable package, or None; does not run any code of the package.

    `regular` excludes namespace packages: folders without `__init__.py`, which any other package takes precedence over.
    """
    parts = package.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    try:
        spec = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        return None
    if spec is None or (regular and spec.origin is None):
        return None
    for location in spec.submodule_search_locations or []:
        directory = Path(location).joinpath(*parts[1:])
        if directory.is_dir():
            return directory.resolve()
    return None


def locate_import(name: str) -> Path | None:
    """The path that `import name` finds: the directory of a package, or the file of a module; None if nothing.

    Folders without `__init__.py` don't count, since any package takes precedence.
    """
    directory = locate_package(name, regular=True)
    if directory is not None or not name.isidentifier():
        return directory
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _version_of(package: str) -> str | None:
    for name in (package, f"xlm-{package}"):
        try:
            return metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return None


PATH_VARIABLE = "XLM_MODELS_PATH"
CHOICE_VARIABLE = "XLM_MODELS"


@dataclass(frozen=True)
class Unusable:
    """A listed model that cannot be used, and why; `tolerated` if this is only a warning."""

    name: str
    source: str
    directory: str
    error: ExternalModelError
    tolerated: bool = False


@dataclass
class Discovery:
    """The result of a search: usable `models`, and everything that was wrong.

    `errors` must be fixed before any job runs (conflicts, broken files, packages that are not installed).
    `unusable` models are skipped; the reason is shown again when one is requested. `warnings` are shown at once.
    `places` are the files, groups and variables that were searched. `folders` are the user's own: those of the
    model lists that were read, then the working directory. `switched_off` are the models that XLM_MODELS leaves out.
    """

    models: dict[str, ModelPackage] = field(default_factory=dict)
    errors: list[ExternalModelError] = field(default_factory=list)
    unusable: dict[str, Unusable] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    switched_off: list[str] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise the first error, if there is one."""
        if self.errors:
            raise self.errors[0]

    def leave_out(self, unusable: Unusable, is_error: bool = False) -> None:
        """Record an unusable model; `is_error` if no job may run until it is fixed."""
        self.unusable.setdefault(unusable.name, unusable)
        if is_error:
            self.errors.append(unusable.error)
        else:
            self.warnings.append(str(unusable.error))


@dataclass(frozen=True)
class _Claim:
    """A claim of `source` that `directory` is the model `name`; `model` if it is usable."""

    name: str
    directory: Path
    source: str
    model: ModelPackage | None = None


def find_models(environ: Mapping[str, str], cwd: Path) -> dict[str, ModelPackage]:
    """All usable models by name; raises the first conflict or broken listing. Has no side effects."""
    found = discover(environ, cwd)
    found.raise_errors()
    return found.models


def find_model(name: str, found: Discovery) -> ModelPackage:
    """The model of that name.

    Raises:
        ExternalModelError: the model is listed but cannot be used, or no model can be used until an error is fixed.
        UnknownModelError: no model has this name; suggests the nearest one.
    """
    if name in found.unusable:
        raise found.unusable[name].error
    if name in found.switched_off:
        raise switched_off_error(name)
    found.raise_errors()
    if name not in found.models:
        raise UnknownModelError(name, found.models, found.places)
    return found.models[name]


def switched_off_error(name: str) -> ExternalModelError:
    """The error for a model that XLM_MODELS leaves out."""
    return ExternalModelError(f"Model '{name}' is switched off: {CHOICE_VARIABLE} doesn't list it.", name=name)


def discover(environ: Mapping[str, str], cwd: Path) -> Discovery:
    """Search all places and return everything found, with errors. Has no side effects and imports no model."""
    found = Discovery()
    by_name: dict[str, list[_Claim]] = {}
    for claim in [*_directory_claims(environ, cwd, found), *_installed_claims(environ, found)]:
        by_name.setdefault(claim.name, []).append(claim)
    chosen = _chosen(environ, by_name, found)
    for name, claims in by_name.items():
        if chosen is None or name in chosen:
            _settle(name, claims, found)
    for name in found.models:
        found.unusable.pop(name, None)
    found.folders = list(dict.fromkeys([*found.folders, cwd.resolve()]))
    found.warnings += _hidden_configs(found)
    return found


def _chosen(environ: Mapping[str, str], claims: Mapping[str, Any], found: Discovery) -> set[str] | None:
    """The names in XLM_MODELS, or None if it is not set; what concerns other models is left out of `found`."""
    names = dict.fromkeys(part.strip() for part in environ.get(CHOICE_VARIABLE, "").split(",") if part.strip())
    if not names:
        return None
    there = {*claims, *found.unusable}
    found.switched_off = sorted(there - names.keys())
    found.errors = [error for error in found.errors if error.name is None or error.name in names]
    reasons = {str(left.error) for name, left in found.unusable.items() if name not in names}
    found.warnings = [warning for warning in found.warnings if warning not in reasons]
    found.unusable = {name: left for name, left in found.unusable.items() if name in names}
    found.errors += [UnknownModelError(name, there, listed_by=CHOICE_VARIABLE) for name in names if name not in there]
    return set(names)


def _hidden_configs(found: Discovery) -> Iterator[str]:
    """A warning for each configuration in a user's own folder that core or a model also has."""
    searched = {core_config_dir(): "xlm-core"} | {m.config_dir: m.provider for m in found.models.values()}
    for folder in found.folders:
        for own in config_dirs_of(folder):
            if own in searched:
                continue
            for file in sorted(own.glob("*/**/*.yaml")):
                name = file.relative_to(own)
                owner = next((owner for place, owner in searched.items() if (place / name).is_file()), None)
                if owner:
                    yield as_line(f"{file} is not used: {owner} has a configuration of that name. Rename it.")


def _settle(name: str, claims: list[_Claim], found: Discovery) -> None:
    """Add the model if all claims name the same directory; otherwise record a conflict."""
    model = next((claim.model for claim in claims if claim.model), None)
    sources = ", ".join(dict.fromkeys(claim.source for claim in claims))
    if model and model.import_root is not None and model.import_name in sys.stdlib_module_names:
        found.leave_out(Unusable(name, sources, str(model.root), _hidden_by_python(model)))
        return
    other = _other_import(model) if model else None
    if model and other and other not in {claim.directory for claim in claims}:
        claims = [*claims, _Claim(name, other, f"what `import {model.import_name}` finds in this environment")]
    if len({claim.directory for claim in claims}) > 1:
        error = ExternalModelConflictError(name, [(claim.directory, claim.source) for claim in claims])
        found.leave_out(Unusable(name, sources, "several", error), is_error=True)
    elif model:
        found.models[name] = replace(model, source=sources)


def _other_import(model: ModelPackage) -> Path | None:
    """The package or module that Python would import instead of a listed directory's package; None if there is none."""
    if model.import_root is None:
        return None
    found = locate_import(model.import_name)
    return found if found != model.package_dir.resolve() else None


def _hidden_by_python(model: ModelPackage) -> ModelLayoutError:
    reason = (
        f"'{model.import_name}' is a module of Python's standard library, and `import {model.import_name}` finds that "
        "module instead of this package. Rename the package."
    )
    return ModelLayoutError(model.name, model.root, reason)


def _directory_claims(environ: Mapping[str, str], cwd: Path, found: Discovery) -> Iterator[_Claim]:
    for models_file in _models_files(environ, cwd, found):
        label = _label(models_file, cwd)
        entries, errors = read_models_file(models_file, label)
        found.errors.extend(errors)
        for name, directory in entries:
            if _is_dir(directory):
                yield _claim_directory(name, directory, label, found)
                continue
            reason = f"model '{name}' is listed with the directory {directory}, which does not exist."
            error = ModelsFileError(label, reason, name=name)
            found.leave_out(Unusable(name, label, str(directory), error, tolerated=True))


def _claim_directory(name: str, directory: Path, label: str, found: Discovery) -> _Claim:
    try:
        model = read_directory(name, directory, label)
    except ModelLayoutError as error:
        found.leave_out(Unusable(name, label, str(directory), error))
        return _Claim(name, directory, label)
    return _Claim(name, model.package_dir.resolve(), label, model)


def _models_files(environ: Mapping[str, str], cwd: Path, found: Discovery) -> Iterator[Path]:
    """The xlm_models.json files that exist, in the documented order, each once."""
    seen: set[Path] = set()
    listed = [part for part in environ.get(PATH_VARIABLE, "").split(os.pathsep) if part.strip()]
    for directory, variable in [(".", ""), ("xlm-models", ""), *((part, PATH_VARIABLE) for part in listed)]:
        try:
            models_file = (cwd / os.path.expanduser(directory)).resolve() / MODELS_FILE
            exists = models_file.exists()
        except (OSError, ValueError, RuntimeError) as error:
            found.warnings.append(as_line(f"{variable}: {directory!r} is not a usable path: {error}"))
            continue
        if models_file in seen:
            continue
        seen.add(models_file)
        found.places.append(_label(models_file, cwd))
        if exists:
            found.folders.append(models_file.parent)
            yield models_file
        elif variable:
            found.warnings.append(as_line(f"{variable} lists {directory}, but {models_file} does not exist."))


def _installed_claims(environ: Mapping[str, str], found: Discovery) -> Iterator[_Claim]:
    found.places += ["entry points of the group xlm.models", PACKAGES_VARIABLE]
    for entry in entry_point_entries():
        yield from _claim_installed(entry, f"the {entry.source}", found)
    for entry in listed_entries(environ.get(PACKAGES_VARIABLE, "")):
        # A package that the user listed is an error; a stale entry point is not the user's fault.
        yield from _claim_installed(entry, PACKAGES_VARIABLE, found, is_error=True)


def _claim_installed(
    entry: InstalledEntry, listed_by: str, found: Discovery, is_error: bool = False
) -> Iterator[_Claim]:
    directory = locate_package(entry.package)
    if directory is None:
        missing = ModelNotInstalledError(entry.package, listed_by)
        found.leave_out(Unusable(entry.name, entry.source, "-", missing), is_error)
        return
    try:
        model = read_installed(entry.name, directory, entry.source, entry.version)
    except ModelLayoutError as error:
        found.leave_out(Unusable(entry.name, entry.source, str(directory), error), is_error)
        yield _Claim(entry.name, directory, entry.source)
        return
    yield _Claim(entry.name, directory, entry.source, model)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _label(path: Path, cwd: Path) -> str:
    """`path` as a person would type it from `cwd`."""
    try:
        return str(path.relative_to(cwd.resolve()))
    except ValueError:
        return str(path)


def hidden_configs(models: Mapping[str, ModelPackage]) -> dict[str, list[tuple[str, str]]]:
    """For each model, its hidden config files as (file, owner of the file that Hydra uses instead)."""
    owners = dict.fromkeys(_config_files(core_config_dir()), "xlm-core")
    hidden: dict[str, list[tuple[str, str]]] = {}
    folders: set[Path] = set()
    for model in models.values():
        if model.config_dir in folders:
            continue
        folders.add(model.config_dir)
        for path in sorted(_config_files(model.config_dir)):
            owner = owners.setdefault(path, f"model '{model.name}'")
            if owner != f"model '{model.name}'":
                hidden.setdefault(model.name, []).append((path, owner))
    return hidden


def _config_files(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}
    return {path for path in found if path != COMMANDS_FILE}
