"""Checks that results don't depend on other rows of the batch, on padding, on the device, or on anything unseeded."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xlm.harness import Harness
from xlm.testing.compare import differences, near
from xlm.testing.contract import Inapplicable, Violation, require
from xlm.testing.model_under_test import SEED, ModelUnderTest
from xlm.testing.samples import Sample, token_rows

ROW_TOLERANCE = 1e-4
DEVICE_TOLERANCE = 1e-3
_IDS = ("prompt_ids", "input_ids")
Examples = Sequence[dict[str, Any]]


def rows(model: ModelUnderTest) -> None:
    """Rows of one length, so without padding, give the same results together and alone."""
    _compare_rows(model, _of_one_length)


def padding(model: ModelUnderTest) -> None:
    """Rows of different lengths, all but the longest padded, give the same results together and alone."""
    _compare_rows(model, _of_many_lengths)


def _of_one_length(examples: Examples) -> list[dict[str, Any]]:
    """The examples truncated to the shortest of them."""
    shortest = {key: min(len(e[key]) for e in examples) for key in _IDS if all(key in e for e in examples)}
    return [{**e, **{key: list(e[key])[:length] for key, length in shortest.items()}} for e in examples]


def _of_many_lengths(examples: Examples) -> list[dict[str, Any]]:
    """Each example truncated by one token more than the one before; at least one token is left."""
    cut = []
    for number, example in enumerate(_of_one_length(examples)):
        lengths = {key: max(len(example[key]) - number, min(len(example[key]), 1)) for key in _IDS if key in example}
        cut.append({**example, **{key: example[key][:length] for key, length in lengths.items()}})
    return cut


def _compare_rows(model: ModelUnderTest, cut: Callable[[Examples], list[dict[str, Any]]]) -> None:
    """Losses and predictions of the examples, together and one by one; Inapplicable if all of them are random."""
    harness = model.perturbed_harness()
    compared = 0
    for sample in model.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is None or _is_random(harness, sample):
            continue
        compared += 1
        examples = cut(sample.examples)
        compare = compare_losses if sample.role == "loss" else compare_predictions
        compare(harness, sample, examples)
    if not compared:
        raise Inapplicable("loss and predictor draw from torch's global generator, so their results cannot be compared")


def _is_random(harness: Harness, sample: Sample) -> bool:
    """Whether the result for a batch depends on global random state."""
    batch = sample.batch(harness)
    first, second = (sample.run(harness, batch, seed) for seed in (1, 2))
    key = "loss" if sample.role == "loss" else "ids"
    return bool(differences({key: first[key]}, {key: second[key]}))


def compare_losses(harness: Harness, sample: Sample, examples: Examples) -> None:
    """The loss of a batch is the mean over its rows, weighted by `num_loss_terms` if the loss returns it."""
    single = [_loss(harness, sample, [example]) for example in examples]
    together, _ = _loss(harness, sample, examples)
    terms = [n for _, n in single]
    expected = mean([value for value, _ in single], [1.0 if n is None else n for n in terms])
    if None in terms and not near(together, expected, ROW_TOLERANCE):
        _compare_unweighted(harness, sample, examples[:2])
        return
    require(
        near(together, expected, ROW_TOLERANCE),
        f"The loss of {sample.place} is {together:.6f} for {len(examples)} rows together, and {expected:.6f} as "
        "the mean of the rows alone.",
    )


def _compare_unweighted(harness: Harness, sample: Sample, pair: Examples) -> None:
    """A mean with unknown weights: the weights inferred from two rows must also hold when one row comes twice."""
    first, second = pair
    (a, _), (b, _) = (_loss(harness, sample, [example]) for example in pair)
    both, _ = _loss(harness, sample, [first, second])
    doubled, _ = _loss(harness, sample, [first, first, second])
    share = (both - b) / (a - b) if not near(a, b, 1e-9) else 0.5
    ratio = share / (1 - share) if share < 1 else float("inf")
    expected = mean([a, b], [2 * ratio, 1.0])
    require(
        0 < share < 1 and near(doubled, expected, ROW_TOLERANCE),
        f"The loss of {sample.place} is not a mean over its rows: {a:.6f} and {b:.6f} alone, {both:.6f} together, and "
        f"{doubled:.6f} with the first row twice.",
    )


def mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean; rows of weight 0 don't count, even if their value is nan."""
    weighted = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight]
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0


def _loss(harness: Harness, sample: Sample, examples: Examples) -> tuple[float, float | None]:
    with torch.no_grad():
        found = sample.run(harness, sample.batch(harness, examples))
    terms = found.get("num_loss_terms")
    return float(found["loss"]), None if terms is None else float(terms)


def compare_predictions(harness: Harness, sample: Sample, examples: Examples) -> None:
    """The predicted tokens of each row, without padding, are the same together and alone."""
    pad = harness.tokenizer.pad_token_id
    together = token_rows(sample.run(harness, sample.batch(harness, examples)), pad)
    for number, example in enumerate(examples):
        alone = token_rows(sample.run(harness, sample.batch(harness, [example])), pad)[0]
        require(
            together[number] == alone,
            f"The prediction for row {number} of {sample.place} is {together[number]} in a batch of {len(examples)} "
            f"rows, and {alone} alone.",
        )


