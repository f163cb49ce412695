"""Rows of masked models: layout, what may be masked, filling, truncation, and blocks or slots to fill."""

from __future__ import annotations

import pickle
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm.data.collate import IGNORE
from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.counter_rng import Stream, uniform
from xlm.errors import ConfigError, DataError
from xlm.masked.collate import (
    MaskedBatch,
    MaskedCollator,
    MaskedPredictionBatch,
    MaskedSeq2SeqCollator,
    MasksAfterPrompt,
    MasksInPlace,
    answer_rows,
    draw_times,
    mask_tokens,
    masked_batch,
)
from xlm.masked.elbo import clean_ids, coded_ids
from xlm.masked.text_length import TextLength
from xlm.testing import mismatches

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))
EXAMPLES: list[dict[str, Any]] = [
    {"prompt_ids": [7, 8, 9], "input_ids": [10, 11]},
    {"prompt_ids": [12], "input_ids": []},
]

ids = st.lists(st.integers(7, 15), max_size=6)
seeds = st.integers(0, 2**63 - 1)
example = st.fixed_dictionaries({"prompt_ids": ids, "input_ids": ids, "noise_seed": seeds})
examples = st.lists(example, min_size=1, max_size=5)


def clean(batch: Any) -> torch.Tensor:
    return torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])


def test_answers_follow_prompts_and_are_all_that_may_be_masked() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None)
    assert rows.ids.tolist() == [[7, 8, 9, BOS, 10, 11, EOS], [PAD, PAD, 12, BOS, EOS, PAD, PAD]]
    assert rows.maskable.long().tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0]]
    assert torch.equal(rows.attention_mask, rows.ids != PAD)
    assert rows.num_tokens.tolist() == [3, 1]


def test_filling_is_learnt_but_not_counted() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=5, text_length="learnt")
    assert rows.ids[:, 3:].tolist() == [[BOS, 10, 11, EOS, EOS], [BOS, EOS, EOS, EOS, EOS]]
    assert rows.maskable[:, 3:].long().tolist() == [[0, 1, 1, 1, 1]] * 2
    assert rows.attention_mask[:, 3:].all()
    assert rows.num_tokens.tolist() == [3, 1]


def test_a_batch_holds_what_is_under_the_masks() -> None:
    rows = answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None)
    seeds, time, mask_prob = torch.tensor([1, 2]), torch.tensor([0.5, 0.7]), torch.tensor([1.0, 0.0])
    batch = masked_batch(rows, time, mask_prob, seeds, MASK)
    assert batch["input_ids"].tolist() == [[7, 8, 9, BOS, MASK, MASK, MASK], rows.ids[1].tolist()]
    assert batch["target_ids"].tolist() == [[-100] * 4 + [10, 11, EOS], [-100] * 7]
    assert batch["target_index"].tolist() == [4, 5, 6]
    assert torch.equal(batch["t"], time)


def test_filling_needs_a_block() -> None:
    with pytest.raises(ConfigError, match="text_length=learnt needs block_size"):
        answer_rows(EXAMPLES, TOKENIZER, with_prompt=True, block_size=None, text_length="learnt")


@pytest.mark.parametrize("text_length", get_args(TextLength))
@pytest.mark.parametrize(("truncate", "kept"), [("right", [BOS, 7, 8]), ("left", [8, 9, EOS])])
def test_what_a_long_row_loses(truncate: Any, kept: list[int], text_length: TextLength) -> None:
    rows = answer_rows(
        [{"input_ids": [7, 8, 9]}],
        TOKENIZER,
        with_prompt=False,
        block_size=3,
        answer_truncate=truncate,
        text_length=text_length,
    )
    assert rows.ids.tolist() == [kept]
    noised = [token != BOS or text_length == "lm1b_protocol" for token in kept]
    assert rows.maskable.tolist() == [noised]
    assert rows.num_tokens.tolist() == [sum(noised)]


