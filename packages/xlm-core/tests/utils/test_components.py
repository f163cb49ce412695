"""The registry of a run's components."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xlm.errors import ConfigError
from xlm.utils.instantiate import clear_components, get_component, has_component, set_component


@pytest.fixture(autouse=True)
def _cleared() -> Iterator[None]:
    clear_components()
    yield
    clear_components()


def test_gives_back_the_object_itself() -> None:
    tokenizer = object()
    set_component("tokenizer", tokenizer)
    assert get_component("tokenizer") is tokenizer
    assert has_component("tokenizer")


def test_unknown_names_say_what_there_is() -> None:
    set_component("tokenizer", object())
    with pytest.raises(
        ConfigError, match=r"'tokeniser' does not exist.*There are: tokenizer\. Did you mean 'tokenizer'"
    ):
        get_component("tokeniser")


def test_clear_forgets() -> None:
    set_component("tokenizer", object())
    clear_components()
    assert not has_component("tokenizer")
