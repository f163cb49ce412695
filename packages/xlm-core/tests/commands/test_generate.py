"""`xlm generate` with a bigram model: the same texts as in Python, complete rows, and errors."""

from __future__ import annotations

import io
import json
import os
import re
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
    assert (home / "elsewhere/generations.jsonl").is_file()
    assert json.loads((home / "elsewhere/record_generate.json").read_text())["job_type"] == "generate"
    assert not (home / "runs/t/generations.jsonl").exists()


def test_files_in_and_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "p.jsonl").write_text('{"prompt": "3 1", "id": "a"}\n"7 2"\n')
    assert main(["generate", STORED, "generation.prompt_file=p.jsonl", "generation.output=out/o.jsonl"]) == 0
    rows = [json.loads(line) for line in (home / "out/o.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row.get("id")) for row in rows] == [("3 1", "a"), ("7 2", None)]
    assert "2 rows from runs/t/checkpoints/best.ckpt, written to out/o.jsonl." in capsys.readouterr().out
    assert not (home / "runs/t/generations.jsonl").exists()


def test_prompts_as_words_and_from_a_pipe(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows_of(capsys, STORED, "generation.prompts=['3 1 19','7, 8']")
    assert rows_of(capsys, "runs/t", "3 1 19", "7, 8") == expected
    assert rows_of(capsys, "t", "--prompt", "3 1 19", "--prompt=7, 8") == expected
    (home / "p.txt").write_text("3 1 19\n7, 8\n")
    with (home / "p.txt").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert rows_of(capsys, "runs/t") == expected
        os.lseek(stdin.fileno(), 0, os.SEEK_SET)
        assert len(rows_of(capsys, "runs/t", "generation.num_examples=3")) == 3  # of the data
        assert [row["prompt"] for row in rows_of(capsys, "runs/t", "9")] == ["9"]
    with open(os.devnull) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert len(rows_of(capsys, "runs/t")) == 5  # of the data, as without a pipe


def test_unknown_words_are_named(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    rows_of(capsys, "runs/t", "3 cat", "7 dog, cat")
    assert [record.message for record in caplog.records if "vocabulary" in record.message] == [
        "Not in the model's vocabulary: 'cat', 'dog,'. The model sees [UNK] in their place."
    ]


def test_earlier_rows_are_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("1", "2"):
        assert main(["generate", "runs/t", prompt]) == 0
    newest, earlier = home / "runs/t/generations.jsonl", home / "runs/t/generations-1.jsonl"
    assert [json.loads(path.read_text())["prompt"] for path in (newest, earlier)] == ["2", "1"]
    assert "The earlier file is now generations-1.jsonl." in capsys.readouterr().out
    assert main(["generate", "runs/t", "1", f"generation.output={newest}"]) == 0
    assert "It replaced an earlier file." in capsys.readouterr().out
    assert len(list((home / "runs/t").glob("generations*"))) == 2


def test_one_field_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "runs/t", "3 1 19", "7"]) == 0
    first, second = xlm.load("runs/t").generate(["3 1 19", "7"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:6] == [
        "prompt      3 1 19", f"prediction  {first}".rstrip(), "", "prompt      7", f"prediction  {second}".rstrip(), ""
    ]  # fmt: skip
    screen = io.StringIO()
    generate._show({"prompt": "a", "truth": "word " * 30}, Console(file=screen, force_terminal=True, width=80))
    shown = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).splitlines()]
    assert shown == ["prompt  a", *(f"{name:<6}  {' '.join(['word'] * n)}" for name, n in
                                    (("truth", 14), ("", 14), ("", 2))), ""]  # fmt: skip


@pytest.mark.parametrize("how", ["renamed", "moved", "experiment", "file"])
def test_results_lie_beside_the_model(home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Whatever its name in training and the current folder, and nothing appears in that folder or under that name."""
    folder = home / ("runs/new name" if how == "renamed" else "archive/a,b=c")
    folder.parent.mkdir(exist_ok=True)
    shutil.move(home / "runs/t", folder)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    named = {"experiment": [*BIGRAM[:3], "trainer_strategy=cpu", f"checkpoint=../archive/{folder.name}"],
             "file": [f"../archive/{folder.name}/checkpoints/last.ckpt"]}  # fmt: skip
    words = named.get(how) or [os.path.relpath(folder)]
    assert main(["generate", *words, "--prompt", "3 1 19"]) == 0
    assert {"generations.jsonl", "record_generate.json"} <= {path.name for path in folder.iterdir()}
    if how == "renamed":
        assert main(["eval", *words, *SIZES, "eval.num_samples=0"]) == 0
        assert (folder / "eval_test.json").is_file()
    assert not (home / "runs/t").exists()
    assert list((home / "elsewhere").iterdir()) == []
    if how == "moved":
        assert main(["generate", *words, "--prompt", "3", "job_name=other"]) == 0
        assert (home / "elsewhere/runs/other/generations.jsonl").is_file()


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


def test_an_option_that_is_newer_than_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    """The stored configuration has no `greedy`, but the predictor takes it."""
    texts = {str(rows_of(capsys, STORED, PROMPTS, f"predictor.greedy={value}")) for value in ("true", "false")}
    assert len(texts) == 2
    assert "Did you mean 'predictor.greedy'?" in refusal(capsys, STORED, PROMPTS, "predictor.greedi=true")


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
        ((STORED, "1 2", "x=3"), "has no key 'x'. A prompt with = needs --prompt."),
        ((STORED, PROMPTS, "interactive=true"), "interactive=true asks for the prompts. Remove it, or generation.pro"),
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

    for lines, count in (("", 0), ("quit\nexit\n", 2), ("\n", 0), ("a\nb\n", 2), ("a\nstop\nb\n", 1)):
        said(monkeypatch, lines)
        assert converse(write, console, "x") == count


def test_a_conversation_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("a\n Quit \nb\n"))
    screen = io.StringIO()
    count = converse(lambda p, n: [Sample(p, "[b] text", "answer", 0, 0, 2.0)], Console(file=screen), "bigram from x")
    shown = screen.getvalue()
    assert count == 1
    assert "bigram from x. Write ___ for a blank (___[3]: three tokens). quit, Ctrl-D or Ctrl-C ends it." in shown
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


@pytest.mark.parametrize("flags", [["-m", "seed=1,2"], ["--cfg", "job"]])
def test_flags_that_need_an_experiment(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    assert "For -m and --cfg give experiment=… too." in refusal(capsys, "runs/t", *flags)


def test_a_name_that_is_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert "There is no file or folder s. Models in runs: t." in refusal(capsys, "s")
