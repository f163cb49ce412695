"""Every shipped network at every size: which matrices an optimizer sees as several maps, and which parameters decay."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import nn

from xlm.compose import load_config
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.model import Model
from xlm.training.muon import stacked_matrices
from xlm.utils.instantiate import components, instantiate

SIZES = ("xtiny", "tiny", "small")
LLAMA, BERT = (
    {"model_type": kind, "vocab_size": 27, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
     "intermediate_size": 48, "max_position_embeddings": 32}
    for kind in ("llama", "bert")
)  # fmt: skip
PRETRAINED = {"arlm": LLAMA, "mdlm": BERT, "mlm": BERT}


@pytest.fixture(scope="module", params=["arlm", "ilm", "mdlm", "mlm"])
def networks(request: pytest.FixtureRequest) -> dict[str, nn.Module]:
    """The networks of a family: its sizes with two layers, and other shapes of them."""
    family = request.param
    folder = Path(importlib.import_module(family).__path__[0]) / "configs/model"
    cfg = load_config([f"experiment=star_easy_{family}"])

    def network(file: str, **options: Any) -> nn.Module:
        cfg.model = OmegaConf.merge(OmegaConf.load(folder / f"{file}.yaml"), options)
        with components(tokenizer=SimpleSpaceTokenizer.for_numbers(20)):
            built: nn.Module = instantiate(cfg.model)
        return built

    found = {size: network(f"{size}_{family}", num_layers=2) for size in SIZES}
    # As many rows as queries, keys and values together.
    found["feed-forward of 3 · d_model"] = network(f"xtiny_{family}", dim_feedforward=192)
    if family == "mdlm":
        found["without time"] = network("tiny_mdlm", num_layers=2, time_conditioning=False)
    if family in PRETRAINED:
        found["transformers"] = network(f"hf_{family}", architecture=PRETRAINED[family])
    return found


def test_exactly_the_declared_matrices_are_several_maps(networks: dict[str, nn.Module]) -> None:
    for what, network in networks.items():
        names = {p: name for name, p in network.named_parameters()}
        split = {names[p]: number for p, number in stacked_matrices(network).items() if number > 1}
        declared = {"attn_qkv": 3, "adaln_modulation": 6}
        wanted = {
            name: declared[found[1]]
            for name in names.values()
            if (found := re.fullmatch(r"layers\.[01]\.(attn_qkv|adaln_modulation)\.weight", name))
        }
        assert split == wanted, what
        assert bool(split) == (what != "transformers")


def test_linear_maps_decay_and_nothing_else(networks: dict[str, nn.Module]) -> None:
    """Neither embeddings, also where an output layer is tied to them, nor the weights of a short convolution."""
    for what, network in networks.items():
        assert isinstance(network, Model)
        decayed = {name for name, _ in network.get_named_params_for_weight_decay()}
        tables = {p for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
        linear = {m.weight for m in network.modules() if isinstance(m, nn.Linear)} - tables
        assert decayed == {name for name, p in network.named_parameters() if p in linear}, what
