"""Settings of every test run: offline, no display, one thread a worker, GPU tests only where one is; random order."""

import os
import tempfile
from random import Random

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


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--shuffle SEED`: modules in random order, and the tests of each in random order."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run the tests in the random order of this seed")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Forget the width of a terminal, which xdist sets: the output of tests goes into files."""
    os.environ.pop("COLUMNS", None)


def pytest_report_header(config: pytest.Config) -> str | None:
    """The seed, so that an order can be repeated."""
    seed = config.getoption("--shuffle")
    return None if seed is None else f"random order: --shuffle {seed}"


def shuffle(items: list[pytest.Item], seed: int) -> None:
    """Put the tests of a module together, since its fixtures may be expensive; everything else is random."""
    random = Random(seed)
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    names = sorted(modules)
    random.shuffle(names)
    for name in names:
        random.shuffle(modules[name])
    items[:] = [item for name in names for item in modules[name]]


# A device for the tests of the marker `gpu`, instead of CUDA: XLM_TEST_DEVICE=cpu runs those that a CPU can run.
TEST_DEVICE = "XLM_TEST_DEVICE"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle if asked; deselect what needs a GPU where there is none; torch is imported only if something asks."""
    if (seed := config.getoption("--shuffle")) is not None:
        shuffle(items, seed)
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
