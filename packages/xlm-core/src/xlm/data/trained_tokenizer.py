"""Tokenizers trained on texts once, then read from a file; and the tokenizer of a user's own data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from xlm.data.functional import as_messages, nested_value
from xlm.data.hashing import code_version, hash_of
from xlm.data.locator import Named, part_of_files
from xlm.data.pretrained_tokenizers import CompleteTokenizer, load_auto_tokenizer
from xlm.data.selection import Reading
from xlm.errors import DataError, as_line
from xlm.utils.files import output_folder, replace_text

logger = logging.getLogger(__name__)

ROLES = ("pad", "cls", "mask", "eos", "bos", "sep", "unk")
NUM_BYTES = 256
UNKNOWN = "[UNK]"
Kind = Literal["bpe", "unigram", "wordpiece", "word", "character", "byte"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_OTHER_NAMES = {"characters": "character", "words": "word", "bytes": "byte"}
# Merges of more text than this would hardly differ.
_MOST_CHARACTERS = 100_000_000
_SHOWN = 200  # characters of the names of columns in a message


class TrainedTokenizer(CompleteTokenizer, PreTrainedTokenizerFast):
    """A fast tokenizer with every special token, and the size that a model must embed."""


class OwnTokenizer(TrainedTokenizer):
    """Trained on a user's own data, which may be gone when the model is used: runs keep its files."""

    belongs_to_run = True


T = TypeVar("T", bound=TrainedTokenizer)


