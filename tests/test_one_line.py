"""`xlm train data.text=FILE model_type=X` in an empty folder: from a file to scores, texts and a trace."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from workspace import ROOT, read_packages
from xlm.cli.main import main
from xlm.commands.own_data_lines import say_other_data
from xlm.compose import load_config
from xlm.inference.session import start
from xlm.utils.instantiate import clear_components

FAMILIES = [p.model for p in read_packages(ROOT).values() if p.model]
# Another network and length: seconds instead of minutes.
SHORT = ("trainer_strategy=cpu", "trainer.max_steps=4", "trainer.val_check_interval=2", "model.d_model=32",
         "model.num_layers=1", "model.nhead=2")  # fmt: skip
QUESTIONS = ("data.text=qa.csv", "data.prompt=question", "data.answer=answer")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sums = [(a, b) for a in range(12) for b in range(12)]
    (tmp_path / "mine.txt").write_text("".join(f"{a} and {b} make {a + b}\n\n" for a, b in sums))
    with (tmp_path / "qa.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows((f"What is {a} plus {b}?", a + b) for a, b in sums)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def xlm(*args: str) -> int:
    code = main(list(args))
    clear_components()
    return code


# One with every change, all of them every night: each is a training run and its test.
OFTEN = {("mine", "arlm")}


@pytest.mark.parametrize(
    ("data", "family"),
    [
        pytest.param(data, family, marks=() if (data, family) in OFTEN else pytest.mark.slow)
        for data in ("mine", "qa")
        for family in FAMILIES
    ],
)
def test_from_a_file_to_scores_texts_and_a_trace(
    folder: Path, data: str, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", *(("data.text=mine.txt",) if data == "mine" else QUESTIONS), f"model_type={family}", *SHORT]
    assert xlm(*line) == 0
    run = folder / "runs" / f"{data}+{family},model.d_model=32,model.nhead=2,model.num_layers=1"
    told = capsys.readouterr()
    assert not told.err
    file = "mine.txt" if data == "mine" else "qa.csv"
    for words in (f"{file} (", "rows (val and test held out", "trained on these texts", "block_size", "all rows fit",
                  "measured in 5 steps", "bits per byte", "trace.html", "curves.png", f"tiny_{family}"):  # fmt: skip
        assert words in told.out, words
    results = json.loads((run / "results.json").read_text())
    found = results["likelihood"]["test/lm"]
    assert found["exact"] == (family == "arlm")
    bits = next(value["value"] for name, value in found.items() if "bits_per_byte" in name)
    assert 0 < bits < 100  # hardly trained
    assert results["n"]["test/lm"] >= 10
    assert (run / "trace.html").stat().st_size > 10_000
    loader = "unconditional_prediction" if data == "mine" else "prediction"
    assert ("monitored_metric=val/prediction/exact_match" in " ".join(told.out.split())) == (data == "qa")
    assert len((run / f"predictions/test/{loader}/step_00000004.jsonl").read_text().splitlines()) >= 16


@pytest.mark.slow  # six commands, two of which train
def test_the_run_continues_and_is_used_without_its_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "data.text=mine.txt", "model_type=mdlm", *SHORT]
    assert xlm(*line) == 0
    run = next((folder / "runs").iterdir())
    config = (run / "config.yaml").read_text()
    # The same line again only tests; a larger number of steps continues; nothing is chosen anew.
    assert xlm(*line) == 0
    assert "This run is complete at step 4" in capsys.readouterr().out
    assert (run / "config.yaml").read_text() == config
    longer = [text.replace("max_steps=4", "max_steps=6") for text in line]
    assert xlm(*longer) == 0
    assert " from step 4" in capsys.readouterr().out
    # Other content under the same name is not trained on.
    text = (folder / "mine.txt").read_text()
    (folder / "mine.txt").write_text(text + text.replace("make", "give"))
    assert xlm(*longer) == 1
    assert "holds a run on other training data; nothing was changed" in capsys.readouterr().err
    # A trained model needs no data; for scores they are there again.
    (folder / "mine.txt").unlink()
    assert xlm("generate", str(run)) == 0
    (folder / "mine.txt").write_text(text)
    assert xlm("eval", str(run)) == 0
    assert "bits per byte" in capsys.readouterr().out


def test_what_is_given_is_not_chosen(folder: Path) -> None:
    cfg = load_config(["data.text=mine.txt", "model_type=arlm", "block_size=8", "tokenizer=characters",
                       "held_out.val=0.3", "trainer.max_steps=7", "lr_scheduler=constant",
                       "optimizer=lion"])  # fmt: skip
    assert (cfg.block_size, cfg.tokenizer, cfg.held_out.val, cfg.trainer.max_steps) == (8, "characters", 0.3, 7)
    assert cfg.lr_scheduler.name == "constant_with_warmup"
    assert cfg.optimizer.lr == 3e-4  # what is open is chosen for what is given: the file of this optimizer has 3e-5
    assert cfg.too_long == "split"  # since most texts are longer than 8
    assert cfg.job_name.startswith("mine+arlm,block_size=8")
    # An experiment's training stays.
    tuned = load_config(["data.text=mine.txt", "experiment=text_arlm"])
    assert (tuned.trainer.max_steps, tuned.per_device_batch_size) == (2500, 64)
    assert tuned.block_size < 64


def test_other_data_are_named_by_one_process(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a task's data, only the training set is replaced: the person reads which are the task's own."""
    task = ["experiment=star_easy_arlm", "model=xtiny_arlm", "data_files.train=graphs.csv"]
    for more, named in (
        ([], "val.lm, val.prediction, test.lm, test.prediction: "),
        (["data_files.val=v.csv"], "test.lm, "),
    ):
        caplog.clear()
        cfg = load_config([*task, *more])
        say_other_data(cfg, start(cfg).datamodule)
        clear_components()
        assert caplog.messages[0].startswith(named)
        assert "not from graphs.csv" in caplog.messages[0]
    caplog.clear()
    own = load_config(["datamodule=own_text", "data_files.train=mine.txt", "model_type=arlm", "model=xtiny_arlm"])
    session = start(own)
    say_other_data(own, session.datamodule)
    clear_components()
    assert not caplog.messages
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (session.console.quiet, start(own).console.quiet) == (False, True)
    clear_components()
