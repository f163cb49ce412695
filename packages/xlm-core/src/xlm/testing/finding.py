"""Finds the model that is to be checked, or says which name was meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from xlm.errors import UnknownModelError
from xlm.external_models import Discovery, ModelPackage
from xlm.external_models.discovery import MODELS_FILE, PATH_VARIABLE


def with_search(environ: Mapping[str, str], search: Path | str | None) -> dict[str, str]:
    """The environment in which models are also searched in a folder, if that has an xlm_models.json."""
    changed = dict(environ)
    if search is not None and (Path(search) / MODELS_FILE).is_file():
        listed = [str(Path(search).resolve()), *filter(None, [environ.get(PATH_VARIABLE)])]
        changed[PATH_VARIABLE] = os.pathsep.join(listed)
    return changed


def find_model(name: str, found: Discovery) -> ModelPackage:
    """The model of that name.

    Raises:
        ExternalModelError: it was listed but cannot be used, and why; or something must be mended before any can.
        UnknownModelError: nobody lists it; with the nearest name.
    """
    if name in found.unusable:
        raise found.unusable[name].error
    found.raise_errors()
    if name not in found.models:
        raise UnknownModelError(name, found.models, found.places)
    return found.models[name]
