"""The base predictor: the same rows in any batch, answers cut at EOS, prompts as strings, its options checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError
from xlm.masked.collate import MaskedPredictionBatch, MasksAfterPrompt, MasksInPlace
from xlm.masked.network import RotaryMaskedNetwork
from xlm.masked.predictor import MaskedPredictionDict, MaskedPredictor, as_rows, finished, slots_of
from xlm.masked.unmasking import (
    ConfidenceOrder,
    Filled,
    MaskedNetwork,
    Slots,
    TokenDraw,
    block_by_block,
    fill_by_confidence,
    fill_by_order,
    fill_mask_probs,
    fill_with_remasking,
    uniform_order,
)
from xlm.testing import mismatches
from xlm.training.blocks import compile_blocks
from xlm.utils.annotations import Count

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=9)
PAD, EOS, BOS, MASK = (getattr(TOKENIZER, f"{n}_token_id") for n in ("pad", "eos", "bos", "mask"))


def predicted(batch: MaskedPredictionBatch, ids: list[list[int]]) -> Any:
    slots = slots_of(batch, MASK)
    order = torch.where(slots.masked, 1, -1)
    return finished(batch, slots, Filled(torch.tensor(ids), order, torch.tensor([2] * len(ids))), TOKENIZER)


def test_answers_end_at_their_first_eos() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{"prompt_ids": [7], "input_ids": [8]}, {"prompt_ids": [9]}])
    preds = predicted(batch, [[7, BOS, 8, EOS, 10], [9, BOS, 10, 11, 12]])
    assert preds["ids"].tolist() == [[7, BOS, 8, EOS, PAD], [9, BOS, 10, 11, 12]]
    assert preds["attention_mask"].long().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert preds["order"].tolist() == [[-1, -1, 1, 1, -1], [-1, -1, 1, 1, 1]]
    assert preds["output_start_idx"] == 2
    assert preds["text"] == ["1 [EOS]", "3 4 5"]


def test_rows_show_prompt_prediction_truth_and_calls() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=4)([{"prompt_ids": [7], "input_ids": [8]}])
    rows = as_rows(batch, predicted(batch, [[7, BOS, 9, EOS, 10]]), TOKENIZER)
    written = {"pieces": ["2"], "steps": [1], "gap": "▁"}
    shown = {"prompt": "0", "prediction": "2", "truth": "1"}
    assert rows == [{**shown, "steps_taken": 2, "network_calls": 2, "writing": written}]


def test_rows_of_infilling_show_the_masks_of_the_prompt() -> None:
    examples = [{"prompt_ids": [7, MASK, 9], "input_ids": [7, 8, 9]}, {"prompt_ids": [MASK], "input_ids": [8]}]
    batch = MasksInPlace(TOKENIZER)(examples)
    preds = predicted(batch, [[BOS, 7, 10, 9, EOS], [BOS, 8, EOS, PAD, PAD]])
    rows = as_rows(batch, preds, TOKENIZER)
    assert [(r["prompt"], r["prediction"], r["truth"]) for r in rows] == [
        ("0 [MASK] 2", "0 3 2", "0 1 2"),
        ("[MASK]", "1", "1"),
    ]


def test_unconditional_rows_have_an_empty_prompt() -> None:
    batch = MasksAfterPrompt(TOKENIZER, block_size=3)([{"input_ids": []}])
    assert as_rows(batch, predicted(batch, [[BOS, 7, 8]]), TOKENIZER)[0]["prompt"] == ""


@dataclass(eq=False, repr=False)
class AnyOrder(MaskedPredictor):
    """A family with each way to fill masks."""

    order: Literal["random", "confidence", "remasking"] = "random"
    max_steps: Count = 3

    def fill(self, network: MaskedNetwork, draw: TokenDraw, ids: Tensor, slots: Slots, seeds: Tensor) -> Filled:
        if self.order == "confidence":
            by_confidence = ConfidenceOrder("top_prob", self.max_steps)
            return fill_by_confidence(network, draw, ids, slots, by_confidence, seeds)
        if self.order == "remasking":
            grid = torch.linspace(1, 0, 13, dtype=torch.float64)
            return fill_with_remasking(network, draw, ids, slots, grid, 0.2, MASK, seeds)
        mask_probs = block_by_block(fill_mask_probs(slots.masked, slots.counters, seeds), slots)
        order = uniform_order(mask_probs, slots.masked, self.max_steps)
        return fill_by_order(network, draw, ids, slots, order, seeds)


PROMPTS: list[dict[str, Any]] = [
    {"prompt_ids": [7, 8, 9, 10, 11], "noise_seed": 1},
    {"prompt_ids": [12], "noise_seed": 2},
    {"prompt_ids": [7, 7], "noise_seed": 3},
    {"prompt_ids": [], "noise_seed": 4},
]
OPTIONS: dict[str, dict[str, Any]] = {
    "random": {},
    "greedy": {"temperature": 0.0},
    "filtered": {"top_k": 3, "top_p": 0.7, "temperature": 1.5},
    "suppressed": {"suppressed_tokens": ["0", "1"]},
    "confidence": {"order": "confidence"},
    "remasking": {"order": "remasking"},
    "blocks": {"decode_block": 2, "order": "confidence", "max_steps": 5},
    "dual cache": {"decode_block": 3, "cache": "dual", "max_steps": 6},
    "prefix cache": {
        "decode_block": 4,
        "cache": "prefix",
        "refresh_interval": 2,
        "order": "confidence",
        "max_steps": 7,
    },
}


@pytest.fixture(scope="module")
def model() -> RotaryMaskedNetwork:
    torch.manual_seed(0)
    # Double precision and weights far from zero: differences between two paths are then visible, and are mistakes.
    network = RotaryMaskedNetwork(len(TOKENIZER), d_model=16, num_layers=2, nhead=2, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture(params=OPTIONS)
def predictor(request: pytest.FixtureRequest, model: RotaryMaskedNetwork) -> AnyOrder:
    return AnyOrder(TOKENIZER, model=model, block_size=7, **OPTIONS[request.param])


def predict(predictor: AnyOrder, examples: list[Any], **options: Any) -> MaskedPredictionDict:
    return predictor.predict(MasksAfterPrompt(predictor.tokenizer, block_size=7, **options)(examples))


def answers(preds: MaskedPredictionDict) -> list[list[int]]:
    return preds["ids"][:, preds["output_start_idx"] :].tolist()


def test_batches_and_padding_change_no_row(predictor: AnyOrder) -> None:
    together = predict(predictor, PROMPTS)
    padded = predict(predictor, PROMPTS, input_block_size=9, pad_to="block")
    alone = [predict(predictor, [example]) for example in PROMPTS]
    assert answers(together) == answers(padded) == [answers(one)[0] for one in alone]
    calls = torch.cat([one["network_calls"] for one in alone])
    assert torch.equal(together["network_calls"], calls)
    assert len({tuple(row) for row in answers(together)}) > 1


def test_the_recorded_steps_give_the_prediction_and_recording_changes_nothing(predictor: AnyOrder) -> None:
    batch = MasksAfterPrompt(predictor.tokenizer, block_size=7)(PROMPTS)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["network_calls"].tolist()
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()


def test_prompts_stay_and_answers_are_words_then_eos_then_pads(predictor: AnyOrder) -> None:
    tokenizer = predictor.tokenizer
    examples = [{**e, "noise_seed": 10 * n + e["noise_seed"]} for n in range(20) for e in PROMPTS]
    batch = MasksAfterPrompt(tokenizer, block_size=7)(examples)
    preds = predictor.predict(batch)
    start = preds["output_start_idx"]
    assert torch.equal(preds["ids"][:, :start], batch["input_ids"][:, :start])
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    for row in answers(preds):
        words = row[: row.index(eos)] if eos in row else row
        assert set(row[len(words) + 1 :]) <= {pad}
        assert all(word >= 6 for word in words), "UNK or a word, no special token"
    suppressed = {tokenizer.convert_tokens_to_ids(token) for token in predictor.suppressed_tokens}
    assert not suppressed & set(preds["ids"][:, start:].unique().tolist())


def test_declared_types_hold(predictor: AnyOrder) -> None:
    assert mismatches(MaskedPredictionDict, predict(predictor, PROMPTS)) == []


def test_infilling_keeps_the_text_and_never_ends_inside(predictor: AnyOrder) -> None:
    tokenizer = predictor.tokenizer
    mask, eos = tokenizer.mask_token_id, tokenizer.eos_token_id
    texts = [[7, mask, mask, 10], [mask], [8, 9], [mask] * 6 + [7]]
    batch = MasksInPlace(tokenizer)([{"prompt_ids": text, "noise_seed": n} for n, text in enumerate(texts)])
    preds = predictor.predict(batch)
    given = batch["input_ids"] != mask
    assert torch.equal(preds["ids"][given], batch["input_ids"][given])
    assert (preds["ids"][~given] >= 6).all()
    assert ((preds["ids"] == eos).sum(1) == 1).all()
    assert preds["network_calls"][2] == 0, "the network is not run where nothing is masked"


def test_what_is_drawn_follows_from_the_example_and_the_seed(model: RotaryMaskedNetwork) -> None:
    def draw(seed: int | None, examples: list[Any]) -> list[list[int]]:
        return answers(predict(AnyOrder(TOKENIZER, model=model, seed=seed), examples))

    torch.manual_seed(0)
    first = draw(5, PROMPTS)
    torch.manual_seed(1)
    assert draw(5, PROMPTS) == first
    assert draw(6, PROMPTS) != first
    unseeded = [{"prompt_ids": e["prompt_ids"]} for e in PROMPTS]
    assert draw(None, unseeded) != draw(None, unseeded)
    assert draw(3, unseeded) == draw(3, unseeded)


def test_generate_answers_prompts_and_fills_masks(predictor: AnyOrder) -> None:
    predictor.seed = 0
    predictor.suppressed_tokens = ["[UNK]"]  # a token that decoding leaves out
    texts = predictor.generate(["0 1 2", "3 [MASK] 5", "5"])
    words = texts[1].split()
    assert (words[0], words[2], len(words)) == ("3", "5", 3)
    assert "[" not in "".join(texts)
    assert texts == predictor.generate(["0 1 2", "3 [MASK] 5", "5"])


def test_texts_go_on_behind_their_beginning(predictor: AnyOrder) -> None:
    """A prompt is followed by masks up to the block; alone it gives what it gives among others."""
    predictor.block_size, predictor.seed = 8, 3
    texts = predictor.continue_text(["0 1 2", "5", ""])
    assert texts[0] == predictor.continue_text(["0 1 2"])[0]
    assert all(len(text.split()) <= 7 - n for text, n in zip(texts, (3, 1, 0), strict=True))
    assert not any("[" in text for text in texts)
    assert predictor.continue_text([]) == []


class Echo(MaskedPredictor):
    """Writes `8` into every mask, and notes what it was asked for."""

    def predict(self, batch: Any, *_: Any) -> Any:
        self.seen = [*getattr(self, "seen", []), batch]
        ids = batch["input_ids"].masked_fill(batch["input_ids"] == MASK, 15)
        order = torch.where(batch["input_ids"] == MASK, 0, -1)
        return {"ids": ids, "output_start_idx": batch["output_start_idx"], "order": order, "network_calls": order[:, 0]}


def test_prompts_of_a_kind_go_together_and_each_draws_by_its_number() -> None:
    echo = Echo(TOKENIZER, model=torch.nn.Linear(1, 1), block_size=3, seed=7)
    assert echo.generate(["0 1", "0 [MASK] 1", "2"]) == ["8 8", "0 8 1", "8 8"]
    assert [batch["noise_seed"].tolist() for batch in echo.seen] == [[1], [0, 2]]
    echo.seed = None
    assert [echo.generate(["0 1"]), echo.generate(["0 1"]), echo.generate([])] == [["8 8"], ["8 8"], []]
    assert not torch.equal(*(batch["noise_seed"] for batch in echo.seen[2:]))


def test_continued_texts_keep_their_beginning_and_fill_the_block() -> None:
    echo = Echo(TOKENIZER, model=torch.nn.Linear(1, 1), block_size=4, seed=7)
    assert echo.continue_text(["0 1", ""]) == ["8", "8 8 8"]
    assert echo.seen[0]["input_ids"].tolist() == [[BOS, 7, 8, MASK], [BOS, MASK, MASK, MASK]]
    assert echo.seen[0]["noise_seed"].tolist() == [0, 1]
    with pytest.raises(ConfigError, match="A prompt of 3 tokens leaves no room in a block of 4, BOS included"):
        echo.continue_text(["0 1 2"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": math.nan}, "temperature is nan, and must be a number, at least 0"),
        ({"top_p": 0}, "top_p is 0, and must be above 0 and at most 1"),
        ({"suppressed_tokens": "ab"}, "suppressed_tokens is 'ab', and must be a list of texts"),
        ({"order": "reverse"}, "order is 'reverse', and must be random, confidence or remasking"),
        ({"max_steps": 0}, "max_steps is 0, and must be at least 1"),
    ],
)
def test_options_of_the_base_and_of_the_family_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        AnyOrder(**options)
    assert message in str(error.value)


def test_a_subclass_may_take_its_options_in_its_own_way() -> None:
    class Renamed(AnyOrder):
        def __init__(self, steps: int, **options: Any) -> None:
            super().__init__(max_steps=steps, **options)

    assert Renamed(2, temperature=0.0, top_p=0.5).unread == AnyOrder(temperature=0.0).unread
    with pytest.raises(ConfigError, match="max_steps is 0"):
        Renamed(0)


# Blocks, and the cache of keys and values.


def network(num_layers: int, **options: Any) -> RotaryMaskedNetwork:
    torch.manual_seed(0)
    made = RotaryMaskedNetwork(len(TOKENIZER), 16, num_layers, nhead=2, dropout=0.0, **options).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


EXAMPLES = [{**example, "noise_seed": 10 * n + example["noise_seed"]} for n in range(3) for example in PROMPTS]


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_that_is_refreshed_in_every_call_changes_nothing(cache: Any, order: Any) -> None:
    for short_conv in (False, True):
        options: dict[str, Any] = {"model": network(3, short_conv=short_conv), "order": order, "max_steps": 7}
        plain = predict(AnyOrder(TOKENIZER, decode_block=3, **options), EXAMPLES)
        cached = AnyOrder(TOKENIZER, decode_block=3, cache=cache, refresh_interval=1, **options)
        assert torch.equal(predict(cached, EXAMPLES)["ids"], plain["ids"])


@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_one_layer_needs_no_refreshing(cache: Any, order: Any) -> None:
    """Its keys and values depend on a token alone, and no token outside of a block changes while it is filled."""
    options: dict[str, Any] = {"model": network(1), "order": order, "max_steps": 7}
    plain = predict(AnyOrder(TOKENIZER, decode_block=3, **options), EXAMPLES)
    cached = predict(AnyOrder(TOKENIZER, decode_block=3, cache=cache, **options), EXAMPLES)
    assert torch.equal(cached["ids"], plain["ids"])


def test_a_cache_computes_less() -> None:
    model, computed = network(2), []
    model.layers[0].register_forward_hook(lambda layer, given, out: computed.append(given[0].shape[:2].numel()))
    found = {}
    for cache in ("none", "prefix", "dual"):
        computed.clear()
        predict(AnyOrder(TOKENIZER, model=model, decode_block=3, cache=cache, max_steps=7), PROMPTS[:1])
        found[cache] = sum(computed)
    assert found["dual"] < found["prefix"] < found["none"]


def test_cached_calls_are_not_compiled() -> None:
    """Their shapes vary too much: `compile=blocks` would compile a block again and again."""
    from torch._dynamo.utils import counters

    model = network(2)
    options: dict[str, Any] = {"decode_block": 3, "cache": "dual", "max_steps": 7}
    plain = predict(AnyOrder(TOKENIZER, model=model, **options), PROMPTS)
    assert compile_blocks(model) == 2
    counters.clear()
    assert torch.equal(predict(AnyOrder(TOKENIZER, model=model, **options), PROMPTS)["ids"], plain["ids"])
    assert not counters["frames"]


@pytest.mark.parametrize("order", ["random", "confidence"])
def test_blocks_are_filled_from_left_to_right_until_the_text_ends(order: Any) -> None:
    blocks = AnyOrder(TOKENIZER, model=network(2), decode_block=1, max_steps=7, order=order, temperature=3.0)
    preds = predict(blocks, EXAMPLES)
    calls, start = preds["network_calls"].tolist(), preds["output_start_idx"]
    for row, order_of_row, num_calls in zip(answers(preds), preds["order"][:, start:].tolist(), calls, strict=True):
        written = [token for token in row if token != TOKENIZER.pad_token_id]
        assert [call for call in order_of_row if call >= 0] == list(range(len(written)))
        assert num_calls == len(written), "nothing is computed behind the end"
    assert len(set(calls)) > 2


@pytest.mark.parametrize("max_steps", [1, 2, 4])
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_few_calls_fill_several_blocks_at_once(order: Any, max_steps: int) -> None:
    options: dict[str, Any] = {"decode_block": 2, "cache": "dual", "suppressed_tokens": [TOKENIZER.eos_token]}
    preds = predict(AnyOrder(TOKENIZER, model=network(2), max_steps=max_steps, order=order, **options), EXAMPLES)
    assert preds["network_calls"].tolist() == [max_steps] * len(EXAMPLES)
    assert TOKENIZER.mask_token_id not in preds["ids"]


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"predictor\.cache=dual needs predictor\.decode_block"):
        AnyOrder(TOKENIZER, cache="dual")
    other: Any = type("Other", (), {"output_layer": torch.nn.Linear(2, len(TOKENIZER))})()
    with pytest.raises(ConfigError, match=r"Other can't keep keys and values between calls: use predictor\.cache=none"):
        predict(AnyOrder(TOKENIZER, model=other, cache="dual", decode_block=2), PROMPTS)
