"""`xlm check`: a line for each property, a remedy for each failure, the exit code."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from xlm.cli.main import main
from xlm.commands import named_job
from xlm.commands.check import Request, print_outcome, read_request
from xlm.commands.words import read_command
from xlm.errors import ConfigError
from xlm.testing.contract import PROPERTIES
from xlm.testing.runner import Outcome

MODELS = Path(__file__).parent.parent / "testing/models"


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))


@pytest.mark.parametrize(
    ("args", "request_"),
    [
        (["check", "ilm"], Request("ilm")),
        (["job_type=check", "model_name=ilm"], Request("ilm")),
        (["model_name=ilm", "job_type=check", "property=wheel"], Request("ilm", ("wheel",))),
        (["check", "ilm", "property=[wheel, seed]"], Request("ilm", ("wheel", "seed"))),
        (["check", "ilm", "experiment=x", "model.n=2"], Request("ilm", (), "x", ("model.n=2",))),
    ],
)
def test_requests(args: list[str], request_: Request) -> None:
    assert named_job(args) == "check"
    assert read_request(*read_command(args)) == request_


@pytest.mark.parametrize("args", [["train"], ["job_type=train", "job_name=check"], [], ["models"]])
def test_other_jobs(args: list[str]) -> None:
    assert named_job(args) != "check"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check"], "Which model?"),
        (["check", "a", "b"], "Which model?"),
        (["check", "a", "--cfg"], "xlm check does not accept --cfg"),
    ],
)
def test_requests_that_are_none(args: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_request(*read_command(args))


def test_a_property_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tidy", "property=[targets,keeps-prompt]"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "✓ targets  every dotted path in the configuration of its experiments can be imported",
        "✓ keeps-prompt  given tokens are in the prediction, unchanged and in order",
        "tidy: 2 of 2 properties passed.",
    ]


def test_lines_fit_the_terminal() -> None:
    shown = StringIO()
    console = Console(file=shown, width=80, force_terminal=True, color_system=None, highlight=False, soft_wrap=True)
    for prop in PROPERTIES:
        print_outcome(Outcome(prop, "failed", "[1, 2] is " + "too long " * 20), console)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    [1, 2] is too long") for line in lines) == len(PROPERTIES)


def test_what_a_model_prints_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "tidy", "property=rows-are-json", "predictor._target_=tidy.other_tidy.Chatty"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("✓ rows-are-json")


def test_properties_that_fail_or_wait(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["job_type=check", "model_name=tidy", "property=[gradients,loss-falls,keeps-prompt]", "predictor=null"]
    assert main([*args, "model._target_=tidy.broken_tidy.UnusedLayer"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "✗ gradients  every trainable parameter gets a gradient",
        "    No gradient reaches forgotten.weight, forgotten.bias.",
        lines[2],
        "– loss-falls  the loss of one batch falls within a few optimizer steps (waits for 'gradients')",
        "– keeps-prompt  given tokens are in the prediction, unchanged and in order (the model has no predictor)",
        "tidy: 0 of 1 property passed, 2 not applicable.",
    ]
    assert lines[2].startswith("    What to do: use the parameter")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tidi"], "Error: There is no model 'tidi'. Did you mean 'tidy'?"),
        (["tidy", "property=sead"], "Error: There is no property 'sead'. Did you mean 'seed'?"),
    ],
)
def test_names_that_nothing_has(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *args]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(said)
    assert out == ""
