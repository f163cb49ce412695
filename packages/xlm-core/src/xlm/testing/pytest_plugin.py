"""The pytest plug-in: `pytest --xlm-model NAME` checks a model without any test file.

pytest imports this at every start wherever xlm-core is installed, so it imports nothing until the option is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xlm.testing.properties import Property
    from xlm.testing.pytest_tests import LazyRunner

OPTION = "--xlm-model"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option, which may come several times."""
    parser.getgroup("xlm", "language models").addoption(
        OPTION,
        action="append",
        default=[],
        metavar="NAME",
        help="check that the model NAME (see `xlm models`) obeys XLM's contract; may be given several times",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker of slow properties; refuse an unknown model; leave out other tests unless they are asked for."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    names = _names(config)
    if not names:
        return
    _refuse_unknown(names)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def _names(config: pytest.Config) -> list[str]:
    return list(dict.fromkeys(config.getoption(OPTION)))


def _refuse_unknown(names: list[str]) -> None:
    """UsageError (exit code 4) for a name that discovery doesn't find."""
    import os
    from pathlib import Path

    from xlm.errors import XLMError
    from xlm.external_models import discover
    from xlm.testing.finding import find_model

    found = discover(os.environ, Path.cwd())
    for name in names:
        try:
            find_model(name, found)
        except XLMError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the properties of each model, before -k and -m choose among the tests."""
    for name in _names(config):
        items.extend(ModelUnderTest.from_parent(session, name=name, nodeid=name).collect())


class ModelUnderTest(pytest.Collector):
    """All properties of one model."""

    def collect(self) -> Iterator[PropertyItem]:
        """One test for each."""
        from xlm.testing.pytest_tests import LazyRunner
        from xlm.testing.table import PROPERTIES

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
        from xlm.testing.pytest_tests import selected

        # What the fixture tmp_path_factory gives; an item that is no function has no fixtures.
        folders = self.config._tmp_path_factory  # type: ignore[attr-defined]
        self.runner.check(self.prop, folders, selected(self.session.items))

    def reportinfo(self) -> tuple[str, None, str]:
        return f"model {self.runner.name}", None, f"{self.runner.name}: {self.prop.name}"
