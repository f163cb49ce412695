"""Published text corpora: undoes their tokenization by the rules that published perplexities use.

The corpora are distributed as tokens separated by blanks (`it did n't , he said .`). Diffusion models are compared on
texts without these blanks: by the rules of SEDD (Lou et al. 2023, arXiv:2310.16834) and MDLM (Sahoo et al. 2024,
arXiv:2406.07524), which took those of WikiText from Megatron-LM.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from xlm.data.functional import BATCHED, text_to_input_ids
from xlm.errors import DataError, did_you_mean, nearest_names
from xlm.utils.text_files import checked_text

Corpus = Literal["lm1b", "wikitext", "ptb", "lambada"]
Rule = tuple[str, str]  # a regular expression and what replaces it


def _plain(*pairs: Rule) -> tuple[Rule, ...]:
    """Rules for texts that are taken literally."""
    return tuple((re.escape(old), new.replace("\\", r"\\")) for old, new in pairs)


_ATTACHED_LEFT = tuple((f" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,")

# The order matters: later rules see what earlier ones left.
RULES: Mapping[str, tuple[Rule, ...]] = {
    "lm1b": (
        *_plain(("http : / / ", "http://"), ("https : / / ", "https://")),
        (r" '(\w+)", r"'\1"),
        (r" (\w+) \. ", r" \1. "),
        (r" (\w+) \.$", r" \1."),
        *_plain((" ? ", "? ")),
        (r" \?$", "?"),
        *_plain((" ! ", "! ")),
        (r" !$", "!"),
        *_plain((" , ", ", "), (" : ", ": "), (" ; ", "; "), (" / ", "/")),
        (r'" ([^"]+) "', r'"\1"'),
        (r"' ([^']+) '", r"'\1'"),
        (r"\( ([^()]+) \)", r"(\1)"),
        (r"\[ ([^\[\]]+) \]", r"[\1]"),
        *_plain(("$ ", "$"), ("£ ", "£")),
    ),
    "wikitext": (
        *_plain(("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")),
        *_ATTACHED_LEFT,
        (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
        (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
        (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
        (r'"\s*([^"]*?)\s*"', r'"\1"'),
        (r"'\s*([^']*?)\s*'", r"'\1'"),
        *_plain(("= = = =", "===="), ("= = =", "==="), ("= =", "==")),
        *_plain((" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")),
    ),
    "ptb": (
        *_plain((" 's", "'s"), ("s ' ", "s' "), (" n't", "n't"), (" \n ", "\n"), ("\\/", "/")),
        (r" N(?= )", " 1"),  # numbers are given as N
        *_plain(("$ 1", "$1"), ("# 1", "#1"), ("<unk>", "?")),
    ),
    "lambada": (("[“”]", '"'), (r"\A\s*", "\n"), (r"(?<=\S)\s+\Z", "")),
}
_COMPILED = {corpus: [(re.compile(old), new) for old, new in rules] for corpus, rules in RULES.items()}


def detokenize(text: str, corpus: Corpus) -> str:
    """The text without the blanks of its corpus's tokenization; DataError for a corpus without rules."""
    if corpus not in _COMPILED:
        hint = did_you_mean(nearest_names(corpus, _COMPILED))
        names = ", ".join(get_args(Corpus))
        raise DataError(f"There are no rules for the corpus '{corpus}'. Choose one of: {names}. {hint}".rstrip())
    for pattern, replacement in _COMPILED[corpus]:
        text = pattern.sub(replacement, text)
    return text


def detokenized_to_input_ids(
    example: dict[str, Any], tokenizer: Any, *, corpus: Corpus, text_column: str = "text", **more: Any
) -> dict[str, Any]:
    """`input_ids` and `num_bytes` of the detokenized text, as `xlm.datamodule.text_to_input_ids` gives them.

    Args:
        corpus: whose rules to use.
        text_column: the column of the published data set; without it, `text`, as in a text file.
        more: `block_size`, the most ids to keep.

    Raises:
        DataError: the column is missing or holds something other than text.
    """
    return text_to_input_ids(_detokenized(example, corpus, text_column), tokenizer, **more)


def _many_to_input_ids(
    examples: list[dict[str, Any]], tokenizer: Any, *, corpus: Corpus, text_column: str = "text", **more: Any
) -> list[dict[str, Any]]:
    texts = [_detokenized(example, corpus, text_column) for example in examples]
    return BATCHED[text_to_input_ids](texts, tokenizer, **more)


def _detokenized(example: Mapping[str, Any], corpus: Corpus, text_column: str) -> dict[str, Any]:
    column = text_column if text_column in example else "text"
    if column not in example:
        raise DataError(f"the column {text_column!r} is missing; it has: {', '.join(example) or 'none'}.")
    return {"text": detokenize(checked_text(example[column], column), corpus)}


BATCHED[detokenized_to_input_ids] = _many_to_input_ids
