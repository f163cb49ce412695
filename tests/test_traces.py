"""`xlm trace` and `trace=true` with trained models: options of the samplers, prompts as `xlm generate` takes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xlm.commands import train
from xlm.commands.trace import read_request, trace_runs
from xlm.commands.words import read_command
from xlm.compose import load_config
from xlm.decoding.trace import replay
from xlm.errors import ConfigError
from xlm.traces.document import Document, read_document

pytestmark = pytest.mark.slow

FAMILIES = ("arlm", "mdlm")
SMALL = (
    "datamodule.dataset_managers.test.lm.num_examples=4", "datamodule.dataset_managers.test.prediction.num_examples=7",
    "trainer_strategy=cpu", "loggers=debug",
)  # fmt: skip
TRAIN = (
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=8",
    "datamodule.dataset_managers.val.prediction.num_examples=4", "per_device_batch_size=16", "trainer.max_steps=3",
    "trainer.val_check_interval=3", "test_after_training=false",
)  # fmt: skip


def choice(family: str) -> tuple[str, ...]:
    return (f"experiment=star_easy_{family}", f"model=xtiny_{family}", f"job_name=my_{family}", *SMALL)


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """A directory with a run of each family."""
    for family in FAMILIES:
        train.run(load_config([*choice(family), *TRAIN]))
    return home


def traced(*words: str) -> Document:
    doc = trace_runs(
        read_request(*read_command(["trace", "runs/my_arlm", "runs/my_mdlm", "prompts=['3 1 19 9 13 3']", *words]))
    )
    for run in doc["runs"]:
        for sample in run["samples"]:
            assert replay(sample["given"], sample["steps"]) == sample["ids"]
    return doc


def answers(doc: Document) -> list[list[str]]:
    return [[sample["text"] for sample in run["samples"]] for run in doc["runs"]]


def test_fewer_prompts_than_asked_for_are_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = trace_runs(read_request(*read_command(["trace", "runs/my_arlm", "num_prompts=9"])))["runs"]
    assert len(run["samples"]) == 7
    assert "num_prompts is 9, but there are only 7 in the 'test' data; all of them are used." in capsys.readouterr().out


def test_options_reach_the_samplers_that_they_are_meant_for(home: Path) -> None:
    both = traced("predictor.temperature=0.5", "mdlm.predictor.num_steps=2", "mdlm.predictor.sampler=ancestral")
    arlm, mdlm = both["runs"]
    assert (arlm["sampler"]["temperature"], mdlm["sampler"]["temperature"]) == (0.5, 0.5)
    assert "num_steps" not in arlm["sampler"]
    assert mdlm["sampler"]["num_steps"] == 2
    assert (arlm["model"], mdlm["model"], mdlm["samples"][0]["calls"]) == ("arlm", "mdlm", 2)
    assert traced()["runs"][1]["samples"][0]["calls"] != 2


def test_seeds_and_samples(home: Path) -> None:
    hot = ("predictor.temperature=3", "num_samples=2")
    once = answers(traced(*hot, "seed=1"))
    assert [len(set(texts)) for texts in once] == [2, 2]
    assert answers(traced(*hot, "seed=1")) == answers(traced(*hot, "predictor.seed=1")) == once
    other = answers(traced(*hot, "seed=1", "my_mdlm.predictor.seed=2"))
    assert (other[0], other[1] != once[1]) == (once[0], True)


def test_prompts_from_a_file(home: Path) -> None:
    Path("prompts.jsonl").write_text('"1 2 3"\n{"prompt": "", "mine": 1}\n')
    doc = trace_runs(
        read_request(*read_command(["trace", "runs/my_mdlm", "generation.prompt_file=prompts.jsonl", "mode=answer"]))
    )
    assert [sample["prompt"] for sample in doc["runs"][0]["samples"]] == ["1 2 3", ""]


def test_mistakes_are_said_before_anything_is_written(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"my_arlm \(arlm\) has no option 'num_steps' .* mdlm.predictor.num_steps="):
        traced("predictor.num_steps=2")
    with pytest.raises(ConfigError, match="mode is 'sing'"):
        traced("mode=sing")
    with pytest.raises(ConfigError, match="both given"):
        traced("prompt_file=prompts.txt")


@pytest.mark.parametrize("num_samples", [6, 20])
def test_two_processes_record_what_one_does(home: Path, num_samples: int) -> None:
    """Each records its share; what lies in the folder afterwards is as of one process."""
    command = [
        str(Path(sys.executable).with_name("xlm")), "eval", *choice("mdlm"), f"trace={{num_samples:{num_samples}}}",
        "~datamodule.dataset_managers.train", "++eval.num_samples=0",
    ]  # fmt: skip
    two = ("trainer_strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "per_device_val_batch_size=2")
    found: list[list[Any]] = []
    for options in ((), two):
        done = subprocess.run([*command, *options], cwd=home, capture_output=True, text=True, timeout=250, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The trace is in") == 1
        (run,) = read_document(home / "runs/my_mdlm/trace.json")["runs"]
        found.append([(sample["prompt"], sample["given"][sample["answer_start"] - 1 :]) for sample in run["samples"]])
        (home / "runs/my_mdlm/trace.json").unlink()
    assert found[0] == found[1]
    assert len(found[0]) == min(num_samples, 7)
