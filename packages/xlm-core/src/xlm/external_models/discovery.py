"""Finds model packages: directories with an xlm_models.json, entry points, and XLM_MODELS_PACKAGES."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from xlm.errors import (
    ExternalModelConflictError,
    ExternalModelError,
    ModelLayoutError,
    ModelNotInstalledError,
    ModelsFileError,
)
from xlm.external_models.installed import (
    PACKAGES_VARIABLE,
    InstalledEntry,
    entry_point_entries,
    listed_entries,
    locate_package,
)
from xlm.external_models.models_file import FILE_NAME, read_models_file
from xlm.external_models.package import ModelPackage, read_directory, read_installed

PATH_VARIABLE = "XLM_MODELS_PATH"


@dataclass
class Discovery:
    """What a search found: usable `models`, and everything that was wrong.

    `errors` must be mended before any job runs (conflicts, broken files, packages that are not installed).
    `unusable` are listed models that cannot be used, with the reason to repeat when one is asked for;
    `warnings` is what to say at once. `places` are the files and groups that were looked at.
    """

    models: dict[str, ModelPackage] = field(default_factory=dict)
    errors: list[ExternalModelError] = field(default_factory=list)
    unusable: dict[str, ExternalModelError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raise the first error, if there is one."""
        if self.errors:
            raise self.errors[0]


@dataclass(frozen=True)
class _Claim:
    """`source` says that `directory` is the model `name`; `model` if that can be used."""

    name: str
    directory: Path
    source: str
    model: ModelPackage | None


def find_models(environ: Mapping[str, str], cwd: Path) -> dict[str, ModelPackage]:
    """Every usable model by name; raises the first conflict or broken listing. Changes nothing."""
    found = discover(environ, cwd)
    found.raise_errors()
    return found.models


def discover(environ: Mapping[str, str], cwd: Path) -> Discovery:
    """Search all places and report everything, errors included. Changes nothing and imports no model."""
    found = Discovery()
    claims = [*_directory_claims(environ, cwd, found), *_installed_claims(environ, found)]
    by_name: dict[str, list[_Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.name, []).append(claim)
    for name, same_name in by_name.items():
        _settle(name, same_name, found)
    for name in found.models:
        found.unusable.pop(name, None)
    return found


def _settle(name: str, claims: list[_Claim], found: Discovery) -> None:
    """One directory: one model, whoever lists it. Several: a conflict, and nobody gets the name."""
    if len({claim.directory for claim in claims}) > 1:
        error = ExternalModelConflictError(name, [(claim.directory, claim.source) for claim in claims])
        found.errors.append(error)
        found.unusable[name] = error
        return
    model = next((claim.model for claim in claims if claim.model), None)
    if model:
        sources = ", ".join(dict.fromkeys(claim.source for claim in claims))
        found.models[name] = replace(model, source=sources)


def _directory_claims(environ: Mapping[str, str], cwd: Path, found: Discovery) -> Iterator[_Claim]:
    for models_file in _models_files(environ, cwd, found):
        label = _label(models_file, cwd)
        entries, errors = read_models_file(models_file, label)
        found.errors.extend(errors)
        for name, directory in entries:
            if not _is_dir(directory):
                reason = f"model '{name}' is listed with the directory {directory}, which does not exist."
                error = ModelsFileError(label, reason, name=name)
                found.unusable.setdefault(name, error)
                found.warnings.append(str(error))
                continue
            yield _claim_directory(name, directory, label, found)


def _claim_directory(name: str, directory: Path, label: str, found: Discovery) -> _Claim:
    try:
        model = read_directory(name, directory, label)
    except ModelLayoutError as error:
        return _unusable_claim(error, name, directory, label, found)
    return _Claim(name, model.package_dir.resolve(), label, model)


def _unusable_claim(
    error: ExternalModelError, name: str, directory: Path, source: str, found: Discovery
) -> _Claim:
    found.unusable.setdefault(name, error)
    found.warnings.append(f"{error} (listed by {source})")
    return _Claim(name, directory, source, None)


def _models_files(environ: Mapping[str, str], cwd: Path, found: Discovery) -> Iterator[Path]:
    """The xlm_models.json files that exist, in the documented order, each once."""
    seen: set[Path] = set()
    listed = [part for part in environ.get(PATH_VARIABLE, "").split(os.pathsep) if part.strip()]
    for directory, variable in [
        (".", None),
        ("xlm-models", None),
        *((part, PATH_VARIABLE) for part in listed),
    ]:
        try:
            folder = (cwd / os.path.expanduser(directory)).resolve()
            exists = (folder / FILE_NAME).exists()
        except (OSError, ValueError, RuntimeError) as error:
            found.warnings.append(f"{variable}: {directory!r} is no usable path: {error}")
            continue
        found.places.append(_label(folder / FILE_NAME, cwd))
        if exists and folder not in seen:
            seen.add(folder)
            yield folder / FILE_NAME
        elif not exists and variable:
            found.warnings.append(f"{variable} lists {directory}, but {folder / FILE_NAME} does not exist.")


def _installed_claims(environ: Mapping[str, str], found: Discovery) -> Iterator[_Claim]:
    found.places += ["entry points of the group xlm.models", PACKAGES_VARIABLE]
    for entry in entry_point_entries():
        claim = _claim_installed(entry, found)
        if claim:
            yield claim
            continue
        error = ModelNotInstalledError(entry.package, f"the {entry.source}")
        found.unusable.setdefault(entry.name, error)
        found.warnings.append(str(error))
    for entry in listed_entries(environ.get(PACKAGES_VARIABLE, "")):
        claim = _claim_installed(entry, found)
        if claim:
            yield claim
            continue
        error = ModelNotInstalledError(entry.package, PACKAGES_VARIABLE)
        found.unusable.setdefault(entry.name, error)
        found.errors.append(error)


def _claim_installed(entry: InstalledEntry, found: Discovery) -> _Claim | None:
    directory = locate_package(entry.package)
    if directory is None:
        return None
    try:
        model = read_installed(entry.name, directory, entry.source, entry.version)
    except ModelLayoutError as error:
        return _unusable_claim(error, entry.name, directory, entry.source, found)
    return _Claim(entry.name, directory, entry.source, model)


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
