"""A packed batch has the loss and the gradients of the padded one, in any family."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from arlm.datamodule_arlm import ARLMCollator, ARLMSeq2SeqCollator
from arlm.loss_arlm import ARLMLoss
from arlm.model_arlm import RotaryARLM
from ilm.datamodule_ilm import ILMCollator, ILMSeq2SeqCollator
from ilm.loss_ilm import ILMLoss
from ilm.model_ilm import RotaryILM
from mdlm.datamodule_mdlm import MDLMCollator, MDLMSeq2SeqCollator
from mdlm.loss_mdlm import MDLMLoss
from mdlm.model_mdlm import DiTMDLM
from mlm.datamodule_mlm import MLMCollator, MLMSeq2SeqCollator
from mlm.loss_mlm import MLMLoss
from mlm.model_mlm import RotaryMLM
from xlm.compose import load_config
from xlm.data.batching import PackedCollator
from xlm.datamodule import DatasetManager, SimpleSpaceTokenizer, TextDataModule
from xlm.errors import ConfigError
from xlm.harness import Harness
from xlm.modules import packing
from xlm.noise import LogLinearSchedule

TOKENIZER = SimpleSpaceTokenizer.for_numbers(vocab_size=20)
SCHEDULE = LogLinearSchedule()
SIZES: dict[str, Any] = {"d_model": 16, "num_layers": 2, "nhead": 2, "dropout": 0.0}
BLOCK = 32
# Tokens of a text or an answer, and of the prompt before it.
LENGTHS = (1, 14, 3, 28, 9, 2, 22, 6)
PROMPTS = (7, 1, 12, 3, 0, 9, 2, 5)


def examples() -> list[dict[str, Any]]:
    """Rows of very different lengths."""
    generator = torch.Generator().manual_seed(3)

    def ids(n: int) -> list[int]:
        return torch.randint(7, 27, (n,), generator=generator).tolist()

    return [
        {"input_ids": ids(n), "prompt_ids": ids(p), "noise_seed": 31 * n + p, "time_quantile": (place + 0.5) / 8}
        for place, (n, p) in enumerate(zip(LENGTHS, PROMPTS, strict=True))
    ]


def network_of(network: Any, **options: Any) -> nn.Module:
    """A network away from its symmetric start."""
    torch.manual_seed(0)
    made: nn.Module = network(len(TOKENIZER), **SIZES, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def outputs_and_gradients(loss: Any, batch: Any) -> tuple[dict[str, Any], list[Tensor]]:
    loss.model.zero_grad()
    outputs = loss(batch)
    outputs["loss"].backward()
    return outputs, [parameter.grad for parameter in loss.model.parameters() if parameter.grad is not None]


MLM = (MLMCollator, MLMSeq2SeqCollator)
MDLM = (MDLMCollator, MDLMSeq2SeqCollator)
MODELLED = {"text_length": "modelled"}
DIFFUSES = {"text_length": "modelled", "noise_schedule": SCHEDULE}
LENGTH_MODEL = {"num_text_lengths": BLOCK}
# Collators and their options, the network and its options, the loss.
CASES: dict[str, Any] = {
    "arlm": ((ARLMCollator, ARLMSeq2SeqCollator), {}, RotaryARLM, {}, ARLMLoss),
    "mlm": (MLM, MODELLED, RotaryMLM, LENGTH_MODEL, MLMLoss),
    "mlm-elbo": (MLM, {"text_length": "given"}, RotaryMLM, {"short_conv": True}, partial(MLMLoss, weighting="elbo")),
    "mdlm": (MDLM, DIFFUSES, DiTMDLM, {**LENGTH_MODEL, "short_conv": True}, MDLMLoss),
    "mdlm-without-time": (MDLM, DIFFUSES, DiTMDLM, {**LENGTH_MODEL, "time_conditioning": False}, MDLMLoss),
    "ilm": ((ILMCollator, ILMSeq2SeqCollator), {}, RotaryILM, {"short_conv": True}, ILMLoss),
}


@pytest.mark.parametrize("limit", [0, math.inf], ids=["row-by-row", "at-once"])
@pytest.mark.parametrize("is_pair", [False, True], ids=["text", "pairs"])
@pytest.mark.parametrize("case", CASES)
def test_packed_batches_have_the_loss_and_gradients_of_padded_ones(
    case: str, is_pair: bool, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_PRODUCTS_OF_A_CALL", limit)
    collators, options, network, sizes, loss = CASES[case]
    collate = collators[is_pair](TOKENIZER, block_size=BLOCK, input_block_size=BLOCK, **options)
    batch = PackedCollator(collate)(examples())
    assert len(batch["token_index"]) < 0.6 * batch["attention_mask"].numel()
    packed, gradients = outputs_and_gradients(loss(network_of(network, **sizes), TOKENIZER), batch)
    padded, expected = outputs_and_gradients(loss(network_of(network, **sizes), TOKENIZER), collate(examples()))
    assert packed.keys() == padded.keys()
    assert len(gradients) == len(expected) > 10
    for name, value in packed.items():
        torch.testing.assert_close(value, padded[name], rtol=1e-5, atol=1e-5)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


class Tiny(Harness):
    """A harness around a network and a loss."""

    def __init__(self, network: nn.Module, loss: Any, batching: str | None) -> None:
        self.parts = network, loss
        manager = DatasetManager(ARLMCollator(TOKENIZER), "x.txt", dataloader_kwargs={"batching": batching})
        super().__init__(OmegaConf.create({}), TOKENIZER, TextDataModule(TOKENIZER, {"train": {"lm": manager}}))

    def instantiate_model(self) -> nn.Module:
        return self.parts[0]

    def instantiate_loss_function(self) -> Any:
        return self.parts[1]


@pytest.mark.parametrize("batching", ["packed", "buckets", None])
def test_only_parts_that_compute_packed_batches_are_given_some(batching: str | None) -> None:
    network = network_of(RotaryARLM)
    Tiny(network, ARLMLoss(network, TOKENIZER), batching)
    for other, loss, name in ((nn.Linear(2, 2), ARLMLoss(), "Linear"), (network, object(), "object")):
        if batching != "packed":
            Tiny(other, None, batching)
            continue
        with pytest.raises(ConfigError, match=f"batching=packed: {name} cannot compute packed batches"):
            Tiny(other, loss, batching)


@pytest.mark.parametrize("family", ["mlm", "mdlm"])
def test_masked_models_model_lengths_where_nothing_fills_the_block(family: str) -> None:
    chosen = ["experiment=text", f"model_type={family}", f"model=xtiny_{family}"]
    for options, expected in (
        ([], "learnt"),
        (["batching=longest"], "learnt"),
        (["batching=buckets"], "modelled"),
        (["batching=packed", "text_length=given"], "given"),
    ):
        cfg = load_config([*chosen, *options])
        assert cfg.text_length == cfg.collators.lm.text_length == expected
        assert cfg.datamodule.dataset_managers.train.lm.dataloader_kwargs.batching == cfg.batching
        assert cfg.model.num_text_lengths == (64 if expected == "modelled" else None)