def test_too_long_is_an_error_unless_a_truncation_is_chosen() -> None:
    long = [{"prompt_ids": [7, 8, 9], "input_ids": [7, 8, 9]}]
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=3, text_length="learnt")
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=3)
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        answer_rows(long, TOKENIZER, with_prompt=True, block_size=9, input_block_size=2)
    rows = answer_rows(
        long, TOKENIZER, with_prompt=True, block_size=5, input_block_size=2, prompt_truncate="left", pad_to="block"
    )
    assert rows.ids[0].tolist() == [8, 9, BOS, 7, 8, 9, EOS]


def test_an_empty_batch_has_no_rows() -> None:
    rows = answer_rows([], TOKENIZER, with_prompt=True, block_size=4)
    assert len(rows.ids) == len(rows.num_tokens) == 0


def test_prediction_shows_a_block_of_masks_and_keeps_the_truth_apart() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{**e, "noise_seed": 5} for e in EXAMPLES])
    assert batch["input_ids"].tolist() == [[7, 8, 9, BOS, MASK, MASK, MASK], [PAD, PAD, 12, BOS, MASK, MASK, MASK]]
    assert torch.equal(batch["attention_mask"], batch["input_ids"] != PAD)
    assert batch["output_start_idx"] == 4
    assert batch["target_ids"].tolist() == [[10, 11, EOS], [EOS, PAD, PAD]]
    assert batch["noise_seed"].tolist() == [5, 5]


def test_unconditional_rows_are_bos_and_masks_without_a_truth() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=3)([{"input_ids": []}, {"input_ids": []}])
    assert batch["input_ids"].tolist() == [[BOS, MASK, MASK]] * 2
    assert batch.keys() == {"input_ids", "attention_mask", "output_start_idx"}


@pytest.mark.parametrize("block_size", [None, 1])
def test_a_block_of_masks_needs_room(block_size: int | None) -> None:
    with pytest.raises(ConfigError, match="must hold BOS and at least one mask"):
        MasksAfterPrompt(TOKENIZER, block_size)(EXAMPLES)


def test_masks_in_place_are_slots_between_bos_and_eos() -> None:
    collate = MasksInPlace(TOKENIZER, block_size=8)
    batch = collate([{"prompt_ids": [7, MASK, 9], "input_ids": [7, 8, 9]}, {"prompt_ids": [MASK], "input_ids": [7]}])
    assert batch["input_ids"].tolist() == [[BOS, 7, MASK, 9, EOS], [BOS, MASK, EOS, PAD, PAD]]
    assert batch["target_ids"].tolist() == [[7, 8, 9, EOS], [7, EOS, PAD, PAD]]
    with pytest.raises(DataError, match="does not fit into 8"):
        collate([{"prompt_ids": [7] * 7}])
    assert MasksInPlace(TOKENIZER, 8, pad_to="block")([{"prompt_ids": []}])["input_ids"].shape == (1, 8)


@given(examples, st.sampled_from(get_args(TextLength)))
@settings(deadline=None)
def test_rows_are_prompt_bos_answer_eos_and_the_rest_of_the_block(
    rows: list[dict[str, Any]], text_length: TextLength
) -> None:
    batch = MaskedSeq2SeqCollator(TOKENIZER, block_size=8, text_length=text_length)(rows)
    for row, one in enumerate(rows):
        real = clean_ids(batch, PAD)[row][batch["attention_mask"][row]].tolist()
        filler = {"learnt": [EOS], "lm1b_protocol": [PAD]}.get(text_length, [])
        filling = filler * (8 - len(one["input_ids"]) - 2)
        # The published protocol noises and counts BOS.
        num_counted = len(one["input_ids"]) + 1 + (text_length == "lm1b_protocol")
        assert real == [*one["prompt_ids"], BOS, *one["input_ids"], EOS, *filling]
        assert coded_ids(batch, PAD)[row].tolist().count(-100) == batch["input_ids"].shape[1] - num_counted
        assert batch["num_tokens"][row] == num_counted
        assert int(batch["maskable"][row].sum()) == num_counted + len(filling)


