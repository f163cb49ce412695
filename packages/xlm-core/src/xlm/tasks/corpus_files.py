"""Corpora in a file of the user: splits by a hash of the content, and a tokenizer trained on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xlm.data.hashing import hash_of
from xlm.data.pretrained_tokenizers import load_auto_tokenizer
from xlm.data.sources import GeneratorSource
from xlm.data.steps import plain
from xlm.data.trained_tokenizer import (
    OwnTokenizer,
    check_vocab_size,
    read_or_train,
    texts_of_rows,
    trainer_version,
    with_special_tokens,
)
from xlm.errors import DataError, did_you_mean, nearest_names

# Of a hundred contents, the number in each split, by a hash.
SPLITS = {"train": (10, 100), "val": (0, 5), "test": (5, 10)}


def checked_split(what: str, split: str) -> str:
    """The split; DataError if there is no such split. `what`: the corpus in messages."""
    if split not in SPLITS:
        hint = did_you_mean(nearest_names(split, SPLITS))
        raise DataError(f"{what} has no split '{split}'. Choose one of: {', '.join(SPLITS)}. {hint}".rstrip())
    return split


def split_of(content: str) -> str:
    """The split of a content, the same in every process and version; equal contents are in one split."""
    percentile = int.from_bytes(blake2b(content.encode(), digest_size=8).digest()) % 100
    return next(split for split, (lowest, end) in SPLITS.items() if lowest <= percentile < end)


class CorpusFile(ABC):
    """Rows `text` of `split` of a file, by a hash of the text; a subclass reads the texts of its file in `texts`.

    Args:
        tokenizer: not used; every dataset constructor gets it.
        num_examples: the first ones; None: all.
        seed: of a random order, for which all texts are kept in memory; None: the order of the file.
        path: the file; None: that of a package, if the corpus has one.

    Raises:
        DataError: there is no such split or file.
    """

    #: The corpus in messages.
    name: ClassVar[str]

    def __init__(
        self,
        tokenizer: Any = None,
        num_examples: int | None = None,
        *,
        split: str = "train",
        seed: int | None = None,
        path: str | None = None,
    ) -> None:
        self.num_examples, self.split, self.seed = num_examples, checked_split(self.name, split), seed
        self.paths = self.default_paths() if path is None else [Path(path).expanduser()]

    def default_paths(self) -> list[Path]:
        """The files of a package; DataError for a corpus without one, or if the package isn't installed."""
        raise DataError(f"{self.name}: give the file of the corpus, corpus_file=PATH.")

    @abstractmethod
    def texts_of(self, path: Path) -> Iterator[str]:
        """All texts in the order of a file; DataError if it cannot be read."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        every = (text for path in self.paths for text in self.texts_of(path))
        texts: Iterable[str] = (text for text in every if split_of(text) == self.split)
        if self.seed is not None:
            known = list(texts)
            order = np.random.default_rng(self.seed).random(len(known)).argsort(kind="stable")
            texts = (known[number] for number in order.tolist())
        return ({"text": text} for text in islice(texts, self.num_examples))


def corpus_tokenizer(
    reader: str,
    options: Mapping[str, Any],
    tokenizer: str | None = None,
    vocab_size: int = 4096,
    cache_dir: str | Path | None = None,
) -> Any:
    """The pretrained tokenizer of that name or path; with None, a byte-level BPE of a corpus's training split.

    Args:
        reader, options: the class of the corpus and its arguments.
        vocab_size: maximum size, special tokens included.
        cache_dir: where the trained tokenizer is kept; a run keeps a copy of its own.
    """
    if tokenizer is not None:
        return load_auto_tokenizer(tokenizer)
    check_vocab_size(vocab_size)
    source = GeneratorSource(reader, None, {**plain(options), "split": "train"})
    key = {"source": source.identity(), "vocab_size": vocab_size, **trainer_version()}
    path = None if cache_dir is None else Path(cache_dir) / f"bpe-{source.name}-{hash_of(key)[:20]}.json"
    backend = read_or_train(path, lambda: texts_of_rows(source.rows(None), ["text"]), vocab_size)
    return with_special_tokens(backend, OwnTokenizer)
