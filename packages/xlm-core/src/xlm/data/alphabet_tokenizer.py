"""Tokenizers of a fixed alphabet: characters, amino acids, the symbols of molecules."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from xlm.data.trained_tokenizer import UNKNOWN, TrainedTokenizer, with_special_tokens
from xlm.errors import ConfigError

# In this syntax m lets the dot match line ends.
ANY_CHARACTER = "(?m)."


def alphabet_tokenizer(symbols: str | Sequence[str], pattern: str = ANY_CHARACTER) -> TrainedTokenizer:
    """A tokenizer with one token per symbol, in this order, and every special token after them.

    Decoding restores a text of known symbols exactly; others become UNK.

    Args:
        symbols: a text of single characters, or a list of symbols.
        pattern: a regular expression; each of its matches in a text is a symbol, and so is what lies between matches.

    Raises:
        ConfigError: a symbol is empty or given twice, or there is none.
    """
    known = list(symbols)
    if not known or "" in known or len(set(known)) < len(known):
        raise ConfigError(f"An alphabet needs different symbols that are not empty; got {known}.", key="symbols")
    vocabulary = {symbol: number for number, symbol in enumerate([*known, UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return with_special_tokens(json.dumps(json.loads(tokenizer.to_str()), sort_keys=True), TrainedTokenizer)
