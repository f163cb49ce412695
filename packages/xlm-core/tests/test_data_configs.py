"""Core's data configs: they compose, fit the data they name, and take another source with the same columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from omegaconf import DictConfig, OmegaConf
from pyarrow import parquet

from xlm.commands import prepare_data
from xlm.compose.load import load_config
from xlm.datamodule import TextDataModule
from xlm.errors import MissingRoleError
from xlm.tasks.star import DIFFICULTIES, StarGraphs
from xlm.utils.instantiate import instantiate, set_component

MODELS = Path(__file__).with_name("models")
CONFIGS = Path(prepare_data.__file__).parents[1] / "configs" / "lightning_train"
# The members of /datasets that published models name.
PUBLISHED = [
    *(f"star_{d}_{s}" for d in DIFFICULTIES for s in ("train", "val", "val_pred", "test", "test_pred")),
    *("lm1b_train", "lm1b_test", "owt_train", "owt_val", "owt_test", "text_unconditional_prediction"),
]

pytestmark = pytest.mark.usefixtures("fresh_process")


def compose(*overrides: str, check: bool = True) -> DictConfig:
    return load_config(
        ["model_type=bigram", "model=bigram", *overrides],
        environ={"XLM_MODELS_PATH": str(MODELS)},
        cwd=MODELS,
        check=check,
    )


def build(cfg: DictConfig) -> TextDataModule:
    set_component("tokenizer", instantiate(cfg.global_components.tokenizer))
    set_component("noise_schedule", None)
    datamodule = instantiate(cfg.datamodule)
    assert isinstance(datamodule, TextDataModule)
    return datamodule


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_star_configs_fit_their_graphs(difficulty: str) -> None:
    cfg, star = compose(f"experiment=star_{difficulty}"), DIFFICULTIES[difficulty]
    assert cfg.input_block_size >= star.max_prompt_length
    assert cfg.block_size >= star.max_answer_length + 2  # BOS and EOS
    assert cfg.global_components.tokenizer.vocab_size == star.num_labels
    managers = cfg.datamodule.dataset_managers
    assert {split: list(managers[split]) for split in managers} == {
        "train": ["lm"], "val": ["lm", "prediction"], "test": ["lm", "prediction"], "predict": [],
    }  # fmt: skip
    sizes = [200_000, 500, 5_000] if difficulty == "mini" else [50_000, 100, 5_000]
    assert [managers[split].lm.num_examples for split in ("train", "val", "test")] == sizes
    kwargs = [m.dataset_kwargs for split in ("train", "val", "test") for m in managers[split].values()]
    assert {k.difficulty for k in kwargs} == {difficulty}
    assert [k.split for k in kwargs] == ["train", "val", "val", "test", "test"]
    for split in ("val", "test"):
        assert managers[split].lm.dataset_kwargs == managers[split].prediction.dataset_kwargs


def test_metrics_say_where_their_inputs_come_from() -> None:
    cfg = compose("experiment=star_easy", "metric_inputs.seq2seq_exact_match=bigram.my_update_fn")
    found = {
        f"{split}/{name}/{metric}": node.update_fn
        for split, named in cfg.reported_metrics.items()
        for name, metrics in named.items()
        for metric, node in metrics.items()
    }
    assert found == {
        "train/lm/accumulated_loss": "xlm.metrics.mean_loss_update_fn",
        "val/lm/accumulated_loss": "xlm.metrics.mean_loss_update_fn",
        "val/prediction/exact_match": "bigram.my_update_fn",
        "val/prediction/token_accuracy": "xlm.metrics.seq2seq_token_accuracy_update_fn",
        "test/lm/accumulated_loss": "xlm.metrics.mean_loss_update_fn",
        "test/prediction/exact_match": "bigram.my_update_fn",
        "test/prediction/token_accuracy": "xlm.metrics.seq2seq_token_accuracy_update_fn",
    }
    assert cfg.monitored_metric in found
    metric = instantiate(cfg.reported_metrics.val.lm.accumulated_loss)
    assert metric.name == "accumulated_loss"


def test_published_members_of_datasets_are_there() -> None:
    members = [f"+datasets@datamodule.dataset_managers.val.{name}={name}" for name in PUBLISHED]
    cfg = compose("datamodule=star_easy", *members, check=False)
    for name in PUBLISHED:
        node = OmegaConf.to_container(cfg.datamodule.dataset_managers.val[name])
        assert isinstance(node, dict)
        assert node["collator"] == "???"  # a missing value does not overwrite what a model attached before
        assert str(node["_target_"]).startswith("xlm.datamodule.")
        assert (node.get("role") == "prediction") == name.endswith(("_pred", "_prediction"))


@pytest.mark.parametrize(("name", "block_size"), [("lm1b", 128), ("owt", 1024), ("owt_packed", 1024)])
def test_text_configs_ask_for_the_text_roles(name: str, block_size: int) -> None:
    cfg = compose(f"datamodule={name}", check=False)
    assert cfg.block_size == block_size
    managers = OmegaConf.to_container(cfg.datamodule.dataset_managers, resolve=False)
    assert isinstance(managers, dict)
    roles = {f"{s}/{n}": m["collator"] for s, named in managers.items() for n, m in named.items()}
    splits = ("train", "val") if name == "lm1b" else ("train", "val", "test")
    unconditional = {f"{s}/unconditional_prediction": "${collators.unconditional}" for s in ("val", "test", "predict")}
    assert roles == {f"{s}/lm": "${collators.lm}" for s in splits} | unconditional
    for split in splits:
        packs = cfg.datamodule.dataset_managers[split].lm
        size = OmegaConf.select(packs, "on_the_fly_group_processor_kwargs.block_size")
        assert size == (block_size - 2 if name == "owt_packed" else None)


def test_real_text_asks_for_gaps_to_be_filled_only_where_it_says_so() -> None:
    roles = {}
    for name in ("text", "text_infill"):
        managers = compose(f"experiment={name}", check=False).datamodule.dataset_managers
        plain = OmegaConf.to_container(managers, resolve=False)
        assert isinstance(plain, dict)
        roles[name] = {f"{s}/{n}": m["collator"] for s, named in plain.items() for n, m in named.items()}
    assert set(roles["text"].values()) == {"${collators.lm}", "${collators.unconditional}"}
    gaps = {f"{split}/infill_prediction": "${collators.infill}" for split in ("val", "test")}
    assert roles["text_infill"] == roles["text"] | gaps
    with pytest.raises(MissingRoleError, match=r"'bigram' has no collator for the role 'lm', .* 'text' needs"):
        compose("experiment=text")


def test_no_example_of_real_text_is_longer_than_its_block() -> None:
    for block_size in (64, 32):
        cfg = compose("experiment=text_infill", f"block_size={block_size}", check=False)
        for named in cfg.datamodule.dataset_managers.values():
            lengths = [m.dataset_kwargs.max_tokens for m in named.values() if "dataset_kwargs" in m]
            assert set(lengths) <= {block_size - 2}
    val = cfg.datamodule.dataset_managers
    processor = val.val.infill_prediction.on_the_fly_processor_kwargs
    assert processor == val.test.infill_prediction.on_the_fly_processor_kwargs


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The first 40 test graphs as every kind of source."""
    folder = tmp_path_factory.mktemp("mirrors")
    rows = list(StarGraphs(None, 40, split="test"))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = [[str(value) for value in row.values()] for row in rows]
    lines = [",".join(f'"{cell}"' for cell in row) for row in cells]
    (folder / "rows.csv").write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    hub = folder / "dhruveshpatel" / "star-small"
    hub.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), hub / "test.parquet")
    files = {kind: str(folder / f"rows.{kind}") for kind in ("jsonl", "csv", "parquet")}
    return {**files, "hub": "dhruveshpatel/star-small/test", "generator": "null", "folder": str(folder)}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "hub"])
