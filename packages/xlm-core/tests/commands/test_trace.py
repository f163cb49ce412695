"""`xlm trace` and `trace=true`: requests, and errors in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from xlm.cli.main import main
from xlm.commands import named_job
from xlm.commands.trace import Request, read_request, sampler_options, short_name
from xlm.commands.words import read_command
from xlm.compose.checks import trace_options
from xlm.errors import ConfigError
from xlm.inference.tracing import sampler_of
from xlm.schemas import Trace


@pytest.mark.parametrize(
    ("args", "request_"),
    [
        (["trace", "runs/a", "runs/b"], Request(("runs/a", "runs/b"))),
        (["trace", "runs=[runs/a, runs/b]"], Request(("runs/a", "runs/b"))),
        (["job_type=trace", "runs=a", "replay=true"], Request(("a",), replay=True)),
        (["trace", "a", "prompts=[1 2,'x, y']", "seed=3"], Request(("a",), ("1 2", "x, y"), seed=3)),
        (["trace", "a", "prompts=7"], Request(("a",), ("7",))),
        (["trace", "a", "prompts=['']"], Request(("a",), ("",))),
        (["trace", "t.json", "out=x.html", "gif=true"], Request(("t.json",), out="x.html", gif=True)),
        (["trace", "a", "prompt_file=p.jsonl", "mode=infill"], Request(("a",), prompt_file="p.jsonl", mode="infill")),
        (["trace", "generation.checkpoint_path=a", "generation.num_examples=2"], Request(("a",), num_prompts=2)),
        (
            ["trace", "a", "generation.prompts=[x]", "generation.apply_ema=false"],
            Request(("a",), ("x",), apply_ema=False),
        ),
        (
            ["trace", "a", "predictor.top_p=1e-3", "predictor.seed=null"],
            Request(("a",), sampler={"": {"top_p": 0.001, "seed": None}}),
        ),
        (
            ["trace", "a", "mdlm.predictor.num_steps=8", "my.run.predictor.suppressed_tokens=[x,y]"],
            Request(("a",), sampler={"mdlm": {"num_steps": 8}, "my.run": {"suppressed_tokens": ["x", "y"]}}),
        ),
    ],
)
def test_requests(args: list[str], request_: Request) -> None:
    assert named_job(args) == "trace"
    assert read_request(*read_command(args)) == request_


@pytest.mark.parametrize("args", [[], ["train", "job_name=trace"], ["generate", "trace=true"]])
def test_other_jobs(args: list[str]) -> None:
    assert named_job(args) != "trace"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "Which runs?"),
        (["a", "--gif"], "does not accept --gif"),
        (["a", "sed=3"], "Did you mean 'seed'?"),
        (["a", "num_samples=0"], "num_samples is 0"),
        (["a", "num_prompts=x"], "num_prompts is 'x'"),
        (["a", "replay=maybe"], "replay is 'maybe'"),
        (["a", "split=train"], "split is 'train'"),
        (["a", "prompts=[a"], "cannot be read"),
        (["a", "predictor.top_p=[1"], "predictor.top_p=.1 cannot be read"),
        (["a", "seed=1.5"], "seed is 1.5"),
        (["a", "apply_ema=2"], "apply_ema is 2"),
        (["a", "generation.output=x"], "has no option 'generation.output'"),
        (["a", "predictr.top_p=1"], "NAME.predictor.<option>"),
    ],
)
def test_mistakes(args: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        read_request(*read_command(["trace", *args]))


RUNS = {"runs/a": ("mdlm", ["temperature", "num_steps"]), "runs/b.ckpt/x.ckpt": ("arlm", ["temperature", "max_length"])}


def test_options_are_everybodys_a_familys_or_a_runs() -> None:
    asked = {"a": {"temperature": 3}, "": {"temperature": 1}, "mdlm": {"temperature": 2, "num_steps": 4}}
    first, second = RUNS
    assert sampler_options(asked, RUNS) == {first: {"temperature": 3, "num_steps": 4}, second: {"temperature": 1}}
    assert sampler_options({}, RUNS) == {first: {}, second: {}}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"": {"num_steps": 1}},
            r"b.ckpt \(arlm\) has no option 'num_steps' .* Set it only where it exists: mdlm.predictor.num_",
        ),
        ({"a": {"temprature": 1}}, r"a \(mdlm\) has no option 'temprature' .* Did you mean 'temperature'\?"),
        (
            {"ilm": {"temperature": 1}},
            r"ilm.predictor is not the sampler of any run. Runs and families: mdlm, a, arlm, b.ckpt\.",
        ),
    ],
)
def test_options_that_nobody_has(asked: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sampler_options(asked, RUNS)


def test_options_for_files_of_traces_alone() -> None:
    with pytest.raises(ConfigError, match=r"This.predictor is not the sampler of .* all of them are files of traces"):
        sampler_options({"": {"temperature": 1}}, {})


def test_a_missing_trace_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["trace", str(tmp_path / "t.json")]) != 0
    assert capsys.readouterr().err.startswith("Error: There is no trace ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Written to t.html, a page for a browser."),
        (["out=new/x.html", "gif=true"], "Written to new/x.html, a page for a browser; the animation in new/x.gif."),
        (
            ["gif=true", "png=true"],
            "Written to t.html, a page for a browser; the animation in t.gif; frames of it in t.png.",
        ),
    ],
)
def test_the_output_names_every_file(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change = {"do": "insert", "at": 1, "token": 7, "p": 0.5, "others": []}
    sample = {
        "prompt": "a", "given": [5], "answer_start": 1, "steps": [{"call": 1, "changes": [change]}], "ids": [5, 7],
        "calls": 1, "text": "b", "truth": None, "drawing": None,
    }  # fmt: skip
    run = {
        "name": "x", "model": "", "checkpoint": "", "sampler": {}, "tokens": {"5": "a", "7": " b"}, "special": {},
        "samples": [sample],
    }  # fmt: skip
    Path("t.json").write_text(json.dumps({"format": "xlm-trace/1", "title": "t", "runs": [run]}))
    assert main(["trace", "t.json", *options]) == 0
    out = capsys.readouterr().out
    assert out == f"{said}\n"
    for word in said.replace(";", " ").replace(",", " ").split():
        if "." in word[:-1]:
            assert Path(word.removesuffix(".")).is_file()


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("runs/a", "a"),
        ("runs/a/", "a"),
        ("runs/a/checkpoints/best.ckpt", "a"),
        ("x/model.safetensors", "x"),
        ("me/y", "y"),
    ],
)
def test_names(run: str, name: str) -> None:
    assert short_name(run) == name


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (False, None),
        (None, None),
        (True, Trace()),
        ({"num_samples": 2, "gif": True}, Trace(num_samples=2, gif=True)),
    ],
)
def test_options(asked: Any, options: Trace | None) -> None:
    assert trace_options(OmegaConf.create({"trace": asked})) == options


@pytest.mark.parametrize("asked", ["yes", 3, {"samples": 2}, {"num_samples": 0}, {"num_samples": True}])
def test_wrong_options(asked: Any) -> None:
    with pytest.raises(ConfigError, match=r"trace(\.num_samples)? is|Unknown option 'trace\.samples'\."):
        trace_options(OmegaConf.create({"trace": asked}))


def test_the_sampler_is_what_the_configuration_says() -> None:
    cfg = OmegaConf.create({"predictor": {"_target_": "x.Y", "model": None, "top_k": 3, "seed": None}})
    assert sampler_of(cfg) == {"top_k": 3, "seed": None}
