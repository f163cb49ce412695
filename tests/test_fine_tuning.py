"""`init_from`: a run starts with the weights and the tokens of another model, and records what it took."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import xlm
from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import CheckpointError, ConfigError
from xlm.training.ema import averaged_state_dict
from xlm.training.resume import load_checkpoint
from xlm.utils.instantiate import clear_components

FAMILIES = ("arlm", "ilm", "mdlm", "mlm")
# Without a step of its own size, weights stay what they were loaded as.
SMALL = (
    "datamodule=own_text", "data_files.train=new.txt", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "trainer.limit_val_batches=1", "per_device_batch_size=8", "trainer_strategy=cpu", "block_size=24", "loggers=debug",
    "~datamodule.dataset_managers.val.unconditional_prediction", "test_after_training=false", "vocab_size=290",
    "ema_decay=0.9", "job_name=new",
)  # fmt: skip


def write_texts(folder: Path) -> None:
    """Two files whose trained tokenizers differ."""
    old = [f"the {a} cats saw {b} dogs" for a in range(12) for b in range(12)]
    new = [f"a bird with {a} and {b} eggs" for a in range(12) for b in range(12)]
    (folder / "old.txt").write_text("\n".join(old))
    (folder / "new.txt").write_text("\n".join(new))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained mdlm in runs/base, and its exported folder."""
    folder = tmp_path_factory.mktemp("base")
    write_texts(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mdlm = ("model_type=mdlm", "model=xtiny_mdlm", "job_name=base", "data_files.train=old.txt")
        train.run(load_config([*SMALL, *mdlm]))
        clear_components()
        xlm.load("runs/base").save_pretrained("exported")
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def configs() -> dict[str, DictConfig]:
    return {}


@pytest.fixture
def configure(configs: dict[str, DictConfig], folder: Path) -> Iterator[Callable[..., DictConfig]]:
    """The configuration of a run of a family that starts from runs/base; each family is composed once."""

    def configured(family: str = "mdlm", **values: Any) -> DictConfig:
        if family not in configs:
            configs[family] = load_config([*SMALL, f"model_type={family}", f"model=xtiny_{family}"])
        cfg = configs[family].copy()
        cfg.paths.root_dir, cfg.paths.work_dir, cfg.init_from = str(folder), str(folder), "runs/base"
        for key, value in values.items():
            OmegaConf.update(cfg, key.replace("__", "."), value)
        return cfg

    yield configured
    clear_components()


def weights(path: str) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(path)
    averaged = averaged_state_dict(checkpoint)
    assert averaged is not None
    return averaged


RATE = "optimizer__lr"


@pytest.mark.parametrize("family", ["mdlm", *(pytest.param(f, marks=pytest.mark.slow) for f in ("arlm", "ilm", "mlm"))])
def test_every_family_takes_what_fits(configure: Callable[..., DictConfig], family: str) -> None:
    """Averaged weights of the source, its tokenizer, and nothing of its optimizer, its schedule and its steps."""
    train.run(configure(family, **{RATE: 0.0}))
    source, last = weights("runs/base/checkpoints/best.ckpt"), load_checkpoint("runs/new/checkpoints/last.ckpt")
    record = json.loads(Path("runs/new/record_train.json").read_text())["init_from"]
    fits = {name for name, t in last["state_dict"].items() if name in source and source[name].shape == t.shape}
    assert record["loaded"] == len(fits) > 10
    for state in (last["state_dict"], weights("runs/new/checkpoints/last.ckpt")):
        assert all(torch.equal(state[name], source[name]) for name in fits)
    assert sorted([*record["missing"], *record["other_shape"]]) == sorted(last["state_dict"].keys() - fits)
    if family == "mdlm":
        assert record["share"] == 1.0
    assert last["global_step"] == last["xlm_ema"]["num_updates"] == 2
    assert {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()} == {2}
    tokenizers = [xlm.load(f"runs/{name}").tokenizer.get_vocab() for name in ("base", "new")]
    assert tokenizers[0] == tokenizers[1]


def test_a_resumed_run_needs_its_source_no_more(configure: Callable[..., DictConfig], folder: Path) -> None:
    """It ends with the same weights as an uninterrupted one, with the tokenizer of the source, which is gone."""
    train.run(configure(job_name="straight", trainer__max_steps=4))
    train.run(configure())
    shutil.rmtree("runs/base")
    train.run(configure(trainer__max_steps=4))
    states = [load_checkpoint(f"runs/{name}/checkpoints/last.ckpt") for name in ("new", "straight")]
    assert states[0]["global_step"] == 4
    assert all(torch.equal(t, states[1]["state_dict"][name]) for name, t in states[0]["state_dict"].items())
    record = json.loads(Path("runs/new/record_train.json").read_text())
    assert record["init_from"]["source"] == "runs/base"
    with pytest.raises(ConfigError, match="init_from: runs/base → "):
        train.run(configure(init_from="exported"))


def test_another_tokenizer_is_refused_until_it_is_allowed(configure: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigError) as caught:
        train.run(configure(tokenizer="character"))
    assert "init_from: runs/base was trained with another tokenizer (token 0 is" in str(caught.value)
    assert not Path("runs/new").exists()
    train.run(configure(tokenizer="character", init_tokenizer="own", init_from="exported", **{RATE: 0.0}))
    new, old = xlm.load("runs/new"), xlm.load("runs/base")
    ids = {text: lm.tokenizer.convert_tokens_to_ids("e") for text, lm in (("new", new), ("old", old))}
    rows = [lm.model.embed_tokens.weight[ids[text]] for text, lm in (("new", new), ("old", old))]
    assert torch.equal(*rows)
    record = json.loads(Path("runs/new/record_train.json").read_text())["init_from"]
    assert record["rows"]["model.embed_tokens.weight"][0] > 10


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"init_from": "runs/bas.ckpt"}, "init_from: There is no file or folder runs/bas.ckpt. Models in runs: base."),
        ({"model__d_model": 32, "model__nhead": 2}, "Nothing in runs/base/checkpoints/best.ckpt fits this model."),
        ({"init_from": None, "init_tokenizer": "source"}, "init_tokenizer=source has no effect without init_from="),
    ],
)
def test_what_is_refused(configure: Callable[..., DictConfig], values: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        train.run(configure(**values))
    assert says in str(caught.value)
    assert not Path("runs/new").exists()


def test_weights_alone_do_not_tell_their_tokens(configure: Callable[..., DictConfig]) -> None:
    """A tokenizer that is trained on other data would hardly be the same; the user may know better."""
    shutil.copy("exported/model.safetensors", "alone.safetensors")
    with pytest.raises(ConfigError, match=r"tokenizer of alone.safetensors is not known: it has no conf"):
        train.run(configure(init_from="alone.safetensors"))


def test_your_own_text_in_one_line(folder: Path) -> None:
    """The network is that of the source, not one that fits the data, and so are its tokens; also when it continues."""
    words = ("data.text=new.txt", "model_type=mdlm", "init_from=runs/base", "job_name=new", "trainer_strategy=cpu",
             "trainer.limit_val_batches=1", "test_after_training=false", "loggers=debug")  # fmt: skip
    for steps in (1, 2):
        train.run(load_config([*words, f"trainer.max_steps={steps}"]))
        clear_components()
    config = OmegaConf.load("runs/new/config.yaml")
    assert config.data.chosen["model.d_model"] == config.model.d_model == 64
    assert json.loads(Path("runs/new/record_train.json").read_text())["init_from"]["share"] == 1.0
    assert xlm.load("runs/new").tokenizer.get_vocab() == xlm.load("runs/base").tokenizer.get_vocab()


def test_a_configuration_of_others_is_data(configure: Callable[..., DictConfig]) -> None:
    """What it names is not called, and the run doesn't start."""
    config = OmegaConf.load("exported/xlm_config.yaml")
    config.global_components.tokenizer = {"_target_": "os.mkdir", "path": "made"}
    OmegaConf.save(config, "exported/xlm_config.yaml")
    shutil.rmtree("exported/tokenizer")
    with pytest.raises(ConfigError, match=r"is not known: its configuration would call 'os.mkdir'"):
        train.run(configure(init_from="exported"))
    assert not Path("made").exists()


def test_the_name_of_a_run_has_its_source() -> None:
    cfg = load_config(["experiment=star_easy_mlm", "init_from=runs/a"])
    assert cfg.job_name.startswith("star_easy_mlm,init_from=a")
