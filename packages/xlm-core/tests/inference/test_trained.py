"""`xlm.load`: every way to load a trained model, no side effects, errors in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import xlm
from xlm.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigError,
    NotAllowedError,
)
from xlm.inference.trained import usable_device
from xlm.inference.writer import prompt_mode
from xlm.training.rng import capture
from xlm.utils import instantiate as components

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"
PROMPTS = ["3 1 19", "", "7"]


@pytest.fixture(scope="module")
def trained(train_bigram: TrainBigram) -> Path:
    """The folder of a short run without its data."""
    folder = train_bigram("trainer.max_steps=4", "ema_decay=0.5", "optimizer.lr=0.5")
    shutil.rmtree(folder / "cache")
    return folder / "runs/t"


@pytest.fixture
def run(trained: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the run, from an empty current directory."""
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    return trained


def everything(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [item for child in value.values() for item in flat(child)]
    if isinstance(value, list):
        return [item for child in value for item in flat(child)]
    return value.tolist() if isinstance(value, torch.Tensor) else [value]


def test_three_lines_and_nothing_else_has_changed(run: Path, work_dir: Path) -> None:
    components.set_component("tokenizer", "of a run that goes on")
    before, files = flat(capture()), everything(run)
    lm = xlm.load(run / "checkpoints/best.ckpt")
    texts = lm.generate(PROMPTS)
    assert [len(text.split()) for text in texts] == [9, 9, 9]
    assert all(isinstance(text, str) for text in texts)
    lm.generate(PROMPTS, greedy=False)
    assert flat(capture()) == before
    assert everything(run) == files
    assert list(work_dir.iterdir()) == []
    assert components.get_component("tokenizer") == "of a run that goes on"
    assert not components.has_component("lightning_module")
    components.clear_components()


def test_what_is_in_it(run: Path) -> None:
    lm = xlm.load(str(run))
    assert isinstance(lm, xlm.TrainedModel)
    assert not lm.model.training
    assert lm.source == run / "checkpoints/best.ckpt"
    assert lm.predictor is lm.harness.predictor
    assert lm.harness.loss_function.num_configured == 1
    assert len(lm.tokenizer) == lm.config.model.num_embeddings == 27
    assert lm.options == {"length": 9, "greedy": True}
    assert lm.device == torch.device("cpu")
    assert repr(lm).startswith("TrainedModel(Bigram, 729 parameters, ")


def test_rows_do_not_depend_on_their_batch(run: Path) -> None:
    lm = xlm.load(run)
    texts = lm.generate(PROMPTS)
    assert texts == [text for prompt in PROMPTS for text in lm.generate([prompt])]
    assert texts == lm.generate(PROMPTS, batch_size=2)
    assert lm.generate([]) == lm.generate(PROMPTS, num_samples=0) == []
    assert lm.generate("3 1 19") == texts[:1]
    assert lm.generate() == texts[1:2]
    assert lm.generate(PROMPTS, 2) == [text for text in texts for _ in range(2)]


def test_seeds(run: Path) -> None:
    lm = xlm.load(run)
    assert lm.generate(None, 3, greedy=False, seed=1) == lm.generate(None, 3, greedy=False, seed=1)
    assert lm.generate(None, 3, greedy=False) != lm.generate(None, 3, greedy=False)
    assert len(set(lm.generate(None, 9, greedy=False, batch_size=3))) > 3
    one, other = (xlm.load(run, seed=5) for _ in range(2))
    stream = [one.generate(None, 3, greedy=False) for _ in range(2)]
    assert stream == [other.generate(None, 3, greedy=False) for _ in range(2)]
    assert stream[0] != stream[1]


def test_options_of_one_call(run: Path) -> None:
    lm = xlm.load(run)
    assert [len(text.split()) for text in lm.generate(PROMPTS, length=2)] == [2, 2, 2]
    assert [len(text.split()) for text in lm.generate(PROMPTS)] == [9, 9, 9]
    with pytest.raises(ConfigError) as caught:
        lm.generate(PROMPTS, lenght=2)
    assert str(caught.value) == (
        "BigramPredictor has no option 'lenght'. Options: length, greedy. Did you mean 'length'?"
    )
    with pytest.raises(ConfigError, match="no option 'model'"):
        lm.generate(PROMPTS, model=None)
    with pytest.raises(ConfigError, match="num_samples is -1"):
        lm.generate(PROMPTS, num_samples=-1)
    with pytest.raises(ConfigError, match=r"'1 \[MASK\]' has masks, and bigram cannot fill any"):
        lm.generate(["1 [MASK]"])


def test_a_model_without_a_predictor_says_that_it_cannot_write(run: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(run / "config.yaml")
    config.predictor = None
    OmegaConf.save(config, tmp_path / "silent.yaml")
    lm = xlm.load(run / "checkpoints/best.ckpt", config=tmp_path / "silent.yaml")
    assert lm.options == {}
    with pytest.raises(ConfigError, match="this model cannot generate text"):
        lm.generate(PROMPTS)


def test_averaged_or_raw_weights(run: Path) -> None:
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    averaged = xlm.load(run / "checkpoints/last.ckpt").model.table.weight
    raw = xlm.load(run / "checkpoints/last.ckpt", apply_ema=False).model.table.weight
    assert torch.equal(averaged, saved["xlm_ema"]["average"]["model.table.weight"])
    assert torch.equal(raw, saved["state_dict"]["model.table.weight"])
    assert not torch.equal(averaged, raw)


def test_two_models_at_once(run: Path, tmp_path: Path) -> None:
    one = xlm.load(run)
    texts = one.generate(PROMPTS)
    folder = one.save_pretrained(tmp_path / "other")
    config = OmegaConf.load(folder / "xlm_config.yaml")
    config.global_components.tokenizer.vocab_size = 20
    config.predictor.length = 3
    OmegaConf.save(config, folder / "xlm_config.yaml")
    other = xlm.load(folder)
    assert [len(text.split()) for text in other.generate(PROMPTS, greedy=False)] == [3, 3, 3]
    assert one.generate(PROMPTS) == texts
    assert one.generate(PROMPTS, length=9) == texts
    assert one.tokenizer is not other.tokenizer


def test_weights_alone_and_a_folder_to_share(run: Path, tmp_path: Path) -> None:
    lm = xlm.load(run)
    texts = lm.generate(PROMPTS)
    folder = lm.save_pretrained(tmp_path / "shared")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "xlm_config.yaml",
    }  # fmt: skip
    assert torch.equal(load_file(folder / "model.safetensors")["table.weight"], lm.model.table.weight)
    assert xlm.load(folder).generate(PROMPTS) == texts
    assert type(lm.model).from_pretrained(folder).table.weight.equal(lm.model.table.weight)
    with pytest.raises(CheckpointError, match=r"is not an empty folder\. Nothing was written"):
        lm.save_pretrained(folder)

    alone = tmp_path / "alone.safetensors"
    shutil.copy(folder / "model.safetensors", alone)
    with pytest.raises(CheckpointError, match="has no configuration"):
        xlm.load(alone)
    assert xlm.load(alone, config=run / "config.yaml").generate(PROMPTS) == texts
    with pytest.raises(CheckpointError, match="There is no configuration at"):
        xlm.load(alone, config=tmp_path / "none.yaml")
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    assert xlm.load(alone).generate(PROMPTS) == texts


def test_models_of_whole_texts_continue_prompts_and_fill_masks(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (run / "config.yaml").read_text()
    assert not xlm.load(run).continues
    # A configuration of before the option says it by its collators alone.
    before = text.replace("prompt_mode: answer\n", "")
    whole = before.replace("${collators.seq2seq}", "${collators.lm}").replace("${collators.seq2seq_pred}", "null")
    assert [prompt_mode(OmegaConf.create(each)) for each in (before, whole)] == ["answer", "continue"]
    (tmp_path / "config.yaml").write_text(text.replace("prompt_mode: answer", "prompt_mode: continue"))
    lm = xlm.load(run, config=tmp_path / "config.yaml")
    assert lm.continues
    assert lm.generate(PROMPTS) == xlm.load(run).generate(PROMPTS)  # there is no other way
    lm.config.collators.infill = {}
    monkeypatch.setattr(
        type(lm.predictor), "continue_text", lambda _, prompts: [f"{p} goes on" for p in prompts], raising=False
    )
    texts = lm.generate(["3 1", "3 [MASK]", "7"])
    assert (texts[0], texts[2]) == ("3 1 goes on", "7 goes on")
    assert len(texts[1].split()) == 9


class Hub:
    """The hub's client on a local directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://hub/{repo_id}: {commit_message}"

    def download(self, repo_id: str, revision: str | None = None) -> str:
        return str(self.root / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr("xlm.training.weights.HfApi", lambda: hub)
    monkeypatch.setattr("xlm.inference.sources.snapshot_download", hub.download)
    return hub


def test_there_and_back_through_the_hub(run: Path, hub: Hub) -> None:
    lm = xlm.load(run)
    assert lm.push_to_hub("me/bigram", "first") == "https://hub/me/bigram: first"
    assert xlm.load("me/bigram").generate(PROMPTS) == lm.generate(PROMPTS)
    lm.harness.push_to_hub("me/again")
    names = [sorted(path.name for path in (hub.root / "me" / name).iterdir()) for name in ("bigram", "again")]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("predictor._target_", "os.system", r"would call 'os.system' \(predictor._target_\)"),
        ("model.extra", {"_target_": "torch.hub.load"}, r"would call 'torch.hub.load' \(model.extra._target_\)"),
        (
            "global_components.tokenizer.trust_remote_code",
            True,
            r"sets global_components.tokenizer.trust_remote_code=True",
        ),
    ],
)
def test_a_strangers_configuration_calls_only_models(run: Path, hub: Hub, key: str, value: Any, message: str) -> None:
    xlm.load(run).push_to_hub("me/bigram")
    file = hub.root / "me/bigram/xlm_config.yaml"
    config = OmegaConf.load(file)
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, file)
    for name in ("me/bigram", hub.root / "me/bigram"):
        with pytest.raises(
            NotAllowedError, match=rf"^The configuration in \S+/xlm_config.yaml {message}.*give trust=true"
        ):
            xlm.load(name)


def test_what_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no file or folder nowhere/best\.ckpt"):
        xlm.load("nowhere/best.ckpt")
    with pytest.raises(CheckpointError, match=r"has no model: a run has checkpoints/best\.ckpt or last\.ckpt"):
        xlm.load(tmp_path)
    with pytest.raises(CheckpointError, match="'nobody/nothing' is not a file or folder here, and could not"):
        xlm.load("nobody/nothing")
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes((run / "checkpoints/best.ckpt").read_bytes()[:200])
    with pytest.raises(CheckpointCorruptError, match="cannot be read"):
        xlm.load(damaged)
    other = tmp_path / "other.yaml"
    other.write_text("a: 1\n")
    with pytest.raises(ConfigError, match="is not that of a run: it has no 'model'"):
        xlm.load(run, config=other)
    config = OmegaConf.load(run / "config.yaml")
    config.model.num_embeddings = 40
    OmegaConf.save(config, tmp_path / "larger.yaml")
    with pytest.raises(CheckpointMismatchError, match=r"\(27, 27\) in the checkpoint, \(40, 40\)"):
        xlm.load(run, config=tmp_path / "larger.yaml")


def test_a_model_package_that_is_not_here_is_named(run: Path, tmp_path: Path) -> None:
    text = (run / "config.yaml").read_text().replace("bigram.components_bigram", "trigram.parts")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match="trigram"):
        xlm.load(run, config=tmp_path / "config.yaml")


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="module 'xlm' has no attribute 'laod'"):
        xlm.laod  # noqa: B018


@pytest.mark.parametrize("name", ["gpu", "cudda:0", "cuda:99", "12"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device is '{name}', and must be one of: auto, cpu"):
        usable_device(name)
    assert usable_device("cpu") == torch.device("cpu")
