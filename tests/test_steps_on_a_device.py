"""A training step never waits for its device, and sampling reads from it a stated number of times per network call.

Training runs on the meta device, whose tensors have no values: an operation that would have to read one, and so wait
for a GPU, fails there. The trainer, the callbacks and the optimizer are those of `xlm train`.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from workspace import ROOT, read_packages
from xlm.commands.train import callbacks
from xlm.compose import load_config
from xlm.inference.session import start
from xlm.training.checkpoints import without_checkpoints
from xlm.training.guards import FiniteLossGuard, GracefulSignals
from xlm.training.loss_terms import LossTerms
from xlm.training.train_log import TrainLog

pytestmark = pytest.mark.usefixtures("folder")
FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
META = torch.device("meta")
_aten = torch.ops.aten
# Operators whose result, or its shape, the host has to read.
READING = {
    _aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten.unique_dim, _aten._unique2, _aten.is_nonzero,
    _aten.equal, _aten.unique_consecutive, _aten.item,
}  # fmt: skip


class NoData(CPUAccelerator):
    """Stands in for an accelerator that nobody can read from."""

    def setup_device(self, device: torch.device) -> None:
        """Any device is accepted."""


class OnMeta(SingleDeviceStrategy):
    """Trains on the meta device."""

    def __init__(self) -> None:
        super().__init__(device=META, accelerator=NoData())

    def teardown(self) -> None:
        """The weights cannot be moved back."""


class Copies(TorchFunctionMode):
    """Counts copies of host data to the device: they wait too, unless their memory is pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_new = func in (torch.tensor, torch.as_tensor)
        is_moved = func in (Tensor.to, Tensor.cuda, Tensor.copy_) and isinstance(args[0], Tensor)
        if isinstance(result, Tensor) and result.device == META:
            moved_from_host = is_moved and any(isinstance(a, Tensor) and a.device != META for a in args)
            if moved_from_host or (is_new and not isinstance(args[0], Tensor)):
                self.found[place_of_call()] += 1
        return result


def place_of_call() -> str:
    """File, function and line of the innermost caller in this repository's packages."""
    frame = sys._getframe(1)
    while frame is not None and "/packages/xlm-" not in frame.f_code.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "elsewhere elsewhere"
    code = frame.f_code
    return f"{Path(code.co_filename).name} {code.co_qualname} {frame.f_lineno}"


class CountingCopies(Callback):
    """Counts from the moment when the batch is on the device to the end of the step's callbacks."""

    def __init__(self) -> None:
        self.mode = Copies()
        self.num_batches = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.mode.__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.num_batches += 1


def words_of(family: str) -> list[str]:
    return [
        f"experiment=star_medium_{family}", f"model=xtiny_{family}", "job_name=m", "loggers=debug",
        "trainer_strategy=cpu", "datamodule.dataset_managers.train.lm.num_examples=64", "per_device_batch_size=8",
        "ema_decay=0.9", "trainer.log_every_n_steps=100",
    ]  # fmt: skip


# An accumulation weighs its micro-batches. Padded batches of one process go the shorter way: every night.
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["batching=packed", "global_batch_size=16"], id="packed"),
        pytest.param([], id="padded", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning")
def test_no_step_between_two_logged_ones_waits_for_the_device(
    family: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is read once, when training starts, is given here.
    monkeypatch.setattr("lightning.pytorch.loops.fit_loop.has_len_all_ranks", lambda *_, **__: True)
    monkeypatch.setattr("xlm.training.train_log.matmul_peak", lambda *_: 1e12)
    monkeypatch.setattr(LossTerms, "_agree", lambda self, *_: self.__dict__.update(_agreed=True, _unit=64.0))
    # The last step of an epoch is read too, as a logged one is.
    monkeypatch.setattr(FiniteLossGuard, "on_train_epoch_end", lambda *_: None)
    cfg = load_config([*words_of(family), *overrides])
    session = start(cfg)
    for split in ("val", "test", "predict"):
        session.datamodule.dataset_managers[split] = {}
    counting = CountingCopies()
    trainer = Trainer(
        strategy=OnMeta(),
        callbacks=without_checkpoints([*callbacks(cfg, GracefulSignals(), TrainLog()), counting]),
        logger=False,
        max_steps=3,
        accumulate_grad_batches=cfg.trainer.accumulate_grad_batches,
        gradient_clip_val=cfg.trainer.gradient_clip_val,
        log_every_n_steps=100,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    harness = session.harness()
    trainer.fit(harness, datamodule=session.datamodule)
    assert trainer.global_step == 3
    assert all(parameter.device == META for parameter in harness.parameters())
    assert counting.num_batches == 3 * cfg.trainer.accumulate_grad_batches
    assert dict(counting.mode.found) == {}


def test_the_device_without_data_notices_a_read() -> None:
    value = torch.ones((), device=META)
    for read in (float, bool, Tensor.tolist, Tensor.cpu, torch.nonzero, lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(value)
    with Copies() as copies:
        torch.as_tensor(3, device=META)
        torch.ones(2).to(META)
    assert sum(copies.found.values()) == 2


class Reads(TorchDispatchMode):
    """Counts the operators that make the host wait for the device, by the line that asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "overloadpacket", None)
        by_mask = packet in (_aten.index, _aten.index_put, _aten.index_put_) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in READING or by_mask:
            self.found[f"{place_of_call()} {packet}"] += 1
        return func(*args, **(kwargs or {}))


class MethodReads(TorchFunctionMode):
    """The same for methods that copy to the host without an operator, if the tensor is there already."""

    NAMES = ("cpu", "tolist", "numpy", "__array__")

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.NAMES and isinstance(args[0], Tensor):
            self.found[f"{place_of_call()} {func.__name__}"] += 1
        return func(*args, **(kwargs or {}))


# Functions that read only tensors of the host: they look at the device first, or their tensors are made there.
ON_HOST = ("RotaryEmbedding._lookup", "drop_full_mask", "_unsigned", "Chosen.of", "RescaledSchedule.__init__")
# Reads per network call: which rows are left, which positions or gaps are open, what was chosen, whether a text has
# ended, the new width.
ALLOWED = {"arlm": 1, "mlm": 4, "mdlm": 4, "ilm": 7}
ONCE = 15  # before the first call, and to build the texts at the end


# MDLM samples with the loop of MLM.
@pytest.mark.parametrize("family", [f if f != "mlm" else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_sampling_reads_a_stated_number_of_times_per_network_call(family: str) -> None:
    session = start(load_config(words_of(family)))
    harness = session.harness().eval()
    session.datamodule.setup("validate")
    found = session.datamodule.first_loader("val", "prediction")
    assert found is not None
    batch = next(iter(session.datamodule.val_dataloader()[found[0]]))
    if family in ("mlm", "mdlm"):  # new networks end their texts in the first call
        harness.predictor.suppressed_tokens = [session.tokenizer.eos_token]
    with torch.no_grad(), Reads() as reads, MethodReads(reads.found):
        predictions = harness.predictor.predict(batch, 0, *found)
    num_calls = int(torch.as_tensor(predictions["network_calls"]).max())
    assert num_calls >= 8
    on_device = {place: n for place, n in reads.found.items() if not place.split()[1].startswith(ON_HOST)}
    assert sum(on_device.values()) <= ALLOWED[family] * num_calls + ONCE, on_device
