"""Unmasking: the right law, given tokens kept, nothing forbidden written, every row on its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mlm.datamodule_mlm import MasksAfterPrompt, MasksInPlace
from mlm.model_mlm import RotaryMLM
from mlm.predictor_mlm import MLMPredictor
from mlm.types_mlm import MLMPredictionDict
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError
from xlm.testing import mismatches

PROMPTS: list[dict[str, Any]] = [
    {"prompt_ids": [7, 8, 9, 10, 11], "noise_seed": 1},
    {"prompt_ids": [12], "noise_seed": 2},
    {"prompt_ids": [7, 7], "noise_seed": 3},
    {"prompt_ids": [], "noise_seed": 4},
]
OPTIONS: dict[str, dict[str, Any]] = {
    "random": {},
    "random, few steps": {"max_steps": 3},
    "greedy": {"temperature": 0.0},
    "top-k": {"top_k": 3, "temperature": 1.5},
    "top-p": {"top_p": 0.7},
    "top_prob": {"confidence": "top_prob", "max_steps": 4},
    "prob_diff": {"confidence": "prob_diff"},
    "entropy": {"confidence": "entropy", "max_steps": 2},
    "threshold": {"confidence": "top_prob", "threshold": 0.5},
    "suppressed": {"suppressed_tokens": ["0", "1"]},
}


@pytest.fixture(params=OPTIONS)
def predictor(request: pytest.FixtureRequest, model: RotaryMLM, tokenizer: SimpleSpaceTokenizer) -> MLMPredictor:
    return MLMPredictor(tokenizer, model=model, block_size=7, **OPTIONS[request.param])


def predict(predictor: MLMPredictor, examples: list[Any], **options: Any) -> MLMPredictionDict:
    return predictor.predict(MasksAfterPrompt(predictor.tokenizer, block_size=7, **options)(examples))


def answers(preds: MLMPredictionDict) -> list[list[int]]:
    return preds["ids"][:, preds["output_start_idx"] :].tolist()


def test_batches_and_padding_change_no_row(predictor: MLMPredictor) -> None:
    together = predict(predictor, PROMPTS)
    padded = predict(predictor, PROMPTS, input_block_size=9, pad_to="block")
    alone = [predict(predictor, [example]) for example in PROMPTS]
    assert answers(together) == answers(padded) == [answers(one)[0] for one in alone]
    calls = torch.cat([one["network_calls"] for one in alone])
    assert torch.equal(together["network_calls"], calls)
    assert len({tuple(row) for row in answers(together)}) > 1


def test_the_recorded_steps_give_the_prediction_and_recording_changes_nothing(predictor: MLMPredictor) -> None:
    batch = MasksAfterPrompt(predictor.tokenizer, block_size=7)(PROMPTS)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["network_calls"].tolist()
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()


def test_prompts_stay_and_answers_are_words_then_eos_then_pads(predictor: MLMPredictor) -> None:
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


def test_network_calls_are_within_the_steps(predictor: MLMPredictor) -> None:
    preds = predict(predictor, PROMPTS)
    assert (preds["network_calls"] <= (predictor.max_steps or 6)).all()
    assert (preds["network_calls"] >= 1).all()
    assert torch.equal(preds["steps_taken"], preds["network_calls"])


def test_declared_types_hold(predictor: MLMPredictor) -> None:
    assert mismatches(MLMPredictionDict, predict(predictor, PROMPTS)) == []


def test_infilling_keeps_the_text_and_never_ends_inside(predictor: MLMPredictor) -> None:
    tokenizer = predictor.tokenizer
    mask, eos = tokenizer.mask_token_id, tokenizer.eos_token_id
    texts = [[7, mask, mask, 10], [mask], [8, 9], [mask] * 6 + [7]]
    batch = MasksInPlace(tokenizer)([{"prompt_ids": text, "noise_seed": n} for n, text in enumerate(texts)])
    preds = predictor.predict(batch)
    given = batch["input_ids"] != mask
    assert torch.equal(preds["ids"][given], batch["input_ids"][given])
    assert (preds["ids"][~given] >= 6).all()
    assert ((preds["ids"] == eos).sum(1) == 1).all()
    assert preds["network_calls"][2] == 0


def test_without_any_mask_the_network_is_not_run(model: RotaryMLM, tokenizer: SimpleSpaceTokenizer) -> None:
    class Never:
        output_layer = model.output_layer

        def features(self, *_: Any) -> Tensor:
            raise AssertionError("run without a mask")

    batch = MasksInPlace(tokenizer)([{"prompt_ids": [7, 8], "noise_seed": 1}])
    for options in OPTIONS.values():
        preds = MLMPredictor(tokenizer, model=Never(), **options).predict(batch)
        assert torch.equal(preds["ids"], batch["input_ids"])


@pytest.mark.parametrize("options", [{"max_steps": 4}, {"confidence": "entropy", "max_steps": 4}, {"max_steps": None}])
def test_with_true_conditionals_samples_follow_the_joint(options: dict[str, Any], oracle: Any) -> None:
    """20,000 samples of four positions, one per call: Pearson's chi-squared over all 81 sequences."""
    n, tokenizer = 20_000, oracle.tokenizer
    batch = MasksAfterPrompt(tokenizer, block_size=5)([{"input_ids": [], "noise_seed": seed} for seed in range(n)])
    preds = MLMPredictor(tokenizer, model=oracle, **options).predict(batch)
    words = preds["ids"][:, 1:] - 7
    observed = torch.bincount((words * 3 ** torch.arange(3, -1, -1)).sum(-1), minlength=81).double()
    expected = oracle.joint * n
    chi, freedom = float(((observed - expected) ** 2 / expected).sum()), 80
    assert abs(chi - freedom) < 4.5 * (2 * freedom) ** 0.5
    assert (preds["network_calls"] == 4).all()


