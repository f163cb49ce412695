"""Compares values read from JSON with a type, TypedDicts included, and names the first place that differs."""

from __future__ import annotations

from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from xlm.utils.annotations import describe, fits
from xlm.utils.text_files import name_of_kind


def misfit(value: Any, annotation: Any, place: str = "") -> str | None:
    """What is wrong with a value, as `runs[0].name is a number, and must be a text`; None if it fits.

    Keys that a TypedDict does not have are ignored, so that a later version can add some.
    """
    if is_typeddict(annotation):
        return _misfit_of_object(value, annotation, place)
    if get_origin(annotation) is list:
        if not isinstance(value, list):
            return _said(place, value, "a list")
        (item,) = get_args(annotation)
        return next((found for n, each in enumerate(value) if (found := misfit(each, item, f"{place}[{n}]"))), None)
    return None if fits(value, annotation) else _said(place, value, describe(annotation))


def _misfit_of_object(value: Any, annotation: Any, place: str) -> str | None:
    if not isinstance(value, dict):
        return _said(place, value, "an object")
    for name, hint in get_type_hints(annotation, include_extras=True).items():
        is_optional = get_origin(hint) is NotRequired or name not in annotation.__required_keys__
        inner = get_args(hint)[0] if get_origin(hint) is NotRequired else hint
        where = f"{place}.{name}".lstrip(".")
        if name not in value:
            if is_optional:
                continue
            return f"{where} is missing"
        if found := misfit(value[name], inner, where):
            return found
    return None


def _said(place: str, value: Any, allowed: str) -> str:
    return f"{place or 'it'} is {name_of_kind(value)}, and must be {allowed}"
