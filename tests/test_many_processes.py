"""One, two and three processes train the same weights, score the same examples and read each other's checkpoints."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import xlm
from process_group import free_port, run_group
from xlm.training.resume import load_checkpoint

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

FAMILIES = ("arlm", "mlm", "ilm", "mdlm")
GLOBAL_BATCH = 24
XLM = str(Path(sys.executable).with_name("xlm"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of runs and data."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_CACHE_DIR", str(home / "cache"))


def settings(family: str, name: str, strategy: str, processes: int) -> list[str]:
    """Data whose numbers of rows no number of processes divides, two micro-batches per step, averaged weights."""
    data = "datamodule.dataset_managers"
    return [
        f"experiment=star_easy_{family}", f"model=xtiny_{family}", f"job_name={name}", "loggers=debug",
        f"{data}.train.lm.num_examples=100", f"{data}.test.lm.num_examples=29", f"{data}.val.lm.num_examples=29",
        f"{data}.test.prediction.num_examples=13", f"{data}.val.prediction.num_examples=7",
        f"trainer_strategy={strategy}", f"trainer.devices={processes}", "trainer.accelerator=cpu",
        f"global_batch_size={GLOBAL_BATCH}", f"per_device_batch_size={GLOBAL_BATCH // processes // 2}",
        "per_device_val_batch_size=4", "model.dropout=0.0", "trainer.log_every_n_steps=1",
    ]  # fmt: skip


def train(family: str, name: str, strategy: str, processes: int, steps: int = 5, more: Sequence[str] = ()) -> list[str]:
    options = (
        f"trainer.max_steps={steps}", "trainer.val_check_interval=4", "ema_decay=0.9", "lr_scheduler=constant",
        "callbacks.checkpoint_every_n_steps.every_n_train_steps=4",
    )  # fmt: skip
    return ["train", *settings(family, name, strategy, processes), *options, *more]


def assert_same_run(home: Path, one: str, other: str) -> None:
    """Weights, averages, optimizer states and logged losses agree within rounding."""
    a, b = (load_checkpoint(home / f"runs/{name}/checkpoints/last.ckpt") for name in (one, other))
    close = {"atol": 2e-5, "rtol": 1e-3}
    assert a["global_step"] == b["global_step"]
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(b["state_dict"][name], value, **close)
    for name, value in a["xlm_ema"]["average"].items():
        torch.testing.assert_close(b["xlm_ema"]["average"][name], value, **close)
    for number, state in a["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(b["optimizer_states"][0]["state"][number][name], value, **close)
    assert losses(home, other) == pytest.approx(losses(home, one), rel=1e-4)


def losses(home: Path, name: str) -> dict[str, float]:
    with (home / f"runs/{name}/metrics.csv").open() as file:
        return {row[0]: float(row[2]) for row in csv.reader(file) if row[1] == "train/lm/accumulated_loss"}


def results(home: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / f"runs/{name}/results.json").read_text())
    return found


def predictions(home: Path, name: str, split: str) -> list[str]:
    files = sorted((home / f"runs/{name}/predictions/{split}").rglob("*.jsonl"))
    return [line for file in files for line in file.read_text().splitlines()]


def test_a_sharded_run_continues_in_one_process_with_the_same_weights(home: Path) -> None:
    no_test = ("test_after_training=false",)
    run_group(2, [train("mlm", "moved", "fsdp2", 2, 3, no_test)], home)
    assert sorted(path.suffix for path in (home / "runs/moved/checkpoints/last.ckpt").iterdir()) == ["", ".json"]
    run_group(1, [train("mlm", "moved", "cpu", 1, 5, no_test), train("mlm", "whole", "cpu", 1, 5, no_test)], home)
    assert (home / "runs/moved/checkpoints/last.ckpt").is_file()
    assert_same_run(home, "whole", "moved")


# Twenty runs in ten processes: four families, two strategies, one to three processes.
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_two_and_three_processes_are_one_run(home: Path, family: str) -> None:
    run_group(1, [train(family, f"{family}1", "cpu", 1)], home)
    once = results(home, f"{family}1")
    for processes in (2, 3):
        names = {strategy: f"{family}_{strategy}{processes}" for strategy in ("ddp", "fsdp2")}
        run_group(processes, [train(family, name, strategy, processes) for strategy, name in names.items()], home)
        for name in names.values():
            assert_same_run(home, f"{family}1", name)
            found = results(home, name)
            assert found["n"] == once["n"] == {"val/lm": 29, "val/prediction": 7, "test/lm": 29, "test/prediction": 13}
            for metric, value in once["metrics"].items():
                if not metric.endswith("_per_second"):
                    assert found["metrics"][metric] == pytest.approx(value, rel=1e-4), metric
            for split in ("val", "test"):
                pairs = zip(predictions(home, name, split), predictions(home, f"{family}1", split), strict=True)
                # Weights are equal but for rounding, so one draw of all may fall on the other side of a limit.
                assert sum(mine != other for mine, other in pairs) <= 1


@pytest.mark.slow  # four runs in two processes
def test_runs_of_two_processes_are_repeated_to_the_last_bit(home: Path) -> None:
    commands = []
    for strategy in ("ddp", "fsdp2"):
        commands += [train("mlm", f"once_{strategy}", strategy, 2), ["repeat", f"once_{strategy}"]]
    first, second = run_group(2, commands, home)
    for strategy in ("ddp", "fsdp2"):
        record = json.loads((home / f"runs/once_{strategy}_repeat/repeat.json").read_text())
        assert {part["name"]: part["differences"] for part in record["parts"] if part["differences"]} == {}
        assert record["is_equal"]
        assert all(part["num_compared"] for part in record["parts"])
        said = f"The repeat equals runs/once_{strategy} to the last bit."
        assert said in first
        assert said not in second


# Nine runs in seven groups of processes.
@pytest.mark.slow
def test_checkpoints_move_between_numbers_of_processes_and_strategies(home: Path) -> None:
    no_test = ("test_after_training=false",)
    run_group(1, [train("ilm", "straight", "cpu", 1, 8, no_test)], home)
    run_group(2, [train("ilm", "a", "fsdp2", 2, 3, no_test), train("ilm", "b", "ddp", 2, 3, no_test)], home)
    run_group(3, [train("ilm", "a", "ddp", 3, 6, no_test), train("ilm", "b", "fsdp2", 3, 6, no_test)], home)
    run_group(2, [train("ilm", "a", "fsdp2", 2, 8, no_test)], home)
    run_group(1, [train("ilm", "b", "fsdp2", 1, 8, no_test)], home)
    for name in ("a", "b"):
        assert_same_run(home, "straight", name)
        kept = sorted(path.name for path in (home / f"runs/{name}/checkpoints").iterdir())
        assert kept == ["best.ckpt", "last.ckpt", "step-8.ckpt"]


# A run and six commands, one of them in two processes.
@pytest.mark.slow
def test_every_job_takes_a_sharded_checkpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run_group(2, [train("mlm", "sharded", "fsdp2", 2)], home)
    folder = "runs/sharded/checkpoints/last.ckpt"
    prompt = "generation.prompts=['8 3 7 16 1 6 4 19 2 0 19 8 6 18 18 11 2 4 17 7 0 17 2 1 2 11']"
    run_group(
        1,
        [
            ["extract_checkpoint", f"extract.checkpoint_path={folder}", "extract.output_dir=extracted"],
            ["eval", f"eval.checkpoint_path={folder}", "job_name=sharded"],
            ["generate", f"generation.checkpoint_path={folder}", "job_name=sharded", prompt],
            ["trace", "runs/sharded", "num_prompts=2", "out=trace.html"],
        ],
        home,
    )
    once = json.loads((home / "runs/sharded/eval_test.json").read_text())
    run_group(
        2, [["eval", *settings("mlm", "sharded", "fsdp2", 2), "eval.checkpoint_path=" + folder, "trace=true"]], home
    )
    twice = json.loads((home / "runs/sharded/eval_test.json").read_text())
    assert once["n"] == twice["n"]
    key = "test/lm/accumulated_loss"
    assert twice["metrics"][key] == pytest.approx(once["metrics"][key], rel=1e-5)
    assert len(json.loads((home / "runs/sharded/trace.json").read_text())["runs"][0]["samples"]) == 8
    loaded, extracted = xlm.load(folder), xlm.load("extracted")
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(extracted.model.state_dict()[name], value)


# Seven runs in two processes; each mode of data and each kind of network needs one.
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["batching=packed"],
        ["batching=buckets", "max_tokens_per_batch=64", "global_batch_size=null"],
        ["streaming=true"],
        ["data_files.train={sums: sums.txt, words: words.jsonl}", "mixture.weights={sums: 3}"],
        ["activation_checkpointing=true", "trainer.precision=bf16-true"],
        ["trainer.precision=bf16-mixed", "+trainer.gradient_clip_algorithm=value"],
    ],
    ids=["packed", "buckets", "stream", "mixture", "bf16-true", "bf16-mixed"],
)
def test_kinds_of_data_and_precision_train_sharded(home: Path, options: list[str], request: Any) -> None:
    (home / "sums.txt").write_text(
        "".join(f"{a} and {b} make {a + b}" + " more" * (a % 7) + "\n" for a in range(20) for b in range(20))
    )
    (home / "words.jsonl").write_text("".join(json.dumps({"text": f"word {n} of {n * n}"}) + "\n" for n in range(90)))
    common = [
        "datamodule=own_text", "data_files.train=sums.txt", "model_type=mdlm", "model=xtiny_mdlm", "block_size=32",
        "vocab_size=300", "trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.limit_val_batches=1",
        "per_device_batch_size=4", "global_batch_size=16", "test_after_training=false", "loggers=debug",
        "~datamodule.dataset_managers.val.unconditional_prediction", "trainer.accelerator=cpu", "trainer.devices=2",
        "trainer_strategy=fsdp2", "rank_timeout=20", "step_timeout=60",
    ]  # fmt: skip
    name = request.node.callspec.id
    given = {option.split("=")[0] for option in options}
    own = [option for option in common if option.split("=")[0] not in given]
    run_group(2, [["train", *own, *options, f"job_name={name}"]], home)
    assert load_checkpoint(home / f"runs/{name}/checkpoints/last.ckpt")["global_step"] == 4


@pytest.mark.slow  # a published model, in two processes
@pytest.mark.filterwarnings("ignore:The loss returns no 'num_loss_terms':UserWarning")
def test_a_model_that_knows_nothing_of_shards_trains_sharded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLM_MODELS_PATH", str(Path(__file__).parent / "published"))
    command = [
        "train", "experiment=star_easy_slotlm", "model=slotlm_tiny", "loggers=debug", "trainer.accelerator=cpu",
        "trainer.max_steps=3", "trainer.devices=2", "trainer_strategy=fsdp2", "per_device_batch_size=8",
        "trainer.val_check_interval=3", "trainer.limit_val_batches=1", "test_after_training=false", "job_name=slots",
    ]  # fmt: skip
    run_group(2, [command], home)
    assert load_checkpoint(home / "runs/slots/checkpoints/last.ckpt")["global_step"] == 3


# Two starts of `xlm` from nothing, with two processes each (half a minute of imports); the second saves in threads.
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_a_killed_rank_is_named_and_the_same_command_continues(home: Path, launcher: str) -> None:
    name = f"killed_{launcher}"
    started = [XLM]
    if launcher == "torchrun":
        started = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            f"--master-port={free_port()}",
            XLM,
        ]
    more = ["test_after_training=false", "trainer.val_check_interval=5000", "trainer.check_val_every_n_epoch=null"]
    if launcher == "torchrun":
        more.append("async_checkpoints=true")
    command = [*started, *train("mlm", name, "ddp", 2, 5000, more)]
    output = home / f"{name}.out"
    with output.open("w") as file, subprocess.Popen(command, cwd=home, stdout=file, stderr=file) as process:
        victim = rank_1_of(process, home / f"runs/{name}/metrics.csv")
        os.kill(victim, signal.SIGKILL)
        assert process.wait(timeout=120) == 1
    said = output.read_text()
    how = "was killed by SIGKILL" if launcher == "lightning" else "has ended"
    assert f"Error: Rank 1 (process {victim} on host " in said
    assert how in said
    step = load_checkpoint(home / f"runs/{name}/checkpoints/last.ckpt")["global_step"]
    assert step >= 5
    whole = f"whole_{launcher}"
    run_group(2, [train("mlm", job, "ddp", 2, step + 3, more) for job in (name, whole)], home)
    continued, once = (load_checkpoint(home / f"runs/{job}/checkpoints/last.ckpt") for job in (name, whole))
    assert continued["global_step"] == once["global_step"] == step + 3
    for weight, value in once["state_dict"].items():
        assert torch.equal(continued["state_dict"][weight], value), weight
    expected = losses(home, whole)
    # The line of the last step takes sums over all processes, which may not come when one dies behind the step.
    assert {str(step): expected[str(step)], **losses(home, name)} == expected


def rank_1_of(process: subprocess.Popen[bytes], metrics: Path) -> int:
    """The process id of rank 1, once the run has logged five steps."""
    deadline = time.monotonic() + 200
    found: list[int] = []
    while not (found and metrics.is_file() and "\n5," in metrics.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        found = [
            int(child)
            for child in children
            if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ]
    return found[0]