@given(examples)
@settings(deadline=None)
def test_masks_are_targets_are_maskable(rows: list[dict[str, Any]]) -> None:
    batch = MaskedSeq2SeqCollator(TOKENIZER, block_size=8)(rows)
    masked = batch["input_ids"] == MASK
    assert torch.equal(masked, batch["target_ids"] != -100)
    assert not (masked & ~batch["maskable"]).any()
    assert torch.equal(batch["target_index"], masked.reshape(-1).nonzero().squeeze(-1))
    assert ((batch["t"] > 0) & (batch["t"] < 1)).all()


@given(examples)
@settings(deadline=None)
def test_an_examples_corruption_is_the_same_wherever_it_lands(rows: list[dict[str, Any]]) -> None:
    """Noise is a pure function of noise_seed: not of the batch, the row's place, the padding or global random state."""
    collate = MaskedSeq2SeqCollator(TOKENIZER, block_size=8)
    together, reverse = collate(rows), collate(rows[::-1])
    wide = MaskedSeq2SeqCollator(TOKENIZER, block_size=8, input_block_size=9, pad_to="block")(rows)
    for row, one in enumerate(rows):
        torch.manual_seed(row)
        alone = collate([one])
        for batch, place in ((together, row), (reverse, len(rows) - 1 - row), (wide, row)):
            assert torch.equal(batch["input_ids"][place][-8:], alone["input_ids"][0][-8:])
            assert batch["t"][place] == alone["t"][0]


def test_another_seed_is_another_corruption() -> None:
    collate = MaskedCollator(TOKENIZER, block_size=30)
    batch = collate([{"input_ids": [7] * 28, "noise_seed": seed} for seed in range(50)])
    assert len(batch["t"].unique()) == 50
    assert len(batch["input_ids"].unique(dim=0)) > 40


def test_t_is_the_quantile_that_the_loader_gave_or_follows_from_the_seed() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1000 * n, "time_quantile": n / 16} for n in range(16)]
    spread = MaskedCollator(TOKENIZER, t_min=0.5, text_length="given")(rows)["t"]
    torch.testing.assert_close(spread, 0.5 + torch.arange(16) / 32)
    seeded = MaskedCollator(TOKENIZER, low_variance=False, text_length="given")(rows)["t"]
    assert (
        torch.equal(
            seeded,
            MaskedCollator(TOKENIZER, text_length="given")([rows[n] | {"time_quantile": 0.1} for n in range(16)])["t"],
        )
        is False
    )
    assert not torch.equal(seeded, spread)
    for row in rows:
        del row["time_quantile"]
    assert torch.equal(MaskedCollator(TOKENIZER, text_length="given")(rows)["t"], seeded)


def test_lm_rows_begin_with_bos_and_end_with_eos() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1}, {"input_ids": [], "noise_seed": 2}]
    batch = MaskedCollator(TOKENIZER, text_length="given")(rows)
    assert clean(batch).tolist() == [[BOS, 7, 8, EOS], [BOS, EOS, PAD, PAD]]
    assert batch["maskable"].long().tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    filled = MaskedCollator(TOKENIZER, block_size=5)(rows)
    assert clean(filled).tolist() == [[BOS, 7, 8, EOS, EOS], [BOS, EOS, EOS, EOS, EOS]]


def test_the_older_name_of_text_length_goes_on_working() -> None:
    rows = [{"input_ids": [7, 8], "noise_seed": 1}]
    for older, now in ((True, "learnt"), (False, "given"), (None, "learnt")):
        assert MaskedCollator(TOKENIZER, 5, loss_on_padding=older)(rows)["text_length"] == now
    with pytest.raises(ConfigError, match="loss_on_padding=false is the older name of text_length=given, and text_len"):
        MaskedCollator(TOKENIZER, 5, text_length="learnt", loss_on_padding=False)(rows)


