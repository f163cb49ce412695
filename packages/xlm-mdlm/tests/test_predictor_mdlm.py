"""Sampling: the right law, given tokens kept, nothing forbidden written, every row on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm.datamodule_mdlm import MasksAfterPrompt, MasksInPlace
from mdlm.model_mdlm import DiTMDLM
from mdlm.predictor_mdlm import MDLMPredictor
from mdlm.types_mdlm import MDLMPredictionDict
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError
from xlm.noise import CosineSchedule, LogLinearSchedule, MaskingSchedule
from xlm.traces.document import describe_run
from xlm.traces.terminal import moments

PROMPTS: list[dict[str, Any]] = [
    {"prompt_ids": [7, 8, 9, 10, 11], "noise_seed": 1},
    {"prompt_ids": [12], "noise_seed": 2},
    {"prompt_ids": [7, 7], "noise_seed": 3},
    {"prompt_ids": [], "noise_seed": 4},
]
SCHEDULE = LogLinearSchedule()
OPTIONS: dict[str, dict[str, Any]] = {
    "first-hitting": {},
    "ancestral": {"sampler": "ancestral", "num_steps": 20},
    "ancestral, few steps": {"sampler": "ancestral", "num_steps": 2},
    "every step": {"sampler": "ancestral_every_step", "num_steps": 10},
    "greedy": {"temperature": 0.0},
    "top-k": {"top_k": 3, "temperature": 1.5},
    "top-p": {"top_p": 0.7},
    "top_prob": {"sampler": "confidence", "num_steps": 4},
    "entropy": {"sampler": "confidence", "confidence": "entropy", "num_steps": None},
    "threshold": {"sampler": "confidence", "confidence": "prob_diff", "threshold": 0.3},
    "entropy bound": {"sampler": "confidence", "confidence": "entropy", "entropy_bound": 0.5},
    "remasking": {"sampler": "remasking", "num_steps": 12, "remasking": 0.2},
    "suppressed": {"suppressed_tokens": ["0", "1"]},
    "blocks": {"sampler": "ancestral", "num_steps": 6, "decode_block": 2},
    "dual cache": {"decode_block": 3, "cache": "dual"},
    "prefix cache": {"sampler": "confidence", "decode_block": 3, "cache": "prefix", "refresh_interval": 2},
}


@pytest.fixture(params=OPTIONS)
def predictor(request: pytest.FixtureRequest, model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> MDLMPredictor:
    return MDLMPredictor(tokenizer, SCHEDULE, model=model, block_size=7, **OPTIONS[request.param])


def predict(predictor: MDLMPredictor, examples: list[Any], **options: Any) -> MDLMPredictionDict:
    return predictor.predict(MasksAfterPrompt(predictor.tokenizer, block_size=7, **options)(examples))


def answers(preds: MDLMPredictionDict) -> list[list[int]]:
    return preds["ids"][:, preds["output_start_idx"] :].tolist()


def test_batches_and_padding_change_no_row(predictor: MDLMPredictor) -> None:
    together = predict(predictor, PROMPTS)
    padded = predict(predictor, PROMPTS, input_block_size=9, pad_to="block")
    alone = [predict(predictor, [example]) for example in PROMPTS]
    assert answers(together) == answers(padded) == [answers(one)[0] for one in alone]
    calls = torch.cat([one["network_calls"] for one in alone])
    assert torch.equal(together["network_calls"], calls)
    assert len({tuple(row) for row in answers(together)}) > 1


def test_the_recorded_steps_give_the_prediction_and_recording_changes_nothing(predictor: MDLMPredictor) -> None:
    batch = MasksAfterPrompt(predictor.tokenizer, block_size=7)(PROMPTS)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["network_calls"].tolist()
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()


def test_no_token_is_taken_back_before_it_could_be_seen(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    predictor = MDLMPredictor(tokenizer, SCHEDULE, model, sampler="remasking", num_steps=40, remasking=0.5)
    batch = MasksAfterPrompt(tokenizer, block_size=7)([{**e, "noise_seed": n} for n, e in enumerate(PROMPTS * 3)])
    with record() as recorder:
        predictor.predict(batch)
    num_taken_back = 0
    for sample in describe_run("remasking", recorder.traces, tokenizer)["samples"]:
        # What the last call wrote behind the end is cut off at once.
        before_the_last = [step for step in sample["steps"] if 0 < step["call"] < sample["calls"]]
        seen = {(cell.key, cell.born) for cells in moments(sample).values() for cell in cells}
        assert len([born for _, born in seen if born in range(1, sample["calls"])]) == sum(
            len(step["changes"]) for step in before_the_last
        )
        num_taken_back += len([born for _, born in seen if born % 1])
    assert num_taken_back > 100


def test_network_calls_are_few(predictor: MDLMPredictor) -> None:
    preds = predict(predictor, PROMPTS)
    most = 6 if predictor.num_steps is None or predictor.sampler == "first_hitting" else predictor.num_steps
    assert (preds["network_calls"] <= most).all()
    if predictor.sampler not in ("remasking", "ancestral_every_step"):
        assert (preds["network_calls"] <= 6).all()
    if predictor.sampler == "first_hitting":
        has_ended = (preds["ids"] == predictor.tokenizer.eos_token_id).any(dim=1)
        assert (preds["network_calls"][~has_ended] == 6).all()
    assert torch.equal(preds["steps_taken"], preds["network_calls"])


def test_without_any_mask_the_network_is_not_run(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    class Never:
        caches, layers, output_layer = True, model.layers, model.output_layer

        def features(self, *_: Any) -> Tensor:
            raise AssertionError("run without a mask")

    batch = MasksInPlace(tokenizer)([{"prompt_ids": [7, 8], "noise_seed": 1}])
    for options in OPTIONS.values():
        preds = MDLMPredictor(tokenizer, SCHEDULE, model=Never(), **options).predict(batch)
        assert torch.equal(preds["ids"], batch["input_ids"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "ancestral", "num_steps": 3000},
        {"sampler": "ancestral_every_step", "num_steps": 150},
        {"sampler": "confidence", "num_steps": None},
    ],
    ids=["first-hitting", "cached ancestral", "ancestral", "confidence"],
)
@pytest.mark.parametrize("schedule", [SCHEDULE, CosineSchedule()], ids=["log-linear", "cosine"])
def test_with_true_conditionals_samples_follow_the_joint(
    schedule: MaskingSchedule, options: dict[str, Any], oracle: Any
) -> None:
    """20,000 samples of four positions: Pearson's chi-squared over all 81 sequences."""
    n, tokenizer = 20_000, oracle.tokenizer
    batch = MasksAfterPrompt(tokenizer, block_size=5)([{"input_ids": [], "noise_seed": seed} for seed in range(n)])
    preds = MDLMPredictor(tokenizer, schedule, oracle, **options).predict(batch)
    words = preds["ids"][:, 1:] - 7
    observed = torch.bincount((words * 3 ** torch.arange(3, -1, -1)).sum(-1), minlength=81).double()
    expected = oracle.joint * n
    chi, freedom = float(((observed - expected) ** 2 / expected).sum()), 80
    assert abs(chi - freedom) < 4.5 * (2 * freedom) ** 0.5


