"""Saved models come back the same, or say which keys and shapes differ; the decay groups split the parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from xlm.errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError
from xlm.model import Model, load_safetensors
from xlm.modules.rotary_transformer import RotaryEmbedding, RotaryTransformerLayer, RotaryTransformerLayerList
from xlm.utils.weight_files import split_weights


class Net(nn.Module, Model):
    def __init__(
        self, d_model: int = 8, sizes: Any = (1, 2), *, tied: bool = True, schedule: Any = None, **extra: Any
    ) -> None:
        super().__init__()
        self.sizes, self.extra = sizes, extra
        self.embed = nn.Embedding(11, d_model)
        layer = RotaryTransformerLayer(d_model, 2)
        self.layers = RotaryTransformerLayerList.from_layer(layer, 2, RotaryEmbedding(d_model // 2))
        self.out = nn.Linear(d_model, 11, bias=False)
        self.scale = nn.Parameter(torch.ones(3))
        if tied:
            self.out.weight = self.embed.weight


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_comes_back(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    net = Net(4, sizes=OmegaConf.create([3, {"a": 4}]), tied=tied, schedule=object(), width=5)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"d_model": 4, "sizes": [3, {"a": 4}], "tied": tied, "width": 5, "schedule": None} or config == {
        "d_model": 4,
        "sizes": [3, {"a": 4}],
        "tied": tied,
        "width": 5,
    }
    back = Net.from_pretrained(tmp_path)
    assert back.extra == {"width": 5}
    assert not back.training
    state = back.state_dict()
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert (back.out.weight is back.embed.weight) == tied
    assert Net.from_pretrained(tmp_path, schedule=object()).sizes == [3, {"a": 4}]


@pytest.mark.parametrize("sharded", [True, False])
def test_a_model_of_the_hub_comes_in_shards_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool) -> None:
    net = Net(4, tied=True)
    net.save_pretrained(tmp_path / "there")
    if sharded:
        assert len(split_weights(tmp_path / "there/model.safetensors", 100)) > 1
    asked = []

    def download(*, repo_id: str, filename: str, **_: Any) -> str:
        asked.append(filename)
        path = tmp_path / "there" / filename
        if not path.is_file():
            raise EntryNotFoundError(filename)
        return str(path)

    monkeypatch.setattr("xlm.model.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    back = Net.from_pretrained("me/net")
    assert all(torch.equal(back.state_dict()[name], value) for name, value in net.state_dict().items())
    assert ("model.safetensors.index.json" in asked) == sharded
    local = Net.from_pretrained(tmp_path / "there")
    assert torch.equal(local.embed.weight, net.embed.weight)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    Net().save_pretrained(tmp_path)
    with pytest.raises(CheckpointMismatchError) as caught:
        Net.from_pretrained(tmp_path, d_model=16)
    assert caught.value.shapes["embed.weight"] == ((11, 8), (11, 16))

    class Other(Net):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            del self.scale
            self.head = nn.Linear(2, 2)

    with pytest.raises(CheckpointMismatchError) as caught:
        Other.from_pretrained(tmp_path)
    assert caught.value.missing == ("head.weight", "head.bias")
    assert caught.value.unexpected == ("scale",)
    loose = Other.from_pretrained(tmp_path, strict=False)
    assert torch.equal(loose.embed.weight, Net.from_pretrained(tmp_path).embed.weight)


PREFIXES = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "module.model.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_of_wrappers_are_left_out(tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    net = Net(tied=False)
    wrapper = prefix.replace("model.", "")  # which only the owner of the whole network puts before it
    inside = {name.replace("layers.", f"layers.{wrapper}"): tensor for name, tensor in net.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file({f"{prefix}{name}": tensor.clone() for name, tensor in inside.items()}, path)
    other = Net(tied=False)
    load_safetensors(other, path)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert caplog.text.count("from their names") == 1


def test_names_that_a_network_has_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A part of a network may be called `module`; two weights of one name are no match."""
    net = nn.Sequential()
    net.add_module("module", nn.Linear(2, 3))
    save_file({"module.weight": torch.ones(3, 2), "module.bias": torch.ones(3)}, tmp_path / "a.safetensors")
    load_safetensors(net, tmp_path / "a.safetensors")
    assert net.state_dict()["module.bias"].tolist() == [1, 1, 1]
    assert not caplog.text
    twice = {"_orig_mod.weight": torch.ones(3, 2), "weight": torch.ones(3, 2), "bias": torch.ones(3)}
    save_file(twice, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatchError, match=r"_orig_mod\.weight"):
        load_safetensors(nn.Linear(2, 3), tmp_path / "b.safetensors")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    Net().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointCorruptError, match=r"model\.safetensors cannot be read"):
        Net.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"There are no weights at .*model\.safetensors"):
        Net.from_pretrained(tmp_path)


def test_decay_groups_split_the_parameters() -> None:
    net = Net()
    decayed = dict(net.get_named_params_for_weight_decay())
    plain = dict(net.get_named_params_for_no_weight_decay())
    assert decayed.keys() | plain.keys() == dict(net.named_parameters()).keys()
    assert not decayed.keys() & plain.keys()
    assert "embed.weight" in plain
    assert "scale" in plain
    assert all(name.endswith("bias") or "norm" in name or name in ("embed.weight", "scale") for name in plain)
    assert "out.weight" in dict(Net(tied=False).get_named_params_for_weight_decay())


def test_upload_goes_through_the_hub_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path: str, **kwargs: Any) -> str:
            sent.update(kwargs, files=sorted(p.name for p in Path(folder_path).iterdir()))
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert Net().push_to_hub("me/net", commit_message="first") == "done"
    assert sent["files"] == ["README.md", "config.json", "model.safetensors"]
    assert (sent["repo_id"], sent["commit_message"]) == ("me/net", "first")
