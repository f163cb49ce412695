"""Settings of every test run: offline, no display, one thread a worker, GPU tests only where one is."""

import os
import tempfile

import pytest

# Before anything imports torch or a hub client. Two workers with a thread pool each fight over two cores.
for name, value in {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
}.items():
    os.environ.setdefault(name, value)
# Runs note configurations of the user's own in the home folder; those of tests don't belong there.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="xlm-tests-state-")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs a GPU where there is none; torch is imported only if something asks."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if item not in gpu]
        config.hook.pytest_deselected(items=gpu)
