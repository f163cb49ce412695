"""The loss: plain mean or any-order bound, the same whatever the batch, the padding and the path it is computed on."""

from __future__ import annotations

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


def test_a_batch_without_a_mask_costs_nothing(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    batch["input_ids"] = torch.where(batch["target_ids"] != -100, batch["target_ids"], batch["input_ids"])
    batch["target_ids"] = torch.full_like(batch["target_ids"], -100)
    del batch["target_index"]
    result = loss(batch)
    assert result["loss"] == 0
    result["loss"].backward()


@pytest.mark.slow
def test_compile_changes_nothing(loss: MLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = MLMSeq2SeqCollator(tokenizer, block_size=9)(EXAMPLES)
    plain = loss(batch)["loss"]
    compiled = torch.compile(loss.loss_fn)(batch)["loss"]
    torch.testing.assert_close(compiled, plain)


def test_lengths_are_counted_in_training_only(tokenizer: SimpleSpaceTokenizer) -> None:
    model = RotaryMLM(len(tokenizer), d_model=16, num_layers=1, nhead=2, num_text_lengths=9, dropout=0.0)
    loss = MLMLoss(model, tokenizer)
    batch = MLMCollator(tokenizer, block_size=9, text_length="modelled")(EXAMPLES)
    before = model.length_model.counts.clone()
    model.eval()
    loss(batch)
    assert torch.equal(model.length_model.counts, before)
    model.train()
    loss(batch)
    # With EOS, the texts have 3, 6 and 1 tokens.
    assert (model.length_model.counts - before).nonzero().flatten().tolist() == [0, 2, 5]


def test_an_unknown_weighting_is_named() -> None:
    with pytest.raises(ValueError, match=r"Unknown weighting 'nelbo'\. Choices: none, elbo\."):
        MLMLoss(weighting="nelbo")  # type: ignore[arg-type]
