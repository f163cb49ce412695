"""Devices: the same results on each there is, and no tensor that would be left behind on another."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xlm.testing.equality import near
from xlm.testing.prediction import token_rows
from xlm.testing.properties import Violation, require
from xlm.testing.samples import Sample
from xlm.testing.subject import Subject

TOLERANCE = 1e-3
_FACTORY_NAMES = ["arange", "empty", "eye", "full", "linspace", "logspace", "ones", "zeros", "tensor"]
_FACTORY_NAMES += ["rand", "randint", "randn", "randperm", "from_numpy"]
_FACTORIES: set[Any] = {getattr(torch, name) for name in _FACTORY_NAMES}
# What takes a tensor to another device, or may mix them.
_MOVERS = ("to", "cuda", "cpu", "type_as", "copy_", "__getitem__", "tolist", "item", "new_tensor", "__get__")
_CARRIERS = ("to", "cuda", "cpu", "type_as")
_MARK = "_xlm_made_at"


class NoFixedDevice(TorchFunctionMode):
    """Violation where a tensor made without `device=` meets one of the batch or of the network.

    On a CPU both are in the same place; on a GPU that is an error.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in _tensors((args, kwargs)) if t.ndim]
        made_at = next((place for t in tensors if (place := getattr(t, _MARK, None))), None)
        name = getattr(func, "__name__", "")
        if made_at and name not in _MOVERS and not all(hasattr(t, _MARK) for t in tensors):
            raise Violation(f"A tensor that was made without device= ({made_at}) meets another in {name}.")
        result = func(*args, **kwargs)
        is_new = func in _FACTORIES and kwargs.get("device") is None
        if name in _CARRIERS and isinstance(result, Tensor) and hasattr(result, _MARK):
            # On a CPU this is the same object: what comes out has been taken to where it belongs.
            return result.view_as(result)
        # Deriving from such tensors alone leaves the result where they are.
        stays = made_at and name not in _MOVERS
        if is_new or stays:
            for tensor in _tensors(result):
                if not hasattr(tensor, _MARK):
                    setattr(tensor, _MARK, made_at or _place())
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (t for child in value.values() for t in _tensors(child))
    elif isinstance(value, list | tuple):
        yield from (t for child in value for t in _tensors(child))


def _place() -> str:
    """File and line of the innermost frame outside torch and this file."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def same(subject: Subject) -> None:
    """Under the rule above on the CPU, then on every accelerator of this machine."""
    harness = subject.tried()
    for module in harness.model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(value, _MARK, f"{type(module).__name__}.{name}, which is neither parameter nor buffer")
    expected = []
    for sample in subject.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is not None:
            batch = sample.batch(harness)
            with NoFixedDevice():
                expected.append((sample, sample.run(harness, batch)))
    for device in accelerators():
        _compare(subject, device, expected)


def accelerators() -> list[str]:
    """The devices beside the CPU."""
    found = ["cuda"] if torch.cuda.is_available() else []
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _compare(subject: Subject, device: str, expected: list[tuple[Sample, dict[str, Any]]]) -> None:
    harness = subject.tried()
    if device == "mps":
        harness.float()
    harness.to(device)
    harness._configured = False
    harness.configure_components()
    for sample, before in expected:
        found = sample.run(harness, sample.batch(harness))
        if sample.role == "loss":
            here, there = before["loss"].item(), found["loss"].item()
            require(
                near(here, there, TOLERANCE), f"The loss of {sample.place} is {here} on the CPU, {there} on {device}."
            )
        else:
            pad = subject.tokenizer.pad_token_id
            require(
                device == "mps" or token_rows(before, pad) == token_rows(found, pad),
                f"What is predicted for {sample.place} differs between the CPU and {device}.",
            )
