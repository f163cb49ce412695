"""Checks of training: loss and gradients, a run through Lightning, compilation, bf16, and saved weights."""

from __future__ import annotations

import functools
import math
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor

from xlm.harness import Harness
from xlm.inference.trained import load
from xlm.model import Model
from xlm.testing.compare import differences, near
from xlm.testing.contract import Violation, require
from xlm.testing.model_under_test import ModelUnderTest
from xlm.testing.samples import Sample
from xlm.training.rng import reseed
from xlm.training.weights import save_folder
from xlm.utils.instantiate import instantiate, set_component

NUM_STEPS, LEARNING_RATE = 20, 3e-3
# Random tokens are memorized faster than this; noise alone does not reach it.
FALL = 0.9
# bf16 has 8 bits of precision: a relative error of 2⁻⁸ for each rounding.
TOLERANCE_BF16 = 0.05
TOLERANCE = 1e-4


def finite(model: ModelUnderTest) -> None:
    """The loss of a new network is a finite scalar."""
    harness = model.harness()
    for sample in model.loss_samples:
        loss = scalar(sample.run(harness, sample.batch(harness)), sample)
        require(math.isfinite(loss.item()), f"The loss of {sample.place} is {loss.item()}.")


def scalar(found: dict[str, Any], sample: Sample) -> Tensor:
    """The scalar under "loss" in what a loss function returned."""
    loss = found.get("loss")
    require(
        isinstance(loss, Tensor) and loss.ndim == 0,
        f"The loss of {sample.place} must be a scalar tensor under 'loss', and is {type(loss).__name__} "
        f"{tuple(getattr(loss, 'shape', ()))}.",
    )
    assert isinstance(loss, Tensor)
    return loss


def gradients(model: ModelUnderTest) -> None:
    """Every trainable parameter gets a gradient from at least one kind of batch."""
    harness = model.perturbed_harness()
    harness.zero_grad()
    for sample in model.loss_samples:
        scalar(sample.run(harness, sample.batch(harness)), sample).backward()
    trainable = {name: p for name, p in harness.model.named_parameters() if p.requires_grad}
    require(trainable, "The network has no trainable parameter.")
    unused = [name for name, p in trainable.items() if p.grad is None or not p.grad.any()]
    require(not unused, f"No gradient reaches {', '.join(unused[:5])}{' …' * (len(unused) > 5)}.")


def falls(model: ModelUnderTest) -> None:
    """The loss of one batch falls under plain Adam, without dropout."""
    sample = model.loss_samples[0]
    harness = model.harness()
    batch = sample.batch(harness)
    first, last = fit(harness, sample, batch)
    require(
        last <= FALL * first if first > 0 else last < first,
        f"After {NUM_STEPS} steps on one batch of {sample.place} the loss went from {first:.4f} to {last:.4f}.",
    )


