"""`xlm plan` on the four families: operations counted exactly, nothing left behind, and what the training log says."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from xlm.commands import plan, train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.inference.session import start
from xlm.schemas import Plan
from xlm.training.flops import FlopTally
from xlm.training.train_log import read_metrics
from xlm.utils.instantiate import clear_components

FAMILIES = ("arlm", "ilm", "mdlm", "mlm")

Configure = Callable[..., DictConfig]


@pytest.fixture
def configure(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Composes a small run of a family in an empty directory."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XLM_MODELS_PATH", "XLM_MODELS_PACKAGES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XLM_CACHE_DIR", str(cache))

    def compose(family: str, *overrides: str) -> DictConfig:
        return load_config(
            [
                f"experiment=star_medium_{family}", f"model=xtiny_{family}", "job_name=mine", "trainer_strategy=cpu",
                "datamodule.dataset_managers.train.lm.num_examples=64", "per_device_batch_size=8", "loggers=debug",
                *overrides,
            ]
        )  # fmt: skip

    yield compose
    clear_components()


def plain_loss(hidden: Any, weight: Any, bias: Any, targets: Any, **options: Any) -> Any:
    """The output layer and its loss without anything clever, for torch's counter to see."""
    kept = {name: options[name] for name in ("reduction", "ignore_index") if name in options}
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, **kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(
    family: str, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our count looks at forward alone; torch's at forward and backward, with the output layer written plainly."""
    session = start(configure(family))
    session.datamodule.dataset_managers |= {"val": {}, "test": {}}
    session.datamodule.prepare_data()
    session.datamodule.setup("fit")
    harness = session.harness()
    harness.configure_components()
    batch = next(iter(session.datamodule.train_dataloader()))
    with FlopTally() as tally:
        harness.training_step(batch, 0)
    module = importlib.import_module(f"{family}.loss_{family}")
    if hasattr(module, "linear_cross_entropy"):
        monkeypatch.setattr(module, "linear_cross_entropy", plain_loss)
    counter = FlopCounterMode(display=False)
    # The fused kernels of attention are not all known to it.
    with sdpa_kernel(SDPBackend.MATH), counter:
        harness.training_step(batch, 0)["loss"].backward()
    assert tally.matmul > 0
    assert tally.attention > 0
    assert tally.matmul + tally.attention == counter.get_total_flops()


@pytest.mark.parametrize("family", ["ilm", "mdlm"])
def test_a_plan_leaves_the_run_of_its_name_as_it_is(family: str, configure: Configure, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("of an earlier run\n")
    (run / "checkpoints" / "last.ckpt").write_bytes(b"not to be read")
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = plan.run(configure(family, "trainer.max_steps=1500"))
    assert torch.equal(torch.get_rng_state(), state)
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "runs"]
    assert json.loads((tmp_path / "plan.json").read_text()) == found
    assert (found["data"]["examples"], found["data"]["steps_per_epoch"]) == (64, 8)
    assert found["data"]["examples_per_step"] == 8
    step = found["time"]["seconds_per_step"]
    assert 0 < step["least"] <= step["median"] <= step["most"]
    assert found["time"]["num_steps_measured"] == Plan().num_steps
    assert found["time"]["training_seconds"]["median"] == pytest.approx(1500 * step["median"])
    assert 0 < found["flops"]["mfu"] < 1.5
    assert 0 <= found["data"]["padding"] < 0.9
    assert found["data"]["tokens_per_step"] <= found["data"]["positions_per_step"]
    parameters, memory = found["parameters"], found["memory_bytes"]
    assert sum(part["trainable"] for part in parameters["parts"]) == parameters["trainable"]
    assert memory["gradients"] == 4 * parameters["trainable"]
    assert memory["averaged_weights"] == (4 * parameters["trainable"] if family == "mdlm" else 0)
    assert memory["activations"] > memory["weights"] / 10
    # best, last, and the newest of step-500 and step-1000.
    assert found["disk"]["num_checkpoints"] == 3


def test_bytes_of_optimizer_and_checkpoint_are_those_of_a_run(configure: Configure, tmp_path: Path) -> None:
    few = ("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.limit_val_batches=1", "optimizer=adamw")
    found = plan.run(configure("mdlm", *few))
    train.run(configure("mdlm", *few, "test_after_training=false", "trainer.log_every_n_steps=1"))
    last = tmp_path / "runs/mine/checkpoints/last.ckpt"
    stored = torch.load(last, weights_only=True)["optimizer_states"][0]["state"]
    counted = sum(value.nbytes for state in stored.values() for value in state.values())
    assert found["memory_bytes"]["optimizer"] == counted
    without = plan.run(configure("mdlm", *few, "data_files.train=nowhere.csv"))
    assert without["memory_bytes"]["optimizer"] == counted
    assert found["disk"]["checkpoint_bytes"] == pytest.approx(last.stat().st_size, rel=0.05)
    # What training logs beside it.
    logged: dict[str, list[float]] = {}
    for _, name, value, _ in read_metrics(tmp_path / "runs/mine/metrics.csv"):
        logged.setdefault(name, []).append(value)
    assert len(logged["train/mfu"]) == len(logged["train/padding"]) == 2
    assert all(0 < value < 1.5 for value in logged["train/mfu"])


def test_padding_is_counted_from_attention_masks(configure: Configure, tmp_path: Path) -> None:
    train.run(
        configure(
            "ilm", "trainer.max_steps=1", "trainer.log_every_n_steps=1", "~datamodule.dataset_managers.val",
            "test_after_training=false",
        )
    )  # fmt: skip
    session = start(configure("ilm"))
    session.datamodule.dataset_managers |= {"val": {}, "test": {}}
    session.datamodule.setup("fit")
    mask = next(iter(session.datamodule.train_dataloader()))["attention_mask"]
    assert 0 < (~mask.bool()).float().mean() < 1
    logged = {name: value for _, name, value, _ in read_metrics(tmp_path / "runs/mine/metrics.csv")}
    assert logged["train/padding"] == pytest.approx(float((~mask.bool()).float().mean()))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("~datamodule.dataset_managers.train",), "There is no training data"),
        (("data_files.train=nowhere.csv",), "The training data cannot be read: "),
    ],
)
def test_without_training_data_the_rest_is_told(
    overrides: tuple[str, ...],
    reason: str,
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    without = ("datamodule.dataset_managers.train.lm.num_examples=64",) if "~" not in overrides[0] else ()
    cfg = configure("mlm", *without)
    found = plan.run(load_config(["experiment=star_medium_mlm", "model=xtiny_mlm", "trainer_strategy=cpu", *overrides]))
    assert found["not_measured"].startswith(reason)
    assert "flops" not in found
    assert found["memory_bytes"]["optimizer"] > found["memory_bytes"]["weights"] / 2
    printed = capsys.readouterr().out
    assert reason in printed
    assert max(map(len, printed.splitlines()[:20])) <= 80
    assert found["parameters"] == plan.run(cfg)["parameters"]


def test_mistakes_are_a_sentence(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'plan\.num_step'.*Did you mean 'plan\.num_steps'\?"):
        plan.run(configure("arlm", "plan.num_step=3"))
    with pytest.raises(ConfigError, match=r"plan\.num_steps is -1, and must be at least 0\."):
        plan.run(configure("arlm", "plan.num_steps=-1"))
