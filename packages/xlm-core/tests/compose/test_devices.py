"""Device counts, precision, and gradient accumulation with its error message."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.compose import devices
from xlm.compose.devices import default_precision, find_grad_accum, num_cpus, num_devices
from xlm.errors import ConfigError


@pytest.fixture
def four_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "num_accelerators", lambda: 4)


@pytest.mark.usefixtures("four_devices")
@pytest.mark.parametrize(
    ("choice", "count"),
    [(3, 3), ("3", 3), ([0, 2], 2), ("0,2", 2), ("0,", 1), ("auto", 4), (-1, 4), ("-1", 4), (None, 4)],
)
def test_num_devices(choice: object, count: int) -> None:
    assert num_devices(choice) == count


@pytest.mark.parametrize("accelerator", ["cpu", "mps"])
@pytest.mark.usefixtures("four_devices")
def test_auto_counts_the_chosen_accelerator_only(accelerator: str) -> None:
    assert num_devices("auto", accelerator) == 1
    assert num_devices(2, accelerator) == 2


@pytest.mark.parametrize("choice", [0, -2, "many", [], 1.5, True, {}])
def test_other_choices_are_refused(choice: object) -> None:
    with pytest.raises(ConfigError, match="must be a count, a list of indices, 'auto' or -1"):
        num_devices(choice)


@given(st.integers(1, 64), st.integers(1, 8), st.integers(1, 4), st.integers(1, 16))
def test_accumulation_reaches_the_global_batch(per_device: int, count: int, nodes: int, steps: int) -> None:
    assert find_grad_accum(per_device * count * nodes * steps, per_device, count, nodes) == steps


@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 8), st.integers(1, 4))
def test_accumulation_is_exact_or_refused(global_size: int, per_device: int, count: int, nodes: int) -> None:
    if global_size % (per_device * count * nodes) == 0:
        steps = find_grad_accum(global_size, per_device, count, nodes)
        assert steps * per_device * count * nodes == global_size
        return
    with pytest.raises(ConfigError, match=f"global_batch_size {global_size} is not divisible by"):
        find_grad_accum(global_size, per_device, count, nodes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            (100, 64, 1, 1),
            "global_batch_size 100 is not divisible by per_device_batch_size 64. It could be 64 or 128.",
        ),
        (
            (96, 16, 4, 1),
            "global_batch_size 96 is not divisible by per_device_batch_size 16 × 4 devices × 1 nodes = 64. "
            "It could be 64 or 128.",
        ),
        (
            (8, 16, 1, 2),
            "global_batch_size 8 is not divisible by per_device_batch_size 16 × 2 nodes = 32. It could be 32.",
        ),
    ],
)
def test_the_sentence_has_the_numbers(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_grad_accum(*sizes)
    assert str(caught.value) == message
    assert caught.value.key == "global_batch_size"


@pytest.mark.parametrize("size", [0, -1, 1.5, None, "64", True])
def test_sizes_are_positive_whole_numbers(size: object) -> None:
    with pytest.raises(ConfigError, match="per_device_batch_size must be a positive whole number"):
        find_grad_accum(64, size, 1, 1)  # type: ignore[arg-type]


def test_precision_by_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert default_precision("cpu") == default_precision("mps") == "32-true"
    for available, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert default_precision("auto") == default_precision("gpu") == precision


def test_num_cpus() -> None:
    assert 1 <= num_cpus() <= (os.cpu_count() or 1)
