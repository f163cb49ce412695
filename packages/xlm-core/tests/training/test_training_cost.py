"""The cost of a run over several starts."""

from __future__ import annotations

import torch

from xlm.training.train_log import TrainingCost, TrainLog, peak_memory

CPU = torch.device("cpu")


def test_a_later_start_keeps_what_the_earlier_ones_cost() -> None:
    stored = TrainingCost(TrainLog()).state_dict()
    assert stored["peak_memory"] > 0
    later = TrainingCost(TrainLog())
    later.load_state_dict({**stored, "cpu_seconds": 12.0, "wall_seconds": 7.0, "peak_memory": 2 * peak_memory(CPU)})
    result = later.as_dict(CPU)
    assert (result["cpu_seconds"], result["wall_seconds"]) == (12.0, 7.0)
    assert result["peak_memory_mib"] > 1.5 * peak_memory(CPU) / 2**20


def test_a_start_that_needs_more_memory_than_the_earlier_ones_says_so() -> None:
    later = TrainingCost(TrainLog())
    later.load_state_dict({**later.state_dict(), "peak_memory": 1})
    assert later.as_dict(CPU)["peak_memory_mib"] > 1
    assert later.state_dict()["peak_memory"] > 1
