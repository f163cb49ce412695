"""A convolution over a token and its two neighbours, a weight per channel: what attention is slow to learn."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad


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
        self, x: Float[Tensor, "batch length d_model"], attention_mask: Bool[Tensor, "*mask"] | None = None
    ) -> Float[Tensor, "batch length d_model"]:
        """attention_mask None, (B, L) or (B, L, L), True = attend: a hidden neighbour counts as none."""
        left, right = pad(x[:, :-1], (0, 0, 1, 0)), pad(x[:, 1:], (0, 0, 0, 1))
        if attention_mask is not None:
            seen_left, seen_right = _visible_neighbours(attention_mask)
            left, right = left * seen_left.unsqueeze(-1), right * seen_right.unsqueeze(-1)
        return torch.addcmul(torch.addcmul(x, self.weight[0], left), self.weight[1], right)


def _visible_neighbours(mask: Bool[Tensor, "*mask"]) -> tuple[Tensor, Tensor]:
    """(B, L) twice: whether each token may see the one before it, and the one behind it."""
    if mask.ndim == 2:
        before, behind = mask[:, :-1], mask[:, 1:]
    else:
        before, behind = mask.diagonal(-1, 1, 2), mask.diagonal(1, 1, 2)
    return pad(before, (1, 0)), pad(behind, (0, 1))
