"""Weights in one file or in shards are restored exactly; a wrong index is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from xlm.errors import CheckpointCorruptError, CheckpointError, ConfigError
from xlm.utils.weight_files import (
    INDEX,
    WEIGHTS,
    check_shard_size,
    is_weights_alone,
    read_weights,
    split_weights,
    weights_in,
    whole,
)

STATE = {f"layer.{i}": torch.arange(float(100 * (i + 1))) for i in range(6)}
BYTES = sum(t.numel() * 4 for t in STATE.values())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file(STATE, tmp_path / WEIGHTS, metadata={"format": "pt"})
    split_weights(tmp_path / WEIGHTS, 2000)
    return tmp_path


@given(size=st.integers(1, 2 * BYTES))
def test_any_size_of_shard_keeps_every_tensor(size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shards")
    save_file(STATE, folder / WEIGHTS, metadata={"format": "pt"})
    files = split_weights(folder / WEIGHTS, size)
    found = weights_in(folder)
    assert found is not None
    assert found.name == (WEIGHTS if len(files) == 1 else INDEX)
    assert len(files) == 1 if size >= BYTES else len(files) > 1
    back = read_weights(found)
    assert back.keys() == STATE.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in STATE.items())
    for file in files:
        held = load_file(file)
        assert len(held) == 1 or sum(t.numel() * 4 for t in held.values()) <= size


def test_the_layout_is_that_of_transformers(sharded: Path) -> None:
    names = sorted(path.name for path in sharded.iterdir())
    assert names[0] == "model-00001-of-00006.safetensors" or names[0].startswith("model-00001-of-")
    assert INDEX in names
    assert WEIGHTS not in names
    index = json.loads((sharded / INDEX).read_text())
    assert index["metadata"]["total_size"] == BYTES
    assert index["weight_map"].keys() == STATE.keys()
    assert set(index["weight_map"].values()) == set(names) - {INDEX}


def test_a_shard_stands_for_its_index(sharded: Path) -> None:
    shard = next(sharded.glob("model-*.safetensors"))
    assert whole(shard) == sharded / INDEX
    assert read_weights(shard).keys() == STATE.keys()
    (sharded / INDEX).unlink()
    assert whole(shard) == shard
    assert weights_in(sharded) is None


def test_names() -> None:
    assert [is_weights_alone(name) for name in ("a.safetensors", f"b/{INDEX}", "last.ckpt", "a/b", "x.json")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_what_is_missing_or_damaged_is_named(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    first, last = index["weight_map"]["layer.0"], index["weight_map"]["layer.5"]
    (sharded / "kept").write_bytes((sharded / last).read_bytes())
    (sharded / last).unlink()
    with pytest.raises(CheckpointError, match=rf"names shards that do not exist: {last}\."):
        read_weights(sharded / INDEX)
    (sharded / last).write_bytes(b"nothing")
    with pytest.raises(CheckpointCorruptError, match=last):
        read_weights(sharded / INDEX)
    (sharded / last).write_bytes((sharded / "kept").read_bytes())
    index["weight_map"]["layer.9"] = first
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointCorruptError, match=r"it lacks layer\.9, which its index lists"):
        read_weights(sharded / INDEX)
    with pytest.raises(CheckpointError, match="There are no weights at"):
        read_weights(sharded / "other.safetensors")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../b.safetensors"}}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointCorruptError, match=r"cannot be read: it (is not an index|names)"):
        read_weights(tmp_path / INDEX)


def test_sizes() -> None:
    assert check_shard_size("5GB") == "5GB"
    assert check_shard_size("200") == check_shard_size(200) == 200
    for wrong in (0, -1, True, "5 apples", "0GB", 1.5):
        with pytest.raises(ConfigError, match=r"extract\.max_shard_size is "):
            check_shard_size(wrong, "extract.max_shard_size")  # type: ignore[arg-type]
