"""Texts to be judged or compared with: files of lines or JSON lines, and the data of a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm.data.manager import UnconditionalGenerationDatasetManager
from xlm.data.rows import Rows
from xlm.datamodule import TextDataModule
from xlm.errors import DataError
from xlm.evaluation.text_quality.diversity import Tokens
from xlm.evaluation.text_quality.texts import TokensOf, Unit, WrittenText, cut_text, examples_of, texts_of
from xlm.utils.text_files import Line, json_value, read_lines

# Keys under which rows hold what was written, in this order.
KEYS = ("prediction", "text")
GENERATIONS = "generations.jsonl"
_FILES = (".jsonl", ".json", ".txt")
_AT_ONCE = 1000


def is_file_of_texts(name: str) -> bool:
    """Whether a name is that of a file of texts, and not of a trained model."""
    return Path(name).suffix in _FILES


def read_texts(name: str, key: str | None = None, tokenizer: Any = None) -> tuple[list[WrittenText], str | None]:
    """The texts of a file, and the checkpoint that wrote them, if its rows say so.

    A row of `.jsonl` is a JSON string or an object with `prediction` or `text` (or `key`), and perhaps `ended`; of any
    other file a line is a text, an empty one too. A run's folder stands for its `generations.jsonl`.

    Args:
        tokenizer: where one is given, texts end at the EOS that they spell out and lose its other special tokens.

    Raises:
        DataError: there is no such file, it has no texts, or a row has none.
    """
    path = Path(name)
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
    """A row's text, which stands under `key` or the first of KEYS, and the checkpoint that wrote it, if it says so."""
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
    """Tokenizer and data that a trained model's configuration names."""

    name: str
    tokenizer: Any
    datamodule: TextDataModule

    def rows(self, split: str) -> Rows:
        """The whole texts of a split; DataError without any."""
        return texts_rows(self.datamodule, split)


def texts_rows(datamodule: TextDataModule, split: str) -> Rows:
    """The prepared examples of the first data set of a split that brings texts of its own.

    Raises:
        DataError: there is none.
    """
    for name, manager in datamodule.dataset_managers[split].items():
        if isinstance(manager, UnconditionalGenerationDatasetManager) or datamodule.role(split, name) != "loss":
            continue
        manager.setup(datamodule.tokenizer, datamodule.cache_dir, datamodule.num_dataset_workers)
        assert manager.rows is not None
        return manager.rows
    raise DataError(f"The data have no split '{split}' of texts (datamodule.dataset_managers.{split}).")


def data_of_model(path_or_id: str, option: str | None = None) -> DataOfModel:
    """What the configuration of a checkpoint, a run or a shared folder names; nothing of the model is built.

    Errors name the `option` in which it was said.

    Raises:
        CheckpointError: there is no such model; ConfigError: its configuration cannot be built here.
    """
    from xlm.compose import register_resolvers
    from xlm.compose.overrides import quote
    from xlm.external_models import activate, active_models, discover
    from xlm.jobs.session import start
    from xlm.jobs.sources import find_weights
    from xlm.jobs.stored import stored_config

    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    activate({**active_models(), **found.models}, folders=found.folders)
    register_resolvers()
    cfg = stored_config([f"++generation.checkpoint_path={quote(path_or_id)}"], "generate", option)
    session = start(cfg, find_weights(path_or_id).tokenizer)
    return DataOfModel(str(cfg.get("job_name") or path_or_id), session.tokenizer, session.datamodule)


def examples(name: str, unit: Unit, most: int | None, data: DataOfModel | None, split: str) -> Iterator[Tokens]:
    """Texts of a file, or of a split of a model's data, in a unit; the first `most` of them."""
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
