"""Unmasking: the right law, given tokens kept, nothing forbidden written, every row on its own."""

from __future__ import annotations

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
    "entropy bound": {"confidence": "prob_diff", "entropy_bound": 0.5},
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


def test_network_calls_are_within_the_steps(predictor: MLMPredictor) -> None:
    preds = predict(predictor, PROMPTS)
    assert (preds["network_calls"] <= (predictor.max_steps or 6)).all()
    assert (preds["network_calls"] >= 1).all()
    assert torch.equal(preds["steps_taken"], preds["network_calls"])


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0, and must be at least 1"),
        ({"confidence": "margin"}, "confidence is 'margin', and must be top_prob, prob_diff, entropy or null"),
        ({"threshold": 0.5}, "threshold needs predictor.confidence"),
        ({"entropy_bound": 0.5}, "entropy_bound needs predictor.confidence"),
        ({"confidence": "entropy", "threshold": 0.5, "entropy_bound": 0.5}, "are two rules"),
    ],
)
def test_impossible_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MLMPredictor(**options)
    assert message in str(error.value)
