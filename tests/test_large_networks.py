"""Networks of 1 to 7 · 10⁹ parameters: built without memory, planned, and given their weights later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.compose import load_config
from xlm.compose.devices import find_grad_accum, num_devices
from xlm.errors import ConfigError
from xlm.inference.session import build_components, start
from xlm.utils.instantiate import clear_components, instantiate

FAMILIES = [
    # Each kind of network with every change: the one with a start of its own, and the one with conditions.
    p.model if p.model in ("ilm", "mdlm") else pytest.param(p.model, marks=pytest.mark.slow)
    for p in read_packages(ROOT).values()
    if p.model
]
# Width, layers, heads, and the number of parameters in 10⁹.
SIZES = {"1B": (2048, 24, 16, (1.2, 1.6)), "7B": (4096, 32, 32, (6.6, 7.2))}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    clear_components()


def sizes(width: int, layers: int, heads: int) -> list[str]:
    return [
        f"model.d_model={width}",
        f"model.num_layers={layers}",
        f"model.nhead={heads}",
        "model.num_embeddings=50304",
    ]


def network_of(family: str, *overrides: str, device: str = "cpu") -> Any:
    cfg = load_config([f"experiment=star_mini_{family}", "job_name=m", *overrides])
    clear_components()
    build_components(cfg)
    torch.manual_seed(0)
    with torch.device(device):
        return instantiate(cfg.model)


@pytest.mark.parametrize("size", [pytest.param("1B", marks=pytest.mark.slow), "7B"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_network_is_built_without_memory(family: str, size: str) -> None:
    width, layers, heads, (least, most) = SIZES[size]
    network = network_of(family, f"model=small_{family}", *sizes(width, layers, heads), device="meta")
    everything = [*network.parameters(), *network.buffers()]
    assert all(tensor.is_meta for tensor in everything)
    assert least < sum(parameter.numel() for parameter in network.parameters()) / 1e9 < most


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_without_memory_gets_its_weights_and_computes_the_same(family: str) -> None:
    ordinary = network_of(family, f"model=xtiny_{family}").eval()
    empty = network_of(family, f"model=xtiny_{family}", device="meta").eval()
    assert {name: (p.shape, p.dtype) for name, p in empty.state_dict().items()} == {
        name: (p.shape, p.dtype) for name, p in ordinary.state_dict().items()
    }
    empty.to_empty(device="cpu")
    for parameter in empty.parameters():
        nn.init.constant_(parameter, torch.nan)
    empty.load_state_dict(ordinary.state_dict())
    # Tables that no state dict has, such as those of rotary positions, follow from the configuration.
    for (name, one), (other, two) in zip(ordinary.named_buffers(), empty.named_buffers(), strict=True):
        assert name == other
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    ids = torch.randint(7, 19, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    compute = {
        "arlm": lambda net: net.hidden(ids, mask),
        "ilm": lambda net: net.hidden(ids, mask, torch.ones_like(ids)),
        "mlm": lambda net: net.features(ids, mask),
        "mdlm": lambda net: net.features(ids, mask, sigma=torch.full((2,), 0.3)),
    }[family]
    with torch.no_grad():
        torch.testing.assert_close(compute(empty), compute(ordinary), rtol=0, atol=0)


def test_a_plan_of_seven_billion_parameters_needs_no_memory(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["experiment=star_mini_ilm", "model=small_ilm", "trainer_strategy=cpu", *sizes(4096, 32, 32)]
    assert main(["plan", *words, "plan.num_steps=0"]) == 0
    assert "No step is taken (plan.num_steps=0)." in capfd.readouterr().out
    plan = json.loads(Path("plan.json").read_text())
    total = plan["parameters"]["trainable"]
    assert 6.6e9 < total < 7.2e9
    assert plan["memory_bytes"]["weights"] == pytest.approx(4 * total, rel=0.01)
    assert plan["memory_bytes"]["gradients"] == 4 * total
    # Muon keeps one number for most parameters, Adam two for the rest.
    assert 4 * total <= plan["memory_bytes"]["optimizer"] <= 8 * total
    assert not Path("runs").exists()


# What a machine with CUDA devices would choose, asked of the functions that ask torch.


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_a_configuration_chooses_for_gpus() -> None:
    words = ["experiment=star_mini_mlm", "per_device_batch_size=8", "global_batch_size=64"]
    cfg = load_config([*words, "trainer_strategy=ddp", "dataloader_pin_memory=true", "compile=true"])
    assert cfg.trainer.precision == "bf16-mixed"
    assert cfg.trainer.accumulate_grad_batches == 2
    assert num_devices(cfg.trainer.devices, cfg.trainer.accelerator) == 4
    assert cfg.datamodule.dataset_managers.train.lm.dataloader_kwargs.pin_memory is True
    one = load_config([*words, "trainer_strategy=single_device"])
    assert one.trainer.accumulate_grad_batches == 8
    on_cpu = load_config([*words, "trainer_strategy=cpu"])
    assert on_cpu.trainer.precision == "32-true"
    with pytest.raises(ConfigError, match=r"not divisible by .* 4 devices"):
        find_grad_accum(40, 8, cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.accelerator)


@pytest.mark.usefixtures("four_gpus")
def test_a_precision_and_a_device_are_chosen_without_touching_a_gpu() -> None:
    """Building tokenizer, data and network asks for no device: only the trainer does."""
    session = start(load_config(["experiment=star_mini_arlm", "model=xtiny_arlm"]))
    assert all(parameter.device.type == "cpu" for parameter in session.harness().parameters())