@pytest.mark.parametrize(("truncate", "kept"), [("right", [BOS, 7, 8]), ("left", [8, 9, EOS])])
def test_lm_truncation(truncate: Any, kept: list[int]) -> None:
    batch = MaskedCollator(TOKENIZER, block_size=3, truncate=truncate)([{"input_ids": [7, 8, 9], "noise_seed": 1}])
    assert clean(batch).tolist() == [kept]


def test_what_does_not_fit_is_an_error_unless_a_truncation_is_chosen() -> None:
    long = [{"prompt_ids": [7, 8, 9], "input_ids": [8, 9, 10], "noise_seed": 1}]
    with pytest.raises(DataError, match="prompt of 3 tokens does not fit into 2"):
        MaskedSeq2SeqCollator(TOKENIZER, block_size=8, input_block_size=2)(long)
    with pytest.raises(DataError, match="answer of 5 tokens does not fit into 3"):
        MaskedSeq2SeqCollator(TOKENIZER, block_size=3)(long)
    cut = MaskedSeq2SeqCollator(
        TOKENIZER, block_size=3, input_block_size=2, prompt_truncate="left", answer_truncate="right"
    )(long)
    assert clean(cut)[0].tolist() == [8, 9, BOS, 8, 9]
    assert cut["num_tokens"].tolist() == [2]


def test_missing_pieces_are_named() -> None:
    with pytest.raises(DataError, match="has no noise_seed"):
        MaskedCollator(TOKENIZER, text_length="given")([{"input_ids": [7]}])
    with pytest.raises(ConfigError, match="text_length=learnt needs block_size"):
        MaskedSeq2SeqCollator(TOKENIZER)([{"prompt_ids": [7], "input_ids": [7], "noise_seed": 1}])


@given(examples)
@settings(deadline=None)
def test_declared_types_hold(rows: list[dict[str, Any]]) -> None:
    for collate in (MaskedCollator(TOKENIZER, text_length="given"), MaskedSeq2SeqCollator(TOKENIZER, 8)):
        assert mismatches(MaskedBatch, collate(rows)) == []
    for predict in (MasksAfterPrompt(TOKENIZER, 8), MasksInPlace(TOKENIZER)):
        assert mismatches(MaskedPredictionBatch, predict(rows)) == []


def test_collators_pickle() -> None:
    one = [{"prompt_ids": [7], "input_ids": [8], "noise_seed": 3}]
    for collate in (
        MaskedCollator(TOKENIZER, 4), MaskedSeq2SeqCollator(TOKENIZER, 4), MasksAfterPrompt(TOKENIZER, 4),
        MasksInPlace(TOKENIZER, 8),
    ):  # fmt: skip
        copy: Any = pickle.loads(pickle.dumps(collate))
        assert torch.equal(copy(one)["input_ids"], collate(one)["input_ids"])


