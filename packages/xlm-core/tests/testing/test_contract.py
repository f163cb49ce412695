"""The contract: names, order, checks that exist, and the public names of the kit."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import xlm.testing
from xlm.errors import ConfigError
from xlm.testing import PROPERTIES
from xlm.testing.runner import find_property


def test_names_are_short_and_given_once() -> None:
    names = [prop.name for prop in PROPERTIES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_every_property_has_a_check_and_needs_only_earlier_ones() -> None:
    earlier: set[str] = set()
    for prop in PROPERTIES:
        assert callable(prop.load())
        assert set(prop.needs) <= earlier
        assert prop.proves
        assert prop.remedy
        earlier.add(prop.name)


def test_an_unknown_property_is_named_with_the_nearest() -> None:
    assert find_property("wheel").name == "wheel"
    with pytest.raises(ConfigError, match=r"There is no property 'paddings'.*'padding'"):
        find_property("paddings")


def test_the_public_names_exist() -> None:
    for name in xlm.testing.__all__:
        assert getattr(xlm.testing, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        xlm.testing.nothing  # noqa: B018


def test_the_plug_in_and_the_table_come_without_torch() -> None:
    code = (
        "import sys, xlm.testing.pytest_plugin, xlm.testing.contract, xlm.testing.runner, xlm.commands.check\n"
        "print([name for name in ('torch', 'lightning', 'hydra', 'omegaconf', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
