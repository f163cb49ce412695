"""Examples of the King James Bible: complete, within their length, in one order, divided and joined by chapter."""

from __future__ import annotations

from collections import defaultdict

import pytest

from xlm.data.locator import locate
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.tasks.text import KingJames, read_verses
from xlm.tasks.text import king_james as corpus

# One token a word, whatever the word: lengths are all that counts here.
WORDS = SimpleSpaceTokenizer([])


def words_by_chapter(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["citation"].split(":")[0]] += row["text"].split(" ")
    return {chapter: sorted(words) for chapter, words in found.items()}


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("max_tokens", [9, 30, 62])
def test_nothing_is_lost_and_nothing_is_too_long(max_tokens: int, join: bool) -> None:
    rows = list(KingJames(WORDS, split="val", max_tokens=max_tokens, join=join))
    assert max(len(row["text"].split()) for row in rows) <= max_tokens
    assert words_by_chapter(rows) == words_by_chapter(list(KingJames(split="val")))


def test_without_a_limit_a_row_is_a_verse() -> None:
    rows = [(row["citation"], row["text"]) for row in KingJames(split="test")]
    assert sorted(rows) == sorted((verse.citation, verse.text) for verse in read_verses("test"))


def test_joined_verses_follow_each_other_and_no_more_would_fit() -> None:
    rows = list(KingJames(WORDS, split="val", max_tokens=62, join=True))
    texts = {verse.citation: verse.text for verse in read_verses("val")}
    joined = [row for row in rows if "-" in row["citation"]]
    assert len(joined) > len(rows) / 4
    for row in joined:
        first, _, last = row["citation"].partition("-")
        chapter, _, start = first.rpartition(":")
        numbers = range(int(start), int(last) + 1)
        assert set(row["text"].split()) <= {w for n in numbers for w in texts[f"{chapter}:{n}"].split()}
    alone = [len(row["text"].split()) for row in KingJames(WORDS, split="val", max_tokens=62)]
    assert len(rows) < len(alone)


def test_the_first_rows_are_a_sample_of_the_whole_split() -> None:
    assert list(KingJames(num_examples=20, split="val")) == list(KingJames(split="val"))[:20]
    assert len({row["citation"].split(":")[0] for row in KingJames(num_examples=20, split="val")}) > 10
    other = [row["citation"] for row in KingJames(num_examples=20, split="val", seed=1)]
    assert other != [row["citation"] for row in KingJames(num_examples=20, split="val")]


@pytest.mark.parametrize(
    ("tokenizer", "options", "message"),
    [
        (None, {"max_tokens": 62}, "they need a tokenizer"),
        (WORDS, {"join": True}, "join needs max_tokens"),
        (WORDS, {"max_tokens": 0}, "max_tokens=0 is too small for single words of "),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tokenizer: SimpleSpaceTokenizer | None, options: dict[str, int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(KingJames(tokenizer, split="val", **options))  # type: ignore[arg-type]


def test_another_text_means_other_prepared_data(monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(None, dataset_constructor_str="xlm.tasks.text.KingJames", dataset_kwargs={"split": "val"})
    before = source.identity()
    assert before["reads"]["corpus"] == corpus.corpus_hash()
    monkeypatch.setattr("xlm.tasks.text.king_james.corpus_hash", lambda: "another")
    assert source.identity() != before
