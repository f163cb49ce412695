"""The step of a batch is the step of its micro-batches, in any family, on one process and on two.

`python tests/test_batch_splits.py` prints by how much gradients differ, and what putting them right costs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from omegaconf import OmegaConf
from torch import Tensor, distributed, nn

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator
from arlm.loss_arlm import ARLMLoss
from arlm.model_arlm import RotaryARLM
from ilm.datamodule_ilm import ILMCollator, ILMSeq2SeqCollator
from ilm.loss_ilm import ILMLoss
from ilm.model_ilm import RotaryILM
from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mlm.datamodule_mlm import MLMCollator, MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from xlm.data.hashing import time_quantiles
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.harness import Harness
from xlm.noise import LogLinearSchedule
from xlm.training.loss_terms import LossTerms
from xlm.utils.instantiate import clear_components

pytestmark = [
    # lightning 2.6 calls what torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    # Python from 3.12 on warns of forks in a process with threads.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=20)
SCHEDULE = LogLinearSchedule()
SIZES: dict[str, Any] = {"d_model": 16, "num_layers": 2, "nhead": 2, "dropout": 0.0}
BLOCK = 32
NUM_ROWS = 8
# Tokens of a text or an answer, and of the prompt before it.
LENGTHS = (1, 14, 3, 28, 9, 2, 22, 6)
PROMPTS = (7, 1, 12, 3, 0, 9, 2, 5)


@dataclass(frozen=True)
class Family:
    """A network, its loss and its collators for texts and for answers."""

    network: Callable[..., nn.Module]
    loss: Callable[[Any], Any]
    text: Any
    seq2seq: Any


FAMILIES = {
    "arlm": Family(RotaryARLM, lambda net: ARLMLoss(net, TOKENIZER), ARLMCollator, ARLMSeq2SeqCollator),
    "mlm": Family(RotaryMLM, lambda net: MLMLoss(net, TOKENIZER), MLMCollator, MLMSeq2SeqCollator),
    "mlm-elbo": Family(RotaryMLM, lambda net: MLMLoss(net, TOKENIZER, "elbo"), MLMCollator, MLMSeq2SeqCollator),
    "mdlm": Family(DiTMDLM, lambda net: MDLMLoss(net, TOKENIZER, SCHEDULE), MDLMCollator, MDLMSeq2SeqCollator),
    "ilm": Family(RotaryILM, lambda net: ILMLoss(net, TOKENIZER), ILMCollator, ILMSeq2SeqCollator),
}
TASKS = ("text", "seq2seq")
# Rows of a micro-batch, and processes.
SPLITS = ((4, 1), (2, 1), (1, 1), (4, 2), (2, 2), (1, 2))


def examples(num_batches: int = 1) -> list[dict[str, Any]]:
    """Rows of very different lengths, with the noise of their own that the loaders give them."""
    generator = torch.Generator().manual_seed(3)

    def ids(n: int) -> list[int]:
        return torch.randint(7, 27, (n,), generator=generator).tolist()

    n = NUM_ROWS * num_batches
    rows = zip(LENGTHS * num_batches, PROMPTS * num_batches, time_quantiles(3, 0, np.arange(n)), strict=True)
    return [
        {
            "input_ids": ids(length),
            "prompt_ids": ids(prompt),
            "noise_seed": 31 * place + 2,
            "time_quantile": float(u),
        }
        for place, (length, prompt, u) in enumerate(rows)
    ]


class Uncounted:
    """A loss that doesn't say how many terms it is the mean of."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def __call__(self, *args: Any) -> dict[str, Any]:
        return {"loss": self.loss(*args)["loss"]}


class Tiny(Harness):
    """A family's network in double precision, away from its symmetric start; keeps gradients before clipping."""

    def __init__(self, family: Family, file: Path, counted: bool) -> None:
        self.family, self.file, self.counted = family, file, counted
        cfg = OmegaConf.create({"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}})
        super().__init__(cfg, datamodule=SimpleNamespace(dataloader_names={"train": {0: "lm"}}))
        self.seen: list[Tensor] = []

    def instantiate_model(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = self.family.network(len(TOKENIZER), **SIZES).double()
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))

    def instantiate_loss_function(self) -> None:
        loss = self.family.loss(self.model)
        self.loss_function = loss if self.counted else Uncounted(loss)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]))

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            torch.save([torch.stack(self.seen), nn.utils.parameters_to_vector(self.parameters()).detach()], self.file)


