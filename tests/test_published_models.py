"""Models written from the page of the public interface alone: found, composed, trained, evaluated, asked to write.

They lie in tests/published and stand for published models, which core has to run as they are.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from xlm.compose import load_config
from xlm.compose.other_data import with_data_of
from xlm.data.trained_tokenizer import train_tokenizer
from xlm.errors import MissingRoleError

PUBLISHED = Path(__file__).with_name("published")
RUN_COMMANDS = PUBLISHED / "run_commands.py"
MARK = "### command"  # what run_commands.py prints after each
TEXTS = ("lm1b_gaplm", "lm1b_tested_gaplm", "owt_gaplm", "text_gaplm")
EXPERIMENTS = ("star_easy_slotlm", "lm1b_slotlm", "star_easy_flexlm", "counting_flexlm", *TEXTS)
GONE = "'oldlm' is listed with the directory"
# One batch is learned by heart, and yet its checkpoints are kept, to be evaluated.
BY_HEART = (
    "debug=overfit", "global_flags.DEBUG=false", "per_device_batch_size=4", "callbacks.checkpoint_monitor=null",
    "callbacks.overfit_verdict=null", "test_after_training=true",
)  # fmt: skip


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory from which both models are found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLM_MODELS_PATH", str(PUBLISHED))
    monkeypatch.delenv("XLM_MODELS_PACKAGES", raising=False)


def xlm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("xlm"))
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def run_all(folder: Path, *commands: tuple[str, ...]) -> list[str]:
    """What each command printed; all in one process, in `folder`."""
    process = [sys.executable, str(RUN_COMMANDS), json.dumps(commands)]
    environ = {**os.environ, "XLM_MODELS_PATH": str(PUBLISHED), "XLM_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        process, cwd=folder, env=environ, text=True, timeout=280, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    outputs = done.stdout.split(f"{MARK} 0\n")
    assert len(outputs) == len(commands) + 1, done.stdout
    return outputs[:-1]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path, name: str = "train/lm/accumulated_loss") -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


# Discovery.


def test_both_are_listed_and_so_is_the_one_that_is_gone() -> None:
    listed = xlm("models").stdout
    for name in ("slotlm", "flexlm"):
        assert f"directory: {PUBLISHED / name}\n" in listed
    assert GONE in listed


def test_a_model_that_is_gone_says_so_when_asked_for() -> None:
    done = xlm("job_type=train", "experiment=star_easy", "model=oldlm", "model_type=oldlm")
    assert done.returncode == 1
    assert GONE in done.stderr.split("hydra.errors.ConfigCompositionException:", 1)[1]


# Composition.


@pytest.mark.parametrize("debug", [(), ("debug=overfit",)], ids=["plain", "overfit"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str, debug: tuple[str, ...]) -> None:
    cfg = load_config([f"experiment={experiment}", *debug])
    model = experiment.rpartition("_")[2]
    assert cfg.lightning_module._target_.startswith(f"{model}.harness" if model != "gaplm" else "xlm.harness")
    for managers in cfg.datamodule.dataset_managers.values():
        for manager in managers.values():
            assert manager.collator._target_.startswith(f"{model}.datamodule")


def test_debug_overfit_warms_up_in_its_own_time() -> None:
    """The experiment asks for 500 steps of warm-up; a schedule refuses two kinds of it."""
    cfg = load_config(["experiment=star_easy_slotlm", "debug=overfit"]).lr_scheduler
    assert cfg.num_warmup_steps == 100
    assert cfg.fraction_warmup_steps is None


COMMAND_LINES = {
    "two experiments": ["experiment=[star_easy_slotlm,lm1b_slotlm]"],
    "no train": ["experiment=star_easy_slotlm", "~datamodule.dataset_managers.train"],
    "no val/lm": ["experiment=star_easy_slotlm", "~datamodule.dataset_managers.val.lm"],
    "num_examples": [
        "experiment=counting_flexlm", "datamodule.dataset_managers.test.unconditional_prediction.num_examples=3",
    ],
    "ddp": [
        "experiment=lm1b_slotlm", "trainer_strategy=ddp", "trainer.devices=8", "trainer.num_nodes=1",
        "++trainer.precision=bf16-mixed", "compile=true",
    ],
    "eval": ["experiment=star_easy_flexlm", "++eval.split=test", "++eval.checkpoint_path=a.ckpt"],
    "eval, other name": ["experiment=star_easy_flexlm", "+eval.ckpt_path=a.ckpt"],
    "generation": ["experiment=star_easy_flexlm", "+generation.ckpt_path=a.ckpt"],
    "hub": ["experiment=star_easy_flexlm", "++hub.repo_id=someone/flexlm", "+post_training.x=1"],
    "predictor": ["experiment=star_easy_flexlm", "++predictor.noise=gumbel", "++skip_init_weights=true"],
    "strategies": ["experiment=star_easy_slotlm", "trainer_strategy=fsdp"],
    "nodes": [
        "experiment=star_easy_slotlm", "trainer_strategy=ddp_multinode", "trainer.devices=1", "global_batch_size=128",
    ],
    "debugging": ["experiment=star_easy_slotlm", "debug=[small_data,print_predictions]"],
    "loggers": ["experiment=star_easy_slotlm", "loggers=wandb", "callbacks=default", "log_predictions.num_printed=1"],
}  # fmt: skip


@pytest.mark.parametrize("overrides", COMMAND_LINES.values(), ids=COMMAND_LINES)
def test_command_lines_in_use_compose(overrides: list[str]) -> None:
    load_config(overrides)


def test_eight_devices_share_the_global_batch() -> None:
    cfg = load_config(COMMAND_LINES["ddp"])
    assert cfg.trainer.accumulate_grad_batches == 1
    assert cfg.trainer.precision == "bf16-mixed"


def test_a_removed_split_is_gone() -> None:
    assert "train" not in load_config(COMMAND_LINES["no train"]).datamodule.dataset_managers
    assert set(load_config(COMMAND_LINES["no val/lm"]).datamodule.dataset_managers.val) == {"prediction"}


TEXT_LOADERS = {
    "lm1b_gaplm": ["train/lm", "val/lm", "predict/unconditional_prediction"],
    "lm1b_tested_gaplm": ["train/lm", "val/lm", "test/lm", "predict/unconditional_prediction"],
    "owt_gaplm": [
        "train/lm", "val/lm", "val/unconditional_prediction", "test/lm", "predict/unconditional_prediction",
    ],
    "text_gaplm": ["train/lm", "val/lm", "predict/unconditional_prediction"],
}  # fmt: skip


@pytest.mark.parametrize("experiment", TEXTS)
def test_texts_of_core_have_the_loaders_to_which_a_model_attaches_a_collator(experiment: str) -> None:
    cfg = load_config([f"experiment={experiment}"])
    managers = cfg.datamodule.dataset_managers
    assert [f"{split}/{name}" for split in managers for name in managers[split]] == TEXT_LOADERS[experiment]
    # ${datamodule.block_size}, and an input_block_size that the data leave at null.
    assert cfg.model.max_length == cfg.block_size == cfg.predictor.max_steps
    assert managers.predict.unconditional_prediction.collator.input_block_size == 0
    assert load_config([f"experiment={experiment}", "input_block_size=5"]).model.max_length == cfg.block_size + 5


@pytest.mark.parametrize(
    "change",
    ["datasets@datamodule.dataset_managers.test.lm=owt_val", "~datasets@datamodule.dataset_managers.test.lm",
     "~datamodule.dataset_managers.test.lm"],
)  # fmt: skip
def test_the_test_set_of_a_text_can_be_replaced_or_removed(change: str) -> None:
    test = load_config(["experiment=owt_gaplm", change])
    managers = test.datamodule.dataset_managers
    assert managers.train.lm.collator._target_ == "gaplm.datamodule_gaplm.GapCollator"
    own = load_config(["datamodule=owt", "model_type=mlm", "model=xtiny_mlm", change]).datamodule.dataset_managers
    assert ("lm" in own.test) == (not change.startswith("~"))
    if "lm" in own.test:
        assert own.test.lm.split == managers.test.lm.split == "train[-110000:-100000]"


def test_an_older_model_is_evaluated_on_other_data_with_its_own_collator() -> None:
    cfg = load_config(["experiment=lm1b_tested_gaplm", "data_files.test=own.txt"])
    other = with_data_of(cfg, "wikitext", "test")
    assert list(other.datamodule.dataset_managers) == ["test"]
    manager = other.datamodule.dataset_managers.test.lm
    assert manager.full_name.startswith("Salesforce/wikitext")
    assert manager.data_file is None
    assert manager.collator._target_ == "gaplm.datamodule_gaplm.GapCollator"
    assert manager.on_the_fly_group_processor_kwargs.block_size == cfg.block_size - 2
    assert other.global_components.tokenizer == cfg.global_components.tokenizer
    assert other.reported_metrics == cfg.reported_metrics
    assert cfg.datamodule.dataset_managers.test.lm.full_name == "billion-word-benchmark/lm1b/test"
    # It knows no loader of samples.
    with pytest.raises(MissingRoleError, match="no collator for the role 'seq2seq_pred', which datamodule 'math500'"):
        with_data_of(cfg, "math500", "test")


# Runs.


@pytest.fixture(scope="module")
def slotlm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a trained slotlm, and what each command printed."""
    folder = tmp_path_factory.mktemp("slotlm")
    run = ("job_name=a", "experiment=star_easy_slotlm", *BY_HEART, "global_batch_size=4")
    checkpoint = "runs/debug/a/checkpoints/last.ckpt"
    return folder, run_all(
        folder,
        (
            "job_type=train", *run, "trainer.max_steps=120", "trainer.log_every_n_steps=10", "lr_scheduler.name=cosine",
            "lr_scheduler.num_warmup_steps=4", "lr_scheduler.num_training_steps=120",
        ),
        ("job_type=eval", *run, "++eval.split=val", f"++eval.checkpoint_path={checkpoint}"),
        (
            "job_type=eval", "job_name=b", "experiment=star_easy_slotlm", "~datamodule.dataset_managers.train",
            "datamodule.dataset_managers.test.lm.num_examples=8",
            "datamodule.dataset_managers.test.prediction.num_examples=8", f"+eval.ckpt_path={checkpoint}",
        ),
        ("job_type=generate", *run, f"+generation.ckpt_path={checkpoint}", "++predictor.return_history=true"),
        (
            "job_type=generate", *run, f"+generation.ckpt_path={checkpoint}", "++predictor.sampling_method=sample",
            "generation.prompts=['1 2 2 3 1 3']", "+generation.output_path=own.jsonl",
        ),
        ("job_type=slotlm_extract", *run, f"+ckpt={checkpoint}", "+out=extracted.safetensors"),
    )  # fmt: skip


