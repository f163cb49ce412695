"""Configuration: the model is found, its experiments compose, and what they name exists."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from xlm.errors import XLMError
from xlm.testing.properties import Violation, require
from xlm.testing.small import without_experiment
from xlm.testing.subject import Subject
from xlm.utils.imports import get_object

# Keys whose values are dotted paths, beside `_target_`.
_PATHS = (
    "_target_",
    "update_fn",
    "print_batch_fn",
    "preprocess_function",
    "on_the_fly_processor",
    "on_the_fly_group_processor",
    "dataset_constructor_str",
)
# Whose values are dotted paths, too.
_TABLES = ("metric_inputs",)


def discovered(subject: Subject) -> None:
    """The package is there, and importing it runs."""
    package = subject.package
    module = importlib.import_module(package.import_name)
    places = [str(place) for place in getattr(module, "__path__", [])]
    require(
        str(package.package_dir.resolve()) in places or str(package.package_dir) in places,
        f"`import {package.import_name}` gives {', '.join(places) or module}, not {package.package_dir}.",
    )


def composes(subject: Subject) -> None:
    """Each experiment, and the one in small that everything else is tried with."""
    try:
        subject.composed  # noqa: B018 - composing is the check
        subject.cfg  # noqa: B018
    except XLMError as error:
        raise Violation(str(error)) from error


def composes_overfit(subject: Subject) -> None:
    """Each experiment with the overrides that this makes; `composes` has shown them without."""
    for name in subject.composed:
        if not name:
            subject.compose(*without_experiment(subject.name, subject.name), "debug=overfit")
            continue
        try:
            subject.compose(f"experiment={name}", "debug=overfit")
        except XLMError as error:
            raise Violation(f"experiment={name} debug=overfit: {error}") from error


def targets(subject: Subject) -> None:
    """Each path once, whichever experiments name it."""
    seen: set[str] = set()
    for name, cfg in subject.composed.items():
        plain = OmegaConf.to_container(cfg, resolve=False)
        for key, path in _dotted_paths(plain, ""):
            if path not in seen:
                seen.add(path)
                try:
                    get_object(path, key=key)
                except XLMError as error:
                    raise Violation(f"experiment={name}: {error}" if name else str(error)) from error


def _dotted_paths(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Dotted key and value of every literal path in a plain tree."""
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        dotted = f"{key}.{name}" if key else str(name)
        is_path = name in _PATHS or key in _TABLES
        if isinstance(child, dict | list):
            yield from _dotted_paths(child, dotted)
        elif is_path and isinstance(child, str) and "${" not in child and child != "???":
            yield dotted, child