def fit(harness: Harness, sample: Sample, batch: Any) -> tuple[float, float]:
    """First and last loss of a few steps on one batch."""
    optimizer = torch.optim.Adam([p for p in harness.model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    losses = []
    for _ in range(NUM_STEPS):
        loss = scalar(sample.run(harness, batch), sample)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses.append(scalar(sample.run(harness, batch), sample).item())
    return losses[0], losses[-1]


def loss_and_gradients(harness: Harness, sample: Sample, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch, and its gradient with respect to each parameter that has one."""
    harness.zero_grad()
    loss = scalar(sample.run(harness, batch), sample)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in harness.model.named_parameters() if p.grad is not None}
    harness.zero_grad()
    return loss.item(), grads


def trains(model: ModelUnderTest) -> None:
    """Two steps, a validation, and a test if there is test data."""
    cfg = model.cfg
    datamodule = instantiate(cfg.datamodule)
    set_component("datamodule", datamodule)
    harness = instantiate(
        cfg.lightning_module, cfg, tokenizer=model.tokenizer, datamodule=datamodule, _recursive_=False
    )
    trainer = instantiate(
        cfg.trainer,
        max_steps=2,
        val_check_interval=2,
        limit_val_batches=1,
        limit_test_batches=1,
        callbacks=[],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        _convert_="all",
    )
    with redirect_stdout(StringIO()):
        trainer.fit(harness, datamodule=datamodule)
        require(trainer.global_step == 2, f"The run should take 2 steps, and took {trainer.global_step}.")
        if datamodule.dataloader_names.get("test"):
            trainer.test(harness, datamodule=datamodule, verbose=False)
    wrong = [name for name, value in trainer.callback_metrics.items() if not math.isfinite(value)]
    require(not wrong, f"These metrics are not finite: {', '.join(wrong)}.")


def compiles(model: ModelUnderTest) -> None:
    """Loss and gradients are the same through torch's tracer; the code that inductor generates is not tested here."""
    plain, compiled = model.perturbed_harness(), model.perturbed_harness()
    function = compiled.loss_function
    calls: list[int] = []
    inner = function.loss_fn

    @functools.wraps(inner)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    function.__dict__["loss_fn"] = counted
    sample = model.loss_samples[0]
    sample.run(compiled, sample.batch(compiled))
    require(calls, f"{type(function).__name__} does not call its loss_fn, so compiling loss_fn has no effect.")
    function.__dict__["loss_fn"] = inner
    compiled.config = compiled.config.copy()
    compiled.config.compile = True
    compiled._configured = False
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="aot_eager")):
        compiled.configure_components()
    try:
        _compare_compiled(sample, plain, compiled)
    finally:
        torch._dynamo.reset()


def _compare_compiled(sample: Sample, plain: Harness, compiled: Harness) -> None:
    (loss, grads), (compiled_loss, compiled_grads) = (
        loss_and_gradients(harness, sample, sample.batch(harness)) for harness in (plain, compiled)
    )
    require(
        near(loss, compiled_loss, TOLERANCE),
        f"The loss of {sample.place} is {loss}, and {compiled_loss} with compile=true.",
    )
    require(
        all(torch.allclose(grad, compiled_grads[name], rtol=1e-3, atol=1e-5) for name, grad in grads.items()),
        f"With compile=true the gradients of {sample.place} are different.",
    )


def bf16(model: ModelUnderTest) -> None:
    """The loss under autocast, as with `trainer.precision=bf16-mixed`."""
    harness = model.perturbed_harness().float()
    for sample in model.loss_samples:
        batch = sample.batch(harness)
        harness.zero_grad()
        full = scalar(sample.run(harness, batch), sample).item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = scalar(sample.run(harness, batch), sample)
        loss.backward()
        low = loss.item()
        require(near(full, low, TOLERANCE_BF16), f"The loss of {sample.place} is {full:.4f}, and {low:.4f} in bf16.")
        bad = [n for n, p in harness.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        require(not bad, f"In bf16 the gradients of {', '.join(bad[:5])} are not finite.")


def checkpoint(model: ModelUnderTest) -> None:
    """A checkpoint file restores the losses in a network that was initialized from another seed."""
    harness = _float32_harness(model)
    saved: dict[str, Any] = {"state_dict": harness.state_dict(), "global_step": 1}
    harness.on_save_checkpoint(saved)
    path = model.folder / "check.ckpt"
    torch.save(saved, path)
    reseed(99)
    again = type(harness).from_checkpoint(path, model.bare_cfg, model.tokenizer, model.datamodule)
    again.eval()
    again.configure_components()
    changed = differences(_losses(model, harness), _losses(model, again))
    require(not changed, f"After loading the checkpoint, the loss of {', '.join(changed)} is different.")


def hub(model: ModelUnderTest) -> None:
    """A folder with the files that `push_to_hub` uploads restores losses and weights."""
    harness = _float32_harness(model)
    folder = save_folder(model.folder / "shared", harness.model, model.bare_cfg, model.tokenizer)
    loaded = load(folder)
    changed = differences(_losses(model, harness), _losses(model, loaded.harness))
    require(not changed, f"After xlm.load of the folder, the loss of {', '.join(changed)} is different.")
    weights, network = harness.model.state_dict(), type(harness.model)
    if not issubclass(network, Model):
        return
    try:
        again = cast(torch.nn.Module, network.from_pretrained(str(folder)))
    except TypeError as error:
        raise Violation(f"{network.__name__}.from_pretrained fails: {error}.") from error
    changed = differences(weights, again.state_dict())
    require(not changed, f"{network.__name__}.from_pretrained returns other weights: {', '.join(changed[:5])}.")


def _float32_harness(model: ModelUnderTest) -> Harness:
    """A harness in float32 whose weights are not those of its seed."""
    harness = model.perturbed_harness().float()
    harness.configure_components()
    return harness


def _losses(model: ModelUnderTest, harness: Harness) -> dict[str, Any]:
    return {s.place: s.run(harness, s.batch(harness))["loss"].detach() for s in model.loss_samples}
