"""The conformance kit: checks, property by property, that a model package satisfies the contract."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm.testing.compare import mismatches
    from xlm.testing.contract import PROPERTIES, Inapplicable, Property, Violation
    from xlm.testing.pytest_plugin import conformance_tests
    from xlm.testing.runner import Outcome, check_model, overfit

__all__ = ["PROPERTIES", "Inapplicable", "Outcome", "Property", "Violation", "check_model"]
__all__ += ["conformance_tests", "mismatches", "overfit"]

_MODULES = {
    "PROPERTIES": "contract",
    "Inapplicable": "contract",
    "Outcome": "runner",
    "Property": "contract",
    "Violation": "contract",
    "check_model": "runner",
    "conformance_tests": "pytest_plugin",
    "mismatches": "compare",
    "overfit": "runner",
}


def __getattr__(name: str) -> Any:
    # pytest imports this package with the plugin at every start, so nothing else may be imported with it.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"xlm.testing.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
