"""Share and loss of every part of a mixture during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from xlm.data.endless import EndlessLoader
from xlm.data.loaders import CombinedTrainLoader
from xlm.utils.rank_zero import all_gather_objects

SHARE, LOSS = "part_share", "part_loss"


class PartLog:
    """Counts the examples of parts, and averages their losses over loss terms, since the values were last read.

    Args:
        names: of each loader, the parts of its mixture.
    """

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._names = {loader: list(parts) for loader, parts in names.items() if parts}
        self._sums = self._zeros()

    def _zeros(self) -> dict[str, list[list[float]]]:
        """By loader and part: examples, the sum of loss · terms, terms."""
        return {loader: [[0.0, 0.0, 0.0] for _ in parts] for loader, parts in self._names.items()}

    def count(self, loader: str, parts: Int[Tensor, " batch"]) -> None:
        """Count the examples of a batch, given the part of each row."""
        for part, number in enumerate(torch.bincount(parts, minlength=len(self._names[loader])).tolist()):
            self._sums[loader][part][0] += number

    def measure(
        self,
        loader: str,
        batches: Mapping[int, Any],
        device: torch.device,
        outputs_of: Callable[[Any], Mapping[str, Any]],
    ) -> None:
        """Add the losses of one batch per part; the network runs once more, without gradients.

        Afterwards the global random state is that of before, so training does not depend on it.
        """
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for part, batch in batches.items():
                outputs = outputs_of(batch)
                terms = float(outputs.get("num_loss_terms", num_rows(batch)))
                if terms:
                    sums = self._sums[loader][part]
                    sums[1] += float(outputs["loss"]) * terms
                    sums[2] += terms

    def state(self) -> dict[str, list[list[float]]]:
        """What has been counted on this process since the values were last read."""
        return {loader: [list(sums) for sums in found] for loader, found in self._sums.items()}

    def load(self, state: Mapping[str, list[list[float]]]) -> None:
        """Continue from a `state`; loaders whose parts have changed start anew."""
        for loader, found in state.items():
            if len(found) == len(self._sums.get(loader, ())):
                self._sums[loader] = [list(sums) for sums in found]

    def pop(self) -> dict[str, float]:
        """`train/<loader>.<part>/part_share` and `…/part_loss`, over all processes, all of which must call this."""
        if not self._names:
            return {}
        everywhere, self._sums = all_gather_objects(self._sums), self._zeros()
        values: dict[str, float] = {}
        for loader, names in self._names.items():
            sums = torch.tensor([each[loader] for each in everywhere], dtype=torch.float64).sum(0).tolist()
            total = sum(examples for examples, _, _ in sums)
            for name, (examples, loss, terms) in zip(names, sums, strict=True):
                if total:
                    values[f"train/{loader}.{name}/{SHARE}"] = examples / total
                if terms:
                    values[f"train/{loader}.{name}/{LOSS}"] = loss / terms
        return values


def num_rows(batch: Mapping[str, Any]) -> int:
    """The number of examples in a batch: the length of its first tensor, 0 without any."""
    return next((len(v) for v in batch.values() if isinstance(v, Tensor) and v.ndim), 0)


def shares_of_run(loader: Any, names: Sequence[str]) -> dict[str, float]:
    """The share of each part among all examples of a run so far, named as in `PartLog.pop`.

    Args:
        loader: the training loader.
        names: of the loaders side by side; one name for a single loader.
    """
    single = {} if isinstance(loader, CombinedTrainLoader) else dict.fromkeys(names[:1], loader)
    loaders: Mapping[str, Any] = loader.loaders if isinstance(loader, CombinedTrainLoader) else single
    return {
        f"train/{name}.{part}/{SHARE}": share
        for name, each in loaders.items()
        if isinstance(each, EndlessLoader)
        for part, share in each.shares().items()
    }
