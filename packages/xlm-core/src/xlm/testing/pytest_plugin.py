"""pytest: `pytest --xlm-model NAME`, and `conformance_tests("NAME")` for a model's own test file.

pytest imports this plugin at every start wherever xlm-core is installed, so it imports the rest of xlm only on use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xlm.testing.contract import Property

OPTION = "--xlm-model"


def conformance_tests(
    name: str,
    *,
    search: Path | str | None = None,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
) -> Callable[..., None]:
    """A pytest function with one case for each property; a failure shows the property, the reason and the remedy.

    Args:
        name: the model's name in `xlm models`.
        search: one more folder that may hold an xlm_models.json, such as the one above the tests.
        experiment: the experiment to check; by default the model's one on star graphs if it has one.
        overrides: of that experiment, such as a smaller network.
    """
    from xlm.testing.contract import PROPERTIES

    cases = [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.slow else []) for p in PROPERTIES]
    runner = LazyRunner(name, search=search, experiment=experiment, overrides=overrides)

    @pytest.mark.parametrize("prop", cases)
    def test(prop: Property, tmp_path_factory: Any, request: Any) -> None:
        runner.check(prop, tmp_path_factory, selected(request.session.items))

    return test


def selected(items: Iterable[Any]) -> set[str]:
    """The names of the properties that have a test among pytest's items."""
    return {item.name.rpartition("[")[2].removesuffix("]") for item in items}


class LazyRunner:
    """The runner of one model, created when its first property is checked, so that collecting tests is fast."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name = name
        self.options = options
        self._runner: Any = None

    def check(self, prop: Property, tmp_path_factory: Any, selected: set[str]) -> None:
        """Fail or skip the running test unless the property holds.

        If it waits for a failed property that has no test among the `selected`, the test fails with that one's message.
        """
        if self._runner is None:
            from xlm.testing.model_under_test import ModelUnderTest
            from xlm.testing.runner import Runner

            self._runner = Runner(ModelUnderTest(self.name, tmp_path_factory.mktemp(self.name), **self.options))
        outcome = self._runner.outcome(prop.name)
        if outcome.status == "failed":
            pytest.fail(outcome.message, pytrace=False)
        if outcome.status == "inapplicable":
            for broken in self._runner.broken_below(prop.name):
                if broken.prop.name not in selected:
                    pytest.fail(broken.message, pytrace=False)
            pytest.skip(outcome.reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, which may be given several times."""
    parser.getgroup("xlm", "language models").addoption(
        OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help="check that the model NAME (see `xlm models`) satisfies XLM's contract; may be given several times",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of slow properties, reject unknown models, and run no other tests unless they are named."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    names = _names(config)
    if not names:
        return
    _reject_unknown(names)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def _names(config: pytest.Config) -> list[str]:
    return list(dict.fromkeys(config.getoption(OPTION)))


def _reject_unknown(names: list[str]) -> None:
    """UsageError (exit code 4) for a name that discovery doesn't find."""
    import os

    from xlm.errors import XLMError
    from xlm.external_models import discover, find_model

    found = discover(os.environ, Path.cwd())
    for name in names:
        try:
            find_model(name, found)
        except XLMError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the properties of each model, before -k and -m select tests."""
    for name in _names(config):
        items.extend(ModelCollector.from_parent(session, name=name, nodeid=name).collect())


class ModelCollector(pytest.Collector):
    """All properties of one model."""

    def collect(self) -> Iterator[PropertyItem]:
        """One test for each property."""
        from xlm.testing.contract import PROPERTIES

        runner = LazyRunner(self.name)
        for prop in PROPERTIES:
            item: PropertyItem = PropertyItem.from_parent(self, name=prop.name, prop=prop, runner=runner)
            if prop.slow:
                item.add_marker("slow")
            yield item


class PropertyItem(pytest.Item):
    """One property of one model."""

    def __init__(self, *, prop: Property, runner: LazyRunner, **options: Any) -> None:
        super().__init__(**options)
        self.prop = prop
        self.runner = runner

    def runtest(self) -> None:
        # The value of the fixture tmp_path_factory; an item that is not a function has no fixtures.
        folders = self.config._tmp_path_factory  # type: ignore[attr-defined]
        self.runner.check(self.prop, folders, selected(self.session.items))

    def reportinfo(self) -> tuple[str, None, str]:
        return f"model {self.runner.name}", None, f"{self.runner.name}: {self.prop.name}"
