"""Whole runs in small: Lightning, compilation, lower precision, two processes."""

from __future__ import annotations

import functools
import math
from contextlib import redirect_stdout
from io import StringIO
from typing import Any
from unittest import mock

import torch

from xlm.harness import Harness
from xlm.testing.checks.loss import scalar
from xlm.testing.equality import near
from xlm.testing.properties import require
from xlm.testing.samples import Sample
from xlm.testing.subject import Subject
from xlm.utils.instantiate import instantiate, set_component

# bf16 has 8 bits of precision: a relative error of 2⁻⁸ a rounding.
TOLERANCE_BF16 = 0.05
TOLERANCE = 1e-4


def trains(subject: Subject) -> None:
    """Two steps, a validation, and a test where there is one."""
    cfg = subject.cfg
    datamodule = instantiate(cfg.datamodule)
    set_component("datamodule", datamodule)
    harness = instantiate(
        cfg.lightning_module, cfg, tokenizer=subject.tokenizer, datamodule=datamodule, _recursive_=False
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
        require(trainer.global_step == 2, f"Two steps were asked for, and {trainer.global_step} were made.")
        if datamodule.dataloader_names.get("test"):
            trainer.test(harness, datamodule=datamodule, verbose=False)
    wrong = [name for name, value in trainer.callback_metrics.items() if not math.isfinite(value)]
    require(not wrong, f"These metrics are not finite: {', '.join(wrong)}.")


def compiles(subject: Subject) -> None:
    """By torch's tracer; what the generated code computes is torch's own affair."""
    plain, compiled = subject.tried(), subject.tried()
    function = compiled.loss_function
    calls: list[int] = []
    inner = function.loss_fn

    @functools.wraps(inner)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return inner(*args, **kwargs)

    function.__dict__["loss_fn"] = counted
    sample = subject.loss_samples[0]
    sample.run(compiled, sample.batch(compiled))
    require(calls, f"{type(function).__name__} is called without its loss_fn, so that compiling that changes nothing.")
    function.__dict__["loss_fn"] = inner
    compiled.config = compiled.config.copy()
    compiled.config.compile = True
    compiled._configured = False
    with mock.patch.object(torch, "compile", functools.partial(torch.compile, backend="aot_eager")):
        compiled.configure_components()
    try:
        _compare_compiled(subject, plain, compiled)
    finally:
        torch._dynamo.reset()


def _compare_compiled(subject: Subject, plain: Harness, compiled: Harness) -> None:
    for sample in subject.loss_samples[:1]:
        losses = []
        for harness in (plain, compiled):
            loss = scalar(sample.run(harness, sample.batch(harness)), sample)
            loss.backward()
            losses.append(loss.item())
        require(
            near(losses[0], losses[1], TOLERANCE),
            f"The loss of {sample.place} is {losses[0]}, and compiled {losses[1]}.",
        )
        grads = [
            torch.cat([p.grad.flatten() for p in h.model.parameters() if p.grad is not None]) for h in (plain, compiled)
        ]
        require(
            torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-5),
            f"Compiled, the gradients of {sample.place} are others.",
        )


def bf16(subject: Subject) -> None:
    """Under autocast, as `trainer.precision=bf16-mixed` runs it."""
    harness = subject.tried().float()
    for sample in subject.loss_samples:
        batch = sample.batch(harness)
        harness.zero_grad()
        full = scalar(sample.run(harness, batch), sample).item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = scalar(sample.run(harness, batch), sample)
        loss.backward()
        low = loss.item()
        require(near(full, low, TOLERANCE_BF16), f"The loss of {sample.place} is {full:.4f}, and in bf16 {low:.4f}.")
        bad = [n for n, p in harness.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        require(not bad, f"In bf16 the gradients of {', '.join(bad[:5])} are not finite.")


def two_processes(subject: Subject) -> None:
    """DDP over gloo on the CPU: this process and a second one, half of a batch each."""
    from xlm.testing.processes import run_pair

    sample = subject.loss_samples[0]
    harness = subject.tried().float()
    half = len(sample.examples) // 2
    halves = [sample.batch(harness, sample.examples[:half]), sample.batch(harness, sample.examples[half:])]
    expected = [_loss_and_gradients(harness, sample, batch) for batch in halves]
    found = run_pair(subject, harness, sample, halves)
    for rank in range(2):
        require(
            near(found[rank].loss, expected[rank][0], TOLERANCE),
            f"The same rows have the loss {expected[rank][0]} in one process, {found[rank].loss} in {rank} of two.",
        )
        for name, grad in found[rank].gradients.items():
            mean = (expected[0][1][name] + expected[1][1][name]) / 2
            require(
                torch.allclose(grad, mean, rtol=1e-3, atol=1e-5),
                f"The gradient of {name} in process {rank} of 2 is not the mean of the two halves' gradients.",
            )


def _loss_and_gradients(harness: Harness, sample: Sample, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    harness.zero_grad()
    loss = scalar(sample.run(harness, batch), sample)
    loss.backward()
    grads = {n: p.grad.clone() for n, p in harness.model.named_parameters() if p.grad is not None}
    harness.zero_grad()
    return loss.item(), grads
