"""Stored configurations name what is made for configurations; a user's own runs and word allow more."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf import OmegaConf

import xlm
from xlm.cli.main import main
from xlm.compose import load_config
from xlm.errors import NotAllowedError
from xlm.external_models import activate, discover
from xlm.inference.allowed import first_refusal, is_allowed, own_file

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture
def bigram(work_dir: Path, fresh_process: None) -> None:
    """The bigram model is active."""
    activate(discover({"XLM_MODELS_PATH": str(MODELS)}, work_dir).models)


@pytest.mark.parametrize(
    "path",
    [
        "bigram.components_bigram.Bigram",
        "bigram.components_bigram.LossWithoutLikelihood",  # no configuration names it
        "xlm.harness.Harness",
        "xlm.datamodule.BertTokenizerFast.from_pretrained",
        "xlm.metrics.exact_match_update_fn",
        "xlm.training.guard.FiniteLossGuard",  # a path of before
        "xlm.training.ema.ExponentialMovingAverage",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torch.nn.Linear",
        "torchmetrics.MeanMetric",
        "torchmetrics.classification.BinaryAccuracy",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "transformers.GPT2Config",
        "transformers.get_cosine_schedule_with_warmup",
    ],
)
def test_what_is_made_for_configurations(path: str, bigram: None) -> None:
    assert is_allowed(path)


@pytest.mark.parametrize(
    "path",
    [
        "xlm.utils.run_record._git",
        "xlm.utils.files.replace_text",
        "xlm.utils.instantiate.instantiate",
        "xlm.inference.trained.load",
        "xlm.trained.torch.load",
        "xlm.trained.torch.hub.load",
        "xlm.inference.trained.torch.optim.AdamW",  # allowed under its own path only
        "xlm.tasks.sandbox.run_python",
        "xlm.tasks.python_code.passes_tests",
        "xlm.data.cache.DataCache",
        "bigram.components_bigram.torch.hub.load",
        "bigram.components_bigram.nn.Linear",
        "bigram.components_bigram.pad_ids",
        "torch.load",
        "torch.hub.load",
        "torch.nn.Module.load_state_dict",
        "torch.nn.init.normal_",
        "torchmetrics.text.bert.BERTScore",
        "torchmetrics.image.fid.FrechetInceptionDistance",
        "lightning.pytorch.callbacks.lambda_function.Callback",
        "transformers.BertConfig.from_pretrained",
        "transformers.AutoTokenizer",
        "transformers.pipeline",
        "sympy.sympify",
        "pathlib.Path.write_text",
        "pandas.read_pickle",
        "joblib.load",
        "builtins.eval",
        "os.system",
        "eval",
        "torch.optim",
        "torch.optim.",
        "torch..optim.SGD",
        "torch.optim.SGD.__init__.__globals__",
        "",
    ],
)
def test_everything_else(path: str, bigram: None) -> None:
    assert not is_allowed(path)


def test_shipped_datasets_may_be_stored(work_dir: Path, fresh_process: None) -> None:
    for name in ("text", "sudoku", "own_pairs"):
        cfg = load_config([f"experiment={name}", "model_type=mlm", "model=tiny_mlm"])
        assert first_refusal(cfg, runs_judges=True) is None, name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"a": "data.jsonl", "b": "test.csv", "c": "a sentence. Another", "d": "1.2.3"},
            None,
        ),
        ({"a": "no_module_here.name"}, None),
        ({"a": "torch.float32"}, "names 'torch.float32'"),
        ({"a": {"_target_": None}, "b": {"_target_": "???"}}, None),
        ({"a": "${b}", "b": "${tokenizer:vocab_size}"}, None),
        ({"a": "${eval:${tokenizer:vocab_size}*2}", "b": "${global_components:tokenizer}"}, None),
        ({"a": "${c.d.${tokenizer:vocab_size}}", "c": {"d": {"27": "y"}}}, "cannot be checked"),
        ({"a": "${c.d.${b}}", "b": "${tokenizer:vocab_size}", "c": {"d": {"27": "y"}}}, "cannot be checked"),
        ({"a": "${tokenizer:__class__.__init__.__globals__}"}, "reads ${tokenizer:__class__"),
        ({"a": "${tokenizer:mask_token}"}, "reads ${tokenizer:mask_token}"),
        ({"a": "${oc.env:HOME}"}, "uses the resolver ${oc.env:HOME}"),
        ({"a": "${oc.env:XLM_ROOT_DIR,${cwd:}}"}, None),
        ({"a": "${oc.decode:'{a: 1}'}"}, "uses the resolver ${oc.decode:"),
        ({"a": "${b:HOME}"}, "cannot be checked"),
        ({"a": {"_target_": "${b}"}, "b": "${tokenizer:vocab_size}"}, "cannot be checked"),
        ({"a": ["https://huggingface.co/x", "hf://x/y"]}, None),
        ({"a": ["zip://x::http://y"]}, "reads from zip://"),
        ({"a": {"weights_only": True, "trust_remote_code": None}}, None),
        ({"a": {"weights_only": "${b}"}, "b": False}, "sets a.weights_only=False"),
    ],
)
def test_values(values: dict[str, Any], reason: str | None, bigram: None) -> None:
    from xlm.compose import register_resolvers

    register_resolvers()
    found = first_refusal(OmegaConf.create(values))
    assert (found is None) if reason is None else (found is not None and reason in found.reason)


OWN = """
from bigram.components_bigram import BigramLoss

class Mine(BigramLoss):
    pass
"""


@pytest.fixture(scope="module")
def own(train_bigram: TrainBigram, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `runs/t`, trained with a loss of one's own, and `state`, where that is noted."""
    code, state = tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("state")
    (code / "my_loss.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        patch.syspath_prepend(str(code))
        folder = train_bigram("trainer.max_steps=2", "loss._target_=my_loss.Mine", "hub.token=hf_secretsecret")
        (folder / "state").symlink_to(state)
        yield folder
    sys.modules.pop("my_loss", None)


def test_a_run_of_ones_own_needs_no_word(
    own: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    fresh_process: None,
) -> None:  # fmt: skip
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "state"))
    assert len(own_file().read_text().split()) == 1
    written = [file for file in (own / "runs/t").rglob("*") if file.is_file()]
    assert not [file for file in written if b"hf_secretsecret" in file.read_bytes()]
    shutil.copytree(own / "runs", work_dir / "runs")
    assert xlm.load("runs/t").generate(["3 1"])
    assert main(["generate", "runs/t", "generation.prompts=['3 1']"]) == 0
    # Somebody else, who got the folder; and one changed value.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with pytest.raises(NotAllowedError, match=r"would call 'my_loss\.Mine' \(loss\._target_\), which is not"):
        xlm.load("runs/t")
    capsys.readouterr()
    command = ["generate", "runs/t", "generation.prompts=['3 1']"]
    assert main(command) == 1
    assert "give generation.trust=true" in capsys.readouterr().err
    assert main([*command, "generation.trust=true"]) == 0
    assert xlm.load("runs/t", trust=True).generate(["3 1"])
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "state"))
    config = OmegaConf.load("runs/t/config.yaml")
    config.loss.scale = 2.0
    OmegaConf.save(config, "changed.yaml")
    with pytest.raises(NotAllowedError, match=r"changed\.yaml would call 'my_loss\.Mine'"):
        xlm.load("runs/t", config="changed.yaml")
