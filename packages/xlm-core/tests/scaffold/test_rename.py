"""Renaming touches identifiers of the package, and nothing that only looks like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.scaffold.names import Renaming, defined_names, hidden_imports

MODULE = '''\
"""ILM, as in xlm-ilm: a film about ilmenite."""

from ilm.types_ilm import ILMBatch
from xlm.errors import XLMError

MAX_ILM = 3


class RotaryILM:
    def print_batch_ilm(self) -> None: ...
'''


def ilm_to(new: str) -> Renaming:
    return Renaming.of(["ilm"], new, {"model_ilm.py": MODULE, "types_ilm.py": "class ILMBatch: ..."})


def test_a_module() -> None:
    assert ilm_to("my_model")(MODULE) == (
        '"""MyModel, as in my_model: a film about ilmenite."""\n\n'
        "from my_model.types_my_model import MyModelBatch\n"
        "from xlm.errors import XLMError\n\n"
        "MAX_MY_MODEL = 3\n\n\n"
        "class RotaryMyModel:\n"
        "    def print_batch_my_model(self) -> None: ...\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("configs/collator/lm_ilm.yaml", "configs/collator/lm_new.yaml"),
        ("  - /collator@collators.lm: lm_ilm", "  - /collator@collators.lm: lm_new"),
        ("_target_: ilm.model_ilm.RotaryILM", "_target_: new.model_new.RotaryNew"),
        ("`xlm_ilm`, ilm2, filmed, ILMX, XLM", "`new`, ilm2, filmed, ILMX, XLM"),
    ],
)
def test_paths_and_configs(text: str, expected: str) -> None:
    assert ilm_to("new")(text) == expected


def test_a_name_that_holds_the_old_one_is_put_in_once() -> None:
    assert ilm_to("ilm_ilm")("ilm.loss_ilm") == "ilm_ilm.loss_ilm_ilm"


def test_a_model_called_like_a_part_of_xlm_spares_what_others_define() -> None:
    rename = Renaming.of(["slm"], "new", {"a.py": "class SLMLoss: ...\nclass Slm: ..."})
    assert rename("SLMLoss Slm SLM XSLMError slm.x") == "NewLoss New New XSLMError new.x"


def test_the_longer_of_two_names_comes_first() -> None:
    rename = Renaming.of(["flex", "flex_model"], "new", {})
    assert rename("flex_model.types_flex_model, model=flex") == "new.types_new, model=new"


@given(st.text())
def test_a_text_without_the_name_stays_as_it_is(text: str) -> None:
    rename = Renaming.of(["template_model"], "other", {"a.py": "class TemplateModelLoss: ..."})
    if "template_model" not in text and "TemplateModel" not in text and "TEMPLATE_MODEL" not in text:
        assert rename(text) == text


def test_what_a_source_defines() -> None:
    source = "A = 1\nB: int = 2\nclass C:\n    def d(self): ...\nasync def e(): ...\nimport f\nx.y = 3\n"
    assert defined_names(source) == {"A", "B", "C", "d", "e"}


def test_hidden_imports() -> None:
    assert hidden_imports("from a import B, C as D\nimport e\nclass B: ...\nclass D(B): ...\nclass C: ...") == {
        "B",
        "D",
    }
