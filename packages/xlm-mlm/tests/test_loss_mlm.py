"""The loss: plain mean or any-order bound, the same whatever the batch, the padding and the path it is computed on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mlm.datamodule_mlm import MLMCollator, MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from mlm.types_mlm import MLMLossDict
from xlm.datamodule import SimpleSpaceTokenizer

EXAMPLES = [
    {"prompt_ids": [7, 8, 9, 10], "input_ids": [11, 12], "noise_seed": 5},
    {"prompt_ids": [7], "input_ids": [8, 9, 10, 11, 12], "noise_seed": 6},
    {"prompt_ids": [], "input_ids": [], "noise_seed": 7},
]


@pytest.fixture(params=["none", "elbo"])
def loss(request: pytest.FixtureRequest, model: RotaryMLM, tokenizer: SimpleSpaceTokenizer) -> MLMLoss:
    return MLMLoss(model, tokenizer, request.param)


def weighted_nll(loss: MLMLoss, batch: Any) -> tuple[Tensor, Tensor]:
    """Summed −log p over each row's masks from the full (B, L, V) logits, and their number."""
    logits = loss.model(batch["input_ids"], batch["attention_mask"])
    logits[..., loss.tokenizer.mask_token_id] = -torch.inf
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"], reduction="none")
    return nll.sum(1), (batch["target_ids"] != -100).sum(1)


def test_loss_is_what_the_plain_form_gives(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    nll, count = weighted_nll(loss, batch)
    result = loss(batch)
    if loss.weighting == "none":
        torch.testing.assert_close(result["loss"], nll.sum() / count.sum())
        assert result["num_loss_terms"] == count.sum()
    else:
        torch.testing.assert_close(result["loss"], (nll / batch["t"]).sum() / (3 + 6 + 1))
        assert result["num_loss_terms"] == 3 + 6 + 1


def test_a_batch_equals_its_rows_and_padding_changes_nothing(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    def total(result: MLMLossDict) -> Tensor:
        return result["loss"] * result["num_loss_terms"]

    collate = MLMSeq2SeqCollator(tokenizer, block_size=9)
    together = total(loss(collate(EXAMPLES)))
    alone = torch.stack([total(loss(collate([example]))) for example in EXAMPLES]).sum()
    wide = MLMSeq2SeqCollator(tokenizer, block_size=9, input_block_size=8, pad_to="block")
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(total(loss(wide(EXAMPLES))), alone)
    # Padding on the right as well, where nothing is filled.
    short = MLMSeq2SeqCollator(tokenizer, text_length="given")
    padded = MLMSeq2SeqCollator(tokenizer, block_size=12, text_length="given", pad_to="block")
    torch.testing.assert_close(total(loss(padded(EXAMPLES))), total(loss(short(EXAMPLES))))


def test_target_index_is_optional(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    with_index = loss(batch)["loss"]
    del batch["target_index"]
    torch.testing.assert_close(loss(batch)["loss"], with_index)


def test_a_batch_without_a_mask_costs_nothing(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    batch["input_ids"] = torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])
    batch["target_ids"] = torch.full_like(batch["target_ids"], -100)
    del batch["target_index"]
    result = loss(batch)
    assert result["loss"] == 0
    result["loss"].backward()


def test_declared_types_hold(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    result = loss(MLMCollator(tokenizer, text_length="given")(EXAMPLES))
    assert result.keys() == MLMLossDict.__annotations__.keys()
    assert result["loss"].shape == ()


def test_every_parameter_gets_a_gradient(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    loss(MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.model.parameters())


def test_bf16_stays_close(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    loss.model.float()
    exact = loss(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(batch)["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compile_changes_nothing(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    plain = loss(batch)["loss"]
    compiled = torch.compile(loss.loss_fn)(batch)["loss"]
    torch.testing.assert_close(compiled, plain)


def test_an_unknown_weighting_is_named() -> None:
    with pytest.raises(ValueError, match=r"Unknown weighting 'nelbo'\. Choices: none, elbo\."):
        MLMLoss(weighting="nelbo")  # type: ignore[arg-type]


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


def test_the_elbo_is_an_unbiased_bound_and_exact_for_an_order_agnostic_model(table_model: Any) -> None:
    """The collator's own masks, a few sequences, each 20,000 times: within three standard errors of enumeration."""
    tokenizer, n = table_model.tokenizer, 20_000
    loss = MLMLoss(table_model, tokenizer, "elbo")
    words = table_model.sequences[[5, 40, 77]]
    exact, true = nelbo(table_model, words), true_nll(table_model, words)
    assert (exact >= true - 1e-9).all()
    agnostic = torch.allclose(true, -table_model.joint.log()[[5, 40, 77]])
    assert torch.allclose(exact, true) == agnostic
    for row, value in zip(words, exact, strict=True):
        examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed in range(n)]
        # Four words and no EOS, so that the table covers all that is masked.
        batch = MLMCollator(tokenizer, block_size=5)(examples)
        nll, _ = weighted_nll_of_table(table_model, batch)
        per_row = nll / batch["t"].double()
        # That the batch's loss is the mean of these is all that is left to the loss.
        torch.testing.assert_close(loss(batch)["loss"], per_row.sum() / (4 * n))
        assert abs(float(per_row.mean() - value)) < 3 * float(per_row.std()) / n**0.5


def weighted_nll_of_table(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    logits = model.features(batch["input_ids"])
    logits[..., model.tokenizer.mask_token_id] = -torch.inf
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"], reduction="none")
    return nll.sum(1), (batch["target_ids"] != -100).sum(1)


@pytest.mark.parametrize("method", ["counts", "rates"])
def test_nll_bound_draws_around_the_enumerated_value(method: Any, table_model: Any) -> None:
    loss = MLMLoss(table_model, table_model.tokenizer)
    words = table_model.sequences[[5, 40, 77]].repeat(500, 1)
    examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed, row in enumerate(words)]
    drawn = loss.nll_bound(MLMCollator(table_model.tokenizer, block_size=5)(examples), num_samples=4, method=method)
    assert drawn.dtype == torch.float64
    of_sequence = drawn.view(500, 3, 4).transpose(0, 1).reshape(3, -1)
    error = of_sequence.std(1) / 2000**0.5
    assert ((of_sequence.mean(1) - nelbo(table_model, words[:3])).abs() < 4 * error).all()
