"""Measures the quality of texts, generated or from files, and compares them with the data of a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xlm.data.manager import UnconditionalGenerationDatasetManager
from xlm.data.rows import Rows
from xlm.datamodule import TextDataModule
from xlm.errors import ConfigError, DataError
from xlm.evaluation.text_quality.diversity import Overlap, add_all
from xlm.evaluation.text_quality.measure import Quality, measure
from xlm.evaluation.text_quality.scorer import PROTOCOLS, WINDOW, Protocol, Scorer, load_scorer
from xlm.evaluation.text_quality.texts import (
    Estimate,
    Tokens,
    TokensOf,
    Unit,
    WrittenText,
    cut_text,
    examples_of,
    texts_of,
)
from xlm.inference.session import Session, fewer_than_asked
from xlm.inference.sources import local_path
from xlm.schemas import ScorerOptions
from xlm.utils.text_files import Line, json_value, read_lines

# Keys of the generated text in a row, in this order.
KEYS = ("prediction", "text")
GENERATIONS = "generations.jsonl"
_FILES = (".jsonl", ".json", ".txt")
_AT_ONCE = 1000


def is_file_of_texts(name: str) -> bool:
    """Whether a name is a file of texts and not a trained model."""
    return Path(name).suffix in _FILES


def read_texts(name: str, key: str | None = None, tokenizer: Any = None) -> tuple[list[WrittenText], str | None]:
    """The texts of a file, and the checkpoint that generated them, if its rows name it.

    A row of `.jsonl` is a JSON string, or an object with `prediction` or `text` (or `key`) and optionally `ended`. In
    any other file each line is a text, even if it is empty. A run's folder means its `generations.jsonl`.

    Args:
        tokenizer: if given, texts are cut at the first EOS token, and other special tokens are removed.

    Raises:
        DataError: the file doesn't exist or has no texts, or a row has no text.
    """
    path = local_path(name)
    if path.is_dir() and (path / GENERATIONS).is_file():
        path = path / GENERATIONS
    if not path.is_file():
        raise DataError(f"There is no file of texts at {path}. `xlm generate` writes one: <run>/{GENERATIONS}.")
    lines = list(read_lines(path))
    if [line.text for line in lines] in ([], [""]):
        raise DataError(f"There are no texts in {path}.")
    if path.suffix not in (".jsonl", ".json"):
        found: list[tuple[WrittenText, str | None]] = [(WrittenText(line.text), None) for line in lines]
    else:
        found = [_of_json(line, key) for line in lines if line.text.strip()]
    texts = [text for text, _ in found]
    if tokenizer is not None:
        texts = [replace(text, text=cut_text(text.text, tokenizer)) for text in texts]
    return texts, next((writer for _, writer in found if writer), None)


def _of_json(line: Line, key: str | None) -> tuple[WrittenText, str | None]:
    """A row's text, at `key` or the first of KEYS, and the checkpoint that generated it, if the row names it."""
    value = json_value(line.text, line.where)
    if isinstance(value, str):
        return WrittenText(value), None
    row: dict[str, Any] = value if isinstance(value, dict) else {}
    wanted = (key,) if key else KEYS
    text = next((row[name] for name in wanted if isinstance(row.get(name), str)), None)
    if text is None:
        raise DataError(f"{line.where} has no text under {' or '.join(map(repr, wanted))}. Another key: key=…")
    ended, writer = row.get("ended"), row.get("checkpoint")
    known = ended if isinstance(ended, bool) else None
    return WrittenText(text, None, known), writer if isinstance(writer, str) else None


@dataclass(frozen=True)
class DataOfModel:
    """The tokenizer and the data of a trained model's configuration."""

    name: str
    tokenizer: Any
    datamodule: TextDataModule

    def rows(self, split: str) -> Rows:
        """The whole texts of a split; DataError if there are none."""
        return texts_rows(self.datamodule, split)


def texts_rows(datamodule: TextDataModule, split: str) -> Rows:
    """The prepared examples of the first dataset of a split that has texts.

    Raises:
        DataError: there is none.
    """
    for name, manager in datamodule.dataset_managers[split].items():
        if isinstance(manager, UnconditionalGenerationDatasetManager) or datamodule.role(split, name) != "loss":
            continue
        manager.setup(datamodule.tokenizer, datamodule.cache_dir, datamodule.num_dataset_workers)
        return manager.first_rows(TRAIN_EXAMPLES)
    raise DataError(f"The data has no texts in the split '{split}' (datamodule.dataset_managers.{split}).")


def data_of_model(path_or_id: str, option: str | None = None, trust: bool = False) -> DataOfModel:
    """The data of a checkpoint's, run's or exported folder's configuration; does not build the model.

    Errors name the `option` that gave the path.

    Raises:
        CheckpointError: there is no such model; ConfigError: its data cannot be built here.
    """
    from xlm.compose import register_resolvers
    from xlm.compose.overrides import quote
    from xlm.external_models import activate, active_models, discover
    from xlm.inference.session import start
    from xlm.inference.sources import find_weights
    from xlm.inference.stored_config import stored_config

    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    activate({**active_models(), **found.models}, folders=found.folders)
    register_resolvers()
    overrides = [f"++generation.checkpoint_path={quote(path_or_id)}", f"++generation.trust={str(trust).lower()}"]
    cfg = stored_config(overrides, "generate", option)
    session = start(cfg, find_weights(path_or_id).tokenizer)
    return DataOfModel(str(cfg.get("job_name") or path_or_id), session.tokenizer, session.datamodule)


