"""`xlm generate` with a bigram model: the same texts as in Python, complete rows, and errors."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

import xlm
from xlm.cli.main import main
from xlm.commands import generate
from xlm.commands.generate import converse
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.inference.writer import Sample
from xlm.utils.instantiate import clear_components

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"
SIZES = ("datamodule.dataset_managers.test.prediction.num_examples=5",)
BIGRAM = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu", "loggers=debug",
    *SIZES,
)  # fmt: skip
STORED = "generation.checkpoint_path=runs/t"
PROMPTS = "generation.prompts=['3 1 19','7']"


@pytest.fixture(scope="module")
def trained(train_bigram: TrainBigram) -> Path:
    """A directory with the run `t`, and one with prepared data."""
    return train_bigram("trainer.max_steps=2", *SIZES)


@pytest.fixture(autouse=True)
def home(work_dir: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory with that run and only the prepared data."""
    shutil.copytree(trained / "runs", work_dir / "runs")
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(trained / "cache"))
    yield work_dir
    clear_components()


def rows_of(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    """The rows that the command prints as JSON lines, with no other output."""
    capsys.readouterr()
    assert main(["generate", *args, "generation.output=-"]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(["generate", *args]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_command_line_and_python_write_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("generation.num_samples=2", "seed=5", "predictor.length=4", "+predictor.greedy=false")
    rows = rows_of(capsys, STORED, PROMPTS, *options)
    samples = xlm.load("runs/t").samples(["3 1 19", "7"], 2, seed=5, length=4, greedy=False)
    assert [row["prediction"] for row in rows] == [sample.text for sample in samples]
    assert [row["prompt"] for row in rows] == ["3 1 19", "3 1 19", "7", "7"]
    assert [row["sample"] for row in rows] == [0, 1, 0, 1]
    assert {(row["seed"], row["mode"], row["checkpoint"]) for row in rows} == {
        (5, "answer", "runs/t/checkpoints/best.ckpt")
    }
    assert {row["network_calls"] for row in rows} == {None}  # this predictor doesn't report them
    assert len({row["prediction"] for row in rows}) > 1
    # The configuration is the same if it is composed from its parts.
    assert rows_of(capsys, *BIGRAM, PROMPTS, *options) == rows


def test_from_a_shared_folder_and_from_weights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, STORED, PROMPTS)
    xlm.load("runs/t").save_pretrained("shared")
    places = ("shared", "shared/model.safetensors", "runs/t/checkpoints/last.ckpt", "runs/t/checkpoints")
    for place in places:
        found = rows_of(capsys, f"generation.checkpoint_path={place}", PROMPTS)
        assert [row["prediction"] for row in found] == [row["prediction"] for row in rows]
    (home / "shared/xlm_config.yaml").unlink()
    found = rows_of(capsys, *BIGRAM, "generation.ckpt_path=shared/model.safetensors", PROMPTS)
    assert [row["prediction"] for row in found] == [row["prediction"] for row in rows]


def test_where_it_ran_stays_behind(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders and devices of another machine are not used on this one."""
    file = home / "runs/t/checkpoints/last.ckpt"
    xlm.load(file).save_pretrained("elsewhere")
    config = home / "elsewhere/xlm_config.yaml"
    text = config.read_text().replace("log_dir: ${.root_dir}/runs", "log_dir: /nowhere/runs")
    config.write_text(text.replace("devices: 1", "devices: 8"))
    assert main(["generate", "generation.checkpoint_path=elsewhere", PROMPTS, "trainer_strategy=cpu"]) == 0
    assert (home / "runs/t/generations.jsonl").is_file()
    assert json.loads((home / "runs/t/record_generate.json").read_text())["job_type"] == "generate"


def test_files_in_and_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "p.jsonl").write_text('{"prompt": "3 1", "id": "a"}\n"7 2"\n')
    assert main(["generate", STORED, "generation.prompt_file=p.jsonl", "generation.output=out/o.jsonl"]) == 0
    rows = [json.loads(line) for line in (home / "out/o.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row.get("id")) for row in rows] == [("3 1", "a"), ("7 2", None)]
    assert "2 rows from runs/t/checkpoints/best.ckpt, written to out/o.jsonl." in capsys.readouterr().out
    assert not (home / "runs/t/generations.jsonl").exists()


def test_from_nothing_and_from_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["prompt"] for row in rows_of(capsys, STORED, "generation.num_samples=3")] == ["", "", ""]
    rows = rows_of(capsys, STORED, "generation.num_examples=2", "generation.split=val")
    assert len(rows) == 2
    assert all(row["seed"] == 1234 and row["prediction"] for row in rows)


def test_fewer_prompts_than_asked_for_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", STORED, "generation.num_examples=9", "generation.split=val"]) == 0
    said = "generation.num_examples is 9, but there are only 5 prompts in val/prediction; all of them are used."
    shown = capsys.readouterr().out
    assert said in shown
    assert "5 rows from" in shown


def test_batches_change_no_greedy_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, STORED, "generation.prompts=['1 2','3','4 5 6']")
    assert rows_of(capsys, STORED, "generation.prompts=['1 2','3','4 5 6']", "generation.batch_size=2") == rows


@pytest.mark.parametrize(
    "form", ["generation.prompts=['1 2']", "+generation.prompts=['1 2']", "++generation.prompts=['1 2']"]
)
def test_a_plus_is_not_needed(form: str) -> None:
    assert load_config([*BIGRAM, form]).generation.prompts == ["1 2"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((STORED, "generation.promts=['1']"), "Unknown option 'generation.promts'"),
        ((STORED, PROMPTS, "generation.num_samples=0"), "generation.num_samples is 0, and must be at least 1"),
        ((STORED, PROMPTS, "generation.num_examples=2"), "is for prompts from the data"),
        ((STORED, PROMPTS, "generation.mode=fill"), "generation.mode is 'fill', and must be auto, answer"),
        ((STORED, PROMPTS, "generation.mode=continue"), "This bigram was trained on answers to prompts"),
        ((STORED, PROMPTS, "generation.mode=infill"), "The text '3 1 19' has no blank to fill: write ___"),
        ((STORED, "generation.prompts='1 ___ 2'"), "has blanks, and bigram cannot fill any: it has no role 'infill'."),
        ((STORED, f"generation.prompts='{'1 ' * 40}'"), "has 40 tokens, and this model takes at most 28 (input_block"),
        ((STORED, PROMPTS, "predictor.lenght=3"), "has no key 'predictor.lenght'. Did you mean 'predictor.length'?"),
        ((STORED, PROMPTS, "datamodule=star_hard"), "To compose another one, give experiment=…"),
        ((STORED, PROMPTS, "trainer_strategy=gpus"), "Could not find 'trainer_strategy/gpus'"),
        (("generation.checkpoint_path=runs/s", PROMPTS), "Models in runs: t."),
        (("generation.checkpoint_path=runs/t/checkpoints/bst.ckpt",), "Models in runs/t/checkpoints: best.ckpt"),
        ((*BIGRAM, "job_name=s", PROMPTS), "Runs with a checkpoint: t."),
        ((*BIGRAM, "generation.prompt_file=none.txt"), "There is no file of prompts at none.txt"),
    ],
)  # fmt: skip
def test_refusals(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str) -> None:
    assert message in refusal(capsys, *args)


def said(monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))


def test_a_conversation_through_a_pipe(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said(monkeypatch, "3 1 19\n1 ___ 2\n7\n\nnot read\n")
    capsys.readouterr()
    before = sorted(home.rglob("*"))
    assert main(["generate", "interactive=true", STORED]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == xlm.load("runs/t").generate(["3 1 19", "7"])
    assert captured.err.startswith("Error: The prompt '1 ___ 2' has blanks")
    assert sorted(home.rglob("*")) == before


def test_a_conversation_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO())

    def write(prompt: str, number: int) -> list[Sample]:
        if prompt == "stop":
            raise KeyboardInterrupt
        return [Sample(prompt, f"[b]{number}", "answer", 0, 0, 2.0)]

    for lines, count in (("", 0), ("\n", 0), ("a\nb\n", 2), ("a\nstop\nb\n", 1)):
        said(monkeypatch, lines)
        assert converse(write, console, "x") == count


def test_a_conversation_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("a\n"))
    screen = io.StringIO()
    count = converse(lambda p, n: [Sample(p, "[b] text", "answer", 0, 0, 2.0)], Console(file=screen), "bigram from x")
    shown = screen.getvalue()
    assert count == 1
    assert "bigram from x. Write ___ for a blank" in shown
    assert "[b] text" in shown
    assert "2 network calls per text" in shown


def test_options_of_a_stranger(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    xlm.load("runs/t").save_pretrained("hub")
    monkeypatch.setattr("xlm.inference.sources.snapshot_download", lambda *_, **__: "hub")
    here = "generation.checkpoint_path=me/bigram"
    rows = rows_of(capsys, here, PROMPTS)
    assert [row["prediction"] for row in rows] == xlm.load("runs/t").generate(["3 1 19", "7"])
    assert len(rows_of(capsys, here, "generation.num_examples=1")) == 1
    config = Path("hub/xlm_config.yaml")
    config.write_text(config.read_text().replace("bigram.components_bigram.BigramPredictor", "os.system"))
    said = refusal(capsys, here, PROMPTS)
    assert "xlm_config.yaml would call 'os.system' (predictor._target_)" in said
    assert "give generation.trust=true" in said


def test_a_predictor_that_only_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = load_config([*BIGRAM, PROMPTS])
    monkeypatch.delattr("bigram.components_bigram.BigramPredictor.generate")
    with pytest.raises(ConfigError, match=r"BigramPredictor has no generate\(list\[str\]\)"):
        generate.run(cfg)