def test_the_same_task_from_any_source(
    kind: str, mirrors: dict[str, str], tmp_path: Path, hub_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prompts_and_answers(source: str) -> Any:
        monkeypatch.chdir(tmp_path)
        cfg = compose("experiment=star_easy", f"data_files.test={source}", f"paths.cache_dir={tmp_path}/cache",
                      "datamodule.dataset_managers.test.lm.num_examples=40")  # fmt: skip
        monkeypatch.chdir(mirrors["folder"])
        datamodule = build(cfg)
        datamodule.setup("test")
        return [
            {name: value.tolist() for name, value in batch.items() if hasattr(value, "tolist")}
            for batch in datamodule.test_dataloader()[0]
        ]

    assert prompts_and_answers(mirrors[kind]) == prompts_and_answers("null")


def test_prepare_data_fills_the_cache_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose("experiment=star_easy", f"paths.cache_dir={tmp_path}/cache",
                  "datamodule.dataset_managers.train.lm.num_examples=300")  # fmt: skip
    first = prepare_data.run(cfg)
    assert [(p.split, p.name, p.num_rows) for p in first] == [
        ("train", "lm", 300), ("val", "lm", 100), ("val", "prediction", 100),
        ("test", "lm", 5000), ("test", "prediction", 5000),
    ]  # fmt: skip
    assert [p.built for p in first] == [True, True, False, True, False]
    printed = capsys.readouterr().out
    assert "StarGraphs-easy-train" in printed
    assert "5,000" in printed
    assert not any(p.built for p in prepare_data.run(cfg))
    assert "cached" in capsys.readouterr().out
