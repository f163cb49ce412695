"""Samples: a few real examples for each role of a model, with their collator, on which loss or predictor are run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from xlm.data.endless import EndlessLoader
from xlm.datamodule import TextDataModule
from xlm.harness import Harness
from xlm.protocols import call_at, call_loss
from xlm.testing.contract import TooManyCalls
from xlm.training.rng import random_state_of
from xlm.utils.instantiate import instantiate

BATCH_SIZE = 4
# Limits that predictors take: tokens of an answer, or steps.
TOKENS = ("max_length", "max_new_tokens")
STEPS = ("max_steps", "num_steps")
# The component that reads the batches of each of core's collator roles.
_ROLES = {"lm": "loss", "seq2seq": "loss", "seq2seq_pred": "prediction", "infill": "prediction"}
_ROLES["unconditional"] = "prediction"


@dataclass(frozen=True)
class Sample:
    """A few examples of one kind; `place` is the dataloader or the collator role that they come from."""

    place: str
    role: str
    collator: Any
    examples: tuple[dict[str, Any], ...]
    max_calls: int = 0

    @property
    def name(self) -> str:
        """The dataloader's name, which is passed to the components."""
        return self.place.rpartition("/")[2]

    def collate(self, examples: Sequence[dict[str, Any]] | None = None, seed: int = 0) -> Any:
        """A batch of the examples, or of other examples; global generators start from `seed`."""
        with random_state_of(seed):
            return self.collator([dict(example) for example in (self.examples if examples is None else examples)])

    def batch(self, harness: Harness, examples: Sequence[dict[str, Any]] | None = None) -> Any:
        """The collated batch on the harness's device and in its precision."""
        return moved(self.collate(examples), harness)

    def run(self, harness: Harness, batch: Any, seed: int = 0) -> dict[str, Any]:
        """What the loss or the predictor returns for a batch; global generators start from `seed`.

        Raises TooManyCalls for a predictor that doesn't stop.
        """
        with random_state_of(seed):
            if self.role == "loss":
                return dict(call_loss(harness.loss_function, batch, 0, 0, self.name))
            with bounded_calls(self.max_calls):
                return dict(call_at(harness.predictor.predict, batch, 0, 0, self.name))


def moved(batch: Any, harness: Harness) -> Any:
    """A batch on the device and in the floating point precision of a harness's weights."""
    weight = next((p for p in harness.parameters() if p.is_floating_point()), torch.zeros(()))

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Mapping):
            return {name: move(entry) for name, entry in value.items()}
        return value

    return move(batch)


@contextmanager
def bounded_calls(limit: int) -> Iterator[None]:
    """Raise TooManyCalls when a module with weights of its own runs more than `limit` times."""
    calls: dict[int, int] = {}

    def count(module: nn.Module, _: Any) -> None:
        if module._parameters:
            calls[id(module)] = calls.get(id(module), 0) + 1
            if calls[id(module)] > limit:
                raise TooManyCalls(f"{type(module).__name__} ran more than {limit} times in one call of predict.")

    handle = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def call_limit(cfg: DictConfig) -> int:
    """More network calls than any sensible predictor makes with the lengths and steps in its configuration."""
    plain = OmegaConf.to_container(cfg.predictor, resolve=True) if cfg.get("predictor") else {}
    assert isinstance(plain, dict)
    sizes = [*(plain.get(name) for name in (*TOKENS, *STEPS)), cfg.get("block_size"), cfg.get("input_block_size")]
    return 100 + 4 * sum(size for size in sizes if isinstance(size, int))


def token_rows(predictions: Mapping[str, Any], pad_token_id: int) -> list[list[int]]:
    """The predicted rows without padding."""
    rows: list[list[int]] = predictions["ids"].tolist()
    return [[token for token in row if token != pad_token_id] for row in rows]


def find_samples(cfg: DictConfig, datamodule: TextDataModule) -> list[Sample]:
    """One sample for each different collator of the datamodule's loaders, then one for each further role."""
    found: dict[Any, Sample] = {}
    for split, name, manager in datamodule._managers(None):
        role = datamodule.role(split, name)
        collator = _unresolved(cfg, f"datamodule.dataset_managers.{split}.{name}.collator")
        key = (role, str(collator))
        if manager.rows is not None and key not in found:
            loader = manager.get_dataloader(split, datamodule.tokenizer, seed=datamodule.seed)
            assert not isinstance(loader, EndlessLoader)  # which has no rows
            data = loader.dataset
            examples = tuple(data[number] for number in range(min(len(data), BATCH_SIZE)))
            found[key] = Sample(f"{split}/{name}", role, manager.collator, examples, call_limit(cfg))
    return [*found.values(), *_of_other_roles(cfg, datamodule, list(found.values()))]


def _of_other_roles(cfg: DictConfig, datamodule: TextDataModule, known: list[Sample]) -> Iterator[Sample]:
    """Samples for roles that this datamodule doesn't use, made from its examples."""
    datamodule_cfg = str(_unresolved(cfg, "datamodule"))
    base = next((sample.examples for sample in known if sample.role == "loss"), ())
    for role in cfg.get("collators") or {}:
        if role in _ROLES and base and f"${{collators.{role}}}" not in datamodule_cfg:
            examples = tuple(as_role(str(role), example, datamodule.tokenizer) for example in base)
            yield Sample(
                f"collators/{role}", _ROLES[str(role)], instantiate(cfg.collators[role]), examples, call_limit(cfg)
            )


def as_role(role: str, example: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The example converted for another role, with the same noise."""
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


def _unresolved(cfg: DictConfig, key: str) -> Any:
    """A node of the configuration with its interpolations unresolved."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return OmegaConf.to_container(node, resolve=False)[last]  # type: ignore[index, call-overload]
