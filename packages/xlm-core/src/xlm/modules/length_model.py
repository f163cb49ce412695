"""A distribution of text lengths: counted in training, stored with the weights, used by samplers."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from xlm.sampling import sampling_dtype

# Added to each count, so that no length has probability 0 (Krichevsky and Trofimov, 1981).
_PSEUDO_COUNT = 0.5


class LengthModel(nn.Module):
    """p(N) over lengths 1 … num_lengths as (count + 1/2) / (all counts + num_lengths / 2).

    A buffer of the network, so that it is stored in checkpoints and exported weights. With several processes it
    holds the counts of the first one, a fair sample.

    Args:
        num_lengths: the greatest length, which is that of a block, since BOS may be cut off.
    """

    counts: Tensor

    def __init__(self, num_lengths: int) -> None:
        super().__init__()
        if num_lengths < 1:
            raise ValueError(f"num_text_lengths must be at least 1, got {num_lengths}")
        self.register_buffer("counts", torch.zeros(num_lengths, dtype=torch.int64))

    def count(self, lengths: Integer[Tensor, " batch"]) -> None:
        """Count the lengths of a training batch, each in 1 … num_lengths."""
        self.counts.scatter_add_(0, lengths - 1, torch.ones_like(lengths))

    def nll(self, lengths: Integer[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """−log p(N) in nats of each length in 1 … num_lengths."""
        return -self._weights().log_softmax(dim=0)[lengths - 1]

    def draw(
        self, u: Float[Tensor, " rows"], least: Integer[Tensor, " rows"], most: Integer[Tensor, " rows"]
    ) -> Integer[Tensor, " rows"]:
        """One length per row from p(N | least ≤ N ≤ most), by the inverse distribution function at u in (0, 1).

        Args:
            least, most: in 1 … num_lengths, least ≤ most.
        """
        lengths = torch.arange(1, len(self.counts) + 1, device=u.device)
        allowed = (lengths >= least[:, None]) & (lengths <= most[:, None])
        p = self._weights().masked_fill(~allowed, -torch.inf).softmax(dim=-1)
        drawn = 1 + (p.cumsum(dim=-1) < u[:, None]).sum(dim=-1)
        # Rounding may leave the last sum just below u.
        return torch.minimum(torch.maximum(drawn, least), most)

    def _weights(self) -> Float[Tensor, " lengths"]:
        """Logarithms of the counts, not normalised."""
        counts: Shaped[Tensor, " lengths"] = self.counts.to(sampling_dtype(self.counts.device))
        return (counts + _PSEUDO_COUNT).log()
