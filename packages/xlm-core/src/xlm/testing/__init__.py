"""The conformance kit: proves, property by property, that a model package obeys the contract."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.testing.by_heart import overfit
    from xlm.testing.declared import mismatches
    from xlm.testing.properties import Inapplicable, Property, Violation
    from xlm.testing.pytest_tests import conformance_tests
    from xlm.testing.runner import Outcome, check_model
    from xlm.testing.table import PROPERTIES

__all__ = ["PROPERTIES", "Inapplicable", "Outcome", "Property", "Violation", "check_model"]
__all__ += ["conformance_tests", "mismatches", "overfit"]

_MODULES = {
    "PROPERTIES": "table",
    "Inapplicable": "properties",
    "Outcome": "runner",
    "Property": "properties",
    "Violation": "properties",
    "check_model": "runner",
    "conformance_tests": "pytest_tests",
    "mismatches": "declared",
    "overfit": "by_heart",
}


def __getattr__(name: str) -> Any:
    # pytest imports the plug-in beside this at every start: nothing else comes with it.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"xlm.testing.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