def seed(model: ModelUnderTest) -> None:
    """Two networks from one seed, used in the same way, give the same results."""
    one, other = (_results(model) for _ in range(2))
    for what in one:
        changed = differences(one[what], other[what])
        require(not changed, f"From the same seed, {what} differ between two runs ({', '.join(changed[:3])}).")


def _results(model: ModelUnderTest) -> dict[str, Any]:
    """Weights, losses with dropout, and predictions."""
    harness = model.harness(SEED)
    found: dict[str, Any] = {"weights": {name: value.clone() for name, value in harness.model.state_dict().items()}}
    harness.train()
    if model.has_loss:
        for sample in model.loss_samples:
            batch = sample.batch(harness)
            losses = [sample.run(harness, batch, seed)["loss"].detach() for seed in range(3)]
            found[f"the losses of {sample.place}"] = losses
    harness.eval()
    for sample in model.samples:
        if sample.role == "prediction" and harness.predictor is not None:
            found[f"the predictions of {sample.place}"] = sample.run(harness, sample.batch(harness))["ids"]
    return found


_FACTORY_NAMES = ["arange", "empty", "eye", "full", "linspace", "logspace", "ones", "zeros", "tensor"]
_FACTORY_NAMES += ["rand", "randint", "randn", "randperm", "from_numpy"]
_FACTORIES: set[Any] = {getattr(torch, name) for name in _FACTORY_NAMES}
# Functions that move a tensor to another device, or that may mix devices.
_MOVERS = ("to", "cuda", "cpu", "type_as", "copy_", "__getitem__", "tolist", "item", "new_tensor", "__get__")
_CARRIERS = ("to", "cuda", "cpu", "type_as")
_MARK = "_xlm_created_at"


class NoFixedDevice(TorchFunctionMode):
    """Violation if a tensor created without `device=` is combined with a tensor of the batch or the network.

    On a CPU both are on the same device; on a GPU this is an error.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in _tensors((args, kwargs)) if t.ndim]
        created_at = next((place for t in tensors if (place := getattr(t, _MARK, None))), None)
        name = getattr(func, "__name__", "")
        if created_at and name not in _MOVERS and not all(hasattr(t, _MARK) for t in tensors):
            raise Violation(
                f"A tensor created without device= ({created_at}) meets one of the batch or the network in {name}."
            )
        result = func(*args, **kwargs)
        is_new = func in _FACTORIES and kwargs.get("device") is None
        if name in _CARRIERS and isinstance(result, Tensor) and hasattr(result, _MARK):
            # On a CPU this is the same object as before the move: a view of it has no mark.
            return result.view_as(result)
        # A result that is computed from marked tensors alone is on the fixed device too.
        stays = created_at and name not in _MOVERS
        if is_new or stays:
            for tensor in _tensors(result):
                if not hasattr(tensor, _MARK):
                    setattr(tensor, _MARK, created_at or _caller())
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (t for child in value.values() for t in _tensors(child))
    elif isinstance(value, list | tuple):
        yield from (t for child in value for t in _tensors(child))


def _caller() -> str:
    """File and line of the innermost frame outside torch and this file."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and "/torch/" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def devices(model: ModelUnderTest) -> None:
    """Loss and predictor use no fixed device, and give the same results on every accelerator of this machine."""
    harness = model.perturbed_harness()
    for module in harness.model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(value, _MARK, f"{type(module).__name__}.{name}, which is neither parameter nor buffer")
    expected = []
    for sample in model.samples:
        component = harness.loss_function if sample.role == "loss" else harness.predictor
        if component is not None:
            batch = sample.batch(harness)
            with NoFixedDevice():
                expected.append((sample, sample.run(harness, batch)))
    for device in accelerators():
        _compare_device(model, device, expected)


def accelerators() -> list[str]:
    """The devices of this machine besides the CPU."""
    found = ["cuda"] if torch.cuda.is_available() else []
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _compare_device(model: ModelUnderTest, device: str, expected: list[tuple[Sample, dict[str, Any]]]) -> None:
    harness = model.perturbed_harness()
    if device == "mps":
        harness.float()
    harness.to(device)
    harness._configured = False
    harness.configure_components()
    for sample, before in expected:
        found = sample.run(harness, sample.batch(harness))
        if sample.role == "loss":
            cpu, other = before["loss"].item(), found["loss"].item()
            require(
                near(cpu, other, DEVICE_TOLERANCE),
                f"The loss of {sample.place} is {cpu} on the CPU, and {other} on {device}.",
            )
        else:
            pad = model.tokenizer.pad_token_id
            require(
                device == "mps" or token_rows(before, pad) == token_rows(found, pad),
                f"The predictions for {sample.place} differ between the CPU and {device}.",
            )
