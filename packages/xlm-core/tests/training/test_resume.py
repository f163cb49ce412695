"""Reading checkpoints: damage is reported, the newest readable one is used, different runs are not mixed."""

from __future__ import annotations

import os
from argparse import Namespace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from xlm.errors import CheckpointCorruptError, CheckpointError
from xlm.training.checkpoints import AtomicCheckpointIO, PeriodicCheckpoint
from xlm.training.resume import (
    config_differences,
    data_differences,
    differences_in_words,
    find_resumable,
    load_checkpoint,
)


def save(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.randn(1000)}, "global_step": step}, path)
    return path


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (flip_a_byte, cut_short, empty)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_named(tmp_path: Path, damage: object) -> None:
    path = save(tmp_path / "a.ckpt", 1)
    damage(path)  # type: ignore[operator]
    with pytest.raises(CheckpointCorruptError, match=r"a\.ckpt cannot be read"):
        load_checkpoint(path)


def test_a_missing_file_and_a_foreign_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.ckpt")
    contents = {
        "but a list": [1, 2],
        "but only weights": {"w": torch.ones(2)},
        "it contains: epoch": {"epoch": 3},
        "has no": {"state_dict": 3},
    }
    for says, content in contents.items():
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(CheckpointCorruptError, match=f"has no 'state_dict'.*{says}|{says} 'state_dict'"):
            load_checkpoint(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"state_dict": {"w": torch.ones(2)}, "hyper_parameters": Namespace(lr=1)}, "argparse.Namespace"),
        (
            {"state_dict": {"w": torch.ones(2)}, "path": Path("x"), "at": Fraction(1)},
            r"fractions.Fraction, pathlib.\w+",
        ),
        (nn.Linear(2, 1), r"torch.nn.modules.linear.Linear"),
    ],
)
def test_pickled_objects_are_named_and_can_be_left_out(tmp_path: Path, content: object, names: str) -> None:
    path = tmp_path / "theirs.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointCorruptError, match=rf"Python objects \({names}\), which are not loaded") as caught:
        load_checkpoint(path)
    assert "\x1b" not in str(caught.value)
    command = str(caught.value).splitlines()[-1].strip()
    assert command.startswith('python -c "')
    exec(command.removeprefix('python -c "').removesuffix('"'), {})
    assert list(load_checkpoint(tmp_path / "theirs_weights.ckpt")) == ["state_dict"]


def test_the_most_steps_win_whatever_the_file_times(tmp_path: Path) -> None:
    for name, step in (("step-20.ckpt", 20), ("last.ckpt", 30), ("best.ckpt", 10)):
        save(tmp_path / name, step)
    found = find_resumable(tmp_path)
    assert found is not None
    assert found[0].name == "last.ckpt"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "step-10.ckpt", 10)
    damage(save(tmp_path / "step-20.ckpt", 20))  # type: ignore[operator]
    found = find_resumable(tmp_path)
    assert found is not None
    assert found[0].name == "step-10.ckpt"
    assert "step-20.ckpt cannot be read" in caplog.text


def test_nothing_but_damage_stops_the_run_instead_of_starting_over(tmp_path: Path) -> None:
    cut_short(save(tmp_path / "step-10.ckpt", 10))
    with pytest.raises(CheckpointError, match=r"None of the checkpoints .*step-10\.ckpt"):
        find_resumable(tmp_path)


def test_an_empty_directory_is_a_fresh_start(tmp_path: Path) -> None:
    assert find_resumable(tmp_path) is None


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", 1)
    with pytest.raises(AttributeError):  # a lambda cannot be pickled
        AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "bad": lambda: None}, path)
    assert load_checkpoint(path)["global_step"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.ckpt"]


def test_thinning_keeps_the_newest_and_the_multiples(tmp_path: Path) -> None:
    periodic = PeriodicCheckpoint(str(tmp_path), every_n_train_steps=10, keep_multiple=30)
    for step in range(10, 80, 10):
        periodic.path(step).touch()
        periodic.thin(step)
    (tmp_path / "step-notes.ckpt").touch()
    periodic.thin(70)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "step-30.ckpt", "step-60.ckpt", "step-70.ckpt", "step-notes.ckpt",
    ]  # fmt: skip


def test_thinning_keeps_several_of_the_newest(tmp_path: Path) -> None:
    periodic = PeriodicCheckpoint(str(tmp_path), every_n_train_steps=10, num_newest=2)
    for step in (10, 20, 30, 90):
        periodic.path(step).touch()
    periodic.thin(30)  # 90 is of an earlier start, and may be damaged
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-20.ckpt", "step-30.ckpt", "step-90.ckpt"]
    periodic.thin(40)  # 40 is not written yet
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-30.ckpt", "step-90.ckpt"]


def test_differences_name_key_and_values() -> None:
    old = OmegaConf.create({"model": {"d": 1, "n": 2, "w": "${eval:1+1}"}, "seed": 1, "trainer": {"max_steps": 5}})
    cfg = OmegaConf.create({"model": {"d": 1, "n": 3, "w": "${eval:1+1}"}, "seed": "${s}", "s": 1, "trainer": {}})
    assert config_differences(old, cfg) == ["model.n: 2 → 3"]
    assert config_differences(cfg, OmegaConf.create(OmegaConf.to_yaml(cfg))) == []


def test_differences_start_with_what_was_chosen() -> None:
    lines = [*(f"loss.{letter}: 1 → 2" for letter in "abcde"), "optimizer.lr: 1 → 2"]
    before, after = {"model_type": "mlm", "model": "tiny"}, {"model_type": "arlm", "model": "tiny", "optimizer": "muon"}
    assert differences_in_words(lines, before, after, ["optimizer.lr"]) == [
        "model_type: mlm → arlm", "optimizer.lr: 1 → 2", "loss.a: 1 → 2", "loss.b: 1 → 2",
        "and 3 more, which follow from these choices",
    ]  # fmt: skip
    # All typed keys are shown. Without another choice, nothing follows from one.
    assert differences_in_words(lines, before, after, ["loss"])[1:6] == lines[:5]
    assert differences_in_words(lines, before, before, ["optimizer"]) == [lines[-1], *lines[:-1]]
    many = [f"k{number:02}: 1 → 2" for number in range(14)]
    assert differences_in_words(many, {}, {}, []) == [*many[:12], "and 2 more"]


def test_other_training_data_are_named() -> None:
    def content(digest: str, num_examples: int = 1000) -> dict[str, dict[str, object]]:
        return {"lm": {"source": "a.txt", "num_examples": num_examples, "digest": digest}}

    assert data_differences(content("x"), content("x")) == []
    assert data_differences(content("x"), content("y")) == ["train.lm (a.txt): other content"]
    assert data_differences(content("x"), content("y", 1002)) == ["train.lm (a.txt): 1,000 examples → 1,002"]
    # Checkpoints from before, and data that are generated, say nothing.
    assert data_differences({}, content("x")) == data_differences(content("x"), {}) == []
