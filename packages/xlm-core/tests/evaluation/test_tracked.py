"""Scalars of a loss that only some processes saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import torch
from xlm.evaluation.metrics import TrackedScalars

rank, path = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{path}.store", rank=rank, world_size=2)
tracked = TrackedScalars({"val/lm": {"off"}})
first = [{"a": 1.0, "b": 4.0, "off": 1.0, "num_loss_terms": 1}]
second = [{"c": torch.tensor(2.0)}, {"a": 5, "num_loss_terms": 3}]
for outputs in (first, second)[rank]:
    tracked.update("val/lm", {"input_ids": torch.ones(2, 3)}, {"loss": torch.tensor(0.0), **outputs}, known=["d"])
metrics = tracked.metrics_at("val/lm", torch.device("cpu"))
print(json.dumps({metric.name: float(metric.compute()) for metric in metrics}))
torch.distributed.destroy_process_group()
"""


def test_processes_log_the_same_scalars_in_the_same_order(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "found")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=100)[0]) for process in processes]
    # a: (1 · 1 + 5 · 3) / 4.
    assert found == [{"a": 4.0, "b": 4.0, "c": 2.0}] * 2
    assert list(found[0]) == ["a", "b", "c"]
