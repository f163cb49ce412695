"""Generation: samples follow the law, batches equal their rows, nothing is inserted where it must not be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ilm.datamodule_ilm import ILMInfillCollator, ILMSeq2SeqPredCollator
from ilm.model_ilm import RotaryILM
from ilm.predictor_ilm import ILMPredictor
from ilm.types_ilm import ILMPredictionDict
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError
from xlm.testing import mismatches

PROMPTS = [
    {"prompt_ids": [7, 8, 9, 10, 11], "input_ids": [7], "noise_seed": 11},
    {"prompt_ids": [12], "input_ids": [8, 9], "noise_seed": 12},
    {"prompt_ids": [7, 7], "input_ids": [], "noise_seed": 2**63 - 13},
    {"prompt_ids": [], "input_ids": [9], "noise_seed": 14},
]
SAMPLED = {"stopping_threshold": None}


def answers(predictor: ILMPredictor, examples: list[Any], **collate: Any) -> list[list[int]]:
    batch = ILMSeq2SeqPredCollator(predictor.tokenizer, **collate)(examples)
    preds = predictor.predict(batch)
    return [
        ids[start:][mask[start:]].tolist()
        for ids, mask, start in zip(preds["ids"], preds["attention_mask"], preds["output_start_idx"], strict=True)
    ]


def make(model: RotaryILM, tokenizer: Any, **options: Any) -> ILMPredictor:
    return ILMPredictor(tokenizer, model=model, **{"max_length": 8, **options})


CHOICES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"top_k": 1, "slot_top_k": 2},
    {"top_k": 3, "slot_top_p": 0.7, "temperature": 1.3},
    {"sampling": "joint"},
    {"sampling": "joint", "top_k": 20, "top_p": 0.9},
    {"parallel_slots": 3, "parallel_min_prob": 0.01},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("threshold", [0.9, None])
def test_a_batch_equals_its_rows_and_padding_changes_nothing(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer, options: dict[str, Any], threshold: float | None
) -> None:
    predictor = make(model, tokenizer, stopping_threshold=threshold, **options)
    together = answers(predictor, PROMPTS)
    assert together == [answers(predictor, [example])[0] for example in PROMPTS]
    assert together == answers(predictor, PROMPTS, input_block_size=9, pad_to="block")
    assert together == list(reversed(answers(predictor, list(reversed(PROMPTS)))))
    assert len({tuple(row) for row in together}) > 1


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("infill", [False, True])
def test_the_recorded_steps_give_the_prediction_and_recording_changes_nothing(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer, options: dict[str, Any], infill: bool
) -> None:
    predictor = make(model, tokenizer, stopping_threshold=None, **options)
    mask_id = tokenizer.mask_token_id
    gaps = [{"prompt_ids": [7, mask_id, 8, 9, mask_id], "noise_seed": 1}, {"prompt_ids": [mask_id, 7], "noise_seed": 2}]
    batch = ILMInfillCollator(tokenizer)(gaps * 4) if infill else ILMSeq2SeqPredCollator(tokenizer)(PROMPTS * 4)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["network_calls"].tolist()
    for row, trace in enumerate(recorder.traces):
        assert replay(trace.given, trace.steps) == preds["ids"][row][preds["attention_mask"][row]].tolist()
        ids = trace.given
        for step in trace.steps:
            # A gap is named by where it lay before the step, whatever the step's other insertions move.
            assert all(0 <= change["slot"] < len(ids) for change in step["changes"])
            places = [change["slot"] + 1 + n for n, change in enumerate(step["changes"])]
            assert [change["at"] for change in step["changes"]] == places
            assert 0 <= step["stop"] <= 1
            ids = replay(ids, [step])


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_prompts_stay_and_nothing_suppressed_is_inserted(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer, options: dict[str, Any]
) -> None:
    predictor = make(model, tokenizer, stopping_threshold=None, suppressed_tokens=["2"], **options)
    examples = [{**example, "noise_seed": i} for i, example in enumerate(PROMPTS * 12)]
    batch = ILMSeq2SeqPredCollator(tokenizer)(examples)
    preds = predictor.predict(batch)
    P = batch["input_ids"].shape[1]
    assert torch.equal(preds["ids"][:, :P], batch["input_ids"])
    assert preds["output_start_idx"].tolist() == [P] * len(examples)
    forbidden = {getattr(tokenizer, f"{name}_token_id") for name in ("pad", "mask", "bos", "eos", "cls", "sep")} | {9}
    lengths = set()
    for row in range(len(examples)):
        answer, mask = preds["ids"][row, P:], preds["attention_mask"][row, P:]
        length = int(mask.sum())
        assert mask.tolist() == [i < length for i in range(len(mask))]
        assert (answer[length:] == tokenizer.pad_token_id).all()
        assert not forbidden & set(answer[:length].tolist())
        assert length <= 8
        assert length == 8 or preds["complete"][row]
        order = preds["insertion_order"][row]
        assert (order[:P][batch["attention_mask"][row]] == 0).all()
        assert (order[P:][length:] == -1).all()
        inserted = order[P:][:length].tolist()
        assert set(inserted) == set(range(1, int(preds["steps_taken"][row]) + 1))
        if predictor.parallel_slots == 1:
            assert len(set(inserted)) == length
        lengths.add(length)
        assert preds["network_calls"][row] == preds["steps_taken"][row] + preds["complete"][row]
    assert len(lengths) > 2


def test_outputs_have_their_declared_types(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    preds: Any = make(model, tokenizer).predict(ILMSeq2SeqPredCollator(tokenizer)(PROMPTS))
    assert mismatches(ILMPredictionDict, preds) == []
    assert len(preds["text"]) == 4


class Counting:
    """A model that remembers the rows of each call."""

    def __init__(self, model: RotaryILM) -> None:
        self.model, self.calls = model, list[int]()
        self.final_layer, self.length_logits = model.final_layer, model.length_logits

    def hidden(self, ids: Tensor, *rest: Tensor) -> Tensor:
        self.calls.append(len(ids))
        return self.model.hidden(ids, *rest)


def test_rows_that_have_ended_leave_the_batch(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    counting = Counting(model)
    predictor = make(counting, tokenizer, **SAMPLED)  # type: ignore[arg-type]
    examples = [{**example, "noise_seed": i} for i, example in enumerate(PROMPTS * 8)]
    preds = predictor.predict(ILMSeq2SeqPredCollator(tokenizer)(examples))
    assert len(set(preds["network_calls"].tolist())) > 1
    assert sum(counting.calls) == preds["network_calls"].sum()
    assert len(counting.calls) == preds["network_calls"].max()
    assert counting.calls == sorted(counting.calls, reverse=True)


def test_greedy_takes_the_best_token_of_the_best_gap(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    """Every step of the greedy path against the dense logits; top-k 1 is greedy whatever the temperature."""
    predictor = make(model, tokenizer, temperature=0.0, stopping_threshold=1.0)
    row = answers(predictor, PROMPTS[:1])[0]
    top_one = make(model, tokenizer, temperature=1.7, top_k=1, slot_top_k=1, stopping_threshold=1.0, seed=9)
    excluded = list(predictor._suppressed())
    start = [tokenizer.cls_token_id, *PROMPTS[0]["prompt_ids"], tokenizer.bos_token_id]  # type: ignore[misc]

    def follow(temperature: float) -> list[int]:
        ids = list(start)
        types = [0] + [1] * 5
        for _ in range(8):
            logits, _ = model(torch.tensor([ids]), None, torch.tensor([types + [2] * (len(ids) - 6)]))
            logits = logits[0, 6:].index_fill(-1, torch.tensor(excluded), -torch.inf) / temperature
            slot = int(logits.logsumexp(-1).argmax())
            ids.insert(7 + slot, int(logits[slot].argmax()))
        return ids[7:]

    assert row == follow(1.0)
    assert answers(top_one, PROMPTS[:1])[0] == follow(1.7)


def test_joint_greedy_takes_the_best_pair(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    predictor = make(model, tokenizer, sampling="joint", top_k=1, max_length=3, stopping_threshold=1.0)
    ids = [tokenizer.cls_token_id, tokenizer.bos_token_id]
    for _ in range(3):
        logits, _ = model(torch.tensor([ids]), None, torch.tensor([[0] + [2] * (len(ids) - 1)]))
        logits = logits[0].index_fill(-1, torch.tensor(predictor._suppressed()), -torch.inf)
        slot, token = divmod(int(logits[1:].argmax()), len(tokenizer))
        ids.insert(slot + 2, token)
    assert answers(predictor, [{"noise_seed": 0}]) == [ids[2:]]


def test_seeds_decide_everything_drawn(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    plain = [{"prompt_ids": [7]}] * 6

    def draw(examples: list[Any], seed: int | None) -> list[list[int]]:
        return answers(make(model, tokenizer, seed=seed, **SAMPLED), examples)

    torch.manual_seed(0)
    first, unseeded = draw(plain, 5), draw(plain, None)
    torch.manual_seed(1)
    assert draw(plain, 5) == first
    assert draw(plain, None) != unseeded
    assert draw(plain, 6) != first
    assert len({tuple(row) for row in first}) > 1
    assert draw(PROMPTS, None) == draw(PROMPTS, None)
    assert draw(PROMPTS, 3) != draw(PROMPTS, 4)


def test_limits_end_rows_without_a_word_from_cls(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = ILMSeq2SeqPredCollator(tokenizer)(PROMPTS)
    for options, length in (({"max_length": 3}, 3), ({"max_length": 8, "max_steps": 2}, 2)):
        preds = make(model, tokenizer, stopping_threshold=1.0, **options).predict(batch)
        assert preds["steps_taken"].tolist() == preds["network_calls"].tolist() == [length] * 4
        assert not preds["complete"].any()
        assert preds["ids"].shape[1] == batch["input_ids"].shape[1] + length


def test_infilling_keeps_every_given_token_and_every_closed_gap(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer
) -> None:
    M = tokenizer.mask_token_id
    texts = [[7, 8, M, 9], [M, 7], [10, 11], [M], [7, M, 8, M]]
    batch = ILMInfillCollator(tokenizer)([{"prompt_ids": text, "noise_seed": i} for i, text in enumerate(texts)])
    preds = make(model, tokenizer, **{**SAMPLED, "stopping_threshold": 1.0}).predict(batch)
    for row, text in enumerate(texts):
        start = int(preds["output_start_idx"][row])
        assert start == 2
        mask = preds["attention_mask"][row, 2:]
        ids, order = preds["ids"][row, 2:][mask].tolist(), preds["insertion_order"][row, 2:][mask].tolist()
        assert [i for i, step in zip(ids, order, strict=True) if step == 0] == [t for t in text if t != M]
        assert len(ids) == (2 if M not in text else 8)
        # Runs of inserted tokens stand exactly where masks stood.
        shape = [M if step else i for i, step in zip(ids, order, strict=True)]
        collapsed = [t for i, t in enumerate(shape) if t != M or i == 0 or shape[i - 1] != M]
        remaining = iter(text)
        assert all(t in remaining for t in collapsed)
    assert preds["network_calls"][2] == 0


def test_parallel_insertion_takes_fewer_steps_and_never_two_gaps_side_by_side(
    model: RotaryILM, tokenizer: SimpleSpaceTokenizer
) -> None:
    options: dict[str, Any] = {**SAMPLED, "stopping_threshold": 1.0, "max_length": 12, "parallel_min_prob": 0.0}
    batch = ILMSeq2SeqPredCollator(tokenizer)(PROMPTS)
    one = make(model, tokenizer, **options).predict(batch)
    many = make(model, tokenizer, parallel_slots=4, **options).predict(batch)
    assert one["steps_taken"].tolist() == [12] * 4
    assert (many["steps_taken"] < 12).all()
    P = batch["input_ids"].shape[1]
    for row in range(4):
        order = many["insertion_order"][row, P:]
        assert many["attention_mask"][row, P:].sum() == 12  # the last step's room is kept to
        for step in range(1, int(order.max()) + 1):
            then = order[order <= step]  # the row after that step
            new = (then == step).nonzero().flatten()
            assert (new.diff() > 1).all()


def test_to_dict_and_generate(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    # UNK would be skipped in texts.
    predictor = make(model, tokenizer, suppressed_tokens=["[UNK]"])
    batch = ILMSeq2SeqPredCollator(tokenizer)(PROMPTS)
    rows = predictor.to_dict(batch, predictor.predict(batch))
    assert [row["prompt"] for row in rows] == ["0 1 2 3 4", "5", "0 0", ""]
    assert [row["truth"] for row in rows] == ["0", "1 2", "", "2"]
    for row in rows:
        assert len(row["insertion_order"]) == len(row["prediction"].split()) == row["steps_taken"]
    seeds = [int(p["noise_seed"]) for p in PROMPTS]  # type: ignore[call-overload]
    infill = ILMInfillCollator(tokenizer)([{"prompt_ids": ids} for ids in ([7, 2, 2, 8], [2, 7, 2], [7, 8])])
    shown = [row["prompt"] for row in predictor.to_dict(infill, predictor.predict(infill))]
    assert shown == ["0 [MASK] 1", "[MASK] 0 [MASK]", "0 1"]
    texts = ["0 1 2 3 4", "5", "0 0", ""]
    assert predictor.generate(texts, seeds) == [row["prediction"] for row in rows]
    mixed = predictor.generate(["3 [MASK] 4", "5", "0 1"], [1, 12, 2])
    assert mixed[1] == rows[1]["prediction"]
    filled = mixed[0].split()
    assert (filled[0], filled[-1]) == ("3", "4")
    assert mixed[2] == predictor.generate(["0 1"], [2])[0]
    assert predictor.generate([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length is 0, and must be at least 1"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"parallel_slots": 0}, "parallel_slots is 0"),
        ({"sampling": "both"}, "sampling is 'both', and must be slot_first or joint"),
        ({"temperature": math.nan}, "temperature is nan, and must be a number, at least 0"),
        ({"slot_top_p": 0}, "slot_top_p is 0, and must be above 0 and at most 1"),
        ({"sampling": "joint", "slot_top_k": 2}, "slot_top_k and slot_top_p must be null"),
        ({"sampling": "joint", "parallel_slots": 2}, "parallel_slots 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ILMPredictor(**options)


def test_texts_go_on_behind_their_beginning(model: RotaryILM, tokenizer: SimpleSpaceTokenizer) -> None:
    """Nothing is inserted before the end of the prompt: the whole text is the prompt with its last gap filled."""
    predictor = make(model, tokenizer, **SAMPLED, seed=3)
    prompts = ["0 1 2", "5", ""]
    texts = predictor.continue_text(prompts)
    whole = predictor.generate([f"{prompt} [MASK]" for prompt in prompts])
    assert [f"{prompt} {text}".strip() for prompt, text in zip(prompts, texts, strict=True)] == whole
    assert any(texts)
    assert predictor.continue_text([]) == []
    with pytest.raises(ConfigError, match="A prompt of 8 tokens leaves no room within max_length, 8"):
        predictor.continue_text(["0 1 2 3 4 5 6 7"])
