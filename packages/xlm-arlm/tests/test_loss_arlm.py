"""The loss is the exact likelihood, whatever the padding, the batch and the path it is computed on."""

from __future__ import annotations

import itertools

import torch

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator
from arlm.loss_arlm import ARLMLoss
from arlm.model_arlm import RotaryARLM
from xlm.datamodule import SimpleSpaceTokenizer

EXAMPLES = [
    {"prompt_ids": [7, 8, 9, 10], "input_ids": [11, 12]},
    {"prompt_ids": [7], "input_ids": [8, 9, 10, 11, 12]},
    {"prompt_ids": [], "input_ids": []},
]


def test_loss_is_the_mean_of_token_nlls(loss: ARLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = ARLMSeq2SeqCollator(tokenizer)(EXAMPLES)
    logits = loss.model(batch["input_ids"], batch["attention_mask"])
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target_ids"].flatten(), ignore_index=-100)
    result = loss(batch)
    torch.testing.assert_close(result["loss"], wanted)
    assert result["num_loss_terms"] == 3 + 6 + 1
    torch.testing.assert_close(loss.token_nll(batch).mean(), wanted)


def test_target_index_is_optional(loss: ARLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    batch = ARLMSeq2SeqCollator(tokenizer)(EXAMPLES)
    with_index = loss(batch)["loss"]
    del batch["target_index"], batch["left_padded"]
    torch.testing.assert_close(loss(batch)["loss"], with_index)


def test_a_batch_equals_its_rows_and_padding_changes_nothing(loss: ARLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    together = loss.token_nll(ARLMSeq2SeqCollator(tokenizer)(EXAMPLES))
    wide = ARLMSeq2SeqCollator(tokenizer, block_size=11, input_block_size=9, pad_to="block")
    padded = loss.token_nll(wide(EXAMPLES))
    alone = torch.cat([loss.token_nll(ARLMSeq2SeqCollator(tokenizer)([example])) for example in EXAMPLES])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(padded, alone)


def test_likelihoods_of_all_sequences_sum_to_one(loss: ARLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    """Over every way to go on for two tokens, Σ p = 1: the loss is a likelihood, not merely a score."""
    vocab = range(len(tokenizer))
    base = ARLMCollator(tokenizer)([{"input_ids": [7]}])
    rows = torch.tensor([[tokenizer.bos_token_id, a, b] for a, b in itertools.product(vocab, vocab)])
    batch = {
        **base,
        "input_ids": rows,
        "attention_mask": torch.ones_like(rows, dtype=torch.bool),
        "target_ids": torch.cat([rows[:, 1:], torch.full_like(rows[:, :1], -100)], dim=1),
    }
    del batch["target_index"]
    nll = loss.token_nll(batch).view(len(rows), 2).sum(dim=1)  # type: ignore[arg-type]
    torch.testing.assert_close((-nll).exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_later_tokens_change_nothing_before_them(model: RotaryARLM) -> None:
    ids = torch.tensor([[4, 7, 8, 9]])
    changed = torch.tensor([[4, 7, 8, 15]])
    torch.testing.assert_close(model(ids)[:, :3], model(changed)[:, :3])


def test_every_parameter_gets_a_gradient(loss: ARLMLoss, tokenizer: SimpleSpaceTokenizer) -> None:
    loss(ARLMSeq2SeqCollator(tokenizer)(EXAMPLES))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.model.parameters())
