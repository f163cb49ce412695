"""Loads those weights of another model that fit, and lists the others: the start of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xlm.errors import CheckpointError
from xlm.model import fill_tied
from xlm.training.weights import is_derived
from xlm.utils.weight_files import without_wrappers

_MOST_NAMES = 6


@dataclass
class PartialLoad:
    """What became of each tensor of a network and of a file; shapes are (in the file, in the network).

    Args:
        loaded: taken as they are.
        rows: of these, only the rows of tokens that both vocabularies have: name → (rows taken, rows in the network).
        missing: not in the file; they keep their new values.
        shapes: of another shape; they keep their new values.
        unexpected: not in the network.
        share: of the network's values that were loaded, between 0 and 1.
    """

    loaded: list[str] = field(default_factory=list)
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    share: float = 0.0

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        total = len(self.loaded) + len(self.rows) + len(self.missing) + len(self.shapes)
        lines = [f"{len(self.loaded) + len(self.rows)} of {total} tensors loaded, {self.share:.1%} of the weights"]
        lines += _listed("only the rows of common tokens", [f"{n} ({a} of {b})" for n, (a, b) in self.rows.items()])
        lines += _listed("new, because of another shape", [f"{n} {a} → {b}" for n, (a, b) in self.shapes.items()])
        lines += _listed("new, because the source has no such tensor", self.missing)
        lines += _listed("not used, because this model has no such tensor", self.unexpected)
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The same for a run's record."""
        return {
            "share": round(self.share, 6),
            "loaded": len(self.loaded),
            "rows": {name: list(counts) for name, counts in self.rows.items()},
            "other_shape": {name: [list(a), list(b)] for name, (a, b) in self.shapes.items()},
            "missing": self.missing,
            "unexpected": self.unexpected,
        }


def _listed(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = f" and {len(items) - _MOST_NAMES} more" if len(items) > _MOST_NAMES else ""
    return [f"{title}: {', '.join(items[:_MOST_NAMES])}{more}"]


@torch.no_grad()
def load_what_fits(
    module: nn.Module,
    network: nn.Module,
    state_dict: Mapping[str, torch.Tensor],
    source: str | Path,
    token_rows: Mapping[int, int] | None = None,
) -> PartialLoad:
    """Load the tensors whose names and shapes agree into a module; the others keep their values.

    Args:
        module: its state dict names the tensors of `state_dict`.
        network: the part of `module` that embeds tokens.
        state_dict: the weights of another model.
        source: for messages.
        token_rows: row of a token here → its row in the source, if the vocabularies differ. Tables with a row per token
            then take these rows only.

    Raises:
        CheckpointError: no matrix of its layers fits; nothing was changed.
    """
    own = module.state_dict()
    found = without_wrappers(state_dict, own, source)
    fill_tied(found, own)
    tables = {id(p) for p in vocabulary_tables(network)} if token_rows is not None else set()
    places = {name: id(p) for name, p in module.named_parameters(remove_duplicate=False)}
    result = PartialLoad(unexpected=sorted(name for name in found.keys() - own.keys() if not is_derived(name)))
    new: dict[str, torch.Tensor] = {}
    num_values = 0
    for name, tensor in own.items():
        other = found.get(name)
        if other is None:
            result.missing += [] if is_derived(name) else [name]
        elif token_rows is not None and places.get(name) in tables and other.shape[1:] == tensor.shape[1:]:
            pairs = [(a, b) for a, b in token_rows.items() if a < len(tensor) and b < len(other)]
            new[name] = tensor.clone()
            new[name][[a for a, _ in pairs]] = other[[b for _, b in pairs]].to(tensor)
            result.rows[name] = (len(pairs), len(tensor))
            num_values += len(pairs) * tensor[:1].numel()
        elif other.shape != tensor.shape:
            if not is_derived(name):
                result.shapes[name] = (tuple(other.shape), tuple(tensor.shape))
        else:
            new[name] = other
            result.loaded.append(name)
            num_values += tensor.numel()
    core = layers_of(network) or places.values()
    if not any(new[name].ndim >= 2 and places.get(name) in core for name in result.loaded):
        raise CheckpointError(f"Nothing in {source} fits this model.{_why(result)}", path=Path(source))
    module.load_state_dict({**own, **new})
    result.share = num_values / max(1, sum(tensor.numel() for tensor in own.values()))
    return result


def _why(result: PartialLoad) -> str:
    if result.shapes:
        name, (theirs, ours) = max(result.shapes.items(), key=lambda item: len(item[1][0]))
        return f" For example, {name} has the shape {theirs} there and {ours} here: give the same sizes (model=…)."
    names = f"{result.unexpected[0]} there, {result.missing[0]} here" if result.unexpected and result.missing else ""
    return f" Its tensors have other names ({names}): it is a model of another kind." if names else ""


def layers_of(network: nn.Module) -> set[int]:
    """Identities of the parameters of stacked layers."""
    stacks = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return {id(p) for stack in stacks for p in stack.parameters()}


def vocabulary_tables(network: nn.Module) -> Iterator[nn.Parameter]:
    """Weights and biases with a row per token: the largest embedding, and linear maps outside layers of that many rows.

    Padded rows count as rows.
    """
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    if not embeddings:
        return
    size = max(module.num_embeddings for module in embeddings)
    inside = layers_of(network)
    for module in network.modules():
        is_output = isinstance(module, nn.Linear) and module.out_features == size and id(module.weight) not in inside
        if is_output or (isinstance(module, nn.Embedding) and module.num_embeddings == size):
            yield from module.parameters(recurse=False)
