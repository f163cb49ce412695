"""What the transformer layers share: feed-forward block, head size, stacking, initialization, short convolution."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from xlm.errors import ConfigError

if TYPE_CHECKING:
    from xlm.modules.chosen import Chosen
    from xlm.modules.memory import BlockMemory, LayerMemory
    from xlm.modules.packing import Packing
    from xlm.modules.position import RotaryEmbedding


class ShortConvolution(nn.Module):
    """x_i + w_left ⊙ x_{i−1} + w_right ⊙ x_{i+1}, without what the attention mask hides and beyond the ends.

    With it, what stands beside a token is known before the first attention, so that looking a token up by its
    neighbour takes one layer instead of two that have to be found together. Small networks learn that many times sooner
    (Allen-Zhu 2025, Physics of Language Models, part 4.1, "Canon layers", of which this is the two-sided form).
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: neighbours begin with half the strength of the token, with random signs."""
        nn.init.normal_(self.weight, std=0.5)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "*mask"] | None = None,
        packing: Packing | None = None,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """attention_mask None, (B, L) or (B, L, L), True = attend: a hidden neighbour counts as none.

        With a packing, x is packed, and the mask is not used: a neighbour is one in the padded row. With a memory, x
        is what its call computes, and neighbours that it doesn't compute are those of an earlier call.
        """
        if memory is not None:
            mixed = self(memory.whole_inputs(x), attention_mask)
            return mixed if memory.call.active is None else memory.call.active.pick(mixed)
        left, right = pad(x[:, :-1], (0, 0, 1, 0)), pad(x[:, 1:], (0, 0, 0, 1))
        if packing is not None or attention_mask is not None:
            seen_left, seen_right = _visible_neighbours(attention_mask) if packing is None else packing.neighbours()
            left, right = left * seen_left.unsqueeze(-1), right * seen_right.unsqueeze(-1)
        return torch.addcmul(torch.addcmul(x, self.weight[0], left), self.weight[1], right)


def _visible_neighbours(mask: Any) -> tuple[Tensor, Tensor]:
    """(B, L) twice: whether each token may see the one before it, and the one behind it."""
    if mask.ndim == 2:
        before, behind = mask[:, :-1], mask[:, 1:]
    else:
        before, behind = mask.diagonal(-1, 1, 2), mask.diagonal(1, 1, 2)
    return pad(before, (1, 0)), pad(behind, (0, 1))


class _Resettable(Protocol):
    def reset_parameters(self) -> None: ...


Layer = TypeVar("Layer", bound=nn.Module)

# Linear maps that write into the residual stream, by the last part of their name.
_RESIDUAL_OUTPUTS = ("o_proj", "mlp.2")


def check_positive(**values: float) -> None:
    """ValueError for the first of these sizes that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_vocabulary(num_embeddings: int, tokenizer: Any) -> None:
    """ConfigError if a tokenizer has more ids than a network embeds."""
    if tokenizer is not None and tokenizer.full_vocab_size > num_embeddings:
        raise ConfigError(
            f"model.num_embeddings is {num_embeddings}, and the tokenizer has {tokenizer.full_vocab_size} ids. "
            "Remove model.num_embeddings, which is the tokenizer's size by default, or use a smaller tokenizer.",
            key="model.num_embeddings",
        )


def head_dim(d_model: int, nhead: int) -> int:
    """d_model / nhead; ValueError unless it is whole and even, since rotary positions turn pairs."""
    check_positive(d_model=d_model, nhead=nhead)
    if d_model % nhead or (d_model // nhead) % 2:
        raise ValueError(f"d_model {d_model} over {nhead} heads must give a whole, even head dimension")
    return d_model // nhead


def feed_forward(d_model: int, dim_feedforward: int | None, activation: str) -> nn.Sequential:
    """Linear, activation, Linear, with biases; dim_feedforward None is 4 · d_model."""
    activations: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}
    if activation not in activations:
        raise ValueError(f"Unknown activation {activation!r}. Choices: {', '.join(activations)}.")
    hidden = 4 * d_model if dim_feedforward is None else dim_feedforward
    check_positive(dim_feedforward=hidden)
    return nn.Sequential(nn.Linear(d_model, hidden), activations[activation](), nn.Linear(hidden, d_model))


def reset_submodules(module: nn.Module) -> None:
    """Draw new weights for every linear map, norm and short convolution inside."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.LayerNorm, ShortConvolution)):
            part.reset_parameters()


def replicate(layer: Layer, num_layers: int) -> list[Layer]:
    """`layer` and num_layers − 1 of its shape, each with weights of its own, not copies of the first's."""
    check_positive(num_layers=num_layers)
    layers = [layer]
    for _ in range(num_layers - 1):
        layers.append(copy.deepcopy(layer))
        cast(_Resettable, layers[-1]).reset_parameters()
    return layers


def last_and_memory(
    i: int, num_layers: int, chosen: Chosen | None, memory: BlockMemory | None
) -> dict[str, Chosen | LayerMemory]:
    """The arguments `chosen`, for the last layer, and `memory` of layer i of a stack.

    Only those that there are: a layer of somebody's own may not know them.
    """
    given: dict[str, Chosen | LayerMemory] = {}
    if chosen is not None and i == num_layers - 1:
        given["chosen"] = chosen
    if memory is not None:
        given["memory"] = memory[i]
    return given


def share_rotary(layers: nn.ModuleList, rotary_emb: RotaryEmbedding) -> None:
    """Give every layer the same rotary embedding, in the state dict once: as the first layer's.

    Other places where weights from elsewhere may hold its frequencies are ignored on loading.
    """
    for index, layer in enumerate(layers):
        if index == 0:
            layer.rotary_emb = rotary_emb
        else:
            layer._modules.pop("rotary_emb", None)
        # The same way to it in every layer, so that equal layers share what is compiled; assign to replace it.
        layer.__dict__["rotary_emb"] = rotary_emb
    layers.register_load_state_dict_pre_hook(_drop_repeated_frequencies)


def _drop_repeated_frequencies(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    own = prefix + "0.rotary_emb.inv_freq"
    repeated = [k for k in state_dict if k.startswith(prefix) and k.endswith("rotary_emb.inv_freq") and k != own]
    for key in repeated:
        state_dict.setdefault(own, state_dict.pop(key))


@torch.no_grad()
def init_transformer_weights(model: nn.Module, std: float = 0.02, num_layers: int | None = None) -> None:
    """Normal(0, std) for linear maps and embeddings, zero for biases and the padding row, identity for norms.

    With num_layers, maps that write into the residual stream get std / √(2 · num_layers) (GPT-2). A linear
    weight that is exactly zero stays so: that is how zero-initialised gates and heads opt out.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # On the meta device no weight has values, and none is drawn.
            if module.weight.is_meta or bool(module.weight.any()):
                scaled = num_layers is not None and name.endswith(_RESIDUAL_OUTPUTS)
                module.weight.normal_(0.0, std / math.sqrt(2 * num_layers) if scaled and num_layers else std)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, std)
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
