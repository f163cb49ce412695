"""instantiate: Hydra's results, and for every mistake the key and the original reason."""

from __future__ import annotations

import collections
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from xlm.errors import BadArgumentError, BadTargetError, ConfigError, DataError
from xlm.utils.instantiate import instantiate

PARTS = """\
from xlm.errors import DataError


class Part:
    def __init__(self, width=1, fail=None, child=None):
        if fail == "data":
            raise DataError("no data")
        if fail == "bug":
            {}["a bug"]
        if fail == "type":
            len(3)
        if fail == "value":
            raise ValueError("\\x1b[1mwidth must be even\\x1b[0m\\nand more")
        if fail == "os":
            raise OSError("no space left")
        if fail == "on_purpose":
            raise TypeError("width has no use")
        if fail == "bare":
            raise Exception("expected value at line 1")
        if fail == "number":
            raise RuntimeError(f"{width} is refused")
        self.width = width
        self.child = child
"""


@pytest.fixture(autouse=True)
def _parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_parts", raising=False)


def target(**keys: Any) -> dict[str, Any]:
    return {"_target_": "toy_parts.Part", **keys}


def test_makes_what_hydra_makes() -> None:
    made = instantiate(OmegaConf.create(target(width=3, child=target(width=4))))
    assert made.width == 3
    assert made.child.width == 4
    assert instantiate({"_target_": "collections.Counter"}, "aab") == collections.Counter(a=2, b=1)
    assert instantiate({"_target_": "collections.Counter", "_partial_": True})("a") == {"a": 1}


def test_a_config_is_never_changed_and_copied_only_for_nodes_that_refer_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = OmegaConf.create(
        {
            "width": 4,
            "child": target(width="${width}"),
            "leaf": target(width="${width}", fail=None, child=["a ${width}"]),
            "other": target(child="${child}"),
            "nested": target(child=target(child="${child}")),
            "late": target(width="${live:}"),
        }
    )
    OmegaConf.register_new_resolver("live", lambda: collections.Counter(), replace=True)
    before, deepcopy = OmegaConf.to_yaml(config), copy.deepcopy
    copied: list[bool] = []

    def spy(value: Any, memo: Any = None) -> Any:
        copied.append(value is config)
        return deepcopy(value, memo)

    monkeypatch.setattr(copy, "deepcopy", spy)
    made = instantiate(config.leaf)
    assert (made.width, made.child) == (4, ["a 4"])
    assert instantiate(config.late).width == collections.Counter()
    assert copied
    assert not any(copied)
    assert instantiate(config.other).child.width == 4
    assert instantiate(config.nested).child.child.width == 4
    assert sum(copied) == 2
    assert OmegaConf.to_yaml(config) == before


def test_none_stays_none() -> None:
    assert instantiate(None) is None
    assert instantiate(OmegaConf.create({"model": None}).model) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("abc.xyz.MyClass", "ModuleNotFoundError: No module named 'abc.xyz'"),
        ("collections.Countr", "has no attribute 'Countr'. Did you mean 'Counter'?"),
        ("NoDots", "A dotted path such as package.module.name is needed."),
    ],
)
def test_unknown_target_names_key_reason_and_attempt(name: str, reason: str) -> None:
    config = OmegaConf.create({"predictor": {"net": {"_target_": name}}})
    with pytest.raises(BadTargetError) as caught:
        instantiate(config.predictor)
    assert caught.value.target == name
    assert caught.value.key == "predictor.net"
    assert f"Unable to find or instantiate {name}" in str(caught.value)
    assert "python -c" in str(caught.value)
    assert reason in caught.value.reason


def test_unknown_argument_names_those_that_it_takes() -> None:
    config = OmegaConf.create({"model": target(widht=3)})
    with pytest.raises(BadArgumentError) as caught:
        instantiate(config.model)
    assert "unexpected keyword argument 'widht'" in str(caught.value)
    assert "It takes: width, fail, child. Did you mean 'width'?" in str(caught.value)
    assert caught.value.key == "model"


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(DataError, match="no data"):
        instantiate(OmegaConf.create({"a": target(child=target(fail="data"))}).a)


def test_a_bug_inside_the_target_is_raised_as_it_is() -> None:
    with pytest.raises(KeyError) as caught:
        instantiate(target(fail="bug"))
    frames = [entry.name for entry in caught.traceback]
    assert frames[-1] == "__init__"
    with pytest.raises(TypeError, match="has no len"):
        instantiate(target(fail="type"))


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        ("value", "model.part.width: width must be even\n"),
        ("on_purpose", "model.part.width: width has no use\n"),
        ("os", "model.part: no space left\n"),
        ("bare", "model.part: expected value at line 1\n"),
        ("number", "model.part.width: 7 is refused\n"),
    ],
)
def test_a_refusal_names_the_key_and_by_whom(fail: str, says: str) -> None:
    config = OmegaConf.create({"model": {"part": target(fail=fail, width=7)}})
    with pytest.raises(ConfigError) as caught:
        instantiate(config.model)
    assert str(caught.value) == f"{says}Raised by toy_parts.Part; HYDRA_FULL_ERROR=1 shows the traceback."
    assert caught.value.__cause__ is not None


def test_types_are_checked_at_once_where_a_package_promises_them() -> None:
    node = {"_target_": "xlm.noise.PolynomialSchedule", "power": "high"}
    for config in (node, OmegaConf.create({"a": {"b": [node]}}).a):
        with pytest.raises(ConfigError, match="power is 'high', and must be a number"):
            instantiate(config)
    with pytest.raises(ConfigError, match=r"^power is null"):
        instantiate({**node, "power": 1}, power=None)


def test_types_of_other_packages_count_when_something_failed(tmp_path: Path) -> None:
    (tmp_path / "toy_parts.py").write_text(
        "class Typed:\n    def __init__(self, n: int):\n        self.n = n and [0] * n\n"
    )
    sys.modules.pop("toy_parts", None)
    node = {"_target_": "toy_parts.Typed", "n": None}
    assert instantiate(node).n is None
    with pytest.raises(ConfigError, match=r"n is 2\.0, and must be a whole number"):
        instantiate({**node, "n": 2.0})


def test_other_refusals_are_readable() -> None:
    with pytest.raises(ConfigError, match="Expected a callable target"):
        instantiate({"_target_": "json"})
