"""The left-to-right network as a backbone of transformers: any AutoModelForCausalLM, trained or new, with its cache."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from xlm.errors import ConfigError
from xlm.modules.attention import KVCache
from xlm.modules.pretrained import PretrainedNetwork


class BackboneCache(KVCache):
    """Keys and values that a network of transformers keeps itself; positions and padding as in `KVCache`."""

    def __init__(self, config: Any, capacity: int) -> None:
        super().__init__(0, capacity)
        self.past = DynamicCache(config=config)

    def select(self, rows: Integer[Tensor, " kept"] | Bool[Tensor, " batch"]) -> None:
        """Keep these rows, in this order."""
        super().select(rows)
        self.past.batch_select_indices(rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of every row."""
        removed = self.length - length
        super().truncate(length)
        if removed > 0:
            self.past.crop(-removed)


class _FinalLayer(nn.Module):
    """The output layer; the norm before it is part of the backbone."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.norm_final = nn.Identity()
        self.linear = linear

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """(…, d_model) to (…, V)."""
        logits: Tensor = self.linear(x)
        return logits


class HFCausalLM(PretrainedNetwork):
    """p(x_i | x_<i) by a network of transformers; arguments as for `PretrainedNetwork`.

    ConfigError, besides, for one that looks at later tokens.
    """

    auto_class = AutoModelForCausalLM

    @property
    def final_layer(self) -> _FinalLayer:
        """What makes hidden vectors logits."""
        return _FinalLayer(self.head)

    def new_cache(self, capacity: int) -> BackboneCache:
        """An empty cache for rows of at most that many tokens."""
        return BackboneCache(self.backbone.config, capacity)

    def hidden(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        *,
        left_padded: bool | None = None,
        cache: BackboneCache | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Hidden vectors before the output layer; arguments as for `RotaryARLM.hidden`."""
        if cache is not None:
            positions, attention_mask = cache.advance(input_ids, attention_mask)
            self._check_length(cache.length)
            return self._run(input_ids, attention_mask, positions, use_cache=True, **{self._cache_name: cache.past})
        if left_padded is False:
            attention_mask = None  # padding comes after every real token
        return self._run(input_ids, attention_mask, positions, use_cache=False)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "*batch length"] | None = None,
        *,
        left_padded: bool | None = None,
        cache: BackboneCache | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch kept vocab"]:
        """Logits of the next token at every position, (B, L, V), or with `last_only` at the last, (B, 1, V)."""
        h = self.hidden(input_ids, attention_mask, positions, left_padded=left_padded, cache=cache)
        logits: Tensor = self.head(h[:, -1:] if last_only else h)
        return logits

    @property
    def _cache_name(self) -> str:
        # transformers renamed the argument within version 5.
        taken = inspect.signature(self.backbone.forward).parameters
        return "cache" if "cache" in taken else "past_key_values"

    @torch.no_grad()
    def _check_parts(self, example: dict[str, Tensor], before: Tensor) -> None:
        super()._check_parts(example, before)
        ids = example["input_ids"]
        cut = self._run(ids[:, :-1], None)
        whole = self._run(ids, None)[:, :-1]
        if bool((cut - whole).abs().max() > 1e-4 * whole.abs().max()):
            raise ConfigError(f"{type(self.backbone).__name__} looks at later tokens; it is no left-to-right model.")
