"""The data of a run: named data sets of every split, their roles and their loaders."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed
from lightning.pytorch import LightningDataModule

from xlm import flags
from xlm.data.cache import CacheEntry
from xlm.data.collate import BaseBatch
from xlm.data.endless import EndlessLoader
from xlm.data.functional import (
    chat_to_ids,
    ids_to_example_fn,
    pack_sequences,
    prompt_and_answer_to_ids,
    text_to_input_ids,
    token_ids_to_input_ids,
    token_ids_to_input_ids_and_prompt_ids,
)
from xlm.data.loaders import CombinedTrainLoader, EvalLoader, StatefulTrainLoader
from xlm.data.manager import (
    DatasetManager,
    EvalDatasetManager,
    LocalDatasetManager,
    UnconditionalGenerationDatasetManager,
)
from xlm.data.mixtures import check_mixture
from xlm.data.rows import ListRows, Rows, SubsetRows
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError, as_line
from xlm.protocols import (
    BaseCollatorInput,
    Collator,
    NoiseSchedule,
    Seq2SeqCollator,
    Seq2SeqCollatorInput,
    Seq2SeqCollatorPrediction,
    Tokenizer,
)
from xlm.tasks.text.infill import mask_words
from xlm.utils.imports import get_function
from xlm.utils.rank_zero import get_rank, rank_zero_only

if TYPE_CHECKING:
    from xlm.data.pretrained_tokenizers import BertTokenizerFast, GPT2TokenizerFast, load_auto_tokenizer

__all__ = [
    "BaseBatch",
    "BaseCollatorInput",
    "BertTokenizerFast",
    "Collator",
    "DatasetManager",
    "EvalDatasetManager",
    "GPT2TokenizerFast",
    "LocalDatasetManager",
    "NoiseSchedule",
    "Seq2SeqCollator",
    "Seq2SeqCollatorInput",
    "Seq2SeqCollatorPrediction",
    "SimpleSpaceTokenizer",
    "TextDataModule",
    "Tokenizer",
    "UnconditionalGenerationDatasetManager",
    "chat_to_ids",
    "ids_to_example_fn",
    "load_auto_tokenizer",
    "pack_sequences",
    "prompt_and_answer_to_ids",
    "text_to_input_ids",
    "token_ids_to_input_ids",
    "token_ids_to_input_ids_and_prompt_ids",
]

TrainLoader = StatefulTrainLoader | EndlessLoader | CombinedTrainLoader
SPLITS = ("train", "val", "test", "predict")
_SPLITS_OF_STAGE = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
    None: SPLITS,
}
# The stage that reads a split without the others.
STAGES_OF_SPLITS = {"val": "validate", "test": "test", "predict": "predict"}
# One-batch epochs would spend most of the time between epochs.
_OVERFIT_STEPS_PER_EPOCH = 50


def __getattr__(name: str) -> Any:
    # transformers takes a second or two to import; runs with another tokenizer don't need it.
    if name in ("BertTokenizerFast", "GPT2TokenizerFast", "load_auto_tokenizer"):
        from xlm.data import pretrained_tokenizers

        return getattr(pretrained_tokenizers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_LOADER_NAME = re.compile(r"[\w+,=-][\w+,=. -]{0,99}")


def check_loader_name(split: str, name: Any) -> None:
    """DataError if the name of a data set cannot be a folder: its predictions are written below it."""
    if not _LOADER_NAME.fullmatch(str(name)):
        raise DataError(
            as_line(
                f"datamodule.dataset_managers.{split} has a data set named {str(name)!r}. "
                "Names are letters, digits and _ - + = , ."
            )
        )


class TextDataModule(LightningDataModule):
    """Named data sets per split, `{split: {name: DatasetManager}}`, for tokenised text of any kind.

    `print_batch_fn` (a dotted path or a function) shows the first batch of each loader; it is called
    `(batch, split, tokenizer, dataloader_name)`. With the flag DEBUG_OVERFIT, every split consists of the first
    training batch. `block_size` is only kept, for configurations that refer to `datamodule.block_size`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        dataset_managers: Mapping[str, Mapping[str, DatasetManager] | None],
        noise_schedule: Any = None,
        print_batch_fn: str | Callable[..., None] | None = None,
        cache_dir: str | Path = "data/cache",
        seed: int = 0,
        num_dataset_workers: int | None = None,
        rewrite_manual_cache: bool = False,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        if unknown := [split for split in dataset_managers if split not in SPLITS]:
            raise DataError(
                f"datamodule.dataset_managers has no split '{unknown[0]}'. The splits are {', '.join(SPLITS)}."
            )
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule
        self.dataset_managers = {split: dict((dataset_managers.get(split) or {}).items()) for split in SPLITS}
        opened: dict[Path, CacheEntry] = {}
        for split, managers in self.dataset_managers.items():
            for name, manager in managers.items():
                check_loader_name(split, name)
                manager.label = f"{split}.{name}"  # for messages
                manager.opened = opened
        for split, name, manager in self._managers(None):
            if isinstance(manager, DatasetManager):
                manager.check(f"datamodule.dataset_managers.{split}.{name}")
        check_mixture(self.dataset_managers["train"].values())
        self.print_batch_fn = print_batch_fn
        self.cache_dir = Path(cache_dir)
        self.seed = seed
        self.num_dataset_workers = num_dataset_workers
        self.rewrite_manual_cache = rewrite_manual_cache
        self._rewritten: set[Path] = set()
        self.block_size = block_size
        self._printed: set[tuple[str, str]] = set()

    @property
    def dataloader_names(self) -> dict[str, dict[int, str]]:
        """For each split, the name behind each of Lightning's dataloader indices."""
        return {split: dict(enumerate(managers)) for split, managers in self.dataset_managers.items()}

    @property
    def is_packed(self) -> bool:
        """Whether a training set has batching=packed."""
        return any(
            isinstance(manager, DatasetManager) and manager.dataloader_kwargs.get("batching") == "packed"
            for manager in self.dataset_managers["train"].values()
        )

    def contents(self, split: str) -> dict[str, dict[str, Any]]:
        """Source, number of examples and hash of each prepared data set of a split, by name; not of generated ones."""
        managers = self.dataset_managers[split].items()
        return {name: dict(content) for name, manager in managers if (content := manager.content) is not None}

    def role(self, split: str, name: str) -> str:
        """`loss` or `prediction`, from the data set's config or otherwise from its name."""
        explicit = self.dataset_managers[split][name].role
        return explicit or ("prediction" if "prediction" in name else "loss")

    def first_loader(self, split: str, role: str) -> tuple[int, str] | None:
        """Index and name of the first loader of a split with a role; None without one."""
        names = self.dataloader_names.get(split, {}).items()
        return next(((index, name) for index, name in names if self.role(split, name) == role), None)

    def prepare_data(self) -> None:
        """Build missing caches; Lightning calls it on one process per machine."""
        for _, _, manager in self._managers(self._stage()):
            self.prepare(manager)

    def prepare(self, manager: DatasetManager) -> CacheEntry | None:
        """`DatasetManager.prepare`; with `rewrite_manual_cache`, the data are built again, but only once."""
        options = (self.tokenizer, self.cache_dir, self.num_dataset_workers)
        if self.rewrite_manual_cache and get_rank() == 0:
            return manager.prepare(*options, rewritten=self._rewritten)
        return manager.prepare(*options)

    def setup(self, stage: str | None = None) -> None:
        """Open the data that `stage` (fit, validate, test, predict; None: all) needs, and no other."""
        if stage == "fit" and self.trainer is not None and not self.dataset_managers["val"]:
            self.trainer.limit_val_batches = 0  # Lightning treats an empty list of loaders as one empty loader
        for _, _, manager in self._managers(stage):
            manager.setup(self.tokenizer, self.cache_dir, self.num_dataset_workers)
        if flags.DEBUG_OVERFIT and stage != "fit":  # a training batch replaces the other splits
            for manager in self.dataset_managers["train"].values():
                manager.setup(self.tokenizer, self.cache_dir, self.num_dataset_workers)

    def _stage(self) -> str | None:
        return self.trainer.state.fn if self.trainer is not None else None

    def _managers(self, stage: str | None) -> list[tuple[str, str, DatasetManager]]:
        return [
            (split, name, manager)
            for split in _SPLITS_OF_STAGE[stage]
            for name, manager in self.dataset_managers[split].items()
            if stage is None or stage in manager.stages
        ]

    def train_dataloader(self) -> TrainLoader:
        """One loader, or several side by side with batches `{name: batch}`; `DataError` if there are none."""
        return self.train_loader_of(*reversed(self._rank_and_world_size()))

    def train_loader_of(self, world_size: int, rank: int = 0) -> TrainLoader:
        """The training loader of one of `world_size` processes; call `setup("fit")` first."""
        loaders = self._loaders("train", rank, world_size)
        if len(loaders) == 1:
            return next(iter(loaders.values()))
        return CombinedTrainLoader(loaders)

    def val_dataloader(self) -> list[EvalLoader]:
        return self._eval_loaders("val")

    def test_dataloader(self) -> list[EvalLoader]:
        return self._eval_loaders("test")

    def predict_dataloader(self) -> list[EvalLoader]:
        return self._eval_loaders("predict")

    def _eval_loaders(self, split: str) -> list[EvalLoader]:
        return list(self._loaders(split, *self._rank_and_world_size()).values())

    def _loaders(self, split: str, rank: int, world_size: int) -> dict[str, Any]:
        if not self.dataset_managers[split]:
            raise DataError(f"There is no data for {split}: datamodule.dataset_managers.{split} is empty.")
        overfit = self._overfit_rows(world_size) if flags.DEBUG_OVERFIT else None
        loaders = {}
        for name, manager in self.dataset_managers[split].items():
            follows = overfit is not None and manager.follows_overfit_batch
            loaders[name] = manager.get_dataloader(
                split,
                self.tokenizer,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                rows=self._overfit_rows_of(manager, overfit) if follows else None,
                repeats=_OVERFIT_STEPS_PER_EPOCH if follows and split == "train" else 1,
                accumulate=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
                measure_every=getattr(self.trainer, "log_every_n_steps", 0),
            )
        return loaders

    def _overfit_rows(self, world_size: int) -> Rows | None:
        """The examples of the first training batch of all ranks together; None without training data.

        Of examples with the same prompt and different answers, only the first stays: no model can give two answers.
        """
        rows = self._first_training_batch(world_size)
        if rows is None or rows.lengths("prompt_ids") is None:
            return rows
        answers: dict[tuple[int, ...], Any] = {}
        found = rows.fetch(range(len(rows)))
        return ListRows(
            row
            for row in found
            if list(answers.setdefault(tuple(row["prompt_ids"]), row["input_ids"])) == list(row["input_ids"])
        )

    def _overfit_rows_of(self, manager: DatasetManager, overfit: Rows | None) -> Rows | None:
        """Those examples for one data set: with gaps, if the set fills gaps that training examples don't have."""
        own = manager.rows
        has_gaps = own is not None and own.lengths("prompt_ids") is not None
        if overfit is None or not has_gaps or overfit.lengths("prompt_ids") is not None:
            return overfit
        return ListRows({**row, **mask_words(row, self.tokenizer)} for row in overfit.fetch(range(len(overfit))))

    def _first_training_batch(self, world_size: int) -> Rows | None:
        for manager in self.dataset_managers["train"].values():
            loaders = [
                manager.get_dataloader("train", self.tokenizer, seed=self.seed, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            endless = [loader for loader in loaders if isinstance(loader, EndlessLoader)]
            if endless:
                return ListRows(row for loader in endless for row in loader.first_rows())
            assert manager.rows is not None
            prepared = [loader for loader in loaders if not isinstance(loader, EndlessLoader)]
            return SubsetRows(manager.rows, [key.row for loader in prepared for key in loader.first_keys()])
        return None

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Show the first batch of each loader while debugging; Lightning calls this for every batch."""
        if self.print_batch_fn is not None:
            split = self._current_split()
            if split == "train" and len(self.dataset_managers["train"]) > 1:
                for name, part in batch.items():
                    self._print_once(part, split, name)
            elif split is not None:
                self._print_once(batch, split, self.dataloader_names[split][dataloader_idx])
        return batch

    def _current_split(self) -> str | None:
        trainer = self.trainer
        if trainer is None:
            return None
        stages = {"train": trainer.training, "val": trainer.validating or trainer.sanity_checking}
        stages |= {"test": trainer.testing, "predict": trainer.predicting}
        return next((split for split, active in stages.items() if active), None)

    @rank_zero_only
    def _print_once(self, batch: Any, split: str, name: str) -> None:
        if (split, name) in self._printed:
            return
        self._printed.add((split, name))
        function = self.print_batch_fn
        if isinstance(function, str):
            function = get_function(function, key="datamodule.print_batch_fn")
        assert function is not None
        function(batch, split, self.tokenizer, name)
