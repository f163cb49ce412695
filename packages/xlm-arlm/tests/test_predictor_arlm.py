"""Generation: cache, padding and batching change nothing; samples follow the model; limits hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from arlm.datamodule_arlm import ARLMSeq2SeqPredCollator
from arlm.model_arlm import RotaryARLM
from arlm.predictor_arlm import ARLMPredictor, repeats
from xlm.data.loaders import make_loader
from xlm.data.rows import ListRows
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.decoding.trace import record, replay
from xlm.errors import ConfigError

PROMPTS = [{"prompt_ids": [7, 8, 9, 10, 11]}, {"prompt_ids": [12]}, {"prompt_ids": [7, 7]}, {"prompt_ids": []}]


def answers(predictor: ARLMPredictor, examples: list[Any], **collate: Any) -> list[list[int]]:
    batch = ARLMSeq2SeqPredCollator(predictor.tokenizer, **collate)(examples)
    preds = predictor.predict(batch)
    rows = preds["ids"][:, preds["output_start_idx"] :]
    return [row[:steps].tolist() for row, steps in zip(rows, preds["steps_taken"], strict=True)]


@pytest.fixture
def predictor(model: RotaryARLM, tokenizer: SimpleSpaceTokenizer) -> ARLMPredictor:
    return ARLMPredictor(tokenizer, model=model, max_length=12)


def test_cache_padding_and_batch_change_no_token(predictor: ARLMPredictor) -> None:
    together = answers(predictor, PROMPTS)
    assert together == [answers(predictor, [example])[0] for example in PROMPTS]
    assert together == answers(predictor, PROMPTS, input_block_size=9, pad_to="block")
    predictor.use_cache = False
    assert together == answers(predictor, PROMPTS)
    assert len({tuple(row) for row in together}) > 1


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.5, "top_k": 4}, {"use_cache": False, "repetition_limit": 2}], ids=str
)
def test_the_recorded_steps_give_the_prediction_and_recording_changes_nothing(
    model: RotaryARLM, tokenizer: SimpleSpaceTokenizer, options: dict[str, Any]
) -> None:
    predictor = ARLMPredictor(tokenizer, model=model, max_length=12, seed=1, **options)
    batch = ARLMSeq2SeqPredCollator(tokenizer)(PROMPTS)
    silent = predictor.predict(batch)
    with record() as recorder:
        preds = predictor.predict(batch)
    assert torch.equal(preds["ids"], silent["ids"])
    assert [trace.calls for trace in recorder.traces] == preds["steps_taken"].tolist()
    for trace, ids, mask in zip(recorder.traces, preds["ids"], preds["attention_mask"], strict=True):
        assert replay(trace.given, trace.steps) == ids[mask].tolist()


def test_a_recorded_probability_is_that_of_the_allowed_tokens(predictor: ARLMPredictor, model: RotaryARLM) -> None:
    with record(num_others=1) as recorder:
        predictor.predict(ARLMSeq2SeqPredCollator(predictor.tokenizer)(PROMPTS[:1]))
    trace = recorder.traces[0]
    change = trace.steps[0]["changes"][0]
    p = predictor._allowed(model(torch.tensor([trace.given]))[:, -1]).softmax(dim=-1)[0].detach()
    assert change["p"] == pytest.approx(float(p[change["token"]]), abs=1e-4)
    ((other, share),) = change["others"]
    assert (other, share) == (int(p.topk(2).indices[1]), pytest.approx(float(p.topk(2).values[1]), abs=1e-4))


def test_greedy_follows_the_argmax(predictor: ARLMPredictor, model: RotaryARLM) -> None:
    row = answers(predictor, PROMPTS[:1])[0]
    ids = torch.tensor([[*PROMPTS[0]["prompt_ids"], predictor.tokenizer.bos_token_id, *row]])
    logits = predictor._allowed(model(ids))
    assert logits[0, 5 : 5 + len(row)].argmax(-1).tolist() == row


def test_top_k_one_is_greedy(model: RotaryARLM, tokenizer: SimpleSpaceTokenizer, predictor: ARLMPredictor) -> None:
    sampled = ARLMPredictor(tokenizer, model=model, max_length=12, temperature=1.0, top_k=1)
    assert answers(sampled, PROMPTS) == answers(predictor, PROMPTS)


def test_rows_end_at_eos_or_the_limit_and_hold_no_special_token(
    model: RotaryARLM, tokenizer: SimpleSpaceTokenizer
) -> None:
    predictor = ARLMPredictor(tokenizer, model=model, max_length=6, temperature=1.5, seed=3)
    batch = ARLMSeq2SeqPredCollator(tokenizer)(PROMPTS * 8)
    preds = predictor.predict(batch)
    start = preds["output_start_idx"]
    assert torch.equal(preds["ids"][:, :start], batch["input_ids"])
    ended = 0
    for row, steps in zip(preds["ids"][:, start:].tolist(), preds["steps_taken"].tolist(), strict=True):
        eos = tokenizer.eos_token_id
        assert eos not in row[: steps - 1]
        assert row[steps - 1] == eos or steps == 6
        assert set(row[steps:]) <= {tokenizer.pad_token_id}
        forbidden = {tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.cls_token_id}
        assert not forbidden & set(row[:steps])
        ended += row[steps - 1] == eos
    assert ended > 0
    assert torch.equal(preds["network_calls"], preds["steps_taken"])
    assert len(set(preds["network_calls"].tolist())) > 1


@pytest.mark.parametrize("own_seeds", [False, True])
def test_a_seed_decides_everything_drawn(model: RotaryARLM, tokenizer: SimpleSpaceTokenizer, own_seeds: bool) -> None:
    examples = [{**prompt, "noise_seed": n} for n, prompt in enumerate(PROMPTS)] if own_seeds else PROMPTS

    def draw(seed: int | None) -> list[list[int]]:
        return answers(ARLMPredictor(tokenizer, model=model, max_length=8, temperature=1.0, seed=seed), examples)

    torch.manual_seed(0)
    first, unseeded = draw(5), draw(None)
    torch.manual_seed(1)
    assert draw(5) == first
    assert draw(6) != first
    # Without a seed the examples' own decide, and torch's global generator only where they have none.
    assert (draw(None) == unseeded) == own_seeds


def test_what_a_row_draws_depends_on_neither_its_batch_nor_its_place_nor_padding(
    model: RotaryARLM, tokenizer: SimpleSpaceTokenizer
) -> None:
    sampling = ARLMPredictor(tokenizer, model=model, max_length=12, temperature=1.5, top_k=9)
    examples = [{**prompt, "noise_seed": 1000 + n} for n, prompt in enumerate(PROMPTS * 3)]
    together = answers(sampling, examples)
    assert together == [answers(sampling, [example])[0] for example in examples]
    assert together == answers(sampling, examples[::-1])[::-1]
    assert together == answers(sampling, examples, input_block_size=9, pad_to="block")
    sampling.use_cache = False
    assert together == answers(sampling, examples)
    assert len({tuple(row) for row in together}) > len(examples) / 2


class Uniform(nn.Module):
    """Every number is as likely as any other, and nothing ends: equal texts are then no accident."""

    def __init__(self, tokenizer: SimpleSpaceTokenizer) -> None:
        super().__init__()
        logits = torch.full((len(tokenizer),), -torch.inf)
        logits[7:] = 0.0
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.logits.expand(len(input_ids), 1, -1)


@pytest.fixture
def sampling(tokenizer: SimpleSpaceTokenizer) -> ARLMPredictor:
    return ARLMPredictor(tokenizer, model=Uniform(tokenizer), max_length=12, temperature=1.0, use_cache=False)


@pytest.mark.parametrize("seed", [None, 3])
def test_no_two_batches_and_no_two_ranks_draw_the_same(sampling: ARLMPredictor, seed: int | None) -> None:
    """32 texts from nothing, in four batches of eight or on two ranks, as the loaders hand them out."""
    sampling.seed = seed

    def drawn(**shares: int) -> list[tuple[int, ...]]:
        torch.manual_seed(0)  # what processes start with
        rows = ListRows({"input_ids": []} for _ in range(32))
        collate = ARLMSeq2SeqPredCollator(sampling.tokenizer)
        batches = make_loader(rows, collate, train=False, batch_size=8, seed=1, **shares)
        return [tuple(row) for batch in batches for row in sampling.predict(batch)["ids"].tolist()]

    one_process = drawn()
    assert len(set(one_process)) == 32
    assert sorted(drawn(rank=0, world_size=2) + drawn(rank=1, world_size=2)) == sorted(one_process)


@pytest.mark.parametrize("call", ["generate", "continue_text"])
def test_each_prompt_has_a_stream_of_its_own(sampling: ARLMPredictor, call: str) -> None:
    def drawn(seed: int | None, prompts: list[str]) -> list[str]:
        sampling.seed = seed
        texts: list[str] = getattr(sampling, call)(prompts)
        return texts

    first = drawn(5, [""] * 32)
    assert len(set(first)) == 32
    assert drawn(5, [""] * 3) == first[:3]
    assert drawn(5, ["", "1 2", ""])[2] == first[2]
    assert not set(first) & set(drawn(6, [""] * 32))
    torch.manual_seed(0)
    unseeded = [drawn(None, [""] * 3) for _ in range(2)]
    assert unseeded[0] != unseeded[1]
    torch.manual_seed(0)
    assert [drawn(None, [""] * 3) for _ in range(2)] == unseeded


@pytest.mark.slow
def test_samples_follow_the_model(model: RotaryARLM, tokenizer: SimpleSpaceTokenizer) -> None:
    """20,000 draws of the first two tokens against the exact joint distribution: Pearson's chi-squared."""
    n = 20_000
    predictor = ARLMPredictor(tokenizer, model=model, max_length=2, temperature=1.0, seed=0)
    batch = ARLMSeq2SeqPredCollator(tokenizer)([{"prompt_ids": [7, 8]}])
    many = {k: v.expand(n, -1) for k, v in batch.items()}  # type: ignore[attr-defined]
    preds = predictor.predict(many)  # type: ignore[arg-type]
    drawn = preds["ids"][:, preds["output_start_idx"] :]
    V, eos = len(tokenizer), tokenizer.eos_token_id
    with torch.no_grad():
        first = predictor._allowed(model(batch["input_ids"], last_only=True)[:, -1]).softmax(-1)[0]
        rows = torch.cat([batch["input_ids"].expand(V, -1), torch.arange(V)[:, None]], dim=1)
        second = predictor._allowed(model(rows, last_only=True)[:, -1]).softmax(-1)
    second[eos] = 0
    second[eos, tokenizer.pad_token_id] = 1  # after EOS there is nothing to draw
    expected = (first[:, None] * second).flatten() * n
    observed = torch.bincount(drawn[:, 0] * V + drawn[:, 1], minlength=V * V).double()
    assert observed[expected == 0].sum() == 0
    big = expected >= 5
    # Everything rare in one cell, as the test asks for.
    o = torch.cat([observed[big], observed[~big].sum()[None]])
    e = torch.cat([expected[big], expected[~big].sum()[None]]).clamp(min=1e-9)
    chi2, freedom = float(((o - e) ** 2 / e).sum()), len(o) - 1
    assert abs(chi2 - freedom) < 4.5 * (2 * freedom) ** 0.5


