"""Every family from a run to a folder, its shards and transformers, and back: the same numbers to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import xlm
from xlm.cli.main import main
from xlm.errors import ConfigError

pytestmark = pytest.mark.slow

FAMILIES = ("arlm", "ilm", "mdlm", "mlm", "hf_arlm", "hf_mdlm", "hf_mlm")
SMALL = (
    "datamodule.dataset_managers.test.lm.num_examples=16",
    "datamodule.dataset_managers.test.prediction.num_examples=4", "trainer_strategy=cpu",
)  # fmt: skip
TRAIN = (
    "datamodule.dataset_managers.train.lm.num_examples=32", "datamodule.dataset_managers.val.lm.num_examples=8",
    "datamodule.dataset_managers.val.prediction.num_examples=4", "per_device_batch_size=16", "trainer.max_steps=2",
    "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "test_after_training=false", "loggers=debug",
    "ema_decay=0.5", "optimizer.lr=0.01",
)  # fmt: skip
PROMPTS = ["3 1 19 9 13 3", "", "8 3 7 16"]
SIZES = {"vocab_size": 27, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class Run(NamedTuple):
    name: str
    family: str
    folder: Path
    numbers: dict[str, Any]
    texts: list[str]


@pytest.fixture(scope="module")
def home(home: Path) -> Path:
    """Where all runs are, as current directory, with small networks of transformers in `networks`."""
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES, max_position_embeddings=64)).save_pretrained(home / "networks/bert")
    config = GPT2Config(vocab_size=27, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(home / "networks/gpt2")
    return home


def measured(path: str | Path, *overrides: str) -> dict[str, Any]:
    """Metrics and likelihood of weights as `xlm eval` writes them, without what the clock says."""
    assert main(["eval", f"eval.checkpoint_path={path}", "job_name=measured", *SMALL, *overrides]) == 0
    record = json.loads(Path("runs/measured/eval_test.json").read_text())
    for found in record["likelihood"].values():
        del found["seconds"]
    metrics = {name: value for name, value in record["metrics"].items() if "second" not in name}
    return {"metrics": metrics, "likelihood": record["likelihood"]}


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, home: Path) -> Run:
    """Two steps of a network, and what they are worth."""
    name = request.param
    family = name.removeprefix("hf_")
    network = [f"model=xtiny_{name}"]
    if name != family:
        there = "gpt2" if family == "arlm" else "bert"
        network = [f"model={name}", f"model.pretrained_model_name_or_path=networks/{there}"]
        network += ["model.check_vocabulary=false"]
    assert main(["train", f"experiment=star_easy_{family}", *network, f"job_name={name}", *SMALL, *TRAIN]) == 0
    folder = home / "runs" / name
    return Run(name, family, folder, measured(folder), xlm.load(folder, seed=1).generate(PROMPTS))


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_extracted_it_is_worth_the_same(run: Run, size: str) -> None:
    out = f"{run.name}_{size}"
    options = (f"extract.output_dir={out}", f"extract.max_shard_size={size}")
    assert main(["extract_checkpoint", f"extract.checkpoint_path=runs/{run.name}", *options]) == 0
    is_sharded = Path(out, "model.safetensors.index.json").is_file()
    assert is_sharded == (size == "20KB")
    assert is_sharded != Path(out, "model.safetensors").is_file()
    # A network of transformers takes its shape along.
    networks = Path("networks")
    networks.rename("away")
    try:
        assert measured(out) == run.numbers
        assert xlm.load(out, seed=1).generate(PROMPTS) == run.texts
        if is_sharded:
            shard = next(Path(out).glob("model-*.safetensors"))
            assert xlm.load(shard, seed=1).generate(PROMPTS) == run.texts
            network = type(xlm.load(out).model).from_pretrained(out)
            state = xlm.load(out).model.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    finally:
        Path("away").rename("networks")


def test_averaged_and_raw_weights_are_two_models(run: Run) -> None:
    out = f"{run.name}_raw"
    options = (f"extract.output_dir={out}", "extract.apply_ema=false")
    assert main(["extract_checkpoint", f"extract.checkpoint_path=runs/{run.name}", *options]) == 0
    assert measured(out) == measured(f"runs/{run.name}", "eval.apply_ema=false")
    assert measured(out) != run.numbers


def test_for_transformers_where_it_has_such_a_network(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"{run.name}_there"
    options = (f"extract.output_dir={out}", "extract.format=transformers")
    code = main(["extract_checkpoint", f"extract.checkpoint_path=runs/{run.name}", *options])
    if run.name in ("mlm", "mdlm", "ilm"):
        assert code == 1
        assert "transformers has no network equivalent to " in capsys.readouterr().err
        with pytest.raises(ConfigError, match="transformers has no network"):
            xlm.load(run.folder).save_for_transformers("never")
        assert not Path("never").exists()
        return
    assert code == 0
    ids = torch.randint(7, 27, (2, 9))
    ours = xlm.load(run.folder).model
    there = AutoModelForCausalLM if run.family == "arlm" else BertForMaskedLM
    with torch.no_grad():
        assert torch.allclose(there.from_pretrained(out)(ids).logits, ours(ids), atol=1e-5)