def tokenizer_of_files(
    tokenizer: str | None,
    data_files: Mapping[str, Named | None],
    columns: Sequence[str],
    held_out: Mapping[str, float] | None = None,
    vocab_size: int = 4096,
    cache_dir: str | Path | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Any:
    """The pretrained tokenizer of that name or path, or one that is trained on the training texts.

    Args:
        tokenizer: a folder, a file or a hub id for `load_auto_tokenizer`, or a kind for `train_tokenizer`, also in the
            plural (characters, words, bytes); None: bpe.
        data_files, held_out, reading: as for `xlm.data.locator.part_of_files`.
        columns: the columns of text, or of lists of messages.
        vocab_size: maximum size of a trained one, special tokens included; little text gives fewer tokens.
        cache_dir: where the trained tokenizer is kept.

    Raises:
        DataError: there are no such data or columns, or `vocab_size` is too small for the kind.
    """
    tokenizer = _OTHER_NAMES.get(tokenizer or "", tokenizer)
    if tokenizer is not None and tokenizer not in KINDS:
        try:
            loaded = load_auto_tokenizer(tokenizer)
        except DataError as error:
            raise DataError(f"{error}\nKinds to train instead: {', '.join(KINDS)}.") from error
        # Runs keep a local one, which may be gone when the model is used.
        loaded.belongs_to_run = Path(tokenizer).exists()
        return loaded
    kind: Kind = "bpe" if tokenizer is None else tokenizer
    if kind == "byte":
        return with_special_tokens(_train((), NUM_BYTES, kind), OwnTokenizer)
    check_vocab_size(vocab_size, kind)
    source = part_of_files(data_files, "train", held_out or {}, Reading.of(reading or {}))
    key = {"source": source.identity(), "columns": list(columns), "vocab_size": vocab_size, **trainer_version()}
    path = None if cache_dir is None else Path(cache_dir) / f"{kind}-{source.name}-{hash_of(key)[:20]}.json"
    backend = read_or_train(path, lambda: texts_of_rows(source.rows(None), columns), vocab_size, kind)
    return with_special_tokens(backend, OwnTokenizer)


def texts_of_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """The texts in the columns of the rows, as many as change the merges."""
    remaining = _MOST_CHARACTERS
    for row in rows:
        found = [value for column in columns if (value := nested_value(row, column)) is not None]
        if not found:
            has = as_line(", ".join(row))[:_SHOWN]
            raise DataError(f"The data have no column {' or '.join(columns)}; they have: {has}.")
        for value in map(as_messages, found):
            texts = [value] if isinstance(value, str) else [str(message.get("content")) for message in value]
            for text in texts:
                yield text
                remaining -= len(text)
        if remaining < 0:
            return


def check_vocab_size(vocab_size: int, kind: Kind = "bpe") -> None:
    """DataError for too few entries: special tokens, all bytes for `bpe`, and at least one more."""
    smallest = len(ROLES) + (NUM_BYTES if kind == "bpe" else 0)
    what = "all bytes and special tokens" if kind == "bpe" else "the number of special tokens"
    if vocab_size <= smallest:
        raise DataError(f"vocab_size must be above {smallest}: {what}; got {vocab_size}.")


def trainer_version() -> dict[str, str]:
    """What else the merges depend on, for keys."""
    return {"trainer": code_version(_train), "tokenizers": tokenizers.__version__}


def read_or_train(path: Path | None, texts: Callable[[], Iterable[str]], vocab_size: int, kind: Kind = "bpe") -> str:
    """A tokenizer as JSON: read from `path`, or trained and written there. None: trained, not kept."""
    num_entries = vocab_size - len(ROLES)
    if path is None:
        return _train(texts(), num_entries, kind)
    return _read(path) or _written(path, _train(texts(), num_entries, kind))


def train_tokenizer(texts: Iterable[str], kind: Kind = "bpe", vocab_size: int = 4096) -> TrainedTokenizer:
    """A new tokenizer of at most `vocab_size` tokens, special tokens included.

    Args:
        kind: `bpe` merges bytes (Sennrich et al. 2016, as in GPT-2) and restores any text exactly; `unigram` (Kudo
            2018) and `wordpiece` (as in BERT) consist of characters; `word` has a token per word between spaces,
            `character` per character that occurs, and `byte` per byte, whatever the texts and `vocab_size`.

    Raises:
        DataError: `vocab_size` is too small for the bytes of `bpe`, or for any token.
    """
    if kind == "byte":
        return with_special_tokens(_train((), NUM_BYTES, kind), TrainedTokenizer)
    check_vocab_size(vocab_size, kind)
    return with_special_tokens(_train(texts, vocab_size - len(ROLES), kind), TrainedTokenizer)


def _train(texts: Iterable[str], num_entries: int, kind: Kind = "bpe") -> str:
    """The tokenizer without special tokens other than the unknown one, as JSON."""
    trainer: Any
    # The unknown token is one of the special tokens, which are counted already.
    unknown: dict[str, Any] = {"special_tokens": [UNKNOWN], "vocab_size": num_entries + 1, "show_progress": False}
    if kind in ("bpe", "byte"):  # bytes are a BPE without merges
        tokenizer = Tokenizer(models.BPE())
        # Words include the space before them, so that texts are restored exactly.
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=num_entries, initial_alphabet=alphabet, show_progress=False)
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=UNKNOWN, **unknown)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**unknown)
    elif kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(**unknown)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        # In this syntax m lets the dot match line ends.
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.WordLevelTrainer(**unknown)
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def with_special_tokens(backend: str, kind: type[T]) -> T:
    """The tokenizer of a JSON text, with all special tokens."""
    # "word [MASK]" means a mask in place of the next word; the space before the mask belongs to it.
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    loaded = Tokenizer.from_str(backend)
    known: dict[str, Any] = {} if loaded.token_to_id(UNKNOWN) is None else {"unk_token": UNKNOWN}
    return kind(tokenizer_object=loaded, mask_token=mask, clean_up_tokenization_spaces=False, **known)


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
    except OSError as error:
        raise DataError(f"The tokenizer in {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        reason = type(error).__name__
    logger.warning("The tokenizer in %s cannot be used (%s). It will be trained again.", path, reason)
    return None


def _written(path: Path, backend: str) -> str:
    """Store a tokenizer at `path`, with its checksum; returns it."""
    output_folder(path.parent, "paths.cache_dir")
    replace_text(path, json.dumps({"sha256": sha256(backend.encode()).hexdigest(), "tokenizer": backend}))
    return backend
