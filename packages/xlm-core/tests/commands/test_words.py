"""Command lines without a configuration: lists of names that contain commas."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.commands.words import as_list, read_command, run_of_model
from xlm.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("[a,b]", ["a", "b"]),
        ("a, 'b'", ["a", "b"]),
        ("", []),
        ("[]", []),
        ("runs/a,seed=1", ["runs/a,seed=1"]),
        ("[runs/a,seed=1,b,runs/a,seed=1]", ["runs/a,seed=1", "b", "runs/a,seed=1"]),
        ("['x,y',\"z\"]", ["x,y", "z"]),
        ("[b, runs/é, x=1 [a], c]", ["b", "runs/é, x=1 [a]", "c"]),
        ("runs/é, x=1 [a]", ["runs/é, x=1 [a]"]),
        ("new [b]", ["new [b]"]),
        ("[it's,b]", ["it's", "b"]),
        ("runs/a,seed=2", ["runs/a", "seed=2"]),
    ],
)
def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, names: list[str]) -> None:
    (tmp_path / "runs" / "a,seed=1").mkdir(parents=True)
    (tmp_path / "runs" / "é, x=1 [a]").mkdir()
    monkeypatch.chdir(tmp_path)
    assert as_list(value) == names


def test_the_home_folder() -> None:
    assert as_list("[~/a,b]") == [str(Path.home() / "a"), "b"]


@pytest.mark.parametrize("key", ["checkpoint", "checkpoint_path", "ckpt_path"])
@pytest.mark.parametrize(
    ("job", "option"), [("trace", "runs"), ("lm_eval", "checkpoint"), ("repeat", "run"), ("report", "runs")]
)
def test_every_command_knows_the_names_of_a_model(job: str, option: str, key: str) -> None:
    _, options = read_command([job, f"{key}=runs/a"])
    assert getattr(options, option) in ("runs/a", ("runs/a",))


def test_prompts_of_a_trace() -> None:
    words, options = read_command(["trace", "runs/a", "--prompt", "b=c", "prompts=[x,007]", "--prompt=-"])
    assert (words, options.prompts) == (["runs/a"], ("x", "007", "-"))
    _, options = read_command(["trace", "runs/a", "prompts=-"])
    assert (options.prompts, options.prompt_file) == (None, "-")
    with pytest.raises(ConfigError, match="xlm repeat does not accept --prompt=x"):
        read_command(["repeat", "runs/a", "--prompt", "x"])


def test_the_run_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/a/checkpoints").mkdir(parents=True)
    Path("runs/a/checkpoints/best.ckpt").touch()
    for name in ("runs/a", "runs/a/checkpoints", "runs/a/checkpoints/best.ckpt"):
        assert run_of_model(name) == "runs/a"
    assert run_of_model("a*") == "a*"