def test_slotlm_learns_a_batch_by_heart(slotlm: tuple[Path, list[str]]) -> None:
    folder, (printed, evaluated, *_) = slotlm
    run = folder / "runs/debug/a"
    curve = losses(run)
    assert curve[-1] < 0.2 * curve[0]
    assert "encoder 99,456, output_layer 1,856" in printed  # what its harness names as its parts
    for name in ("train/lm/seq2seq_token_ce", "train/slot_length_loss", "val/prediction/steps_taken"):
        assert losses(run, name), name
    found = json.loads((run / "eval_val.json").read_text())
    assert found["metrics"]["val/prediction/seq2seq_exact_match"] == 1
    assert found["metrics"]["val/prediction/seq2seq_token_accuracy"] == 1
    assert found["metrics"]["val/slot_length_loss"] < 0.1
    assert "SLOTLM VALIDATION" in evaluated


def test_slotlm_shows_the_first_batch_of_each_loader_once(slotlm: tuple[Path, list[str]]) -> None:
    _, (printed, *_) = slotlm
    for loader in ("train/lm", "val/lm", "val/prediction", "test/lm", "test/prediction"):
        assert printed.count(f"SLOTLM BATCH {loader}:") == 1, loader


def test_slotlm_is_evaluated_without_training_data(slotlm: tuple[Path, list[str]]) -> None:
    """Its harness overrides on_test_start without calling super, and its loss must still be configured."""
    folder, outputs = slotlm
    assert "SLOTLM TEST" in outputs[2]
    written = rows(folder / "runs/b/predictions/test/prediction/step_00000000.jsonl")
    assert len(written) == 8
    assert {"text", "prompt", "truth", "steps_taken"} <= written[0].keys()


