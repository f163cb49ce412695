"""The data of a run: names, roles, stages, loaders, overfitting, and the first batch shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from xlm import datamodule as datamodule_of_core
from xlm import flags
from xlm.data.cache import read_checked
from xlm.data.collate import pad_ids
from xlm.data.loaders import CombinedTrainLoader, EvalLoader, StatefulTrainLoader
from xlm.datamodule import (
    BaseBatch,
    DatasetManager,
    EvalDatasetManager,
    SimpleSpaceTokenizer,
    TextDataModule,
    UnconditionalGenerationDatasetManager,
)
from xlm.errors import BadTargetError, DataError

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*")

PUBLIC = [
    "Tokenizer", "Collator", "Seq2SeqCollator", "Seq2SeqCollatorPrediction", "BaseCollatorInput",
    "Seq2SeqCollatorInput", "BaseBatch", "TextDataModule", "DatasetManager", "LocalDatasetManager",
    "EvalDatasetManager", "UnconditionalGenerationDatasetManager", "SimpleSpaceTokenizer", "token_ids_to_input_ids",
    "token_ids_to_input_ids_and_prompt_ids", "ids_to_example_fn", "pack_sequences", "load_auto_tokenizer",
    "BertTokenizerFast", "GPT2TokenizerFast",
]  # fmt: skip


class Collator:
    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        prompts = pad_ids([example.get("prompt_ids", []) for example in examples], 0).ids
        return {"prompts": prompts, "noise": torch.tensor([example["noise_seed"] for example in examples])}


def manager(split: str, n: int, cls: type[DatasetManager] = DatasetManager, **options: Any) -> DatasetManager:
    return cls(
        Collator(),
        dataset_constructor_str="xlm.tasks.star.StarGraphs",
        dataset_kwargs={"split": split, "seed": options.pop("data_seed", 0)},
        num_examples=n,
        preprocess_function="xlm.tasks.star.star_preprocess",
        columns_to_keep=["prompt_ids", "input_ids"],
        dataloader_kwargs={"batch_size": 4},
        **options,
    )


def managers() -> dict[str, Any]:
    return {
        "train": {"lm": manager("train", 22)},
        "val": {"lm": manager("val", 10), "prediction": manager("val", 10)},
        "test": {"lm": manager("test", 9, EvalDatasetManager)},
        "predict": None,
    }


def datamodule(cache: Path, splits: dict[str, Any] | None = None, **options: Any) -> TextDataModule:
    return TextDataModule(TOKENIZER, splits or managers(), cache_dir=cache, seed=5, **options)


@pytest.fixture
def overfit() -> Iterator[None]:
    flags.DEBUG_OVERFIT = True
    yield
    flags.DEBUG_OVERFIT = False


class Net(LightningModule):
    """Sees batches and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[Any]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.setdefault("train", []).append(batch)
        return self.weight**2

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.setdefault(f"val{dataloader_idx}", []).append(batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.setdefault(f"test{dataloader_idx}", []).append(batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> int:
        self.seen.setdefault(f"predict{dataloader_idx}", []).append(batch)
        return len(batch["prompts"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_data_sets_of_the_same_examples_are_read_and_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datamodule(tmp_path).prepare_data()
    reads: list[Path] = []
    monkeypatch.setattr("xlm.data.cache.read_checked", lambda path: reads.append(path) or read_checked(path))
    found = datamodule(tmp_path)
    found.prepare_data()
    found.setup()
    # train, test, and one for both of val
    assert len(reads) == len(set(reads)) == 3
    loss, prediction = found.dataset_managers["val"].values()
    assert loss.rows is not None
    assert prediction.rows is not None
    assert loss.rows.fetch([3]) == prediction.rows.fetch([3])


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder, use_distributed_sampler=False,
        **options,
    )  # fmt: skip


def test_public_names_are_all_there() -> None:
    assert all(hasattr(datamodule_of_core, name) for name in PUBLIC)
    assert set(PUBLIC) <= set(datamodule_of_core.__all__)


def test_names_and_roles(tmp_path: Path) -> None:
    splits = managers()
    splits["val"]["ilm_prediction"] = manager("val", 3)
    splits["val"]["own_words"] = manager("val", 3, role="prediction")
    splits["val"]["prediction_loss"] = manager("val", 3, role="loss")
    module = datamodule(tmp_path, splits)
    assert module.dataloader_names["train"] == {0: "lm"}
    assert module.dataloader_names["val"] == dict(
        enumerate(["lm", "prediction", "ilm_prediction", "own_words", "prediction_loss"])
    )
    assert module.dataloader_names["predict"] == {}
    roles = {name: module.role("val", name) for name in splits["val"]}
    assert [name for name, role in roles.items() if role == "loss"] == ["lm", "prediction_loss"]
    assert module.role("train", "lm") == "loss"


def test_setup_prepares_only_what_the_stage_needs(tmp_path: Path) -> None:
    module = datamodule(tmp_path)
    module.setup("validate")
    ready = {(s, n): m.rows is not None for s, named in module.dataset_managers.items() for n, m in named.items()}
    assert [key for key, is_ready in ready.items() if is_ready] == [("val", "lm"), ("val", "prediction")]
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1  # one cache serves both
    limited = datamodule(tmp_path, {"val": {"lm": manager("val", 10, stages=["validate"])}})
    limited.setup("fit")
    assert limited.dataset_managers["val"]["lm"].rows is None


def test_loaders_of_every_split(tmp_path: Path) -> None:
    module = datamodule(tmp_path)
    module.prepare_data()
    module.setup()
    train = module.train_dataloader()
    assert isinstance(train, StatefulTrainLoader)
    assert len(train) == 5  # 22 examples, the ragged batch is dropped
    assert train.order.seed == 5
    val = module.val_dataloader()
    assert [sum(len(b["noise"]) for b in loader) for loader in val] == [10, 10]
    assert all(isinstance(loader, EvalLoader) for loader in val)
    assert sum(len(b["noise"]) for b in module.test_dataloader()[0]) == 9
    with pytest.raises(DataError, match=r"no data for predict: datamodule\.dataset_managers\.predict is empty"):
        module.predict_dataloader()


def test_everything_runs_under_a_trainer(tmp_path: Path) -> None:
    module, net = datamodule(tmp_path, {**managers(), "predict": {"prediction": manager("test", 9)}}), Net()
    run = trainer(tmp_path, max_steps=7, max_epochs=-1, val_check_interval=5, check_val_every_n_epoch=None)
    run.fit(net, module)
    run.test(net, module, verbose=False)
    predictions = run.predict(net, module)
    assert {name: len(batches) for name, batches in net.seen.items()} == {
        "train": 7, "val0": 3, "val1": 3, "test0": 3, "predict0": 3,
    }  # fmt: skip
    assert predictions == [4, 4, 1]


def test_evaluation_works_without_training_data(tmp_path: Path) -> None:
    splits = managers()
    del splits["train"]
    module, net = datamodule(tmp_path, splits), Net()
    trainer(tmp_path).validate(net, module, verbose=False)
    trainer(tmp_path).test(net, module, verbose=False)
    assert net.seen.keys() == {"val0", "val1", "test0"}
    with pytest.raises(DataError, match=r"no data for train: datamodule\.dataset_managers\.train is empty"):
        trainer(tmp_path, max_steps=1).fit(net, module)


def test_several_training_sets_come_side_by_side(tmp_path: Path) -> None:
    splits = {"train": {"lm": manager("train", 22), "extra": manager("train", 9, data_seed=1)}}
    module, net = datamodule(tmp_path, splits), Net()
    trainer(tmp_path, max_steps=6, max_epochs=-1).fit(net, module)
    assert isinstance(module.train_dataloader(), CombinedTrainLoader)
    assert all(batch.keys() == {"lm", "extra"} for batch in net.seen["train"])
    assert not torch.equal(net.seen["train"][0]["lm"]["prompts"], net.seen["train"][0]["extra"]["prompts"])


def test_overfitting_sees_one_training_batch_everywhere(tmp_path: Path, overfit: None) -> None:
    splits = managers()
    samples = UnconditionalGenerationDatasetManager(Collator(), 3, dataloader_kwargs={"batch_size": 4})
    splits["val"]["unconditional_prediction"] = samples
    module, net = datamodule(tmp_path, splits), Net()
    run = trainer(tmp_path, max_steps=6, max_epochs=-1, val_check_interval=6, check_val_every_n_epoch=None)
    run.fit(net, module)
    run.test(net, module, verbose=False)

    def prompts(name: str) -> set[str]:
        return {str(sorted(batch["prompts"].tolist())) for batch in net.seen[name]}

    assert len(prompts("train")) == 1
    assert prompts("train") == prompts("val0") == prompts("val1") == prompts("test0")
    assert [len(batch["noise"]) for batch in net.seen["val0"]] == [4]
    noise = torch.cat([batch["noise"] for batch in net.seen["train"]])
    assert len(noise.unique()) == len(noise)  # corruption is drawn anew each time
    assert [tuple(batch["prompts"].shape) for batch in net.seen["val2"]] == [(3, 0)]


def test_overfitting_without_training_data_uses_each_own(tmp_path: Path, overfit: None) -> None:
    module = datamodule(tmp_path, {"val": {"lm": manager("val", 10)}})
    module.setup("validate")
    assert sum(len(b["noise"]) for b in module.val_dataloader()[0]) == 10


shown: list[tuple[str, str, int]] = []


def show(batch: Any, split: str, tokenizer: Any, dataloader_name: str) -> None:
    assert tokenizer is TOKENIZER
    shown.append((split, dataloader_name, len(batch["noise"])))


def test_the_first_batch_of_each_loader_is_shown_once(tmp_path: Path) -> None:
    shown.clear()
    splits = {**managers(), "train": {"lm": manager("train", 22), "extra": manager("train", 22, data_seed=1)}}
    module, net = datamodule(tmp_path, splits, print_batch_fn=show), Net()
    run = trainer(tmp_path, max_steps=4, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None)
    run.fit(net, module)
    run.test(net, module, verbose=False)
    assert shown == [
        ("train", "lm", 4),
        ("train", "extra", 4),
        ("val", "lm", 4),
        ("val", "prediction", 4),
        ("test", "lm", 4),
    ]


def test_unknown_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"datamodule\.dataset_managers has no split 'valid'\. The splits are train, val"
    ):
        datamodule(tmp_path, {"valid": {}})


def test_print_batch_fn_may_be_a_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "DEBUG", True)
    module = datamodule(tmp_path, print_batch_fn="no.such.module.show")
    with pytest.raises(BadTargetError, match=r"no\.such\.module\.show"):
        trainer(tmp_path).validate(Net(), module, verbose=False)


class OwnBatch(BaseBatch):
    scores: Tensor


def test_a_batch_that_extends_the_base_resolves_its_types() -> None:
    assert set(get_type_hints(OwnBatch)) == {"input_ids", "attention_mask", "scores"}
