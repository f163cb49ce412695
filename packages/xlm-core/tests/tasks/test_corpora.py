"""Published corpora: their tokenization is undone by the published rules."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from xlm.data.functional import BATCHED
from xlm.errors import DataError
from xlm.tasks.corpora import Corpus, detokenize, detokenized_to_input_ids
from xlm.tasks.lm1b import lm1b_detokenize, preprocess


@pytest.mark.parametrize(
    ("corpus", "given", "expected"),
    [
        ("lm1b", "I don 't know , he said .", "I don't know, he said."),
        ("lm1b", '" Yes , it \'s " ( he said ) today . So ?', '"Yes, it\'s" (he said) today. So?'),
        ("lm1b", "It cost $ 5 or £ 3 ; see http : / / a.b / c !", "It cost $5 or £3; see http://a.b/c!"),
        ("lm1b", "the ' new ' rules [ sic ] : one", "the 'new' rules [sic]: one"),
        ("lm1b", "nothing to do", "nothing to do"),
        ("wikitext", " = = Plot = = \n", " == Plot ==\n"),
        ("wikitext", "10 @,@ 000 @-@ year 3 @.@ 5 ; ( a ) [ b ] { c }", "10,000-year 3.5; (a) [b] {c}"),
        ("wikitext", "He 's \" big \" , said the dogs ' owner . So", "He's \"big\", said the dogs' owner. So"),
        ("ptb", "mr. <unk> did n't pay $ N or N N of n\\/a 's", "mr. ? didn't pay $1 or 1 1 of n/a's"),
        ("lambada", "  “ hi ” there \n", '\n" hi " there'),
        ("lambada", "", "\n"),
    ],
)
def test_rules(corpus: Any, given: str, expected: str) -> None:
    assert detokenize(given, corpus) == expected


@pytest.mark.parametrize("corpus", get_args(Corpus))
def test_a_text_without_tokenization_stays(corpus: Any) -> None:
    text = 'It\'s 10,000 years ago, (he said) "at last".'
    assert detokenize(text, corpus).strip("\n") == text


def test_an_unknown_corpus_is_named() -> None:
    with pytest.raises(DataError, match=r"no rules for the corpus 'lm1'\. Choose one of: lm1b, .* Did you mean 'lm1b'"):
        detokenize("a", "lm1")  # type: ignore[arg-type]


def bytes_of(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
    assert not add_special_tokens
    return {"input_ids": list(text.encode())}


def test_bytes_are_those_of_the_detokenized_text() -> None:
    example = preprocess({"text": "it 's £ 3 ."}, bytes_of)
    assert bytes(example["input_ids"]).decode() == lm1b_detokenize("it 's £ 3 .") == "it's £3."
    assert example["num_bytes"] == 9  # £ has two
    assert preprocess({"text": "it 's"}, bytes_of, block_size=2) == {
        "text": "it's", "input_ids": [105, 116], "num_bytes": None,
    }  # fmt: skip


def test_the_column_of_a_published_data_set_or_text() -> None:
    for column in ("sentence", "text"):
        example = detokenized_to_input_ids({column: "did n't"}, bytes_of, corpus="ptb", text_column="sentence")
        assert bytes(example["input_ids"]) == b"didn't"
    with pytest.raises(DataError, match="the column 'sentence' is missing; it has: body"):
        detokenized_to_input_ids({"body": "a"}, bytes_of, corpus="ptb", text_column="sentence")
    with pytest.raises(DataError, match="column 'text' holds null"):
        preprocess({"text": None}, bytes_of)


def test_many_rows_at_once_give_the_same() -> None:
    rows = [{"sentence": "did n't"}, {"text": "a $ N"}, {"sentence": ""}]
    options: dict[str, Any] = {"corpus": "ptb", "text_column": "sentence", "block_size": 4}
    one_by_one = [detokenized_to_input_ids(row, bytes_of, **options) for row in rows]
    assert BATCHED[detokenized_to_input_ids](rows, bytes_of, **options) == one_by_one
