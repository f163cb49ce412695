"""Texts of a trained model judged by each door: an evaluation, a sweep, and a file that was generated."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from xlm.commands import eval as evaluation
from xlm.commands import generate, sweep_sampler, train
from xlm.commands.text_quality import judged, read_request
from xlm.commands.words import read_command
from xlm.compose import load_config
from xlm.errors import ConfigError, DataError
from xlm.evaluation.pareto import Point

pytestmark = pytest.mark.slow

MANAGERS = "datamodule.dataset_managers"
CHOICE = (
    "experiment=text_mdlm", "model=xtiny_mdlm", "job_name=mine", "trainer_strategy=cpu", "loggers=debug",
    "block_size=32", "global_components.tokenizer.vocab_size=400", "trainer.max_steps=2",
    "trainer.val_check_interval=2", "per_device_batch_size=4", f"{MANAGERS}.train.lm.num_examples=40",
    f"{MANAGERS}.test.lm.num_examples=4", f"{MANAGERS}.test.unconditional_prediction.num_examples=6",
    f"~{MANAGERS}.test.infill_prediction", f"~{MANAGERS}.val", "test_after_training=false",
    "per_device_val_batch_size=4", "eval.num_samples=0",
)  # fmt: skip
PLACE = "test/unconditional_prediction"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GPT-2 of a few thousand weights with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("judge")
    alphabet = ["[BOS]", "[EOS]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="[BOS]", eos_token="[EOS]")
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """A directory with a run of two steps."""
    train.run(load_config(CHOICE))
    return home


def evaluate(*overrides: str) -> dict[str, Any]:
    evaluation.run(load_config([*CHOICE, *overrides]))
    return dict(json.loads(Path("runs/mine/eval_test.json").read_text()))


def test_an_evaluation_tells_what_needs_no_judge_unasked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluate()
    results = record["results"]
    assert {f"{PLACE}/{name}" for name in ("entropy", "length", "distinct_2", "ended")} <= set(results)
    assert not [name for name in results if "judge" in name or "copied" in name]
    assert results[f"{PLACE}/length"]["n"] == 6
    assert record["text_quality"] == {"judge": None, "unit": "tokens of the model", "training": None}
    assert "perplexity" not in capsys.readouterr().out


def test_a_judge_brings_all_that_stands_beside_a_perplexity(
    home: Path, judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluate(f"eval.judge={judge}", "seed=3")
    results = record["results"]
    shown = capsys.readouterr().out
    assert shown.index("judge's perplexity") < shown.index("entropy of a text")
    for name in ("judge_perplexity", "entropy", "copied_4", "repeated_4", "length_sd"):
        assert f"{PLACE}/{name}" in results
    assert results[f"{PLACE}/judge_perplexity"]["value"] == pytest.approx(
        math.exp(results[f"{PLACE}/judge_nll_per_token"]["value"])
    )
    assert record["text_quality"]["training"]["examples"] == 40
    assert record["text_quality"]["judge"]["architecture"] == "GPT2LMHeadModel"
    assert record["metrics"][f"{PLACE}/entropy"] == results[f"{PLACE}/entropy"]["value"]
    assert "protocol xlm: a context token before each text" in shown


def test_a_protocol_is_named_recorded_and_shown(home: Path, judge: str, capsys: pytest.CaptureFixture[str]) -> None:
    record = evaluate(f"eval.judge={judge}", "eval.judge_protocol=mdlm", "eval.train_examples=0")
    names = {name.rpartition("/")[2] for name in record["results"] if "judge" in name}
    assert names == {"judge_perplexity_mdlm", "judge_nll_per_token_mdlm"}
    assert record["text_quality"]["judge"]["protocol"] == "mdlm"
    shown = capsys.readouterr().out
    assert "judge's perplexity (mdlm)" in shown
    assert "protocol mdlm: no context token" in shown


def test_options_that_make_no_sense_are_refused_before_anything_is_written(home: Path, judge: str) -> None:
    with pytest.raises(ConfigError, match="judge_window is 1"):
        evaluate("eval.judge_window=1")
    with pytest.raises(ConfigError, match=r"eval\.judge_protocol is 'mldm', and must be xlm or mdlm"):
        evaluate(f"eval.judge={judge}", "eval.judge_protocol=mldm")
    with pytest.raises(ConfigError, match="no loader for them"):
        evaluate(f"eval.judge={judge}", f"~{MANAGERS}.test.unconditional_prediction")
    with pytest.raises(ConfigError, match="There is no folder"):
        evaluate("eval.judge=./nowhere")
    with pytest.raises(DataError, match="no texts in the split 'train'"):
        evaluate("eval.train_examples=3", f"~{MANAGERS}.train")


def sweep(*overrides: str) -> list[Point]:
    return sweep_sampler.run(load_config([*CHOICE, "sweep.num_examples=4", "sweep.temperature=[0.0,1.0]", *overrides]))


def test_a_sweep_shows_perplexity_and_entropy_against_calls(
    home: Path, judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    points = sweep(f"sweep.judge={judge}")
    cold, warm = (point.metrics for point in points)
    # At temperature 0 the untrained network says one word over and over.
    assert cold["entropy"][0] < warm["entropy"][0]
    shown = capsys.readouterr().out
    assert all("entropy" in line for line in shown.splitlines() if "perplexity" in line)
    assert shown.count("entropy") == 3  # a line for each setting, and the table
    folder = home / "runs/mine/sweep_test"
    with (folder / "sweep.csv").open() as file:
        header = list(csv.DictReader(file).fieldnames or [])
    assert header.index("entropy") > header.index("judge_perplexity") > 0
    record = json.loads((folder / "sweep.json").read_text())
    assert record["quality"] == "judge_perplexity"
    assert record["text_quality"]["training"]["examples"] == 40
    assert [Point.from_dict(values) for values in record["points"]] == points
    # Nothing is measured again, and no picture shows the perplexity alone.
    assert sweep(f"sweep.judge={judge}") == points
    height = int.from_bytes((folder / "sweep.png").read_bytes()[20:24])
    assert height > 1000
    # Under another protocol everything is measured again, under names of its own.
    other = sweep(f"sweep.judge={judge}", "sweep.judge_protocol=mdlm", "sweep.train_examples=0")
    assert all("judge_perplexity_mdlm" in point.metrics for point in other)
    assert json.loads((folder / "sweep.json").read_text())["quality"] == "judge_perplexity_mdlm"


def test_a_sweep_of_texts_needs_a_judge(home: Path, judge: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.judge=…"):
        sweep()
    with pytest.raises(ConfigError, match="cannot be combined with"):
        sweep(f"sweep.judge={judge}", "sweep.metric=entropy")


def test_a_generated_file_knows_where_its_training_data_are(home: Path, judge: str) -> None:
    generate.run(load_config([*CHOICE, "generation.num_samples=3"]))
    Path("human.jsonl").write_text('{"text": "In the beginning God created the heaven and the earth."}\n' * 2)
    words = ["runs/mine", "human.jsonl", f"judge={judge}", "reference=runs/mine", "protocol=mdlm"]
    request = read_request(*read_command(["text_quality", *words]))
    found, record, caption = judged(request)
    assert [(name, quality.n) for name, quality in found.items()] == [
        ("runs/mine", 3),
        ("human.jsonl", 2),
        ("reference", 3),
    ]
    assert record["training"]["examples"] == 40
    assert record["unit"].startswith("tokens of ")
    assert "40 training texts" in caption
    assert record["judge"]["protocol"] == "mdlm"
    assert found["human.jsonl"].numbers["judge_perplexity_mdlm"].se == pytest.approx(0.0, abs=1e-9)
    assert found["human.jsonl"].numbers["length"].se == 0.0
    train = king_texts(found["reference"].n)
    Path("copied.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in train))
    copied, _, _ = judged(read_request(*read_command(["text_quality", "copied.jsonl", "train=runs/mine"])))
    assert copied["copied.jsonl"].numbers["copied_1"].value == 1.0
    assert copied["copied.jsonl"].numbers["copied_whole"].value == 1.0


def king_texts(n: int) -> list[str]:
    """The first training texts of the run."""
    from xlm.evaluation.text_quality.texts import texts_of
    from xlm.inference.texts import data_of_model

    data = data_of_model("runs/mine")
    return list(texts_of(data.rows("train"), data.tokenizer, n))
