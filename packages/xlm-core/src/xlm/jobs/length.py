"""How long a run is: epochs and tokens become optimizer steps, so that schedules end where training ends."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, open_dict

from xlm.compose.devices import num_devices
from xlm.data.loaders import CombinedTrainLoader, StatefulTrainLoader
from xlm.datamodule import TextDataModule
from xlm.errors import ConfigError
from xlm.training.rng import random_state_of
from xlm.training.train_log import num_tokens
from xlm.utils.annotations import LARGEST

# Batches whose tokens are counted: of 64 texts each, the mean is known within a percent or so.
NUM_COUNTED = 32


@dataclass(frozen=True)
class Length:
    """The optimizer steps of a run, and what they follow from."""

    steps: int
    reason: str


def settle_length(cfg: DictConfig, datamodule: TextDataModule) -> Length | None:
    """Set `trainer.max_steps` to what `max_tokens` or `trainer.max_epochs` mean; None where neither is asked for.

    With several limits the first one that is reached counts; `max_tokens` takes the place of `trainer.max_steps`.
    All processes of a run come to the same number.

    Raises:
        ConfigError: more tokens are asked for than can be counted, or batches have no `input_ids`.
    """
    max_epochs, max_tokens = cfg.trainer.get("max_epochs") or -1, cfg.get("max_tokens")
    if max_epochs <= 0 and max_tokens is None:
        return None
    datamodule.setup("fit")
    world_size = num_devices(cfg.trainer.get("devices"), cfg.trainer.get("accelerator")) * int(cfg.trainer.num_nodes)
    accumulate = int(cfg.trainer.get("accumulate_grad_batches") or 1)
    found: list[Length] = []
    if max_tokens is not None:
        per_step = _tokens_per_batch(datamodule.train_loader_of(1), cfg.seed) * world_size * accumulate
        steps = max(1, math.ceil(max_tokens / per_step))
        if steps > LARGEST:
            raise ConfigError(
                f"max_tokens={max_tokens:.3g} would be {steps:.3g} steps, which is too many.", key="max_tokens"
            )
        found.append(Length(steps, f"for {max_tokens:,.0f} tokens, about {per_step:,.0f} a step"))
    elif cfg.trainer.max_steps > 0:
        found.append(Length(int(cfg.trainer.max_steps), "trainer.max_steps"))
    if max_epochs > 0:
        num_batches = _limited(len(datamodule.train_loader_of(world_size)), cfg.trainer.get("limit_train_batches"))
        per_epoch = max(1, math.ceil(num_batches / accumulate))
        epochs = "1 epoch" if max_epochs == 1 else f"{max_epochs} epochs"
        found.append(Length(max_epochs * per_epoch, f"{epochs} of {per_epoch:,} steps"))
    shortest = min(found, key=lambda length: length.steps)
    others = [f"{length.reason}: {length.steps:,}" for length in found if length is not shortest]
    with open_dict(cfg):
        cfg.trainer.max_steps = shortest.steps
    return Length(shortest.steps, "; ".join([shortest.reason, *others]))


def _tokens_per_batch(loader: StatefulTrainLoader | CombinedTrainLoader, seed: int) -> float:
    """Mean number of tokens in a batch of one device, padding left out."""
    with random_state_of(seed):
        counts = [num_tokens(batch) for batch in itertools.islice(iter(loader), NUM_COUNTED)]
    if not sum(counts):
        raise ConfigError("max_tokens cannot be kept: the batches have no input_ids to count.", key="max_tokens")
    return sum(counts) / len(counts)


def _limited(num_batches: int, limit: Any) -> int:
    """As Lightning reads `limit_train_batches`: a number of batches, or a share of them."""
    if limit is None:
        return num_batches
    return int(num_batches * limit) if isinstance(limit, float) else min(num_batches, limit)
