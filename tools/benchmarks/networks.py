"""The networks that are measured, those of this project and of transformers, with batches and optimizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

FAMILIES = ("arlm", "mlm", "ilm", "mdlm")
SPECIAL = 7  # special tokens of the tokenizer for numbers


@dataclass(frozen=True)
class Shape:
    """The sizes of a measurement: batch B, length L, vocabulary V, width d, layers, heads."""

    B: int = 16
    L: int = 128
    V: int = 1000
    d: int = 128
    layers: int = 4
    heads: int = 4

    def __str__(self) -> str:
        return f"B {self.B}, L {self.L}, V {self.V:,}, d {self.d}, {self.layers} layers, {self.heads} heads"


def tokenizer_of(shape: Shape) -> Any:
    """Numbers as words, V of them with the special tokens."""
    from xlm.datamodule import SimpleSpaceTokenizer

    return SimpleSpaceTokenizer.for_numbers(shape.V - SPECIAL)


def parts_of(family: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The network, loss and collator of a family, and the collator's further arguments."""
    if family == "arlm":
        from arlm.datamodule_arlm import ARLMCollator
        from arlm.loss_arlm import ARLMLoss
        from arlm.model_arlm import RotaryARLM

        return RotaryARLM, ARLMLoss, ARLMCollator, {}
    if family == "mlm":
        from mlm.datamodule_mlm import MLMCollator
        from mlm.loss_mlm import MLMLoss
        from mlm.model_mlm import RotaryMLM

        return RotaryMLM, MLMLoss, MLMCollator, {"text_length": "given"}
    if family == "ilm":
        from ilm.datamodule_ilm import ILMCollator
        from ilm.loss_ilm import ILMLoss
        from ilm.model_ilm import RotaryILM

        return RotaryILM, ILMLoss, ILMCollator, {}
    from mdlm.datamodule_mdlm import MDLMCollator
    from mdlm.loss_mdlm import MDLMLoss
    from mdlm.model_mdlm import DiTMDLM
    from xlm.noise import LogLinearSchedule

    return DiTMDLM, MDLMLoss, MDLMCollator, {"text_length": "given", "noise_schedule": LogLinearSchedule()}


def network_of(family: str, shape: Shape, device: str, seed: int = 0) -> Any:
    """A family's network with random weights, without dropout; MDLM's without its start at zero."""
    torch.manual_seed(seed)
    made = parts_of(family)[0](
        shape.V, d_model=shape.d, num_layers=shape.layers, nhead=shape.heads, dropout=0.0, max_length=2 * shape.L
    )
    if family == "mdlm":
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return made.to(device)


def examples_of(shape: Shape, number: int, shortest: float = 1.0) -> list[dict[str, Any]]:
    """Rows of random tokens; full ones fill a block of L with BOS and EOS, others are evenly spread in length.

    Args:
        shortest: the shortest row, as a share of the longest.
    """
    generator = torch.Generator().manual_seed(1)
    longest = shape.L - 2
    shares = torch.rand(number, generator=generator) * (1 - shortest) + shortest
    lengths = (longest * shares).round().clamp(min=1).long().tolist()
    return [
        {
            "input_ids": torch.randint(SPECIAL, shape.V, (length,), generator=generator).tolist(),
            "noise_seed": index,
            "time_quantile": (index + 0.5) % shape.B / shape.B,
        }
        for index, length in enumerate(lengths)
    ]


def collator_of(family: str, shape: Shape) -> Any:
    """What makes training batches of at most L tokens a row."""
    _, _, collator, options = parts_of(family)
    return collator(tokenizer_of(shape), block_size=shape.L, **options)


def to(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def peer_of(name: str, shape: Shape) -> nn.Module:
    """A network of transformers with these sizes and a feed-forward layer of 4 d, without dropout.

    Args:
        name: gpt2, llama, bert or modernbert.
    """
    import transformers

    t: Any = transformers
    t.logging.set_verbosity_error()
    torch.manual_seed(0)
    common = {
        "vocab_size": shape.V, "hidden_size": shape.d, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "max_position_embeddings": 2 * shape.L, "attn_implementation": "sdpa",
    }  # fmt: skip
    special = {"pad_token_id": 0, "bos_token_id": 4, "eos_token_id": 3}
    made: nn.Module
    if name == "gpt2":
        rates = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
        sizes = {"n_embd": shape.d, "n_layer": shape.layers, "n_head": shape.heads, "n_positions": 2 * shape.L}
        made = t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=shape.V, attn_implementation="sdpa", **sizes, **rates, **special)
        )
    elif name == "llama":
        # Three matrices of its gated layer have as many weights as two of width 4 d.
        made = t.LlamaForCausalLM(t.LlamaConfig(**common, **special, intermediate_size=8 * shape.d // 3))
    elif name == "bert":
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        made = t.BertForMaskedLM(t.BertConfig(**common, **rates, intermediate_size=4 * shape.d, pad_token_id=0))
    else:
        gated = {"intermediate_size": 8 * shape.d // 3, "cls_token_id": 1, "sep_token_id": 3}
        made = t.ModernBertForMaskedLM(t.ModernBertConfig(**common, **special, **gated))
    return made


def adamw(network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every training that is measured: what `optimizer=adamw` is, also for peers."""
    from xlm.training.optim import build_optimizer

    return build_optimizer(OmegaConf.create({"_target_": "torch.optim.AdamW", "lr": 1e-4}), network)
