"""The loss: an NELBO for every schedule, the same whatever the batch, the padding and the path it is computed on."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mdlm.types_mdlm import MDLMLossDict
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.noise import CosineSchedule, GeometricSchedule, LogLinearSchedule, MaskingSchedule, PolynomialSchedule

EXAMPLES = [
    {"prompt_ids": [7, 8, 9, 10], "input_ids": [11, 12], "noise_seed": 5},
    {"prompt_ids": [7], "input_ids": [8, 9, 10, 11, 12], "noise_seed": 6},
    {"prompt_ids": [], "input_ids": [], "noise_seed": 7},
]


SCHEDULES = [LogLinearSchedule(), CosineSchedule(), PolynomialSchedule(), GeometricSchedule()]


@pytest.fixture
def loss(model: DiTMDLM, tokenizer: SimpleSpaceTokenizer) -> MDLMLoss:
    return MDLMLoss(model, tokenizer, LogLinearSchedule())


def weighted_nll(loss: MDLMLoss, batch: Any) -> tuple[Tensor, Tensor]:
    """Summed −log p over each row's masks from the full (B, L, V) logits, and their number."""
    logits = loss.model(batch["input_ids"], batch["attention_mask"], batch["sigma"])
    logits[..., loss.tokenizer.mask_token_id] = -torch.inf
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"], reduction="none")
    return nll.sum(1), (batch["target_ids"] != -100).sum(1)


