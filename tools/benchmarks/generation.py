"""Generating text: the samplers of the four families, `generate` of transformers, and samplers in their plain form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import OURS, Case, Setting, Spent, Way
from benchmarks.networks import FAMILIES, Shape, network_of, peer_of, tokenizer_of

SHAPE = Shape()
SINGLE = Shape(B=1, L=64, V=65)
LARGE = Shape(B=1, L=64, V=50257, d=256)
QUICK = Shape(B=2, L=12, d=32, V=100, layers=2, heads=2)
_EOS, _BOS, _MASK, _CLS = 3, 4, 2, 1


def cases(setting: Setting) -> list[Case]:
    """16 rows of 128 tokens, one row of a small and one of a large vocabulary; the masked families also in blocks."""
    shapes = {"16 rows": SHAPE, "one row": SINGLE, "one row, large vocabulary": LARGE}
    if setting.is_quick:
        shapes = {"rows": QUICK, "one row": replace(QUICK, B=1)}
    found = []
    for name, shape in shapes.items():
        for family in FAMILIES:
            parts = {"": ways, ", in blocks": in_blocks} if family in {"mlm", "mdlm"} else {"": ways}
            found += [
                Case(
                    "generation",
                    f"{family}, {name}{part}",
                    str(shape),
                    "tokens",
                    _opening(ways_of, family, shape),
                    1,
                    5,
                )
                for part, ways_of in parts.items()
            ]
    return found


def _opening(ways_of: Callable[..., list[Way]], family: str, shape: Shape) -> Callable[[Setting], Any]:
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        with torch.no_grad(), setting.autocast():
            yield ways_of(family, shape, setting)

    return opened


def ways(family: str, shape: Shape, setting: Setting) -> list[Way]:
    """Each fills or writes L tokens a row, by sampling from the whole distribution."""
    network = network_of(family, shape, setting.device).eval()
    tokenizer, device, units = tokenizer_of(shape), setting.device, shape.B * shape.L

    def way(name: str, run: Callable[[], Any]) -> Way:
        return _way(name, run, units)

    if family == "arlm":
        from arlm.predictor_arlm import ARLMPredictor

        _never_ends(network)
        prompt = torch.full((shape.B, 1), _BOS, device=device)
        batch = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
        predictor = ARLMPredictor(tokenizer, None, network, max_length=shape.L, temperature=1.0, seed=0)
        found = [way(OURS, lambda: predictor.predict(batch))]  # type: ignore[arg-type]
        for name in ("gpt2", "llama"):
            peer: Any = peer_of(name, shape).to(device).eval()
            lengths = {"min_new_tokens": shape.L, "max_new_tokens": shape.L}
            options = {**lengths, "do_sample": True, "top_k": 0, "pad_token_id": 0}
            found.append(way(name, lambda peer=peer, options=options: peer.generate(**batch, **options)))  # type: ignore[misc]
        return found
    if family == "ilm":
        from ilm.datamodule_ilm import ILMSeq2SeqPredCollator
        from ilm.predictor_ilm import ILMPredictor

        collated: Any = ILMSeq2SeqPredCollator(tokenizer)(
            [{"prompt_ids": [], "input_ids": [], "noise_seed": row} for row in range(shape.B)]
        )
        given = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in collated.items()}
        # No row ends by itself; max_length counts BOS's followers.
        inserter = ILMPredictor(tokenizer, None, network, max_length=shape.L, stopping_threshold=1.1, seed=0)
        return [
            way(OURS, lambda: inserter.predict(given)),  # type: ignore[arg-type]
            way("plain sampler", lambda: plain_ilm(network, shape, device)),
        ]
    filled = _masks(shape, device)
    masks, predictor = filled["input_ids"], _masked_predictor(family, shape, network)
    plain = {"mlm": lambda: plain_mlm(network, masks), "mdlm": lambda: plain_mdlm(network, masks, shape.L)}
    return [way(OURS, lambda: predictor.predict(filled)), way("plain sampler", plain[family])]


def in_blocks(family: str, shape: Shape, setting: Setting) -> list[Way]:
    """Whole texts, and four blocks from left to right, without and with a cache of keys and values."""
    network, filled = network_of(family, shape, setting.device).eval(), _masks(shape, setting.device)
    found = {OURS: _masked_predictor(family, shape, network)}
    for cache in ("none", "prefix", "dual"):
        options = {"decode_block": max(1, shape.L // 4), "cache": cache}
        found[f"{OURS}, 4 blocks, cache {cache}"] = _masked_predictor(family, shape, network, **options)
    return [
        _way(name, lambda predictor=predictor: predictor.predict(filled), shape.B * shape.L)  # type: ignore[misc]
        for name, predictor in found.items()
    ]


def _way(name: str, run: Callable[[], Any], units: int) -> Way:
    def repetition() -> Spent | None:
        run()
        return None

    return Way(name, repetition, units, "inference")


def _masks(shape: Shape, device: str) -> dict[str, Any]:
    """A batch with BOS and masks alone."""
    masks = torch.full((shape.B, shape.L), _MASK, device=device)
    masks[:, 0] = _BOS
    return {
        "input_ids": masks,
        "attention_mask": torch.ones_like(masks, dtype=torch.bool),
        "output_start_idx": 0,
        "noise_seed": torch.arange(shape.B, device=device),
    }


def _masked_predictor(family: str, shape: Shape, network: Any, **options: Any) -> Any:
    options |= {"seed": 0} if "decode_block" in options else {"seed": 0, "block_size": shape.L}
    if family == "mlm":
        from mlm.predictor_mlm import MLMPredictor

        return MLMPredictor(tokenizer_of(shape), None, network, **options)
    from mdlm.predictor_mdlm import MDLMPredictor
    from xlm.noise import LogLinearSchedule

    return MDLMPredictor(tokenizer_of(shape), LogLinearSchedule(), network, **options)


def _never_ends(network: Any) -> None:
    """Make EOS impossible, so that every row has all its tokens."""
    final = network.final_layer
    final.norm_final.bias.fill_(1.0)
    final.linear.weight[_EOS] = -1.0


# Samplers as papers write them: the whole network on every position, one draw for each, and few of them kept.


def plain_mlm(network: Any, masks: Tensor) -> Tensor:
    """One random position of each row in each call."""
    ids, rows = masks.clone(), torch.arange(len(masks), device=masks.device)
    order = torch.rand(ids.shape, device=ids.device).masked_fill(ids != _MASK, 2.0).argsort(1)
    for step in range(int((ids == _MASK).sum(1).max())):
        probabilities = network(ids, torch.ones_like(ids, dtype=torch.bool)).softmax(-1)
        drawn = torch.multinomial(probabilities.flatten(0, 1), 1).view_as(ids)
        ids[rows, order[:, step]] = drawn[rows, order[:, step]]
    return ids


def plain_mdlm(network: Any, masks: Tensor, num_steps: int) -> Tensor:
    """Ancestral sampling of the log-linear schedule (arXiv 2406.07524): from t to s, a mask stays with chance s/t."""
    ids = masks.clone()
    for step in range(num_steps, 0, -1):
        t, s = step / num_steps, (step - 1) / num_steps
        sigma = torch.full((len(ids),), -torch.tensor(1 - t * (1 - 1e-3)).log().item(), device=ids.device)
        logits = network(ids, torch.ones_like(ids, dtype=torch.bool), sigma)
        logits[..., _MASK] = -torch.inf
        drawn = torch.multinomial(logits.double().softmax(-1).flatten(0, 1), 1).view_as(ids)
        ids = torch.where((ids == _MASK) & (torch.rand(ids.shape, device=ids.device) > s / t), drawn, ids)
    return ids


def plain_ilm(network: Any, shape: Shape, device: str) -> Tensor:
    """One insertion a row in each call, drawn from all pairs of a gap and a token."""
    ids = torch.tensor([[_CLS, _BOS]], device=device).repeat(shape.B, 1)
    rows = torch.arange(shape.B, device=device)
    for _ in range(shape.L):
        types = torch.full_like(ids, 2)
        types[:, 0] = 0
        mask = torch.ones_like(ids, dtype=torch.bool)
        logits = network(ids, mask, types, torch.zeros_like(rows))[0]
        logits[:, 0] = -torch.inf
        pair = torch.multinomial(logits.flatten(1).softmax(-1), 1).squeeze(1)
        gap, token = pair // logits.shape[-1], pair % logits.shape[-1]
        columns = torch.arange(ids.shape[1] + 1, device=device)
        source = columns - (columns > gap[:, None]).long()
        ids = ids.gather(1, source.clamp(max=ids.shape[1] - 1))
        ids[rows, gap + 1] = token
    return ids