def test_the_cache_of_ancestral_sampling_changes_nothing(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    """With time conditioning too: a step's network output is read only where the step fills something."""
    cached, plain = (
        predict(MDLMPredictor(tokenizer, SCHEDULE, model, sampler=sampler, num_steps=25), PROMPTS)
        for sampler in ("ancestral", "ancestral_every_step")
    )
    assert answers(cached) == answers(plain)
    assert (cached["network_calls"] <= 6).all()
    assert (plain["network_calls"] > cached["network_calls"]).all()


def test_the_network_hears_the_time_of_each_call(tokenizer: SimpleSpaceTokenizer) -> None:
    heard = []

    class Listening(torch.nn.Module):
        output_layer = torch.nn.Linear(4, len(tokenizer))

        def features(self, ids: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
            heard.append(SCHEDULE.alpha_inverse((-sigma).exp()))
            return torch.zeros(*ids.shape, 4)

    never_ends = {"suppressed_tokens": [tokenizer.eos_token]}
    for options in ({"sampler": "ancestral_every_step", "num_steps": 4, **never_ends}, never_ends):
        predict(MDLMPredictor(tokenizer, SCHEDULE, Listening(), **options), PROMPTS[:1] * 2)
    assert torch.stack(heard[:4]).mean(1).tolist()[0] == pytest.approx(1)
    assert [round(float(t[0]), 6) for t in heard[:3]] == [1, 0.75, 0.5]
    # First-hitting: each call later than the one before, at a time of the row's own.
    times = torch.stack(heard[-6:])
    assert (times.diff(dim=0) < 0).all()


def test_top_k_one_is_greedy(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    for options in ({"sampler": "confidence"}, {"sampler": "ancestral", "num_steps": 3}, {}):
        greedy = MDLMPredictor(tokenizer, SCHEDULE, model=model, temperature=0.0, **options)
        top_1 = MDLMPredictor(tokenizer, SCHEDULE, model=model, temperature=1.0, top_k=1, **options)
        assert answers(predict(greedy, PROMPTS)) == answers(predict(top_1, PROMPTS))


def test_greedy_by_confidence_takes_the_surest_position_first(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    predictor = MDLMPredictor(tokenizer, SCHEDULE, model=model, sampler="confidence", num_steps=None, temperature=0.0)
    batch = MasksAfterPrompt(tokenizer, block_size=7)(PROMPTS[:1])
    preds = predictor.predict(batch)
    sigma = SCHEDULE.sigma(torch.ones(1, dtype=torch.float64))
    logits = model(batch["input_ids"], batch["attention_mask"], sigma)[0, preds["output_start_idx"] :]
    logits[:, [0, 1, 2, 4, 5]] = -torch.inf
    first = int(logits.softmax(-1).amax(-1).argmax())
    order = preds["order"][0, preds["output_start_idx"] :]
    # Unless it lies behind the end of the answer, where nothing is kept.
    assert order[first] in (0, -1)
    assert (order >= 0).sum() == (preds["ids"][0, preds["output_start_idx"] :] != tokenizer.pad_token_id).sum()


def test_answers_longer_than_a_block_go_on_from_its_end(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> None:
    eos = tokenizer.eos_token_id
    predictor = MDLMPredictor(
        tokenizer, SCHEDULE, model, suppressed_tokens=[tokenizer.eos_token], max_length=15, context=2
    )
    batch = MasksAfterPrompt(tokenizer, block_size=7)(PROMPTS)
    preds = predictor.predict(batch)
    assert preds["ids"].shape[1] == preds["output_start_idx"] + 15
    assert (preds["ids"][:, preds["output_start_idx"] :] >= 6).all()
    assert eos not in preds["ids"]
    # The first block is what a single block gives; 6 + 3 · 4 positions were filled for 15.
    single = MDLMPredictor(tokenizer, SCHEDULE, model, suppressed_tokens=[tokenizer.eos_token])
    width = batch["input_ids"].shape[1]
    assert torch.equal(preds["ids"][:, :width], single.predict(batch)["ids"])
    assert preds["network_calls"].tolist() == [18] * 4
    alone = predictor.predict(MasksAfterPrompt(tokenizer, block_size=7)(PROMPTS[1:2]))
    assert answers(alone)[0] == answers(preds)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler is 'euler', and must be ancestral, ancestral_every_step, first_hitting, conf"),
        ({"num_steps": 0}, "num_steps is 0, and must be at least 1"),
        ({"sampler": "ancestral", "num_steps": None}, "sampler=ancestral needs predictor.num_steps"),
        ({"confidence": "margin"}, "confidence is 'margin', and must be top_prob, prob_diff or entropy"),
        ({"remasking": 1.5}, "remasking is 1.5, and must be at least 0 and at most 1"),
    ],
)
def test_impossible_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MDLMPredictor(**options)
    assert message in str(error.value)


@pytest.mark.parametrize("context", [0, 2, 5])
def test_the_recorded_steps_of_several_blocks_give_the_prediction(
    model: DiTMDLM, tokenizer: SimpleSpaceTokenizer, context: int
) -> None:
    predictor = MDLMPredictor(tokenizer, SCHEDULE, model, max_length=19, context=context)
    batch = MasksAfterPrompt(tokenizer, block_size=7)([{**e, "noise_seed": n} for n, e in enumerate(PROMPTS * 3)])
    with record() as recorder:
        preds = predictor.predict(batch)
    assert [trace.calls for trace in recorder.traces] == preds["network_calls"].tolist()
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()