def test_slotlm_writes_what_it_learned(slotlm: tuple[Path, list[str]]) -> None:
    folder, _ = slotlm
    written = rows(folder / "runs/debug/a/generations.jsonl")
    assert len(written) == 4
    assert all(row["text"] == row["truth"] for row in written)
    texts = [entry[0] for entry in written[0]["history"]]
    assert texts[-1] == written[0]["truth"]
    assert [len(text.split()) for text in texts] == list(range(1, len(texts) + 1))
    (own,) = rows(folder / "own.jsonl")
    assert own["prompt"] == "1 2 2 3 1 3"
    assert own["prediction"]


def test_a_command_of_slotlm_takes_the_weights_out(slotlm: tuple[Path, list[str]]) -> None:
    folder, outputs = slotlm
    assert "SLOTLM EXTRACTED 119809 parameters" in outputs[5]
    weights = load_file(folder / "extracted.safetensors")
    assert weights["encoder.0.attn_qkv.weight"].shape == (192, 64)


@pytest.fixture(scope="module")
def flexlm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a trained flexlm and one that counts, and what each command printed."""
    folder = tmp_path_factory.mktemp("flexlm")
    run = ("job_name=a", "experiment=star_easy_flexlm", *BY_HEART, "block_size=9")
    count = ("job_name=c", "experiment=counting_flexlm", "loggers=debug")
    return folder, run_all(
        folder,
        (
            "job_type=train", *run, "optimizer.lr=3e-3", "optimizer.betas=[0.9,0.95]", "flexlm_rsqrt.slowness=30",
            "trainer.max_steps=400", "trainer.val_check_interval=200",
        ),
        ("job_type=eval", *run, "++eval.split=test"),
        ("job_type=generate", *run),
        ("job_type=train", *count),
        ("job_type=generate", *count, "+generation.split=test"),
        ("job_type=flexlm_show_schedule", *run, "+schedule_file=schedule.log"),
    )  # fmt: skip


def test_flexlm_learns_a_batch_by_heart(flexlm: tuple[Path, list[str]]) -> None:
    folder, (printed, evaluated, *_) = flexlm
    curve = losses(folder / "runs/debug/a")
    assert sum(curve[-5:]) < 0.3 * sum(curve[:5])
    assert "FLEXLM VALIDATION at step 200" in printed
    found = json.loads((folder / "runs/debug/a/eval_test.json").read_text())["metrics"]
    # Whether all four examples are right after 400 steps depends on rounding.
    assert found["test/prediction/exact_match"] >= 0.5
    assert found["test/prediction/mean_words"] == 8  # its post-hoc evaluator
    assert "FLEXLM HOOK prediction: 29 to 38 tokens" in evaluated


def test_flexlm_keeps_its_own_schedule(flexlm: tuple[Path, list[str]]) -> None:
    """The schedule of the learning rate is no torch scheduler: 10 steps of warm-up, then 1/sqrt."""
    folder, _ = flexlm
    rates = losses(folder / "runs/debug/a", "train/lr")
    assert rates[0] == pytest.approx(3e-3, rel=0.05)
    assert rates[-1] == pytest.approx(3e-3 / (1 + 390 / 30) ** 0.5, rel=0.01)


def test_flexlm_writes_although_it_brings_a_command_of_that_name(flexlm: tuple[Path, list[str]]) -> None:
    folder, outputs = flexlm
    assert "Model 'flexlm' defines a job 'generate'; the built-in job of that name is used." in outputs[2]
    written = rows(folder / "runs/debug/a/generations.jsonl")
    found = json.loads((folder / "runs/debug/a/eval_test.json").read_text())["metrics"]
    right = sum(row["text"] == row["truth"] for row in written)
    assert right == len(written) * found["test/prediction/exact_match"] > 0
    steps = [entry[2] for entry in written[0]["history"]]
    assert steps == list(range(10))


def test_flexlm_counts_and_samples_from_nothing(flexlm: tuple[Path, list[str]]) -> None:
    folder, outputs = flexlm
    curve = losses(folder / "runs/c", "val/lm/accumulated_loss")
    assert curve[-1] < curve[0]
    assert "RsqrtSchedule" in outputs[3]
    assert len(rows(folder / "runs/c/predictions/val/flexlm_prediction/step_00000060.jsonl")) == 5
    assert len(rows(folder / "runs/c/generations.jsonl")) == 6
    assert "FLEXLM BATCH test/unconditional_prediction: [BOS]" in outputs[3]


def test_a_command_of_flexlm_gets_its_configuration(flexlm: tuple[Path, list[str]]) -> None:
    folder, outputs = flexlm
    assert "FLEXLM SCHEDULE 0.000, 0.383, 0.707, 0.924, 1.000" in outputs[5]
    assert "flexlm.noise.FlexSchedule" in (folder / "schedule.log").read_text()


WORDS = "the cat sat on a mat and saw the dog run . it did n't bark , she said"


def mirrored(folder: Path) -> None:
    """The data sets and tokenizers of the three text experiments under their published names, a few rows each."""
    sentences = [" ".join(WORDS.split()[i % 7 : i % 7 + 5 + i % 5]) for i in range(60)]
    lm1b, owt = folder / "billion-word-benchmark" / "lm1b", folder / "Skylion007" / "openwebtext"
    for path, texts in ((lm1b / "train", sentences[:40]), (lm1b / "test", sentences[40:]), (owt / "train", sentences)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, kind in (("bert-base-uncased", "wordpiece"), ("gpt2", "bpe")):
        train_tokenizer(sentences, kind, 300).save_pretrained(str(folder / name))


SMALL = ("trainer.max_steps=4", "trainer.val_check_interval=2", "trainer_strategy=cpu", "block_size=16")


def test_gaplm_trains_on_lm1b_and_owt_and_generates(tmp_path: Path) -> None:
    mirrored(tmp_path)
    slices = {"train": "train[:-20]", "val": "train[-20:-10]", "test": "train[-10:]"}
    owt = [f"datamodule.dataset_managers.{split}.lm.split='{rows}'" for split, rows in slices.items()]
    lm1b = ("job_name=lm1b", "experiment=lm1b_tested_gaplm", *SMALL)
    outputs = run_all(
        tmp_path,
        ("job_type=train", *lm1b),
        ("job_type=generate", *lm1b),
        ("job_type=eval", *lm1b, "++eval.split=val"),
        ("job_type=train", "job_name=owt", "experiment=owt_gaplm", *SMALL, *owt),
    )
    for name in ("lm1b", "owt"):
        for split in ("val", "test"):
            assert losses(tmp_path / "runs" / name, f"{split}/lm/accumulated_loss"), (name, split)
    assert "GAPLM BATCH val/lm" in outputs[2]
    # As many samples as the loader of predict has, which the experiment sets.
    assert len(rows(tmp_path / "runs/lm1b/generations.jsonl")) == 3
    assert len(rows(tmp_path / "runs/owt/predictions/val/unconditional_prediction/step_00000004.jsonl")) == 8


@pytest.mark.slow  # reads the King James Bible
def test_gaplm_trains_on_real_text_and_generates(tmp_path: Path) -> None:
    text = ("job_name=text", "experiment=text_gaplm", *SMALL)
    few = [f"datamodule.dataset_managers.{split}.lm.num_examples=24" for split in ("train", "val")]
    samples = "datamodule.dataset_managers.predict.unconditional_prediction.num_examples=10"
    run_all(tmp_path, ("job_type=train", *text, *few), ("job_type=generate", *text, samples))
    assert losses(tmp_path / "runs/text", "val/lm/accumulated_loss")
    assert len(rows(tmp_path / "runs/text/generations.jsonl")) == 10
