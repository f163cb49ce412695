"""Texts and paths of a command line arrive as typed, independent of Hydra's grammar."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from xlm.compose.overrides import as_typed, quote, with_optional_sections, without_pluses
from xlm.errors import ConfigError

PATH_KEYS = ("eval.checkpoint_path", "++generation.output", "paths.run_dir", "data_files.train", "+sweep.judge",
             "model.pretrained_model_name_or_path", "datamodule.dataset_managers.train.lm.full_name")  # fmt: skip


def value(override: str) -> Any:
    """The value in a configuration after an override."""
    (parsed,) = OverridesParser.create().parse_overrides([as_typed(override)])
    return OmegaConf.to_container(OmegaConf.create({"x": parsed.value()}), resolve=True)["x"]  # type: ignore[index,call-overload]


ODD = ["runs/a,seed=1", "runs/é ü", "a b", "a=[b]$#", "it's", 'say "x"', "c:\\d\\", "a\\\\'b", "1e-3", "007", "true",
       "2024-01-05", "{x", "(x)", "a:b;c", "%(x)", "-", "'a' and 'b'", "$HOME", "#", "x]", "\t.", "~",
       "~no_such_user/r"]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_paths_and_names_of_any_letters(text: str) -> None:
    for key in (*PATH_KEYS, "job_name"):
        expected = str(Path.home()) if text == "~" and key != "job_name" else text
        assert value(f"{key}={text}") == expected, key


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\0\n\r", exclude_categories=("Cs",))))
def test_any_text_survives_its_quotes(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"a={quote(text)}"])
    assert parsed.value() == text


def test_the_home_folder_null_quotes_and_interpolations() -> None:
    assert value("eval.checkpoint_path=~/runs/r") == os.path.expanduser("~/runs/r")
    assert value("job_name=~x") == "~x"
    assert value("generation.output=null") is None
    assert value("eval.checkpoint_path='a,b'") == value('eval.checkpoint_path="a,b"') == "a,b"
    assert value("data_files.train=[a,b]") == ["a", "b"]
    assert as_typed("paths.run_dir=runs/${seed}") == "paths.run_dir='runs/${seed}'"
    for override in ("seed=1", "optimizer.lr=1e-3", "~job_name", "~paths.x=a,b", "train"):
        assert as_typed(override) == override


@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_path_is_not_empty(key: str) -> None:
    for blank in ("", "  "):
        with pytest.raises(ConfigError, match=r"= is empty \(an unset shell variable\?\)") as caught:
            as_typed(f"{key}={blank}")
        assert caught.value.key == key.lstrip("+")


def test_a_sweep_over_names_and_paths() -> None:
    assert as_typed("job_name=a b,x=1", multirun=True) == "job_name='a b','x=1'"
    assert as_typed("eval.checkpoint_path='a,b',c", multirun=True) == "eval.checkpoint_path='a,b','c'"
    assert as_typed("job_name=choice(a,b)", multirun=True) == "job_name=choice(a,b)"


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("a, b", "a, b"),
        ("${b}", "${b}"),
        ("{a: 1}", "{a: 1}"),
        ("it's", "it's"),
        ("what {is} this?", "what {is} this?"),
        ("007", "007"),
        ("[007, 1e-3, 1.10, true]", ["007", "1e-3", "1.10", "true"]),
        ('["a, b", c]', ["a, b", "c"]),
        ("[it's, a{b}, $x, ${b}]", ["it's", "a{b}", "$x", "${b}"]),
        ("['']", [""]),
        ("[]", []),
        ("[null]", [None]),
        ("['null']", ["null"]),
        ("null", None),
        ("-", "-"),
        ("[a", "[a"),
    ],
)
def test_prompts(typed: str, prompts: Any) -> None:
    assert value(f"generation.prompts={typed}") == prompts


@pytest.mark.parametrize("typed", ["[{a: 1}]", "[a, {b}]", "[[a, b]]"])
def test_prompts_that_are_no_texts(typed: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a text\. Write a text with brackets in quotes") as caught:
        as_typed(f"generation.prompts={typed}")
    assert caught.value.key == "generation.prompts"


def test_pluses_that_nobody_typed_are_not_shown() -> None:
    overrides = with_optional_sections(["eval.split=val", "+eval.x=1", "++trainer.x=1"])
    assert overrides == ("++eval.split=val", "+eval.x=1", "++trainer.x=1")
    assert without_pluses("so far: ++eval.split=val, ++trainer.x=1") == "so far: eval.split=val, ++trainer.x=1"
