"""`xlm --help` explains the jobs, the overrides and where models were found, even if some are broken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm import __version__
from xlm.cli.main import main
from xlm.commands import BUILT_IN_JOBS

if TYPE_CHECKING:
    from ..conftest import WriteModel


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"], ["help"], ["mine", "--help"]])
def test_help(args: list[str], work_dir: Path, write_model: WriteModel, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(work_dir / "toy")
    (work_dir / "xlm_models.json").write_text('{"toy": "toy", "lost": "lost"}')
    assert main(args) == 0
    out = capsys.readouterr().out
    for job in BUILT_IN_JOBS.values():
        assert job.name in out
        assert job.help in out
    for part in ("hello_toy", "experiment=[", "~datamodule", "-m seed", "debug=overfit", "XLM_MODELS_PATH"):
        assert part in out
    assert "unknown, from xlm_models.json" in out
    assert "model 'lost' is listed" in out


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["generate", "--help"], ("generation.mode", "(auto, answer, continue, infill or null)", "ckpt_path")),
        (["help", "train"], ("seed  ", "(a whole number, at least 0) [1234]", "trainer.max_steps", "trace.gif")),
        (["job_type=eval", "-h"], ("eval.split", "(val or test) [test]", "eval.apply_ema", "xlm train --help")),
        (["lm_eval", "--help"], ("precision", "(fp32 or bf16) [fp32]", "predictor.<option>=")),
        (["prepare_data", "--help"], ("no options of its own",)),
    ],
)
def test_help_of_a_job(args: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    for part in parts:
        assert part in out
    assert "Models:" not in out


@pytest.mark.parametrize("width", [80, 50])
@pytest.mark.parametrize("name", [None, *BUILT_IN_JOBS])
def test_help_fits_the_terminal(
    name: str | None, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [name, "--help"] if name else ["--help"]
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(args) == 0
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(args) == 0
    out = capsys.readouterr().out
    assert out.split() == whole.split()
    # Lists of model packages keep their paths in one piece, and keys are not broken.
    lines = out.partition("\nModels:\n")[0].splitlines()
    assert [line for line in lines if len(line) > width and "=" not in line.split()[0]] == []
    assert width < 80 or max(map(len, lines)) <= width


def test_help_never_fails_for_broken_models(work_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work_dir / "xlm_models.json").write_text("{")
    assert main(["--help"]) == 0
    assert "xlm_models.json: it cannot be read as JSON" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"xlm {__version__}\n"
