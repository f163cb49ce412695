"""Gaps in texts: whole words, about the requested share, the same for the same text and seed."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.errors import DataError
from xlm.tasks.text import KingJames, mask_words
from xlm.tasks.text.tokenizer import KingJamesTokenizer

WORDS = SimpleSpaceTokenizer.for_numbers(1000)
MASK = WORDS.mask_token_id
texts = st.lists(st.integers(7, 1006), min_size=1, max_size=80)


def num_runs(ids: list[int], mask: int = MASK) -> int:
    return sum(1 for is_mask, _ in groupby(ids, lambda i: i == mask) if is_mask)


@settings(deadline=None)
@given(ids=texts, rate=st.floats(0.01, 1), max_spans=st.integers(1, 4), seed=st.integers(0, 5))
def test_gaps_keep_everything_else_and_have_the_asked_size(
    ids: list[int], rate: float, max_spans: int, seed: int
) -> None:
    options = {"rate": rate, "max_spans": max_spans, "seed": seed}
    given_ids = list(ids)
    prompt = mask_words({"input_ids": ids}, WORDS, **options)["prompt_ids"]
    assert ids == given_ids
    assert all(shown in (true, MASK) for shown, true in zip(prompt, ids, strict=True))
    assert prompt.count(MASK) == max(1, round(rate * len(ids)))
    assert 1 <= num_runs(prompt) <= max_spans
    assert prompt == mask_words({"input_ids": ids, "noise_seed": 3}, WORDS, **options)["prompt_ids"]


def test_the_seed_and_the_text_choose_the_gaps() -> None:
    ids = list(range(7, 47))
    by_seed = {tuple(mask_words({"input_ids": ids}, WORDS, seed=seed)["prompt_ids"]) for seed in range(50)}
    assert len(by_seed) > 40
    places = {
        tuple(i == MASK for i in mask_words({"input_ids": [first, *ids[1:]]}, WORDS)["prompt_ids"])
        for first in range(100, 150)
    }
    assert len(places) > 25


def test_every_place_and_both_numbers_of_gaps_are_possible() -> None:
    prompts = [mask_words({"input_ids": list(range(7, 17))}, WORDS, seed=seed)["prompt_ids"] for seed in range(400)]
    share_of_two = sum(num_runs(prompt) == 2 for prompt in prompts) / len(prompts)
    assert 0.4 < share_of_two < 0.6
    masked_at = [sum(prompt[place] == MASK for prompt in prompts) for place in range(10)]
    assert min(masked_at) > 20


def test_words_of_several_tokens_are_masked_whole(kjv_tokenizer: KingJamesTokenizer) -> None:
    shares = []
    for row in KingJames(kjv_tokenizer, 200, split="val", max_tokens=62):
        ids = kjv_tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        prompt = mask_words({"input_ids": ids}, kjv_tokenizer)["prompt_ids"]
        assert len(prompt) == len(ids)
        assert all(a in (b, kjv_tokenizer.mask_token_id) for a, b in zip(prompt, ids, strict=True))
        kept = kjv_tokenizer.decode([i for i in prompt if i != kjv_tokenizer.mask_token_id])
        assert set(kept.split()) <= set(row["text"].split())
        shares.append(prompt.count(kjv_tokenizer.mask_token_id) / len(ids))
    assert 0.25 < sum(shares) / len(shares) < 0.35


def test_pieces_of_words_stay_together_in_wordpiece() -> None:
    class WordPieces:
        mask_token_id = -1

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["##ing" if i % 2 else "go" for i in ids]

    for seed in range(20):
        prompt = mask_words({"input_ids": list(range(20))}, WordPieces(), seed=seed)["prompt_ids"]
        assert all((prompt[i] == -1) == (prompt[i + 1] == -1) for i in range(0, 20, 2))


def test_an_empty_text_has_no_gap_and_nonsense_is_refused() -> None:
    assert mask_words({"input_ids": []}, WORDS) == {"prompt_ids": []}
    with pytest.raises(DataError, match="but an example has only: text"):
        mask_words({"text": "x"}, WORDS)
    for bad in ({"rate": 0.0}, {"rate": 1.5}, {"max_spans": 0}):
        with pytest.raises(DataError, match="rate must be above 0"):
            mask_words({"input_ids": [7]}, WORDS, **bad)  # type: ignore[arg-type]
