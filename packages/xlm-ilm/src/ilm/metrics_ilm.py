"""Metric inputs of the insertion model: the parts of its loss, and the one number that bounds a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def insertion_ce_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """Cross-entropy of the next insertion, over the rows where something is missing; no likelihood of a sequence."""
    return {"value": loss_dict["token_ce"], "weight": (batch["n_drops"] > 0).long()}


def sampler_nll_bound_update_fn(
    batch: Mapping[str, Any], loss_dict: Mapping[str, Any], tokenizer: Any = None, **_: Any
) -> dict[str, Any]:
    """Nats per token (the end counted as one) of `ilm.loss_ilm.bound_from`.

    An upper bound in the mean, from one draw per sequence, for the sampler without filters at temperature 1 that
    draws its stops. What greedy decoding would say is another distribution, about which this says nothing.
    """
    num_tokens = batch["num_tokens"]
    return {"value": loss_dict["nll_bound"] / num_tokens, "weight": num_tokens}
