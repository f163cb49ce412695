"""Keys and values of tokens already seen, per layer, so that each token passes the network once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor


class LayerKVCache:
    """One layer's keys and values, (B, H, capacity, dim), allocated at the first append from what comes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(
        self, keys: Float[Tensor, "batch heads new dim"], values: Float[Tensor, "batch heads new dim"]
    ) -> tuple[Float[Tensor, "batch heads total dim"], Float[Tensor, "batch heads total dim"]]:
        """Store these tokens' keys and values; returns views on all stored so far, oldest first."""
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"KV cache is full: {self.length} tokens stored, {end - self.length} more, room {self.capacity}"
            )
        if self._keys is None or self._values is None:
            shape = (keys.shape[0], keys.shape[1], self.capacity, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        elif self._keys.shape[0] != keys.shape[0]:
            raise ValueError(f"KV cache holds {self._keys.shape[0]} rows, got {keys.shape[0]}")
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def select(self, rows: Integer[Tensor, " kept"]) -> None:
        """Keep these rows, in this order; a row may be named twice."""
        if self._keys is not None and self._values is not None:
            self._keys = _select_rows(self._keys, rows, self.length)
            self._values = _select_rows(self._values, rows, self.length)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)


def _select_rows(stored: Tensor, rows: Tensor, length: int) -> Tensor:
    kept = stored[:, :, :length].index_select(0, rows)
    num_rows = rows.numel()
    # Into the head of the same buffer: a second one is never alive, and only what is filled is copied.
    target = stored[:num_rows] if num_rows <= stored.shape[0] else stored.new_empty((num_rows, *stored.shape[1:]))
    target[:, :, :length] = kept
    return target


class KVCache:
    """The caches of all layers, with what they share: length, padding and each row's next position.

    A forward pass calls `advance` once, then gives `cache[i]` to layer i. Rows may be left-padded; ended rows
    leave by `select`. For a causal model the result is that of one pass over the whole sequence.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.layers = [LayerKVCache(capacity) for _ in range(num_layers)]
        # (B, capacity) and (B,), once some token was padding; until then every row has `length` real tokens.
        self._mask: Tensor | None = None
        self._num_real: Tensor | None = None

    def __getitem__(self, layer: int) -> LayerKVCache:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    def advance(
        self, input_ids: Integer[Tensor, "batch new"], attention_mask: Bool[Tensor, "batch new"] | None = None
    ) -> tuple[Integer[Tensor, "*batch new"], Bool[Tensor, "batch total"] | None]:
        """Announce the tokens of this pass: returns their positions and the mask over all keys with theirs.

        attention_mask says which of the new tokens are real (None: all). Positions count real tokens only, so
        left padding changes nothing. The mask is None while every token so far is real.
        """
        start, end = self.length, self.length + input_ids.shape[1]
        if end > self.capacity:
            raise ValueError(f"KV cache is full: {start} tokens stored, {end - start} more, room {self.capacity}")
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask is {tuple(attention_mask.shape)}, the new tokens are {tuple(input_ids.shape)}"
            )
        self.length = end
        if attention_mask is None and self._mask is None:
            return torch.arange(start, end, device=input_ids.device), None
        if self._mask is None or self._num_real is None:
            self._mask = torch.zeros(input_ids.shape[0], self.capacity, dtype=torch.bool, device=input_ids.device)
            self._mask[:, :start] = True
            self._num_real = self._mask[:, :start].sum(dim=-1)
        self._mask[:, start:end] = True if attention_mask is None else attention_mask
        counted = self._num_real.unsqueeze(-1) + self._mask[:, start:end].long().cumsum(dim=-1)
        self._num_real = counted[:, -1]
        return (counted - 1).clamp_(min=0), self._mask[:, :end]

    def select(self, rows: Integer[Tensor, " kept"] | Bool[Tensor, " batch"]) -> None:
        """Keep these rows (indices in the new order, or a bool per row); they decode on as if alone."""
        index = rows.nonzero().squeeze(-1) if rows.dtype == torch.bool else rows
        for layer in self.layers:
            layer.select(index)
        if self._mask is not None and self._num_real is not None:
            self._mask, self._num_real = self._mask[index], self._num_real[index]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of every row, for instance a rejected block."""
        if length >= self.length:
            return
        if self._mask is not None and self._num_real is not None:
            self._num_real = self._num_real - self._mask[:, length : self.length].sum(dim=-1)
        for layer in self.layers:
            layer.truncate(length)
        self.length = length
