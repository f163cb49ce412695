"""Generates text for prompts: answers, continuations, and filled blanks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from xlm.decoding.infill_syntax import (
    Blank,
    has_blanks,
    shortened,
    split_blanks,
    text_before_its_only_blank,
    with_masks,
)
from xlm.decoding.trace import recording
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.evaluation.cost import counting_calls
from xlm.harness import Harness
from xlm.inference.prompts import warn, warn_of_unknown_words
from xlm.training.rng import random_state_of
from xlm.utils.imports import get_function
from xlm.utils.instantiate import components

MODES = ("auto", "answer", "continue", "infill")
# The tokens of a blank without a number, for a model that needs one.
BLANK_TOKENS = 3
# The temperature of several samples if the sampler is greedy: the model's own distribution.
DRAWN = 1.0
_FROM_HARNESS = ("self", "tokenizer", "noise_schedule", "model")


@dataclass(frozen=True)
class Sample:
    """One generated text, and what it depends on.

    Args:
        prompt: the prompt as given.
        text: an answer, a continuation, or the prompt with its blanks filled; without special tokens.
        mode: answer, continue or infill.
        number: index among the samples of this prompt, from 0.
        seed: random seed of all samples of the call.
        network_calls: number of network calls for this text; None if the predictor doesn't report it.
    """

    prompt: str
    text: str
    mode: str
    number: int
    seed: int
    network_calls: float | None


@dataclass(frozen=True)
class _Request:
    """A prompt as the predictor gets it; `before` is put in front of the output.

    `length_is_chosen`: a blank of any length became one of `BLANK_TOKENS` tokens.
    """

    prompt: str
    given: str
    mode: str
    before: str = ""
    length_is_chosen: bool = False


class Writer:
    """Calls the predictor of a harness with prompts as text.

    Args:
        harness: in evaluation mode on its device.
        live: the objects that the configuration's late values (`${tokenizer:…}`) read.
    """

    def __init__(self, harness: Harness, live: dict[str, Any]) -> None:
        self.harness = harness
        self.live = live

    @property
    def continues(self) -> bool:
        """Whether prompts are the beginnings of texts, because the model learnt whole texts and no answers."""
        return prompt_mode(self.harness.config) == "continue"

    @property
    def fills(self) -> bool:
        """Whether the model has the role `infill`."""
        return "infill" in (self.harness.config.get("collators") or {})

    @property
    def name(self) -> str:
        """The name of the model family."""
        return str(self.harness.config.get("model_name"))

    @property
    def options(self) -> dict[str, Any]:
        """All options of the sampler with their values; empty if the model has no sampler."""
        node = self.harness.config.get("predictor")
        if node is None:
            return {}
        taken = inspect.signature(get_function(node["_target_"])).parameters
        with components(**self.live):
            return {
                name: OmegaConf.to_container(node[name], resolve=True)
                if OmegaConf.is_config(node.get(name))
                else node.get(name, parameter.default)
                for name, parameter in taken.items()
                if name not in _FROM_HARNESS and parameter.kind is not inspect.Parameter.VAR_KEYWORD
            }

    def write(
        self,
        prompts: Sequence[str],
        num_samples: int = 1,
        *,
        seed: int,
        mode: str = "auto",
        batch_size: int = 64,
        options: dict[str, Any] | None = None,
    ) -> list[Sample]:
        """Generate samples for each prompt, one after the other.

        Args:
            prompts: texts of any length; an empty one gives an unconditional sample.
            num_samples: samples per prompt. Several are drawn with temperature 1 if the sampler is greedy.
            seed: random seed of all samples.
            mode: what to do with prompts. "auto": fill prompts with blanks or masks, else continue if the model was
                trained on whole texts, else answer.
            batch_size: rows at once.
            options: sampler options that replace those of the configuration.

        Raises:
            ConfigError: the predictor has no such option, the model cannot do this, or a prompt is too long for it.
        """
        if num_samples < 0 or batch_size < 1:
            raise ConfigError(f"num_samples is {num_samples} and batch_size {batch_size}; the minimum is 0 and 1.")
        if mode not in MODES:
            raise ConfigError(f"The mode is '{mode}', and must be one of: {', '.join(MODES)}.")
        options = dict(options or {})
        if self.options.get("seed") is not None:
            options = {"seed": None, **options}  # with the predictor's own seed, all batches would be the same
        if num_samples > 1 and "temperature" not in options:
            options |= drawing_options(self.harness.predictor)
        predictor = self._predictor(options)
        requests = [self._request(predictor, prompt, mode) for prompt in prompts]
        if any(request.length_is_chosen for request in requests):
            warn(
                f"{self.name} fills blanks of a known length, so ___ is read as ___[{BLANK_TOKENS}] here. Write the "
                "number of tokens: ___[5]."
            )
        warn_of_unknown_words(self.harness.tokenizer, (request.given for request in requests))
        rows = [(request, number) for request in requests for number in range(num_samples)]
        samples: list[Sample] = []
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                with random_state_of((seed + start) % 2**63):
                    written = _written(predictor, [request for request, _ in batch])
                samples += [
                    Sample(request.prompt, text, request.mode, number, seed, calls)
                    for (request, number), (text, calls) in zip(batch, written, strict=True)
                ]
        return samples

    def _request(self, predictor: Any, prompt: str, mode: str) -> _Request:
        """The request to the predictor; ConfigError if the model cannot do it."""
        mask = getattr(self.harness.tokenizer, "mask_token", None)
        has_masks = bool(mask) and str(mask) in prompt
        is_auto = mode == "auto"
        if mode == "auto":
            mode = "infill" if has_masks or has_blanks(prompt) else "continue" if self.continues else "answer"
        if mode == "infill":
            request = self._infilling(predictor, prompt, has_masks, is_auto)
        else:
            if mode == "continue" and not self.continues:
                raise ConfigError(
                    f"This {self.name} was trained on answers to prompts, not on whole texts. It cannot continue a "
                    "text, only answer it (generate)."
                )
            request = _Request(prompt, prompt, mode)
        if request.mode == "continue" and not callable(getattr(predictor, "continue_text", None)):
            request = _Request(prompt, request.given, "answer", request.before)
        self._check_length(request)
        return request

    def _infilling(self, predictor: Any, prompt: str, has_masks: bool, is_auto: bool) -> _Request:
        parts = split_blanks(prompt)
        blanks = [part for part in parts if isinstance(part, Blank)]
        if not blanks and not has_masks:
            raise ConfigError(f"The text {shortened(prompt)!r} has no blank to fill: write ___ where one is.")
        any_length = self.fills and getattr(predictor, "fills_any_length", False)
        before = None if any_length or has_masks else text_before_its_only_blank(prompt)
        if before is not None and self.continues:
            return _Request(prompt, before.rstrip(), "continue", before.rstrip())
        if not self.fills:
            can = "; it can only continue a text with one blank, ___, at its end" if self.continues else ""
            what = "masks" if has_masks else "blanks"
            raise ConfigError(
                f"The prompt {shortened(prompt)!r} has {what}, and {self.name} cannot fill any: "
                f"it has no role 'infill'{can}."
            )
        for blank in blanks:
            if any_length and blank.num_tokens is not None:
                raise ConfigError(f"{self.name} chooses the length of a blank: write ___ instead of {blank}.")
            if not any_length and blank.num_tokens is None and not is_auto:
                raise ConfigError(
                    f"{self.name} fills blanks of a known length only: write ___[3] for three tokens, in "
                    f"{shortened(prompt)!r}."
                )
        chosen = Blank() in blanks and not any_length
        parts = [Blank(BLANK_TOKENS) if chosen and part == Blank() else part for part in parts]
        return _Request(prompt, with_masks(parts, self.harness.tokenizer), "infill", length_is_chosen=chosen)

    def _check_length(self, request: _Request) -> None:
        """ConfigError for a prompt that is longer than anything in the model's training."""
        config = self.harness.config
        block, prompt_block = config.get("block_size"), config.get("input_block_size")
        if request.mode == "infill":
            keys = ("block_size",) if self.continues else ("input_block_size", "block_size")
            limit = None if block is None else block - 2 + (0 if self.continues else prompt_block or 0)
        elif self.continues:
            keys, limit = ("block_size",), None if block is None else block - 1
        else:
            keys, limit = ("input_block_size",), prompt_block
        if limit is None:
            return
        length = len(self.harness.tokenizer(request.given, add_special_tokens=False)["input_ids"])
        if length > limit:
            raise ConfigError(
                f"The prompt {shortened(request.prompt)!r} has {length} tokens, and this model takes at most {limit} "
                f"({' + '.join(keys)})."
            )

    def _predictor(self, options: dict[str, Any]) -> Any:
        """The harness' predictor, or one with other options for the same network."""
        predictor = self.harness.predictor
        if predictor is None or not callable(getattr(predictor, "generate", None)):
            missing = (
                "There is no predictor"
                if predictor is None
                else f"{type(predictor).__name__} has no generate(list[str])"
            )
            raise ConfigError(f"{missing}, so this model cannot generate text.")
        if not options:
            return predictor
        for name in options:
            if name not in self.options:
                hint = did_you_mean(nearest_names(name, self.options, 1))
                raise ConfigError(
                    f"{type(predictor).__name__} has no option '{name}'. Options: {', '.join(self.options)}. "
                    f"{hint}".rstrip(),
                    key=name,
                )
        with components(**self.live):
            return self.harness.predictor_with(options)


