"""Word-level tokenizers, for synthetic tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from xlm.errors import ConfigError

_TOKENIZER = "global_components.tokenizer"
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[MASK]", "[EOS]", "[BOS]", "[SEP]", "[UNK]")


class SimpleSpaceTokenizer:
    """One token per space-separated word of a fixed vocabulary; unknown words become UNK.

    Ids: PAD 0, CLS 1, MASK 2, EOS 3, BOS 4, SEP 5, UNK 6, then `vocab` in the order given.
    """

    #: Words are labels of a synthetic task, so bits per byte would have no meaning.
    is_text = False

    pad_token, cls_token, mask_token, eos_token, bos_token, sep_token, unk_token = SPECIAL_TOKENS
    pad_token_id, cls_token_id, mask_token_id, eos_token_id, bos_token_id, sep_token_id, unk_token_id = range(7)

    def __init__(self, vocab: Iterable[str]) -> None:
        words = list(vocab)
        self._tokens = [*SPECIAL_TOKENS, *words]
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        if len(self._ids) != len(self._tokens):
            raise ValueError("The vocabulary has repeated words, or one that equals a special token.")
        if bad := [word for word in words if not word or word.split() != [word]]:
            raise ValueError(f"Words must be non-empty and free of spaces; got {bad[:5]}.")

    @classmethod
    def for_numbers(cls, vocab_size: int) -> SimpleSpaceTokenizer:
        """The numbers 0 … `vocab_size` - 1 as words, with ids from 7."""
        return cls(str(number) for number in range(vocab_size))

    @property
    def vocab_size(self) -> int:
        """Words, without the special tokens."""
        return len(self._tokens) - len(SPECIAL_TOKENS)

    @property
    def full_vocab_size(self) -> int:
        """Every id that a model must be able to embed: words and special tokens."""
        return len(self._tokens)

    def __len__(self) -> int:
        return self.full_vocab_size

    @property
    def all_special_ids(self) -> list[int]:
        return list(range(len(SPECIAL_TOKENS)))

    @property
    def all_special_tokens(self) -> list[str]:
        return list(SPECIAL_TOKENS)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id."""
        return dict(self._ids)

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Ids of the words of `text`; with `add_special_tokens`, CLS first and SEP last."""
        ids = [self._ids.get(word, self.unk_token_id) for word in text.split()]
        return [self.cls_token_id, *ids, self.sep_token_id] if add_special_tokens else ids

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = False) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of one text, or lists of them for several."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, add_special_tokens) for one in text]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of one token, or the list of ids of several."""
        if isinstance(tokens, str):
            return self._ids.get(tokens, self.unk_token_id)
        return [self._ids.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of one id, or the list of tokens of several (a list, an array or a tensor)."""
        ids = _to_list(ids)
        return self._tokens[ids] if isinstance(ids, int) else [self._tokens[i] for i in ids]

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The words of a list, array or 1-d tensor of ids, joined by single spaces."""
        ids = _to_list(token_ids)
        first_word = len(SPECIAL_TOKENS) if skip_special_tokens else 0
        return " ".join(self._tokens[i] for i in ([ids] if isinstance(ids, int) else ids) if i >= first_word)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]:
        """`decode` of every row."""
        return [self.decode(row, skip_special_tokens) for row in _to_list(sequences)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, full_vocab_size={self.full_vocab_size})"


def _to_list(ids: Any) -> Any:
    # Tensors and arrays both have tolist(); plain lists and ints don't.
    return ids.tolist() if hasattr(ids, "tolist") else ids


def check_mask_token(tokenizer: Any) -> None:
    """ConfigError unless the tokenizer has a mask token that has no other role.

    For models that replace tokens by masks; a left-to-right model needs none.
    """
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        raise ConfigError("This model needs a mask token, but the tokenizer has none.", key=_TOKENIZER)
    same = [role for role in ("eos", "bos", "pad", "unk") if getattr(tokenizer, f"{role}_token_id", None) == mask]
    if same:
        first = f"mask token and {same[0]} token are both"
        roles = first if len(same) == 1 else f"mask, {', '.join(same[:-1])} and {same[-1]} tokens are all"
        raise ConfigError(
            f"The tokenizer's {roles} {getattr(tokenizer, 'mask_token', mask)!r}, so masks would look like text.\n"
            "Give it a separate mask token, in global_components.tokenizer.mask_token or in its files.",
            key=_TOKENIZER,
        )


def is_standard(tokenizer: Any) -> bool:
    """Whether its files say all about a tokenizer: a fast one of transformers or of xlm, not one with its own code."""
    is_fast = getattr(tokenizer, "backend_tokenizer", None) is not None
    return is_fast and type(tokenizer).__module__.partition(".")[0] in ("transformers", "xlm")


def fingerprint(tokenizer: Any) -> str:
    """A hash of everything that determines the ids of a text; equal for equal tokenizers in any process."""
    # A tokenizer that was saved in a run and read again may be of another class with the same behaviour.
    name = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    parts: dict[str, Any] = {
        "class": "standard" if is_standard(tokenizer) else name,
        "special": {
            name: getattr(tokenizer, f"{name}_token_id", None)
            for name in ("pad", "mask", "bos", "eos", "cls", "sep", "unk")
        },
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts["backend"] = backend.to_str()
    else:
        parts["vocab"] = sorted(tokenizer.get_vocab().items())
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