def test_loss_is_what_the_plain_form_gives(loss: MDLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MDLMSeq2SeqCollator(tokenizer, noise_schedule=LogLinearSchedule(), block_size=9)(EXAMPLES)
    nll, count = weighted_nll(loss, batch)
    result = loss(batch)
    # Divided by real tokens: neither by masked ones nor by the filling.
    torch.testing.assert_close(result["loss"], (nll * batch["weight"]).sum() / (3 + 6 + 1))
    assert result["num_loss_terms"] == 3 + 6 + 1
    assert count.sum() != 10


def test_a_batch_equals_its_rows_and_padding_changes_nothing(loss: MDLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    def total(result: MDLMLossDict) -> Tensor:
        return result["loss"] * result["num_loss_terms"]

    collate = MDLMSeq2SeqCollator(tokenizer, noise_schedule=LogLinearSchedule(), block_size=9)
    together = total(loss(collate(EXAMPLES)))
    alone = torch.stack([total(loss(collate([example]))) for example in EXAMPLES]).sum()
    wide = MDLMSeq2SeqCollator(
        tokenizer, noise_schedule=LogLinearSchedule(), block_size=9, input_block_size=8, pad_to="block"
    )
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(total(loss(wide(EXAMPLES))), alone)
    # Padding on the right as well, where nothing is filled.
    short = MDLMSeq2SeqCollator(tokenizer, noise_schedule=LogLinearSchedule(), text_length="given")
    padded = MDLMSeq2SeqCollator(
        tokenizer, noise_schedule=LogLinearSchedule(), block_size=12, text_length="given", pad_to="block"
    )
    torch.testing.assert_close(total(loss(padded(EXAMPLES))), total(loss(short(EXAMPLES))))


@pytest.mark.slow
def test_compile_changes_nothing(loss: MDLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MDLMSeq2SeqCollator(tokenizer, noise_schedule=LogLinearSchedule(), block_size=9)(EXAMPLES)
    plain = loss(batch)["loss"]
    compiled = torch.compile(loss.loss_fn)(batch)["loss"]
    torch.testing.assert_close(compiled, plain)


def test_configure_takes_the_runs_schedule_unless_there_is_one() -> None:
    run = SimpleNamespace(noise_schedule=CosineSchedule())
    loss = MDLMLoss()
    loss.configure(run)  # type: ignore[arg-type]
    assert loss.noise_schedule == CosineSchedule()
    own = MDLMLoss(noise_schedule=LogLinearSchedule())
    own.configure(run)  # type: ignore[arg-type]
    assert own.noise_schedule == LogLinearSchedule()


# The bound, on three words and four positions.


def nelbo(model: Any, words: Tensor) -> Tensor:
    """By enumeration: Σ over sets of masked positions of B(|S|, n − |S| + 1) Σ_{i ∈ S} −log p(x_i | rest)."""
    n, total = words.shape[1], torch.zeros(len(words), dtype=torch.float64)
    for size in range(1, n + 1):
        weight = math.factorial(size - 1) * math.factorial(n - size) / math.factorial(n)
        for positions in map(list, itertools.combinations(range(n), size)):
            z = words.clone()
            z[:, positions] = 3
            log_p = model.conditionals(z).gather(-1, words[:, :, None]).squeeze(-1)
            total -= weight * log_p[:, positions].sum(1)
    return total


def true_nll(model: Any, words: Tensor) -> Tensor:
    """−log of the probability that one-at-a-time unmasking in a uniformly random order gives the sequence."""
    log_ps = []
    for order in itertools.permutations(range(words.shape[1])):
        z, log_p = torch.full_like(words, 3), torch.zeros(len(words), dtype=torch.float64)
        for i in order:
            log_p += model.conditionals(z)[:, i].gather(-1, words[:, i, None]).squeeze(-1)
            z[:, i] = words[:, i]
        log_ps.append(log_p)
    return math.log(len(log_ps)) - torch.stack(log_ps).logsumexp(0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_nelbo_is_an_unbiased_bound_and_exact_for_an_order_agnostic_model(
    schedule: MaskingSchedule, table_model: Any
) -> None:
    """The collator's own masks, two sequences, each 10,000 times: within three standard errors of enumeration."""
    tokenizer, n = table_model.tokenizer, 10_000
    loss = MDLMLoss(table_model, tokenizer, schedule)
    words = table_model.sequences[[5, 40]]
    exact, true = nelbo(table_model, words), true_nll(table_model, words)
    assert (exact >= true - 1e-9).all()
    agnostic = torch.allclose(true, -table_model.joint.log()[[5, 40]])
    assert torch.allclose(exact, true) == agnostic
    for row, value in zip(words, exact, strict=True):
        examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed in range(n)]
        # Four words and no EOS, so that the table covers all that is masked.
        batch = MDLMCollator(tokenizer, block_size=5, noise_schedule=schedule)(examples)
        per_row = weighted_nll_of_table(table_model, batch)[0] * batch["weight"].double()
        # That the batch's loss is the mean of these is all that is left to the loss.
        torch.testing.assert_close(loss(batch)["loss"], per_row.sum() / (4 * n))
        assert abs(float(per_row.mean() - value)) < 3 * float(per_row.std()) / n**0.5


def weighted_nll_of_table(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    logits = model.features(batch["input_ids"], sigma=batch["sigma"])
    logits[..., model.tokenizer.mask_token_id] = -torch.inf
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"], reduction="none")
    return nll.sum(1), (batch["target_ids"] != -100).sum(1)


@pytest.mark.parametrize("method", ["counts", "rates"])
def test_nll_bound_draws_around_the_enumerated_value(method: Any, table_model: Any) -> None:
    schedule = GeometricSchedule()
    loss = MDLMLoss(table_model, table_model.tokenizer, schedule)
    words = table_model.sequences[[5, 40, 77]].repeat(500, 1)
    examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed, row in enumerate(words)]
    collate = MDLMCollator(table_model.tokenizer, block_size=5, noise_schedule=schedule)
    drawn = loss.nll_bound(collate(examples), num_samples=4, method=method)
    assert drawn.dtype == torch.float64
    of_sequence = drawn.view(500, 3, 4).transpose(0, 1).reshape(3, -1)
    error = of_sequence.std(1) / 2000**0.5
    assert ((of_sequence.mean(1) - nelbo(table_model, words[:3])).abs() < 4 * error).all()