def examples(name: str, unit: Unit, most: int | None, data: DataOfModel | None, split: str) -> Iterator[Tokens]:
    """The first `most` texts of a file, or of a split of a model's data, encoded in a unit."""
    if data is not None:
        yield from examples_of(data.rows(split), data.tokenizer, unit, most)
        return
    tokenizer = unit.tokenizer if isinstance(unit, TokensOf) else None
    texts = [text.text for text in read_texts(name, None, tokenizer)[0][:most]]
    for start in range(0, len(texts), _AT_ONCE):
        yield from unit.encode(texts[start : start + _AT_ONCE])


def texts_to_compare(name: str, data: DataOfModel | None, split: str, most: int | None) -> list[WrittenText]:
    """Texts of a file, or of a split of a model's data."""
    if data is None:
        return read_texts(name)[0][:most]
    return [WrittenText(text) for text in texts_of(data.rows(split), data.tokenizer, most)]


# The default maximum number of training examples to compare with.
TRAIN_EXAMPLES = 100_000


def loaders_of_texts(session: Session, split: str) -> list[str]:
    """The loaders of unconditional samples; empty if tokens are not text."""
    if not getattr(session.tokenizer, "is_text", True):
        return []
    managers = session.datamodule.dataset_managers[split]
    return [name for name, manager in managers.items() if isinstance(manager, UnconditionalGenerationDatasetManager)]


def scorer_of(options: ScorerOptions, section: str, loaders: Sequence[str], split: str) -> str | None:
    """The name of the judge in the options.

    Raises:
        ConfigError: there are no unconditional samples to score.
    """
    if options.judge and not loaders:
        raise ConfigError(
            f"{section}.judge scores unconditional samples, but datamodule.dataset_managers.{split} has no loader for "
            "them (xlm.datamodule.UnconditionalGenerationDatasetManager).",
            key=f"{section}.judge",
        )
    return str(options.judge) if options.judge else None


@dataclass(frozen=True)
class TextScoring:
    """Measures texts with a judge, if there is one, and against the training data; counts tokens of the model.

    Args:
        judge: None for numbers that need no judge.
        train_examples: number of training examples to compare texts with; 0: none.
        asked: the same number, if the user set it.
    """

    session: Session
    judge: Scorer | None
    train_examples: int
    asked: int | None = None

    @classmethod
    def of(cls, session: Session, options: ScorerOptions, judge: str | None, device: torch.device) -> TextScoring:
        """Build it from the options of a job; without a judge, training data is used only if requested."""
        asked = options.train_examples
        loaded = load_scorer(judge, device, options.judge_window or WINDOW, options.judge_protocol) if judge else None
        default = TRAIN_EXAMPLES if judge and session.datamodule.dataset_managers["train"] else 0
        return cls(session, loaded, default if asked is None else asked, asked)

    def measure(self, texts: Mapping[str, Sequence[WrittenText]]) -> tuple[dict[str, Quality], dict[str, Any]]:
        """The quality of each list of texts, and the record of what it depends on.

        Raises:
            DataError: training data is requested, but there are no texts in it.
        """
        rows = {name: [text.tokens or () for text in found] for name, found in texts.items()}
        overlaps = {name: Overlap(found) for name, found in rows.items()} if self.train_examples else {}
        training = None
        if overlaps:
            train = texts_rows(self.session.datamodule, "train")
            add_all(list(overlaps.values()), examples_of(train, self.session.tokenizer, None, self.train_examples))
            training = training_of(next(iter(overlaps.values())), self.asked)
        found = {
            name: measure(
                [text.text for text in written],
                rows[name],
                ended=[text.ended for text in written],
                judge=self.judge,
                overlap=overlaps.get(name),
            )
            for name, written in texts.items()
        }
        told = self.judge.describe() if self.judge else None
        return found, {"judge": told, "unit": "tokens of the model", "training": training}


def named(split: str, qualities: Mapping[str, Quality]) -> dict[str, Estimate]:
    """All numbers by the names of an evaluation: `split/loader/number`."""
    return {f"{split}/{name}/{key}": e for name, found in qualities.items() for key, e in found.numbers.items()}


def training_of(overlap: Overlap, asked: int | None) -> dict[str, int]:
    """The training data that texts were compared with, for the record, and the requested number if there is less."""
    found = {"examples": overlap.num_examples, "tokens": overlap.num_tokens}
    return {**found, "asked": asked} if asked is not None and overlap.num_examples < asked else found


def caption(record: Mapping[str, Any]) -> str:
    """A line that says what the numbers of a table mean."""
    judge, training = record["judge"], record["training"]
    parts = [f"Entropy in nats, lengths and n-grams in {record['unit']}."]
    if judge:
        protocol: Protocol = judge["protocol"]
        parts.insert(
            0,
            f"Perplexity under {judge['name']} ({judge['parameters']:,} parameters), protocol {protocol}: "
            f"{PROTOCOLS[protocol]}.",
        )
    if training:
        parts.append(f"Copied: found in {training['examples']:,} training texts ({training['tokens']:,} tokens).")
        parts.append(fewer_than_asked("train_examples", training.get("asked"), training["examples"], "training texts"))
    return " ".join(filter(None, parts))
