"""Real examples with the collator that makes batches of them, for every role that a model fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from xlm.datamodule import TextDataModule
from xlm.harness import Harness
from xlm.protocols import call_at, call_loss
from xlm.testing.prediction import bounded_calls, call_limit
from xlm.testing.small import BATCH_SIZE
from xlm.training.rng import random_state_of
from xlm.utils.instantiate import instantiate

Examples = list[dict[str, Any]]
# What reads the batches of core's roles that a dataset may ask for.
_ROLES = {"lm": "loss", "seq2seq": "loss", "seq2seq_pred": "prediction", "infill": "prediction"}
_ROLES["unconditional"] = "prediction"


@dataclass(frozen=True)
class Sample:
    """A few examples of one kind; `place` is the dataloader or the role that they come from."""

    place: str
    role: str
    collator: Any
    examples: tuple[dict[str, Any], ...]
    max_calls: int = 0

    @property
    def name(self) -> str:
        """The dataloader's name, as components are told it."""
        return self.place.rpartition("/")[2]

    def collate(self, examples: Sequence[dict[str, Any]] | None = None, seed: int = 0) -> Any:
        """A batch of the examples, or of others of their kind; global generators start from `seed`."""
        with random_state_of(seed):
            return self.collator([dict(example) for example in (self.examples if examples is None else examples)])

    def batch(self, harness: Harness, examples: Sequence[dict[str, Any]] | None = None) -> Any:
        """The same on the harness' device and in its precision."""
        return moved(self.collate(examples), harness)

    def run(self, harness: Harness, batch: Any, seed: int = 0) -> dict[str, Any]:
        """What the loss or the predictor makes of a batch; global generators start from `seed`.

        TooManyCalls ends a predictor that would not end by itself.
        """
        with random_state_of(seed):
            if self.role == "loss":
                return dict(call_loss(harness.loss_function, batch, 0, 0, self.name))
            with bounded_calls(self.max_calls):
                return dict(call_at(harness.predictor.predict, batch, 0, 0, self.name))


def moved(batch: Any, harness: Harness) -> Any:
    """A batch on the device and in the floating point precision of a harness' weights."""
    weight = next((p for p in harness.parameters() if p.is_floating_point()), torch.zeros(()))

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Mapping):
            return {name: move(entry) for name, entry in value.items()}
        return value

    return move(batch)


def find_samples(cfg: DictConfig, datamodule: TextDataModule) -> list[Sample]:
    """One for each different collator of the datamodule's loaders, then for each further role of the model's."""
    found: dict[Any, Sample] = {}
    for split, name, manager in datamodule._managers(None):
        role = datamodule.role(split, name)
        collator = _written(cfg, f"datamodule.dataset_managers.{split}.{name}.collator")
        key = (role, str(collator))
        if manager.rows is not None and key not in found:
            data = manager.get_dataloader(split, datamodule.tokenizer, seed=datamodule.seed).dataset
            examples = tuple(data[number] for number in range(min(len(data), BATCH_SIZE)))
            found[key] = Sample(f"{split}/{name}", role, manager.collator, examples, call_limit(cfg))
    return [*found.values(), *_of_other_roles(cfg, datamodule, list(found.values()))]


def _of_other_roles(cfg: DictConfig, datamodule: TextDataModule, known: list[Sample]) -> Iterator[Sample]:
    """Batches of roles that this datamodule doesn't ask for, made of its examples."""
    asked = str(_written(cfg, "datamodule"))
    base = next((sample.examples for sample in known if sample.role == "loss"), ())
    for role in cfg.get("collators") or {}:
        if role in _ROLES and base and f"${{collators.{role}}}" not in asked:
            examples = tuple(as_role(str(role), example, datamodule.tokenizer) for example in base)
            yield Sample(
                f"collators/{role}", _ROLES[str(role)], instantiate(cfg.collators[role]), examples, call_limit(cfg)
            )


def as_role(role: str, example: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """An example of another kind with the same noise."""
    rest = {name: value for name, value in example.items() if name.startswith("noise_")}
    ids = list(example["input_ids"])
    if role == "unconditional":
        return {"input_ids": [], **rest}
    if role == "lm":
        return {"input_ids": ids, **rest}
    if role == "infill":
        gaps = [tokenizer.mask_token_id if place % 3 == 1 else token for place, token in enumerate(ids)]
        return {"prompt_ids": gaps, "input_ids": ids, **rest}
    prompt = list(example.get("prompt_ids") or ids[: len(ids) // 2])
    return {"prompt_ids": prompt, "input_ids": ids, **rest}


def _written(cfg: DictConfig, key: str) -> Any:
    """A node as it is written, interpolations kept."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.to_container(node, resolve=False)[last]  # type: ignore[index, call-overload]
