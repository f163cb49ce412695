"""Values against annotations: invalid ones are refused with key and type, valid ones are accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest
import torch
from omegaconf import OmegaConf

from xlm.errors import ConfigError
from xlm.utils.instantiate import check_arguments, parameter_names, promises_types

if TYPE_CHECKING:
    from fractions import Fraction as Unknown


class Role(Protocol):
    def serve(self) -> None: ...


class Base:
    def __init__(self, width: int = 1, *, place: Path | str = "") -> None: ...


class Part(Base):
    def __init__(
        self,
        rate: float = 0.1,
        flag: bool = False,
        name: str | None = None,
        kind: Literal["one", "two"] = "one",
        sizes: Sequence[int] = (),
        pair: tuple[float, float] = (0, 1),
        more: Mapping[str, Any] | None = None,
        role: Role | None = None,
        function: str | Callable[..., Any] | None = None,
        only: Callable[..., Any] | None = None,
        inner: Mapping[str, Mapping[str, Any] | None] = {},
        tensor: float | torch.Tensor = 0.0,
        unknown: Unknown | None = None,
        implicit: int = None,  # type: ignore[assignment]  # noqa: RUF013
        **options: Any,
    ) -> None: ...


@dataclass
class Data:
    power: float = 2.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rate", "fast", "part.rate is 'fast', and must be a number."),
        ("rate", None, "is null, and must be a number"),
        ("rate", float("nan"), "is nan, and must be a number"),
        ("rate", True, "is true, and must be a number"),
        ("rate", 10**400, "…, and must be a number"),
        ("flag", 1, "is 1, and must be true or false"),
        ("flag", "no", "is 'no', and must be true or false"),
        ("name", 7, "is 7, and must be a text or null"),
        ("kind", "twoo", "is 'twoo', and must be one or two. Did you mean 'two'?"),
        ("sizes", 3, "is 3, and must be a list of whole numbers"),
        ("sizes", [1, "b"], 'is [1, "b"], and must be a list of whole numbers'),
        ("pair", [1.0], "is [1.0], and must be a list of numbers"),
        ("more", [1], "is [1], and must be a mapping or null"),
        ("role", -1, "is -1, and must be a Role or null"),
        ("role", "abc", "is 'abc', and must be a Role or null"),
        ("function", {"a": 1}, 'is {"a": 1}, and must be a text, a Callable or null'),
        ("only", "a.b", "is 'a.b', and must be a Callable or null"),
        ("inner", {"a": 1}, 'is {"a": 1}, and must be a mapping'),
        ("tensor", "x", "is 'x', and must be a number or a Tensor"),
        ("width", "wide", "part.width is 'wide', and must be a whole number"),
        ("place", [1], "is [1], and must be a Path or a text"),
    ],
)
def test_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments(Part, {name: value}, "part")
    assert says in str(caught.value)
    assert caught.value.key == f"part.{name}"
    if isinstance(value, dict | list):
        with pytest.raises(ConfigError):
            check_arguments(Part, {name: OmegaConf.create(value)}, "part")


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": 1, "flag": True, "name": None, "kind": "two", "sizes": [1, 2], "pair": [0.9, 1], "more": {"a": 1}},
        {"role": object(), "function": "a.b", "unknown": [1], "implicit": None, "elsewhere": 3},
        {"inner": {"a": {"b": 1}, "c": None, "d": OmegaConf.create({"_target_": "e.f"})}},
        {"sizes": [object(), 2], "more": {"a": object()}, "pair": [object(), 1]},
        {"place": "a/b", "tensor": 2, "width": 3, "rate": float("inf")},
    ],
)
def test_let_through(arguments: dict[str, Any]) -> None:
    check_arguments(Part, arguments, "part")


def test_whole_numbers_with_a_point_are_refused_only_when_something_failed() -> None:
    check_arguments(Part, {"width": 1000.0}, "part", strict=False)
    for strict, value in ((True, 1000.0), (False, 0.5)):
        with pytest.raises(ConfigError, match="must be a whole number"):
            check_arguments(Part, {"width": value}, "part", strict=strict)


def test_functions_dataclasses_and_what_has_no_signature() -> None:
    with pytest.raises(ConfigError, match=r"^power is 'x', and must be a number\."):
        check_arguments(Data, {"power": "x"}, "")
    check_arguments(dict, {"a": 1}, "")
    assert parameter_names(Part)[-3:] == ["implicit", "width", "place"]
    assert promises_types(torch.nn.Linear)
    assert not promises_types(dict)
