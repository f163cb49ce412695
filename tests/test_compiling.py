"""What `compile` compiles: a few graphs for batches of any lengths, without breaks, in training and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from workspace import ROOT, read_packages
from xlm.compose import load_config
from xlm.inference.session import start
from xlm.protocols import call_loss

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
SMALL = (
    "job_name=m", "loggers=debug", "trainer_strategy=cpu", "per_device_batch_size=8", "per_device_val_batch_size=8",
    "datamodule.dataset_managers.train.lm.num_examples=100", "datamodule.dataset_managers.val.lm.num_examples=13",
)  # fmt: skip
# Torch's own, which turns them into errors of its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
# What is compiled on its own: the loss, or the last layer and any layer before it.
PIECES = {"true": 1, "blocks": 2}
# Packed batches of so many tokens have different numbers of rows, too.
BATCHES = {"padded": (), "packed": ("batching=packed", "max_tokens_per_batch=300")}


@pytest.fixture(autouse=True)
def fresh_compiler(folder: Path) -> Iterator[None]:
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.slow  # eight to fourteen CPU seconds each, of tracing
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(only_cuda=True))])
@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("chosen", PIECES)
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_batches_are_compiled_a_few_times(
    family: str, chosen: str, batches: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece is compiled at most three times in training, as sizes turn out to vary, and once for evaluation."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()  # a backend that runs graphs as they are
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    words = (f"experiment=star_medium_{family}", f"model=xtiny_{family}", f"compile={chosen}")
    session = start(load_config([*words, *SMALL, *BATCHES[batches]]))
    session.datamodule.setup("fit")
    harness = session.harness().to(device)
    harness.configure_model()
    harness.configure_components()

    def run(batch: Any, is_training: bool) -> None:
        on_device = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        harness.train(is_training)
        with torch.set_grad_enabled(is_training):
            loss = call_loss(harness.loss_function, on_device, 0, 0, "lm")["loss"]
        assert torch.isfinite(loss)
        if is_training:
            loss.backward()

    training = list(session.datamodule.train_loader_of(1))
    *_, last = session.datamodule.val_dataloader()[0]
    assert len(training) >= 8
    assert len({batch["input_ids"].shape for batch in training}) >= 3
    assert (len({len(batch["input_ids"]) for batch in training}) > 1) == (batches == "packed")
    assert len(last["input_ids"]) == 5
    for batch in training:
        run(batch, True)
    assert 0 < counter.frame_count <= 3 * PIECES[chosen]
    run(last, False)
    assert counter.frame_count <= 4 * PIECES[chosen]
    found = counter.frame_count
    for batch in training:
        run(batch, True)
    assert counter.frame_count == found
    assert dict(torch._dynamo.utils.counters["graph_break"]) == {}
