"""A run exported as a folder and loaded again: the same weights, texts and numbers, in every way to load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from omegaconf import OmegaConf

import xlm
from xlm.cli.main import main
from xlm.commands import exchange
from xlm.compose import load_config
from xlm.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from ..conftest import TrainBigram

MODELS = Path(__file__).parents[1] / "models"
CHOICE = ("experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu")
SHORT = (
    "datamodule.dataset_managers.test.lm.num_examples=20", "datamodule.dataset_managers.test.prediction.num_examples=5",
    "trainer.max_steps=2", "ema_decay=0.5", "optimizer.lr=0.5",
)  # fmt: skip
PROMPTS = ["3 1 19", "", "7"]


@pytest.fixture(scope="module")
def trained(train_bigram: TrainBigram) -> Path:
    """A folder with a run of two steps in runs/t."""
    return train_bigram(*SHORT)


@pytest.fixture
def home(trained: Path, work_dir: Path, monkeypatch: pytest.MonkeyPatch, fresh_process: None) -> Path:
    """A copy of it as the current directory."""
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(trained / "cache"))
    shutil.copytree(trained / "runs", work_dir / "runs")
    return work_dir


def measured(home: Path, name: str) -> dict[str, Any]:
    record = json.loads((home / f"runs/{name}/eval_test.json").read_text())
    numbers = {key: value for key, value in record["metrics"].items() if "seconds" not in key and "per_" not in key}
    for found in record["likelihood"].values():
        found.pop("seconds", None)
    return {"metrics": numbers, "likelihood": record["likelihood"]}


def test_extracted_and_evaluated_to_the_same_digits(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "eval.checkpoint_path=runs/t", "job_name=before", "trainer_strategy=cpu"]) == 0
    assert main(["extract_checkpoint", "extract.checkpoint_path=runs/t"]) == 0
    assert "The averaged weights of runs/t/checkpoints/best.ckpt as " in capsys.readouterr().out
    folder = home / "runs/t/extracted"
    names = {path.name for path in folder.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "xlm_config.yaml"}
    shutil.rmtree(home / "runs/t/checkpoints")
    assert main(["eval", f"eval.checkpoint_path={folder}", "job_name=after", "trainer_strategy=cpu"]) == 0
    assert measured(home, "after") == measured(home, "before")
    assert measured(home, "before")["metrics"]
    assert main(["generate", f"generation.checkpoint_path={folder}", "generation.prompts=['3 1']", "job_name=g"]) == 0


def test_from_an_experiment_and_from_its_checkpoint_the_same(home: Path) -> None:
    exchange.extract(load_config([*CHOICE, *SHORT, "job_type=extract_checkpoint", "++extract.output_dir=a"]))
    assert main(["extract_checkpoint", "extract.ckpt_path=runs/t/checkpoints/best.ckpt", "extract.output_dir=b"]) == 0
    one, other = xlm.load("a"), xlm.load("b")
    assert one.model.table.weight.equal(other.model.table.weight)
    assert one.generate(PROMPTS) == other.generate(PROMPTS) == xlm.load("runs/t").generate(PROMPTS)
    config = OmegaConf.load("a/xlm_config.yaml")
    assert isinstance(config, type(one.config))
    assert config.job_type == "train"
    assert "extract" not in config
    assert "extract" not in OmegaConf.load("b/xlm_config.yaml")


def test_averaged_or_raw(home: Path) -> None:
    saved = torch.load("runs/t/checkpoints/best.ckpt", weights_only=True)
    for apply_ema, expected in ((True, saved["xlm_ema"]["average"]), (False, saved["state_dict"])):
        folder = home / f"ema_{apply_ema}"
        options = (f"extract.output_dir={folder}", f"extract.apply_ema={apply_ema}", "extract.checkpoint_path=runs/t")
        assert main(["extract_checkpoint", *options]) == 0
        # The checkpoint is chosen once and not a second time.
        for again in (True, False):
            assert xlm.load(folder, apply_ema=again).model.table.weight.equal(expected["model.table.weight"])


def test_an_option_of_the_sampler_goes_along(home: Path) -> None:
    options = ("extract.checkpoint_path=runs/t", "extract.output_dir=s", "predictor.length=2")
    assert main(["extract_checkpoint", *options]) == 0
    assert [len(text.split()) for text in xlm.load("s").generate(PROMPTS)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["extract.max_shard_size=many"], "extract.max_shard_size is 'many', and must be bytes"),
        (["extract.outptu_dir=x"], "Did you mean 'extract.output_dir'?"),
        (["extract.format=gguf"], "extract.format is 'gguf', and must be xlm or transformers."),
        (["extract.output_dir=runs"], "runs already exists and is not an empty folder. Nothing was written."),
        (["extract.revision=x", "extract.apply_emma=1"], "Did you mean 'extract.apply_ema'?"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    home: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract_checkpoint", "extract.checkpoint_path=runs/t", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (home / "runs/t/extracted").exists()


def test_averages_that_are_asked_for_have_to_be_there(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "runs/t/checkpoints/best.ckpt"
    saved = torch.load(path, weights_only=True)
    del saved["xlm_ema"]
    torch.save(saved, path)
    assert main(["extract_checkpoint", "extract.checkpoint_path=runs/t", "extract.apply_ema=true"]) == 1
    assert "has no averaged weights: its run had no ema_decay." in capsys.readouterr().err
    assert main(["extract_checkpoint", "extract.checkpoint_path=runs/t"]) == 0
    assert "The raw weights of" in capsys.readouterr().out


class Hub:
    """The hub's client on a local directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: list[bool | None] = []

    def create_repo(self, repo_id: str, private: bool | None = None, exist_ok: bool = False) -> Any:
        self.private.append(private)
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