def test_repetition_ends_a_row() -> None:
    ids = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 1, 2, 4], [5, 4, 4, 3, 3, 3]])
    assert repeats(ids, limit=3).tolist() == [True, False, True]


def test_rows_hold_prompt_prediction_and_truth(predictor: ARLMPredictor) -> None:
    batch = ARLMSeq2SeqPredCollator(predictor.tokenizer)([{"prompt_ids": [7, 8], "input_ids": [9]}])
    row = predictor.to_dict(batch, predictor.predict(batch))[0]
    assert row["prompt"] == predictor.tokenizer.decode([7, 8])
    assert row["truth"] == predictor.tokenizer.decode([9])
    assert row["steps_taken"] == row["network_calls"] >= 1
    assert "prediction" in row


def test_generate_takes_prompts_of_different_lengths(predictor: ARLMPredictor) -> None:
    texts = predictor.generate(["0 1 2", "5"])
    assert texts == [predictor.generate(["0 1 2"])[0], predictor.generate(["5"])[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length is 0, and must be at least 1"),
        ({"temperature": math.nan}, "temperature is nan, and must be a number, at least 0"),
        ({"temperature": "hot"}, "temperature is 'hot', and must be a number"),
        ({"top_p": 0}, "top_p is 0, and must be above 0 and at most 1"),
        ({"top_k": 2.5}, "top_k is 2.5, and must be a whole number, at least 1, or null"),
        ({"use_cache": "no"}, "use_cache is 'no', and must be true or false"),
        ({"seed": -1}, "seed is -1, and must be at least 0"),
    ],
)
def test_impossible_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"predictor.{message}"):
        ARLMPredictor(**options)


