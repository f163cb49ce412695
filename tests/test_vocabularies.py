"""Vocabularies that are padded, or whose PAD is also EOS, in every family: the same losses, and only ids that exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator, ARLMSeq2SeqPredCollator
from arlm.loss_arlm import ARLMLoss
from arlm.model_arlm import RotaryARLM
from arlm.predictor_arlm import ARLMPredictor
from ilm.datamodule_ilm import ILMCollator, ILMSeq2SeqCollator, ILMSeq2SeqPredCollator
from ilm.loss_ilm import ILMLoss
from ilm.model_ilm import RotaryILM
from ilm.predictor_ilm import ILMPredictor
from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mdlm.predictor_mdlm import MDLMPredictor
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from mlm.predictor_mlm import MLMPredictor
from xlm.datamodule import SimpleSpaceTokenizer
from xlm.masked.collate import MaskedCollator, MaskedSeq2SeqCollator, MasksAfterPrompt
from xlm.noise import LogLinearSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(20)
SCHEDULE = LogLinearSchedule()
NUM_PADDED = 64
# Lengths of prompts and answers.
ROWS = [([7, 8, 9], [10, 11]), ([], [12]), ([13], []), ([9, 9, 9, 9], [7, 8, 9, 10, 11, 12])]


@dataclass(frozen=True)
class Family:
    network: Any
    loss: Callable[[Any, Any], Any]
    predictor: Any
    text: Any
    pairs: Any
    prompts: Any


FAMILIES = {
    "arlm": Family(RotaryARLM, ARLMLoss, ARLMPredictor, ARLMCollator, ARLMSeq2SeqCollator, ARLMSeq2SeqPredCollator),
    "mlm": Family(RotaryMLM, MLMLoss, MLMPredictor, MaskedCollator, MaskedSeq2SeqCollator, MasksAfterPrompt),
    "mdlm": Family(
        DiTMDLM, lambda net, tokenizer: MDLMLoss(net, tokenizer, SCHEDULE),
        MDLMPredictor, MDLMCollator, MDLMSeq2SeqCollator, MasksAfterPrompt,
    ),
    "ilm": Family(RotaryILM, ILMLoss, ILMPredictor, ILMCollator, ILMSeq2SeqCollator, ILMSeq2SeqPredCollator),
}  # fmt: skip


class PadIsEos(SimpleSpaceTokenizer):
    """What many people make of GPT-2's tokenizer."""

    pad_token, pad_token_id = SimpleSpaceTokenizer.eos_token, SimpleSpaceTokenizer.eos_token_id


def examples() -> list[dict[str, Any]]:
    return [
        {"prompt_ids": prompt, "input_ids": answer, "noise_seed": 5 * number, "time_quantile": number / len(ROWS)}
        for number, (prompt, answer) in enumerate(ROWS)
    ]


def network_of(family: Family, num_embeddings: int) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = family.network(num_embeddings, d_model=16, num_layers=1, nhead=2, dropout=0.0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_padded_ids_of_the_vocabulary_are_never_produced(name: str) -> None:
    family = FAMILIES[name]
    network = network_of(family, NUM_PADDED)
    final: Any = network.final_layer
    with torch.no_grad():
        # By far the most likely.
        if final.linear.bias is not None:
            final.linear.bias[len(TOKENIZER) :] = 100.0
        else:
            final.norm_final.bias.fill_(1.0)
            final.linear.weight[len(TOKENIZER) :] = 10.0
    options: dict[str, Any] = {"max_length": 12} if name in ("arlm", "ilm") else {"block_size": 12}
    if name == "ilm":
        options["stopping_threshold"] = 1.0
    prompts = family.prompts(TOKENIZER, **({"block_size": 12} if "block_size" in options else {}))
    predictor = family.predictor(TOKENIZER, model=network, noise_schedule=SCHEDULE, seed=0, **options)
    ids = predictor.predict(prompts(examples()))["ids"]
    assert ids.shape[1] > 4
    assert ids.max() < len(TOKENIZER)


@pytest.mark.parametrize("kind", ["text", "pairs"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pad_token_that_is_eos_changes_no_loss(name: str, kind: str) -> None:
    family = FAMILIES[name]
    network = network_of(family, len(TOKENIZER))
    losses = []
    for tokenizer in (TOKENIZER, PadIsEos(str(number) for number in range(20))):
        batch = getattr(family, kind)(tokenizer, block_size=10, noise_schedule=SCHEDULE)(examples())
        # Masked models learn the rest of a text's block.
        assert batch["attention_mask"].bool().all() == (kind == "text" and name in ("mlm", "mdlm"))
        losses.append(family.loss(network, tokenizer)(batch, 0, 0, "lm")["loss"].item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0] > 0.5