def test_pushed_and_loaded_writes_the_same_tokens(home: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("hub.repo_id=me/bigram", "hub.commit_message=first", "hub.private=true")
    assert main(["push_to_hub", "hub.checkpoint_path=runs/t", *options]) == 0
    assert "best.ckpt: https://hub/me/bigram: first" in capsys.readouterr().out
    assert hub.private == [True]
    here, there = xlm.load("runs/t", seed=1), xlm.load("me/bigram", seed=1)
    assert there.generate(PROMPTS, 5, greedy=False) == here.generate(PROMPTS, 5, greedy=False)
    assert "hub" not in there.config
    # The run that an experiment names.
    exchange.push(load_config([*CHOICE, *SHORT, "job_type=push_to_hub", "++hub.repo_id=me/again"]))
    assert xlm.load("me/again").generate(PROMPTS) == here.generate(PROMPTS)


def test_a_model_from_the_hub_is_written_anew(home: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push_to_hub", "hub.checkpoint_path=runs/t", "hub.repo_id=me/bigram"]) == 0
    command = ["extract_checkpoint", "extract.checkpoint_path=me/bigram", "extract.output_dir=mine"]
    config = hub.root / "me/bigram/xlm_config.yaml"
    safe = config.read_text()
    config.write_text(safe.replace("bigram.components_bigram.BigramPredictor", "os.system"))
    assert main(command) == 1
    assert "give extract.trust=true" in capsys.readouterr().err
    config.write_text(safe)
    assert main(command) == 0
    assert xlm.load("mine").generate(PROMPTS) == xlm.load("runs/t").generate(PROMPTS)


def test_what_the_hub_refuses(home: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"hub\.repo_id=owner/name"):
        exchange.push(load_config([*CHOICE, *SHORT]))

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to it.\nmore")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"could not be uploaded to 'me/x': no route to it\."):
        exchange.push(load_config([*CHOICE, *SHORT, "++hub.repo_id=me/x"]))
    assert issubclass(HfHubHTTPError, OSError)
