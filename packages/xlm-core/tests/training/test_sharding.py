"""Sharded modules and their checkpoints, in forked processes with gloo: written, damaged, read by any number."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import OmegaConf
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from process_group import free_port, wait
from xlm.errors import CheckpointCorruptError, CheckpointError, ConfigError, StorageError
from xlm.inference.session import check_sharding
from xlm.training import sharded_checkpoints
from xlm.training.checkpoints import AtomicCheckpointIO, best_or_last
from xlm.training.resume import find_resumable, load_checkpoint
from xlm.training.sharded_checkpoints import is_checkpoint, is_sharded, load_shards, remove_checkpoint, save_shards
from xlm.training.sharding import as_parameter, gather_weights, release_weights, shard, tied_names

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


class Net(LightningModule):
    """Three blocks, a tied output layer, sizes that no number of processes divides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])
        self.output = nn.Linear(5, 11, bias=False)
        self.output.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def training_step(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + layer(x).relu()
        return nn.functional.cross_entropy((x @ self.output.weight.T).flatten(0, 1), ids.flatten())

    def prepare_shards(self) -> None:
        """As the harness has it."""


def in_processes(world_size: int, work: Callable[[int], None]) -> None:
    """Run a function of the rank in forked processes of one gloo group; AssertionError if it fails in one."""
    address = f"tcp://127.0.0.1:{free_port()}"
    children = []
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            code = 1
            warnings.simplefilter("ignore")  # torch warns of its own use of its compiler
            try:
                distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
                work(rank)
                distributed.barrier()
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        children.append(pid)
    assert [wait(pid, 60) for pid in children] == [0] * world_size


def sharded(world_size: int) -> tuple[Net, torch.optim.Optimizer]:
    net = Net()
    mesh = init_device_mesh("cpu", (world_size, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    object.__setattr__(net, "_device_mesh", mesh)
    shard(net, net)
    return net, torch.optim.AdamW(net.parameters(), lr=0.1)


IDS = torch.arange(24).reshape(6, 4) % 11


def trained(net: Net, optimizer: torch.optim.Optimizer, rank: int, world_size: int) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        net.training_step(IDS[rank::world_size]).backward()
        optimizer.step()


def checkpoint_of(net: Net, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    average = {name: p.detach() * 2 for name, p in net.named_parameters()}
    return {
        "global_step": step, "state_dict": dict(net.state_dict()),
        "optimizer_states": [get_optimizer_state_dict(net, optimizer)],
        "xlm_ema": {"average": average, "num_updates": step},
    }  # fmt: skip


def write(path: Path, world_size: int = 2, step: int = 2) -> None:
    def work(rank: int) -> None:
        net, optimizer = sharded(world_size)
        trained(net, optimizer, rank, world_size)
        save_shards(checkpoint_of(net, optimizer, step), path, tied_names(net))

    in_processes(world_size, work)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    write(path)
    return path


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "last.ckpt"))


def files(path: Path) -> Path:
    return path / json.loads((path / "checkpoint.json").read_text())["folder"]


def test_a_folder_reads_as_if_one_process_had_written_it(written: Path) -> None:
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    trained(net, optimizer, 0, 1)  # two halves of a batch have the mean of their gradients
    found = load_checkpoint(written)
    assert found["state_dict"].keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(found["state_dict"][name], value)
        assert not isinstance(found["state_dict"][name], DTensor)
    own = optimizer.state_dict()
    assert found["optimizer_states"][0]["param_groups"] == own["param_groups"]
    for number, state in own["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(found["optimizer_states"][0]["state"][number][name], value, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found["xlm_ema"]["average"]["embedding.weight"], net.embedding.weight.detach() * 2)
    assert (is_checkpoint(written), best_or_last(written.parent)) == (True, written)
    assert AtomicCheckpointIO().load_checkpoint(written)["global_step"] == 2
    resumable = find_resumable(written.parent)
    assert resumable is not None
    assert resumable[1]["state_dict"]["embedding.weight"].is_meta


def test_other_numbers_of_processes_get_their_shards_and_all_weights_for_evaluation(written: Path) -> None:
    whole = load_checkpoint(written)

    def work(rank: int) -> None:
        net, _ = sharded(3)
        loaded = load_shards(written, dict(net.named_parameters()))
        net.load_state_dict(loaded["state_dict"])
        for name, parameter in net.named_parameters():
            expected = as_parameter(whole["state_dict"][name], parameter)
            assert torch.equal(parameter.to_local(), expected.to_local())  # type: ignore[operator, attr-defined]
        average = loaded["xlm_ema"]["average"]["layers.0.weight"]
        assert torch.equal(average.full_tensor(), whole["xlm_ema"]["average"]["layers.0.weight"])
        gather_weights(net)
        with torch.no_grad():
            for _ in range(rank):  # no process waits for another one
                net.training_step(IDS)
        assert torch.equal(net.output.weight, whole["state_dict"]["output.weight"])

    in_processes(3, work)


def test_a_save_that_was_killed_leaves_the_checkpoint_before_it(copied: Path) -> None:
    stray = copied / "step-9-00000000"
    stray.mkdir()
    (stray / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert load_checkpoint(copied)["global_step"] == 2
    write(copied, world_size=1, step=3)
    assert load_checkpoint(copied)["global_step"] == 3
    assert sorted(entry.name for entry in copied.iterdir()) == ["checkpoint.json", files(copied).name]


def test_files_and_folders_replace_each_other(copied: Path, tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 4}, copied)
    assert copied.is_file()
    write(copied, world_size=1, step=5)
    assert is_sharded(copied)
    assert load_checkpoint(copied)["global_step"] == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
    remove_checkpoint(copied)
    assert list(tmp_path.iterdir()) == []


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def _truncate(path: Path) -> None:
    file = next(files(path).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def _flip(path: Path) -> None:
    file = next(files(path).glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def _change_index(path: Path, **changes: Any) -> None:
    index = json.loads((path / "checkpoint.json").read_text())
    (path / "checkpoint.json").write_text(json.dumps({**index, **changes}))


def _replace_header(path: Path) -> None:
    (files(path) / "header.pt").write_bytes(pickle.dumps(Evil()))
    _change_index(path, files={})


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (_truncate, "is missing or has another size"),
    "flipped": (_flip, "does not match its checksum"),
    "missing": (lambda path: next(files(path).glob("*.safetensors")).unlink(), "is missing or has another size"),
    "outside": (lambda path: _change_index(path, folder="../elsewhere"), "which is not a file in the folder"),
    "other format": (lambda path: _change_index(path, format=2), "its format is 2"),
    "no index": (lambda path: (path / "checkpoint.json").write_text("[]"), "is not the index of a checkpoint"),
    "stray shard": (lambda path: (files(path) / "x.safetensors").touch(), "has files that checkpoint.json does not"),
    "pickled header": (_replace_header, "header.pt"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_named_and_runs_nothing(
    copied: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    damage, reason = DAMAGE[kind]
    damage(copied)
    if kind == "pickled header":
        for shard_file in files(copied).glob("*.safetensors"):
            shard_file.unlink()
    with pytest.raises(CheckpointCorruptError, match=reason):
        load_checkpoint(copied)
    assert not (tmp_path / "evil").exists()
    if kind != "flipped":  # found by the processes that load it, each of which reads a part
        with pytest.raises(CheckpointError, match="can be read"):
            find_resumable(tmp_path)


def test_what_cannot_be_split_is_refused() -> None:
    net = Net()
    net.extra = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    object.__setattr__(net, "_device_mesh", {"data_parallel": None})
    with pytest.raises(ConfigError, match="some have float32 and float64"):
        shard(net, net)
    net = Net()
    net.embedding.sparse = True
    object.__setattr__(net, "_device_mesh", {"data_parallel": None})
    with pytest.raises(ConfigError, match="sparse gradients"):
        shard(net, net)


def test_without_sharding_nothing_is_gathered() -> None:
    net = Net()
    gather_weights(net)
    release_weights(net)
    assert all(not isinstance(p, DTensor) for p in net.parameters())


def test_a_full_disk_is_reported_by_every_process_and_leaves_the_checkpoint_before(copied: Path) -> None:
    def work(rank: int) -> None:
        net, optimizer = sharded(2)
        checkpoint = checkpoint_of(net, optimizer, 9)
        if rank == 1:
            sharded_checkpoints.require_space = _full  # type: ignore[assignment]
        with pytest.raises(StorageError, match="No space left on device"):
            save_shards(checkpoint, copied, tied_names(net))

    in_processes(2, work)
    assert load_checkpoint(copied)["global_step"] == 2
    assert len(list(copied.iterdir())) == 2


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trainer": {"precision": "16-mixed"}}, "trainer.precision is 16-mixed, and trainer_strategy=fsdp2 takes one"),
        ({"trainer": {"precision": 16}}, "trainer.precision is 16, and"),
    ],
)
def test_settings_that_cannot_be_combined_are_refused(setting: dict[str, Any], message: str) -> None:
    fsdp2 = {"strategy": {"_target_": "xlm.training.sharding.FSDP2Strategy"}}
    check_sharding(OmegaConf.create({"trainer": {}, **setting}))
    with pytest.raises(ConfigError, match=message):
        check_sharding(OmegaConf.merge({"trainer": fsdp2}, setting))  # type: ignore[arg-type]
