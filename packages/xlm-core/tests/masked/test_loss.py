"""The masked loss: the NELBO, the same whatever the batch, the padding and the path it is computed on."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xlm.data.tokenizers import SimpleSpaceTokenizer
from xlm.masked.collate import MaskedCollator, MaskedLossDict, MaskedSeq2SeqCollator
from xlm.masked.loss import MaskedLoss
from xlm.masked.network import RotaryMaskedNetwork

EXAMPLES = [
    {"prompt_ids": [7, 8, 9, 10], "input_ids": [11, 12], "noise_seed": 5},
    {"prompt_ids": [7], "input_ids": [8, 9, 10, 11, 12], "noise_seed": 6},
    {"prompt_ids": [], "input_ids": [], "noise_seed": 7},
]


@pytest.fixture
def tokenizer() -> SimpleSpaceTokenizer:
    return SimpleSpaceTokenizer.for_numbers(vocab_size=9)


@pytest.fixture
def loss(tokenizer: SimpleSpaceTokenizer) -> MaskedLoss:
    torch.manual_seed(0)
    # Double precision and weights far from zero: differences between two paths are then visible, and are mistakes.
    network = RotaryMaskedNetwork(len(tokenizer), d_model=16, num_layers=2, nhead=2, dropout=0.0).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return MaskedLoss(network, tokenizer)


def weighted_nll(loss: MaskedLoss, batch: Any) -> tuple[Tensor, Tensor]:
    """Summed −log p over each row's masks from the full (B, L, V) logits, and their number."""
    logits = loss.model(batch["input_ids"], batch["attention_mask"])
    logits[..., loss.tokenizer.mask_token_id] = -torch.inf
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["target_ids"], reduction="none")
    return nll.sum(1), (batch["target_ids"] != -100).sum(1)


