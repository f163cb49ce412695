"""Two real processes under DDP: every example once, and no deadlock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, sys, warnings
import torch
from lightning.pytorch import LightningModule, Trainer
from xlm.data.loaders import make_loader
from xlm.data.rows import ListRows

warnings.filterwarnings("ignore")

def collate(examples):
    return torch.tensor([example["id"] for example in examples])

class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.register_buffer("buffer", torch.zeros(3))  # DDP synchronises it at every forward pass
        self.seen = []

    def loader(self, train, n):
        rows = ListRows({"id": i, "input_ids": [7] * (i % 13)} for i in range(n))
        rank = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        options = json.loads(sys.argv[3]) if train else {}
        return make_loader(rows, collate, train=train, batch_size=4, seed=1, **rank, **options)

    def train_dataloader(self):
        return self.loader(True, 103)

    def val_dataloader(self):
        return self.loader(False, int(sys.argv[2]))

    def training_step(self, batch, batch_idx):
        self.seen += batch.tolist()
        return self.layer(batch[:, None].float()).mean()

    def validation_step(self, batch, batch_idx):
        self.seen += batch.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-5)

    def report(self, name):
        everyone = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, self.seen)
        self.seen = []
        if self.trainer.is_global_zero:
            with open(sys.argv[1], "a") as file:
                file.write(json.dumps([name, everyone]) + chr(10))

    def on_validation_start(self):
        self.report("train")

    def on_validation_end(self):
        self.report("val")

Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0).fit(Net())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_val", "options", "num_train"),
    [
        (101, {}, 96),
        (9, {"batching": "buckets"}, 96),
        (9, {"batching": "buckets", "max_tokens_per_batch": 40}, 102),  # one row is left for two processes
    ],
)
def test_two_processes_share_the_examples(
    tmp_path: Path, num_val: int, options: dict[str, Any], num_train: int
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "seen.jsonl"), str(num_val)]
    command.append(json.dumps(options))
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert [name for name, _ in reports] == ["train", "val", "train", "val"]
    for name, (first, second) in reports:
        if name == "val":
            assert first + second == list(range(num_val))
        else:
            assert len({*first, *second}) == len(first) + len(second) == num_train
            assert abs(len(first) - len(second)) <= 1