def test_top_k_one_is_greedy(model: RotaryMLM, tokenizer: SimpleSpaceTokenizer) -> None:
    for options in ({"confidence": "top_prob"}, {"max_steps": 3}):
        greedy = MLMPredictor(tokenizer, model=model, temperature=0.0, **options)
        top_1 = MLMPredictor(tokenizer, model=model, temperature=1.0, top_k=1, **options)
        assert answers(predict(greedy, PROMPTS)) == answers(predict(top_1, PROMPTS))


def test_greedy_by_confidence_takes_the_surest_position_first(
    model: RotaryMLM, tokenizer: SimpleSpaceTokenizer
) -> None:
    predictor = MLMPredictor(tokenizer, model=model, confidence="top_prob", temperature=0.0)
    batch = MasksAfterPrompt(tokenizer, block_size=7)(PROMPTS[:1])
    preds = predictor.predict(batch)
    logits = model(batch["input_ids"], batch["attention_mask"])[0, preds["output_start_idx"] :]
    logits[:, [0, 1, 2, 4, 5]] = -torch.inf
    first = int(logits.softmax(-1).amax(-1).argmax())
    order = preds["order"][0, preds["output_start_idx"] :]
    # Unless it lies behind the end of the answer, where nothing is kept.
    assert order[first] in (0, -1)
    assert (order >= 0).sum() == (preds["ids"][0, preds["output_start_idx"] :] != tokenizer.pad_token_id).sum()


def test_what_is_drawn_follows_from_the_example_and_the_seed(model: RotaryMLM, tokenizer: SimpleSpaceTokenizer) -> None:
    def draw(seed: int | None, examples: list[Any]) -> list[list[int]]:
        return answers(predict(MLMPredictor(tokenizer, model=model, seed=seed), examples))

    torch.manual_seed(0)
    first = draw(5, PROMPTS)
    torch.manual_seed(1)
    assert draw(5, PROMPTS) == first
    assert draw(6, PROMPTS) != first
    unseeded = [{"prompt_ids": e["prompt_ids"]} for e in PROMPTS]
    assert draw(None, unseeded) != draw(None, unseeded)
    assert draw(3, unseeded) == draw(3, unseeded)


def test_generate_answers_prompts_and_fills_masks(predictor: MLMPredictor) -> None:
    predictor.seed = 0
    predictor.suppressed_tokens = ["[UNK]"]  # a token that decoding leaves out
    texts = predictor.generate(["0 1 2", "3 [MASK] 5", "5"])
    words = texts[1].split()
    assert (words[0], words[2], len(words)) == ("3", "5", 3)
    assert "[" not in "".join(texts)
    assert texts == predictor.generate(["0 1 2", "3 [MASK] 5", "5"])


def test_rows_hold_prompt_prediction_truth_and_calls(predictor: MLMPredictor) -> None:
    batch = MasksAfterPrompt(predictor.tokenizer, 7)([{"prompt_ids": [7, 8], "input_ids": [9], "noise_seed": 1}])
    preds = predictor.predict(batch)
    row = predictor.to_dict(batch, preds)[0]
    assert (row["prompt"], row["truth"]) == ("0 1", "2")
    assert row["network_calls"] == int(preds["network_calls"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0, and must be at least 1"),
        ({"confidence": "margin"}, "confidence is 'margin', and must be top_prob, prob_diff, entropy or null"),
        ({"temperature": math.nan}, "temperature is nan, and must be a number, at least 0"),
        ({"suppressed_tokens": "ab"}, "suppressed_tokens is 'ab', and must be a list of texts"),
        ({"threshold": 0.5}, "threshold needs predictor.confidence"),
    ],
)
def test_impossible_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MLMPredictor(**options)
    assert message in str(error.value)


def test_texts_go_on_behind_their_beginning(predictor: MLMPredictor) -> None:
    """A prompt is followed by masks up to the block; alone it gives what it gives among others."""
    predictor.block_size, predictor.seed = 8, 3
    texts = predictor.continue_text(["0 1 2", "5", ""])
    assert texts[0] == predictor.continue_text(["0 1 2"])[0]
    assert all(len(text.split()) <= 7 - n for text, n in zip(texts, (3, 1, 0), strict=True))
    assert not any("[" in text for text in texts)
    assert predictor.continue_text([]) == []
