"""`test_contract = conformance_tests("my_model")`: one test for each property, in a model's own test file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from xlm.testing.properties import Property
from xlm.testing.table import PROPERTIES


def conformance_tests(
    name: str,
    *,
    search: Path | str | None = None,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
) -> Callable[..., None]:
    """A pytest function with one case for each property; a failure is the property's line, the reason and the remedy.

    Args:
        name: of the model, as `xlm models` lists it.
        search: one more folder that may hold an xlm_models.json, such as the one above the tests.
        experiment: whose model and data are checked; by default the model's one on star graphs, if it has one.
        overrides: of that experiment, such as a smaller network.
    """
    import pytest

    cases = [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.slow else []) for p in PROPERTIES]
    runner = LazyRunner(name, search=search, experiment=experiment, overrides=overrides)

    @pytest.mark.parametrize("prop", cases)
    def test(prop: Property, tmp_path_factory: Any, request: Any) -> None:
        runner.check(prop, tmp_path_factory, selected(request.session.items))

    return test


def selected(items: Iterable[Any]) -> set[str]:
    """The properties that have a test among pytest's items."""
    return {item.name.rpartition("[")[2].removesuffix("]") for item in items}


class LazyRunner:
    """The runner of one model, made when its first property is checked; collecting tests stays cheap."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options
        self._runner: Any = None

    def check(self, prop: Property, tmp_path_factory: Any, selected: set[str]) -> None:
        """Fail or skip the running test unless the property holds.

        One that waits for a broken property fails by that one's line if that has no test among the `selected`.
        """
        import pytest

        if self._runner is None:
            from xlm.testing.runner import Runner
            from xlm.testing.subject import Subject

            self._runner = Runner(Subject(self.name, tmp_path_factory.mktemp(self.name), **self.options))
        outcome = self._runner.outcome(prop.name)
        if outcome.status == "failed":
            pytest.fail(outcome.message, pytrace=False)
        if outcome.status == "inapplicable":
            for broken in self._runner.broken_below(prop.name):
                if broken.prop.name not in selected:
                    pytest.fail(broken.message, pytrace=False)
            pytest.skip(outcome.reason)