class Loader:
    """Micro-batches of a number of rows, every second one where two processes share them."""

    def __init__(self, collator: Any, rows: list[Any], size: int) -> None:
        self.batches = [collator(rows[start : start + size]) for start in range(0, len(rows), size)]

    def _own(self) -> list[Any]:
        two = distributed.is_initialized()
        return self.batches[distributed.get_rank() :: 2] if two else self.batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())


def collator_of(family: Family, task: str) -> Any:
    block = {"block_size": BLOCK, "input_block_size": 16} if task == "seq2seq" else {"block_size": BLOCK}
    return getattr(family, task)(TOKENIZER, noise_schedule=SCHEDULE, **block)


def train(name: str, task: str, folder: Path, size: int, num_processes: int = 1, counted: bool = True) -> list[Tensor]:
    """The gradients (steps, parameters) of two batches, before clipping, and the weights in the end."""
    family = FAMILIES[name]
    strategy = {"strategy": "ddp_fork"} if num_processes > 1 else {}  # forks don't import everything anew
    trainer = Trainer(
        accelerator="cpu", devices=num_processes, use_distributed_sampler=False, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        accumulate_grad_batches=NUM_ROWS // size // num_processes, gradient_clip_val=0.5, **strategy,
    )  # fmt: skip
    file = folder / f"{size}-{num_processes}.pt"
    trainer.fit(Tiny(family, file, counted), Loader(collator_of(family, task), examples(2), size))
    clear_components()
    found: list[Tensor] = torch.load(file, weights_only=True)
    return found


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_split_takes_the_same_steps(name: str, task: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if torch.cuda.is_available():
        # A process in which torch has started threads for a GPU cannot be forked.
        run_without_gpu(request)
        return
    gradients, weights = train(name, task, tmp_path, size=8)
    assert gradients.norm(dim=1).min() > 0.5, "clipping does nothing"
    for size, num_processes in SPLITS:
        theirs = train(name, task, tmp_path, size, num_processes)
        assert len(theirs[0]) == 2
        assert difference(theirs[0], gradients) < 1e-6
        assert difference(theirs[1], weights) < 1e-6


def run_without_gpu(request: pytest.FixtureRequest) -> None:
    """This test in a process that sees no GPU."""
    command = [sys.executable, "-m", "pytest", "-n", "0", request.node.nodeid]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=request.config.rootpath, env=environ, check=True, timeout=240)


def print_differences(folder: Path) -> None:
    """By how much the first gradient differs from that of the whole batch: as Lightning averages, and as it is."""
    for name in FAMILIES:
        for task in TASKS:
            whole = train(name, task, folder, NUM_ROWS)[0][0]
            for size, n in SPLITS:
                averaged, counted = (
                    difference(train(name, task, folder, size, n, c)[0][0], whole) for c in (False, True)
                )
                print(f"{name:8} {task:8} {NUM_ROWS // size // n}x{size} on {n}: {averaged:.1%} -> {counted:.0e}")


def print_cost(num_micro_batches: int = 4, repeats: int = 300) -> None:
    """CPU milliseconds that weighing and dividing add to an optimizer step of a masked network of 0.6 M parameters."""
    net = RotaryMLM(len(TOKENIZER), d_model=128, num_layers=3, nhead=4)
    optimizer = torch.optim.SGD(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    leaf, terms = torch.ones((), requires_grad=True), LossTerms()
    for kind, count in {"a number": 100, "a tensor": torch.tensor(100)}.items():
        begun = time.process_time()
        for _ in range(repeats):
            for number in range(num_micro_batches):
                terms.weighted(terms.weigh({"loss": leaf * 2, "num_loss_terms": count}, number == 0)).backward()
            terms.divide(optimizer, num_micro_batches)
        middle = time.process_time()
        for _ in range(repeats * num_micro_batches):
            (leaf * 2).backward()
        plain = time.process_time() - middle
        print(f"num_loss_terms is {kind}: {(middle - begun - plain) / repeats * 1e3:.2f} ms per step")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print_differences(Path(directory))
    print_cost()