def test_texts_go_on_behind_bos_and_their_beginning(predictor: ARLMPredictor, model: RotaryARLM) -> None:
    """In whole texts BOS comes first, in answers after the prompt; a row doesn't depend on its batch."""
    texts = predictor.continue_text(["0 1 2", "5", ""])
    bos = predictor.tokenizer.bos_token_id
    for prompt, text in zip(([7, 8, 9], [12], []), texts, strict=True):
        mask = torch.ones(1, len(prompt) + 1, dtype=torch.bool)
        preds = predictor.predict({"input_ids": torch.tensor([[bos, *prompt]]), "attention_mask": mask})
        assert text == predictor.tokenizer.decode(preds["ids"][0, len(prompt) + 1 :], skip_special_tokens=True)
    assert texts[2] == predictor.generate([""])[0]
    assert predictor.continue_text([]) == []


def test_steps_run_without_modules_only_where_that_changes_nothing() -> None:
    network = RotaryARLM(num_embeddings=20, d_model=16, num_layers=2, nhead=2, dropout=0.5).eval()
    ids = torch.randint(0, 20, (3, 4))
    calls: list[int] = []

    def last_of_steps() -> torch.Tensor:
        cache = network.new_cache(4)
        return torch.cat([network(ids[:, n : n + 1], cache=cache) for n in range(4)], dim=1)

    with torch.no_grad():
        whole, fast = network(ids), last_of_steps()
        network.layers[1].norm2.register_forward_hook(lambda *_: calls.append(1))
        called = last_of_steps()
    assert len(calls) == 4
    torch.testing.assert_close(fast, whole)
    torch.testing.assert_close(called, whole)
    assert last_of_steps().requires_grad
    assert len(calls) == 8
