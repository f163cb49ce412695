"""Training steps of the four families beside networks of transformers and losses as textbooks write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import OURS, Case, Setting, Way
from benchmarks.networks import FAMILIES, Shape, adamw, collator_of, examples_of, network_of, parts_of, peer_of, to
from benchmarks.networks import tokenizer_of as tokenizer

# Networks of transformers that learn from the same batches.
PEERS = {"arlm": ("gpt2", "llama"), "mlm": ("bert", "modernbert"), "mdlm": (), "ilm": ()}
SHAPE = Shape()
LARGE = Shape(B=8, V=50257, d=256)
QUICK = Shape(B=4, L=32, d=32, V=200, layers=2, heads=2)
_NUM_BATCHES = 4
_MASK = 2


def cases(setting: Setting) -> list[Case]:
    """Full rows, rows of unequal lengths and a large vocabulary, for every family."""
    shape, large = (QUICK, replace(QUICK, V=2000)) if setting.is_quick else (SHAPE, LARGE)
    found = []
    for family in FAMILIES:
        for name, sizes, shortest in (
            ("full rows", shape, 1.0),
            ("rows of unequal lengths", shape, 0.1),
            ("large vocabulary", large, 1.0),
        ):
            found.append(
                Case("training", f"{family}, {name}", str(sizes), "tokens", _opening(family, sizes, shortest), 2)
            )
    return found


def _opening(family: str, shape: Shape, shortest: float) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        yield ways(family, shape, shortest, setting)

    return opened


def ways(family: str, shape: Shape, shortest: float, setting: Setting) -> list[Way]:
    """A step of AdamW: ours, packed if rows are ragged, the plain form of the loss, and networks of transformers."""
    found = [ours(family, shape, setting, shortest)]
    if shortest < 1:
        found.append(ours(family, shape, setting, shortest, is_packed=True))
    batches, tokens = _batches(family, shape, shortest, setting)
    network = network_of(family, shape, setting.device)

    def way(name: str, network: nn.Module, loss: Callable[[Any], Tensor], given: list[Any]) -> Way:
        return Way(name, _step(network.train(), loss, given, setting), tokens, "training")

    found.append(way("plain loss", network, lambda batch: PLAIN[family](network, batch), batches))
    for name in PEERS[family]:
        peer = peer_of(name, shape).to(setting.device)
        given = [_for_transformers(batch) for batch in batches]
        found.append(way(name, peer, lambda batch, peer=peer: peer(**batch).loss, given))  # type: ignore[misc]
    return found


def ours(family: str, shape: Shape, setting: Setting, shortest: float = 1.0, is_packed: bool = False) -> Way:
    """A step of the family's own network and loss."""
    batches, tokens = _batches(family, shape, shortest, setting, is_packed)
    network = network_of(family, shape, setting.device)
    loss = parts_of(family)[1](network, tokenizer(shape))
    step = _step(network.train(), lambda batch: loss.loss_fn(batch)["loss"], batches, setting)
    return Way(f"{OURS}, packed" if is_packed else OURS, step, tokens, "training")


def _batches(
    family: str, shape: Shape, shortest: float, setting: Setting, is_packed: bool = False
) -> tuple[list[Any], float]:
    """Batches on the device, and the tokens of their texts in one batch, on average."""
    from xlm.data.batching import PackedCollator

    collate = collator_of(family, shape)
    texts = examples_of(shape, shape.B * _NUM_BATCHES, shortest)
    rows = [texts[start : start + shape.B] for start in range(0, len(texts), shape.B)]
    tokens = sum(len(text["input_ids"]) + 2 for text in texts) / _NUM_BATCHES
    if is_packed:
        collate = PackedCollator(collate)
    return [to(collate(part), setting.device) for part in rows], tokens


def _step(network: nn.Module, loss: Callable[[Any], Tensor], batches: list[Any], setting: Setting) -> Any:
    optimizer, turn = adamw(network), itertools.cycle(batches)

    def run() -> None:
        with setting.autocast():
            value = loss(next(turn))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def _for_transformers(batch: dict[str, Any]) -> dict[str, Tensor]:
    """The inputs and labels of the same batch; causal models shift the labels themselves."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if "maskable" not in batch:
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~mask.bool(), -100)}
    chosen = torch.zeros_like(ids, dtype=torch.bool).flatten()
    chosen[batch["target_index"]] = True
    labels = batch["target_ids"].masked_fill(~chosen.view_as(ids), -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# Losses as textbooks and papers write them, on the logits of all positions.


def _plain_arlm(network: Any, batch: Any) -> Tensor:
    logits = network(batch["input_ids"], batch["attention_mask"].bool())
    return F.cross_entropy(logits.transpose(1, 2), batch["target_ids"], ignore_index=-100)


def _plain_mlm(network: Any, batch: Any) -> Tensor:
    logits = network(batch["input_ids"], batch["attention_mask"].bool())
    logits = logits.index_fill(-1, torch.tensor([_MASK], device=logits.device), -torch.inf)  # never a token of a text
    return F.cross_entropy(logits.transpose(1, 2), _for_transformers(batch)["labels"], ignore_index=-100)


def _plain_mdlm(network: Any, batch: Any) -> Tensor:
    """SUBS on all positions (arXiv 2406.07524): log p of the targets, weighted per row."""
    logits = network(batch["input_ids"], batch["attention_mask"].bool(), batch["sigma"])
    logits = logits.index_fill(-1, torch.tensor([_MASK], device=logits.device), -torch.inf)
    labels = _for_transformers(batch)["labels"]
    nll = -logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    weighted = torch.where(labels >= 0, nll, 0.0).sum(1) * batch["weight"]
    return weighted.sum() / batch["num_tokens"].sum()


def _plain_ilm(network: Any, batch: Any) -> Tensor:
    """A target for every (gap, token) of every row (arXiv 2505.05755)."""
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    logits, class_logits = network(ids, mask, batch["token_type_ids"], batch["cls_position"])
    target = torch.zeros_like(logits)
    for slot, token, count in zip(
        *(batch[f"target_{n}"].unbind(1) for n in ("slots", "tokens", "counts")), strict=True
    ):
        target[torch.arange(len(logits), device=ids.device), slot, token] += count
    n = target.sum(dim=(1, 2))
    excluded = batch["constraint"][..., None]
    log_p = logits.masked_fill(excluded, -1e9).flatten(1).log_softmax(-1).view_as(logits)
    stop = F.cross_entropy(class_logits, (n > 0).long(), reduction="none")
    return (-(target * log_p).sum(dim=(1, 2)) / n.clamp(min=1) + stop).mean()


PLAIN: dict[str, Callable[[Any, Any], Tensor]] = {
    "arlm": _plain_arlm, "mlm": _plain_mlm, "ilm": _plain_ilm, "mdlm": _plain_mdlm,
}  # fmt: skip