@pytest.mark.parametrize("text_length", get_args(TextLength))
@settings(deadline=None, max_examples=25)
@given(examples, st.integers(1, 9), st.sampled_from(["left", "right"]), st.sampled_from(["longest", "block"]))
def test_batches_are_those_of_a_loop_over_tokens(
    text_length: TextLength, rows: list[dict[str, Any]], block_size: int, truncate: Any, pad_to: Any
) -> None:
    batch = MaskedSeq2SeqCollator(
        TOKENIZER, block_size, 4, text_length=text_length, prompt_truncate=truncate, answer_truncate=truncate,
        pad_to=pad_to,
    )(rows)  # fmt: skip
    filler = {"learnt": EOS, "lm1b_protocol": PAD}.get(text_length)
    fixed = pad_to == "block"
    cut = (lambda ids, n: ids[:n]) if truncate == "right" else (lambda ids, n: ids[max(0, len(ids) - n) :])
    prompts = [cut(row["prompt_ids"], 4) for row in rows]
    answers = [cut([BOS, *row["input_ids"], EOS], block_size) for row in rows]
    start = 4 if fixed else max(map(len, prompts))
    end = start + (block_size if fixed or filler is not None else max(map(len, answers)))
    assert batch["input_ids"].shape == (len(rows), end)
    index = []
    for i, (row, prompt, answer) in enumerate(zip(rows, prompts, answers, strict=True)):
        given = [*prompt, *answer] + ([] if filler is None else [filler] * (end - start - len(answer)))
        before, t = start - len(prompt), float(uniform(torch.tensor(row["noise_seed"]), Stream.TIME))
        num_maskable = num_tokens = 0
        for column in range(end):
            number = column - before
            real = 0 <= number < len(given)
            token = given[number] if real else PAD
            maskable = real and column >= start and (
                text_length == "lm1b_protocol" or column > start or token != BOS
            )  # fmt: skip
            num_maskable += maskable
            counts = maskable and num_maskable <= len(row["input_ids"]) + 1 + (text_length == "lm1b_protocol")
            num_tokens += counts
            masked = maskable and float(uniform(torch.tensor(row["noise_seed"]), Stream.MASK, number)) < t
            target = masked and (counts or text_length != "lm1b_protocol")
            assert batch["attention_mask"][i, column] == real
            assert batch["maskable"][i, column] == maskable
            assert batch["input_ids"][i, column] == (MASK if masked else token)
            assert batch["target_ids"][i, column] == (token if target else IGNORE)
            index += [i * end + column] if target else []
        assert batch["num_tokens"][i] == num_tokens
    assert batch["target_index"].tolist() == index


# Masking alone.


def test_times_are_uniform_between_their_ends() -> None:
    t = draw_times(torch.arange(20_000), t_min=0.2)
    counts = torch.histc(t, bins=20, min=0.2, max=1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 19 + 4.5 * 38**0.5


def test_times_are_rescaled_quantiles() -> None:
    quantiles = torch.tensor([0.0, 0.25, 0.5])
    assert draw_times(torch.arange(3), quantiles, t_min=0.2).tolist() == pytest.approx([0.2, 0.4, 0.6])


def test_masked_tokens_become_targets_and_others_stay() -> None:
    ids = torch.arange(12).view(2, 6)
    maskable = torch.tensor([[False, True, True, True, True, False]] * 2)
    masked = mask_tokens(ids, maskable, torch.tensor([1.0, 0.0]), torch.tensor([3, 4]), 99)
    assert masked.ids.tolist() == [[0, 99, 99, 99, 99, 5], [6, 7, 8, 9, 10, 11]]
    assert masked.targets.tolist() == [[IGNORE, 1, 2, 3, 4, IGNORE], [IGNORE] * 6]
    assert masked.target_index.tolist() == [1, 2, 3, 4]


def test_each_token_is_masked_with_the_rows_probability() -> None:
    n = 5_000
    ids = torch.zeros(n, 10, dtype=torch.long)
    mask_prob = torch.full((n,), 0.3, dtype=torch.float64)
    share = (mask_tokens(ids, ids == 0, mask_prob, torch.arange(n), 99).ids == 99).double()
    assert torch.allclose(share.mean(0), torch.full((10,), 0.3, dtype=torch.float64), atol=4.5 * (0.21 / n) ** 0.5)
    # On their own: no two positions move together.
    correlation = torch.corrcoef(share.T) - torch.eye(10)
    assert float(correlation.abs().max()) < 5 / n**0.5


def test_a_rows_masks_ignore_its_batch_and_its_padding() -> None:
    ids, seeds = torch.arange(24).view(4, 6), torch.tensor([5, 6, 7, 8])
    mask_prob = torch.full((4,), 0.5)
    together = mask_tokens(ids, torch.ones_like(ids, dtype=torch.bool), mask_prob, seeds, 99)
    padded = torch.cat([torch.full((1, 3), 77), ids[2:3]], dim=1)
    real = torch.tensor([[False] * 3 + [True] * 6])
    alone = mask_tokens(padded, real, mask_prob[:1], seeds[2:3], 99, real)
    assert torch.equal(alone.ids[:, 3:], together.ids[2:3])
