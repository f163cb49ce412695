"""Settings of every test run: offline, no display, one thread a worker, GPU tests only where one is."""

import os

import pytest

# Before anything imports torch or a hub client. Two workers with a thread pool each fight over two cores.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
}.items():
    os.environ.setdefault(name, value)


# A device for the tests of the marker `gpu`, instead of CUDA: XLM_TEST_DEVICE=cpu runs those that a CPU can run.
TEST_DEVICE = "XLM_TEST_DEVICE"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs a GPU where there is none; torch is imported only if something asks."""
    gpu = [(item, marker) for item in items if (marker := item.get_closest_marker("gpu"))]
    if not gpu:
        return
    device = os.environ.get(TEST_DEVICE)
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else ""
    if device == "cuda":
        return
    left_out = [item for item, marker in gpu if not device or marker.kwargs.get("only_cuda")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
