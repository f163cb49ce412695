"""The network as transformers knows it: a GPT-NeoX with sequential residuals computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

if TYPE_CHECKING:
    from arlm.model_arlm import RotaryARLM

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.GELU: "gelu", nn.ReLU: "relu"}


def to_gpt_neox(model: RotaryARLM) -> Any:
    """A `GPTNeoXForCausalLM` with the same weights and, but for rounding, the same logits.

    Both are pre-LN with norms that have biases, a feed-forward block with biases, attention without, rotary positions
    over whole heads in halves, and an untied output layer without bias. A largest frequency other than 1 is a linear
    scaling of positions there.
    """
    layer: Any = model.layers[0]
    vocabulary, d_model = model.embed_tokens.weight.shape
    rotary = layer.rotary_emb
    frequencies = {"rope_type": "default", "rope_theta": rotary.base, "partial_rotary_factor": 1.0}
    if rotary.max_frequency != 1.0:
        frequencies |= {"rope_type": "linear", "factor": 1.0 / rotary.max_frequency}
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        num_hidden_layers=len(model.layers),
        num_attention_heads=layer.nhead,
        intermediate_size=layer.mlp[0].out_features,
        hidden_act=_ACTIVATIONS[type(layer.mlp[1])],
        hidden_dropout=layer.dropout.p,
        attention_dropout=0.0,
        layer_norm_eps=layer.norm1.eps,
        max_position_embeddings=rotary.cache_size,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=False,
        rope_parameters=frequencies,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    exported: Any = GPTNeoXForCausalLM(config)
    exported.to(model.embed_tokens.weight.dtype)
    # Its name differs between versions of transformers.
    output = next(name for name, part in exported.named_modules() if part is exported.get_output_embeddings())
    exported.load_state_dict(_state_dict(model, output))
    return exported.eval()


def _state_dict(model: RotaryARLM, output: str) -> dict[str, Tensor]:
    """The weights under the names of GPT-NeoX, whose output layer is called `output`."""
    layers: list[Any] = list(model.layers)
    modules: dict[str, nn.Module] = {
        "gpt_neox.embed_in": model.embed_tokens,
        "gpt_neox.final_layer_norm": model.final_layer.norm_final,
        output: model.final_layer.linear,
    }
    for i, layer in enumerate(layers):
        modules |= {
            f"gpt_neox.layers.{i}.input_layernorm": layer.norm1,
            f"gpt_neox.layers.{i}.post_attention_layernorm": layer.norm2,
            f"gpt_neox.layers.{i}.attention.dense": layer.o_proj,
            f"gpt_neox.layers.{i}.mlp.dense_h_to_4h": layer.mlp[0],
            f"gpt_neox.layers.{i}.mlp.dense_4h_to_h": layer.mlp[2],
        }
    found = {
        f"{name}.{part}": value.detach()
        for name, module in modules.items()
        for part, value in module.state_dict().items()
    }
    for i, layer in enumerate(layers):
        weight = layer.attn_qkv.weight.detach()
        # Ours are all queries, all keys, all values; theirs go head by head.
        heads = weight.view(3, layer.nhead, -1, weight.shape[1]).transpose(0, 1)
        found[f"gpt_neox.layers.{i}.attention.query_key_value.weight"] = heads.reshape(weight.shape)
    return {name: value.to(copy=True, memory_format=torch.contiguous_format) for name, value in found.items()}
