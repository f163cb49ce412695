"""Names: what is spelt well and free passes, everything else is refused with a name that would do."""

from __future__ import annotations

import keyword
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.errors import ScaffoldError
from xlm.scaffold.names import MAX_LENGTH, RESERVED, camel, check_name, check_spelling, suggestion


@pytest.mark.parametrize("name", ["my_awesome_model", "m", "flexmdm2", "a__b", "type", "x" * MAX_LENGTH])
def test_good_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "reason", "instead"),
    [
        ("My-Model", "'My-Model' cannot name a Python package: lower-case letters, digits and '_' only", "my_model"),
        ("MyModel", "'MyModel' cannot name a Python package", "my_model"),
        ("2fast", "a letter first", "model_2fast"),
        ("_hidden", "a letter first", "hidden"),
        ("naïve", "'naïve' cannot name a Python package", "naive"),
        ("../up", "'../up' cannot name a Python package", "up"),
        ("", "'' cannot name a Python package", "my_model"),
        ("a\nb", r"'a\nb' cannot name a Python package", "a_b"),
        ("class", "'class' is a keyword of Python.", "class_model"),
        ("json", "'json' is a module of Python's standard library", "json_model"),
        ("tests", "'tests' is reserved.", "tests_model"),
        ("template_model", "is reserved.", "template_model_model"),
        ("torch", "`import torch` imports a package of this environment", "torch_model"),
        ("hydra_core", "pip would replace the installed distribution hydra-core", "hydra_core_model"),
        ("x" * 65, "A name of 65 characters is too long: 64 at most.", "x" * 58),
    ],
)
def test_other_names_are_refused_and_a_better_one_named(name: str, reason: str, instead: str) -> None:
    with pytest.raises(ScaffoldError) as refused:
        check_name(name)
    assert reason in str(refused.value)
    assert str(refused.value).endswith(f"For instance: {instead}.")
    assert "\n" not in str(refused.value)
    assert refused.value.name == name


@given(st.text() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-. ]{0,80}") | st.sampled_from(sorted(keyword.kwlist)))
def test_what_is_suggested_is_well_spelt_and_another_name(name: str) -> None:
    instead = suggestion(name)
    check_spelling(instead)
    assert instead not in sys.stdlib_module_names
    assert instead not in RESERVED
    assert instead != name


@given(st.text() | st.from_regex(r"[a-z][a-z0-9_]{0,70}"))
def test_any_text_is_a_name_or_refused_in_one_sentence(name: str) -> None:
    refusals = []
    try:
        check_name(name)
    except ScaffoldError as error:
        refusals = str(error).splitlines()
    assert len(refusals) == 1 or (not refusals and name.isidentifier() and name == name.lower())


@pytest.mark.parametrize(
    ("name", "classes"), [("my_model", "MyModel"), ("ilm", "Ilm"), ("a__b_", "AB"), ("flex2_mdm", "Flex2Mdm")]
)
def test_camel(name: str, classes: str) -> None:
    assert camel(name) == classes