def test_loss_is_what_the_plain_form_gives(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    nll, count = weighted_nll(loss, batch)
    result = loss(batch)
    # Divided by real tokens: neither by masked ones nor by the filling.
    torch.testing.assert_close(result["loss"], (nll / batch["t"]).sum() / (3 + 6 + 1))
    assert result["num_loss_terms"] == 3 + 6 + 1
    assert count.sum() != 10
    # The ten tokens before masking, which the bound is about: answers and their ends.
    coded = loss.coded_ids(batch)
    wanted = [[*example["input_ids"], tokenizer.eos_token_id] for example in EXAMPLES]
    assert [row[row != -100].tolist() for row in coded] == wanted
    assert loss.likelihood_of(batch) == ("nll", loss.nll_of)


def test_a_batch_equals_its_rows_and_padding_changes_nothing(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    def total(result: MaskedLossDict) -> Tensor:
        return result["loss"] * result["num_loss_terms"]

    collate = MaskedSeq2SeqCollator(tokenizer, block_size=9)
    together = total(loss(collate(EXAMPLES)))
    alone = torch.stack([total(loss(collate([example]))) for example in EXAMPLES]).sum()
    wide = MaskedSeq2SeqCollator(tokenizer, block_size=9, input_block_size=8, pad_to="block")
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(total(loss(wide(EXAMPLES))), alone)
    # Padding on the right as well, where nothing is filled.
    short = MaskedSeq2SeqCollator(tokenizer, text_length="given")
    padded = MaskedSeq2SeqCollator(tokenizer, block_size=12, text_length="given", pad_to="block")
    torch.testing.assert_close(total(loss(padded(EXAMPLES))), total(loss(short(EXAMPLES))))


def test_lengths_that_are_modelled_are_paid_for_and_counted_in_training_only(tokenizer: SimpleSpaceTokenizer) -> None:
    network = RotaryMaskedNetwork(len(tokenizer), 16, num_layers=1, nhead=2, dropout=0.0, num_text_lengths=9).double()
    loss = MaskedLoss(network, tokenizer)
    loss(MaskedSeq2SeqCollator(tokenizer, text_length="modelled")(EXAMPLES))
    counts = network.length_model.counts.clone()
    assert counts.sum() == len(EXAMPLES)
    network.eval()
    # The same masks, with and without a price for the lengths.
    modelled, given = (MaskedSeq2SeqCollator(tokenizer, text_length=kind)(EXAMPLES) for kind in ("modelled", "given"))
    price = network.length_model.nll(modelled["maskable"].sum(dim=1)).double()
    assert price.min() > 0
    result = loss(modelled)
    torch.testing.assert_close((result["loss"] - loss(given)["loss"]) * result["num_loss_terms"], price.sum())
    bounds = [loss.nll_bound(batch, num_samples=2) for batch in (modelled, given)]
    torch.testing.assert_close(bounds[0] - bounds[1], price[:, None].expand(-1, 2))
    assert torch.equal(network.length_model.counts, counts)


def test_target_index_is_optional(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    with_index = loss(batch)["loss"]
    del batch["target_index"]
    torch.testing.assert_close(loss(batch)["loss"], with_index)


def test_a_batch_without_a_mask_costs_nothing(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    batch["input_ids"] = torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])
    batch["target_ids"] = torch.full_like(batch["target_ids"], -100)
    del batch["target_index"]
    result = loss(batch)
    assert result["loss"] == 0
    result["loss"].backward()


def test_declared_types_hold(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    result = loss(MaskedCollator(tokenizer, text_length="given")(EXAMPLES))
    assert result.keys() == MaskedLossDict.__annotations__.keys()
    assert result["loss"].shape == ()


def test_every_parameter_gets_a_gradient(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    loss(MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.model.parameters())


def test_bf16_stays_close(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    loss.model.float()
    exact = loss(batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(batch)["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compile_changes_nothing(loss: MaskedLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MaskedSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    plain = loss(batch)["loss"]
    compiled = torch.compile(loss.loss_fn)(batch)["loss"]
    torch.testing.assert_close(compiled, plain)


# The bound, on three words and four positions.

WORDS, LENGTH = 3, 4


class TableModel(nn.Module):
    """Any conditionals over three words at four positions after BOS, as if a network had learnt them.

    `order_agnostic`: those of one joint distribution; else predictions that depend on the order of unmasking.
    """

    def __init__(self, order_agnostic: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.tokenizer = SimpleSpaceTokenizer.for_numbers(WORDS)
        self.output_layer = nn.Linear(len(self.tokenizer), len(self.tokenizer), bias=False).double()
        with torch.no_grad():
            self.output_layer.weight.copy_(torch.eye(len(self.tokenizer)))
        self.sequences = torch.tensor(list(itertools.product(range(WORDS), repeat=LENGTH)))
        self.joint = torch.randn(len(self.sequences), dtype=torch.float64).mul(1.5).softmax(0)
        if order_agnostic:
            states = torch.tensor(list(itertools.product(range(WORDS + 1), repeat=LENGTH)))
            agrees = ((states[:, None] == self.sequences) | (states[:, None] == WORDS)).all(-1)
            one_hot = nn.functional.one_hot(self.sequences, WORDS).double()
            marginal = torch.einsum("sx,xlv->slv", agrees * self.joint, one_hot)
            self.table = (marginal / marginal.sum(-1, keepdim=True)).log()
        else:
            self.table = torch.randn(4**LENGTH, LENGTH, WORDS, dtype=torch.float64).mul(1.5).log_softmax(-1)

    def conditionals(self, words: Tensor) -> Tensor:
        """(B, 4) words 0 … 2, or 3 for a mask → log p (B, 4, 3)."""
        return self.table[(words * 4 ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)]

    def features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits as features: special tokens are impossible, but for the mask, of which SUBS has to take care."""
        words = torch.where(input_ids == self.tokenizer.mask_token_id, WORDS, input_ids - 7)[:, 1 : LENGTH + 1]
        logits = torch.full((*input_ids.shape, len(self.tokenizer)), -1e3, dtype=torch.float64)
        logits[..., self.tokenizer.mask_token_id] = 2.0
        logits[:, 1 : LENGTH + 1, 7:] = self.conditionals(words)
        return logits


@pytest.fixture(params=[True, False], ids=["order-agnostic", "order-dependent"])
def table_model(request: pytest.FixtureRequest) -> TableModel:
    return TableModel(request.param)


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
    loss = MaskedLoss(table_model, tokenizer)
    words = table_model.sequences[[5, 40, 77]]
    exact, true = nelbo(table_model, words), true_nll(table_model, words)
    assert (exact >= true - 1e-9).all()
    agnostic = torch.allclose(true, -table_model.joint.log()[[5, 40, 77]])
    assert torch.allclose(exact, true) == agnostic
    for row, value in zip(words, exact, strict=True):
        examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed in range(n)]
        # Four words and no EOS, so that the table covers all that is masked.
        batch = MaskedCollator(tokenizer, block_size=5)(examples)
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
    loss = MaskedLoss(table_model, table_model.tokenizer)
    words = table_model.sequences[[5, 40, 77]].repeat(500, 1)
    examples = [{"input_ids": (row + 7).tolist(), "noise_seed": seed} for seed, row in enumerate(words)]
    drawn = loss.nll_bound(MaskedCollator(table_model.tokenizer, block_size=5)(examples), num_samples=4, method=method)
    assert drawn.dtype == torch.float64
    of_sequence = drawn.view(500, 3, 4).transpose(0, 1).reshape(3, -1)
    error = of_sequence.std(1) / 2000**0.5
    assert ((of_sequence.mean(1) - nelbo(table_model, words[:3])).abs() < 4 * error).all()
