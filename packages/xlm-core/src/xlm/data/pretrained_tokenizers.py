"""Pretrained tokenizers of a folder, a file or the hub; missing special tokens are added, vocabularies checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert import BertTokenizer as _BertTokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer as _GPT2TokenizerFast

from xlm.errors import DataError
from xlm.utils.instantiate import first_sentence
from xlm.utils.text_files import read_json, read_lines

# A vocabulary that transformers ignored leaves fewer tokens than this.
_FEW = 100

_ROLES = ("bos", "eos", "mask", "pad", "cls", "sep", "unk")
# How tokenizer.json and SentencePiece files, which don't name the roles, write their special tokens.
_SPELLINGS = {
    "bos": ("[BOS]", "<s>", "<bos>", "<|startoftext|>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<eos>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "unk": ("[UNK]", "<unk>"),
}


class CompleteTokenizer:
    """Adds the special tokens that a pretrained tokenizer lacks; mixed in before the transformers class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for old, new in (("vocab_file", "vocab"), ("merges_file", "merges")):
            if kwargs.get(old) is not None and kwargs.get(new) is None:
                kwargs[new] = kwargs.pop(old)  # transformers 5 ignores the old names silently
        super().__init__(*args, **kwargs)
        complete_special_tokens(self)

    @property
    def full_vocab_size(self) -> int:
        """Every id that a model must be able to embed, added tokens included."""
        return len(self)  # type: ignore[arg-type]  # the mixed-in class has it


class BertTokenizerFast(CompleteTokenizer, _BertTokenizerFast):
    """BERT wordpieces; BOS and EOS are separate tokens, added to the vocabulary if missing."""


class GPT2TokenizerFast(CompleteTokenizer, _GPT2TokenizerFast):
    """GPT-2 byte-level BPE; BOS and EOS are `<|endoftext|>`, MASK, PAD, CLS and SEP are added."""


def complete_special_tokens(tokenizer: Any) -> Any:
    """Add a token to `tokenizer` for every role without one (new entries of the vocabulary); returns the tokenizer."""
    missing = {f"{role}_token": f"[{role.upper()}]" for role in _ROLES if getattr(tokenizer, f"{role}_token") is None}
    if missing:
        size = len(tokenizer)
        tokenizer.add_special_tokens(missing)
        tokenizer.added_special_tokens = tokenizer.convert_ids_to_tokens(list(range(size, len(tokenizer))))
    return tokenizer


def load_auto_tokenizer(pretrained_model_name_or_path: str, **kwargs: Any) -> Any:
    """The tokenizer of a folder, a file or a hub id, with every special token and a `full_vocab_size`.

    Args:
        pretrained_model_name_or_path: a folder or hub id as for `AutoTokenizer.from_pretrained`, a `tokenizer.json`, or
            a SentencePiece model (a file that ends in `.model`).
        kwargs: passed to transformers, for instance `mask_token="<mask>"`.

    Raises:
        DataError: it has no vocabulary, or its files cannot be read.
    """
    try:
        tokenizer = _loaded(str(pretrained_model_name_or_path), kwargs)
        tokenizer("a b")  # some options of its files are only read now
    except Exception as error:
        # For a folder without such files, transformers lists the kinds of files that it could have used.
        no_files = "Couldn't instantiate the backend tokenizer" in str(error)
        reason = "it has no tokenizer files, such as tokenizer.json" if no_files else first_sentence(error)
        raise DataError(f"The tokenizer {pretrained_model_name_or_path!r} cannot be read: {reason}") from error
    check_vocabulary(tokenizer, pretrained_model_name_or_path)
    complete_special_tokens(tokenizer)
    if not isinstance(tokenizer, CompleteTokenizer):
        cls = type(tokenizer)
        # The same class with the property added, so that `full_vocab_size` follows later additions.
        tokenizer.__class__ = type(cls.__name__, (cls,), {"full_vocab_size": property(len)})
    return tokenizer


def _loaded(name: str, kwargs: dict[str, Any]) -> Any:
    if not name.endswith((".json", ".model")) or Path(name).is_dir():
        # Without a value, transformers asks in the terminal whether code beside the files may run.
        return AutoTokenizer.from_pretrained(name, **{"trust_remote_code": False} | kwargs)
    if not Path(name).is_file():
        raise FileNotFoundError("the file does not exist")
    backend = Tokenizer.from_file(name) if name.endswith(".json") else _from_sentencepiece(Path(name))
    vocabulary = backend.get_vocab()
    found = {role: next((word for word in words if word in vocabulary), None) for role, words in _SPELLINGS.items()}
    roles = {f"{role}_token": word for role, word in found.items() if word is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles | kwargs)


def _from_sentencepiece(path: Path) -> Tokenizer:
    """The fast tokenizer that encodes as `SentencePieceProcessor` does with this model."""
    from transformers.convert_slow_tokenizer import SpmConverter, import_protobuf

    proto, content = import_protobuf().ModelProto(), path.read_bytes()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf, whose error class has no types
        raise ValueError("it is not a SentencePiece model") from error
    # SentencePiece's numbers of the kinds of models; words and characters are only listed, without scores.
    kinds: dict[int, Any] = {
        1: [(piece.piece, piece.score) for piece in proto.pieces],
        2: {piece.piece: number for number, piece in enumerate(proto.pieces)},
    }
    if proto.trainer_spec.model_type not in kinds or not proto.pieces:
        raise ValueError("only SentencePiece models of the kinds unigram and bpe can be read")
    backend = SpmConverter.build_tokenizer_from_spm_proto(proto, kinds[proto.trainer_spec.model_type])
    # Control pieces, such as <s>, never stand in a text.
    backend.add_special_tokens([piece.piece for piece in proto.pieces if piece.type in (2, 3)])
    return backend


def check_vocabulary(tokenizer: Any, name: str) -> None:
    """Raise `DataError` when transformers read no vocabulary or only part of one; small vocabularies are allowed.

    Args:
        name: the source; in a folder, `vocab.txt` or `vocab.json` gives the expected number of tokens.
    """
    special = set(tokenizer.all_special_tokens)
    # Some kinds always contain the mark of a blank.
    words = [token for token in tokenizer.get_vocab() if token not in special and token.strip("▁Ġ#")]
    expected = max((count(Path(name, file)) for file, count in _FILES.items()), default=0)
    if words and len(tokenizer) >= min(expected, _FEW):
        return
    has = f"only {len(tokenizer)} of the {expected:,} tokens in its files" if expected else "only special tokens"
    raise DataError(
        f"The tokenizer {name!r} has {has} ({len(special)}): transformers did not read its vocabulary.\n"
        "Save it with save_pretrained(), which writes a tokenizer.json, or give vocab= and merges= rather than "
        "vocab_file= and merges_file=, which transformers 5 ignores."
    )


def _lines(path: Path) -> int:
    return sum(1 for _ in read_lines(path)) if path.is_file() else 0


def _entries(path: Path) -> int:
    found = read_json(path) if path.is_file() else {}
    return len(found) if isinstance(found, dict | list) else 0


_FILES: dict[str, Callable[[Path], int]] = {"vocab.txt": _lines, "vocab.json": _entries}