def drawing_options(predictor: Any) -> dict[str, float]:
    """The option that makes a greedy sampler draw several samples, with a message; empty if they differ anyway."""
    if not getattr(predictor, "is_greedy", False):
        return {}
    warn(
        "predictor.temperature=0 always generates the same text, so these samples are drawn with temperature "
        f"{DRAWN:g}. Set predictor.temperature=… for another one."
    )
    return {"temperature": DRAWN}


def prompt_mode(cfg: DictConfig) -> str:
    """What a model does with a prompt: "continue" it as the beginning of a text, or "answer" it as a question.

    The dataset sets it (`prompt_mode`). Without it, a model was trained on whole texts if some loader has the
    collator of the role `lm` and no loader has that of `seq2seq`.
    """
    if cfg.get("prompt_mode"):
        return str(cfg.prompt_mode)
    managers = OmegaConf.select(cfg, "datamodule.dataset_managers") or {}
    loaders = [node for split in managers.values() if split for node in split.values() if node]
    collators = {str(node._get_node("collator")) for node in loaders if OmegaConf.is_dict(node)}
    of_answers = any(collator.startswith("${collators.seq2seq") for collator in collators)
    return "continue" if "${collators.lm}" in collators and not of_answers else "answer"


def _written(predictor: Any, requests: Sequence[_Request]) -> list[tuple[str, float | None]]:
    """Text and network calls of each request; requests of one mode run together."""
    found: list[tuple[str, float | None]] = [("", None)] * len(requests)
    asked: list[int] = []
    for mode in ("continue", "answer", "infill"):
        places = [place for place, request in enumerate(requests) if request.mode == mode]
        if not places:
            continue
        write: Callable[[list[str]], list[str]]
        write = predictor.continue_text if mode == "continue" else predictor.generate
        with counting_calls(predictor) as calls:
            texts = write([requests[place].given for place in places])
        # Calls cannot be counted if a predictor's generate doesn't use predict.
        counts = calls if len(calls) == len(places) else [None] * len(places)
        asked += places
        for place, text, count in zip(places, texts, counts, strict=True):
            found[place] = (joined(requests[place].before, text, predictor.tokenizer), count)
    if (trace := recording()) is not None:
        trace.reorder(asked)
    return found


def joined(before: str, text: str, tokenizer: Any) -> str:
    """A beginning and its continuation, joined by a space if the tokens don't have their own."""
    if not before or not text:
        return before + text
    last = tokenizer("a b", add_special_tokens=False)["input_ids"][-1:]
    return before + text if tokenizer.decode(last)[:1].isspace() else f"{before} {text}"
