"""The model `xlm` of lm-evaluation-harness: likelihoods, exact or bounded, generation, and a record."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from omegaconf import OmegaConf
from rich.progress import Progress

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.inference.scorer import Pair, Precision, Score, Scorer, split_ids, windows
from xlm.inference.trained import TrainedModel, load
from xlm.lm_eval.requests import Wanted, wanted, write
from xlm.utils.consoles import plain_console
from xlm.utils.run_record import config_hash, device_name, versions


def about(
    lm: TrainedModel, scorer: Scorer | None, num_truncated: int, errors: Sequence[float], sampler: dict[str, Any]
) -> dict[str, Any]:
    """Model, likelihood and versions as JSON.

    Args:
        scorer: None if nothing was scored.
        num_truncated: requests whose context lost its start.
        errors: standard errors of the scores, over the draws of a bound.
        sampler: options that were set.
    """
    return {
        "checkpoint": str(lm.source),
        "checkpoint_sha256": file_hash(lm.source),
        "config_hash": config_hash(OmegaConf.to_yaml(lm.config, resolve=False)),
        "family": str(lm.config.get("model_name")),
        "num_parameters": sum(parameter.numel() for parameter in lm.model.parameters()),
        "device": device_name(lm.device.type),
        "likelihood": None if scorer is None else _likelihood(scorer, errors),
        "num_truncated": num_truncated,
        "sampler": sampler,
        "versions": {**versions(), "lm-eval": metadata.version("lm-eval")},
    }


def _likelihood(scorer: Scorer, errors: Sequence[float]) -> dict[str, Any]:
    known = [error for error in errors if not math.isnan(error)]
    return {
        "kind": "exact" if scorer.is_exact else "lower bound on the log-likelihood",
        "of": scorer.of,
        "scored": "a continuation of a text" if scorer.role == "lm" else "an answer and its end",
        "num_samples": None if scorer.is_exact else scorer.num_samples,
        "seed": scorer.seed,
        "precision": scorer.precision,
        "mean_standard_error": sum(known) / len(known) if known else None,
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file of weights."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PREDICTOR = "predictor."


@register_model("xlm")
class XLMForLMEval(LM):
    """A model of xlm, for `lm_eval.simple_evaluate`.

    Args:
        checkpoint: anything that `xlm.load` accepts, or a model loaded by it.
        batch_size: rows per batch.
        device: a name for torch, or "auto".
        num_samples: draws of a bound for each request, if the likelihood isn't exact.
        seed: of these draws and of generation.
        max_gen_toks: the most tokens of a text, if a task doesn't set it.
        precision: "fp32" or "bf16", of the network's arithmetic when it scores.
        score_end: whether the end of the text after a continuation is scored too; for a model of prompts and answers,
            it always is.
        max_batch_size: an argument of lm-eval, unused.
        apply_ema, revision, trust, trust_remote_code: as for `xlm.load`.
        **sampler: `predictor.<option>`; overrides the run and the task.

    Raises:
        ConfigError: an unknown argument, or an option that the sampler does not have.
        CheckpointError: the model does not exist.
    """

    def __init__(
        self,
        checkpoint: str | TrainedModel,
        batch_size: int | str | None = None,
        device: str | None = None,
        num_samples: int = 8,
        seed: int = 0,
        max_gen_toks: int | None = None,
        precision: Precision = "fp32",
        score_end: bool = False,
        max_batch_size: int | None = None,
        apply_ema: bool = True,
        revision: str | None = None,
        trust: bool = False,
        trust_remote_code: bool = False,
        **sampler: Any,
    ) -> None:
        super().__init__()
        _check(num_samples=num_samples, max_gen_toks=256 if max_gen_toks is None else max_gen_toks)
        if precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is '{precision}', and must be fp32 or bf16.", key="precision")
        if isinstance(checkpoint, TrainedModel):
            self.lm = checkpoint
        else:
            self.lm = load(
                checkpoint,
                device=device or "cpu",
                apply_ema=apply_ema,
                revision=revision,
                trust=trust or trust_remote_code,
            )
        self._device = self.lm.device
        self.batch_size = _batch_size(batch_size)
        self.num_samples, self.seed, self.precision = num_samples, seed, precision
        self.score_end, self.max_gen_toks = score_end, max_gen_toks
        self.sampler = _sampler(sampler, self.lm)
        self.num_truncated = 0
        self._scorer: Scorer | None = None
        self._errors: list[float] = []

    @property
    def scorer(self) -> Scorer:
        """The scorer; ConfigError if the family gives no likelihood."""
        if self._scorer is None:
            self._scorer = Scorer(self.lm, self.num_samples, self.seed, self.precision)
        return self._scorer

    @property
    def tokenizer_name(self) -> str:
        """A fingerprint of the tokenizer, for caches of requests."""
        return f"xlm-{type(self.lm.tokenizer).__name__}-{len(self.lm.tokenizer)}"

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context), or a lower bound of it, and whether greedy decoding gives the continuation."""
        pairs = [self._pairs(*request.args) for request in requests]
        found = [_summed(scores) for scores in self._scored(pairs, "loglikelihood", disable_tqdm)]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts, or lower bounds: longer texts in windows, each with as much context as fits.

        ConfigError for a model of prompts and answers.
        """
        scorer = self.scorer
        if scorer.role != "lm":
            raise ConfigError(
                "This model was trained on answers to prompts, so it cannot score whole texts (loglikelihood_rolling)."
            )
        texts = [list(windows((), self._ids(text), scorer.max_length, self.score_end)) for (text,) in _args(requests)]
        found = [sum(s.log_likelihood for s in scores) for scores in self._scored(texts, "rolling", disable_tqdm)]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that the model generates after each context, up to the first of the strings in `until`."""
        asked = [
            wanted(self.lm, context, arguments, self.max_gen_toks, self.sampler)
            for context, arguments in _args(requests)
        ]
        self.num_truncated += sum(one.truncated for one in asked)
        texts = [""] * len(asked)
        with _progress("generate_until", len(asked), disable_tqdm) as advance:
            for places in _groups(asked, self.batch_size):
                for place, text in zip(places, write(self.lm, [asked[p] for p in places], self.seed), strict=True):
                    texts[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
                advance(len(places))
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """A description of the numbers and what they depend on; lm-eval puts it into the `config` of its results."""
        return {"xlm": about(self.lm, self._scorer, self.num_truncated, self._errors, self.sampler)}

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _pairs(self, context: str, continuation: str) -> list[Pair]:
        """A request as one pair, or as windows if the continuation alone is longer than the model can read."""
        scorer = self.scorer
        if scorer.role != "lm":
            given = self._ids(context)
            limit = scorer.max_context
            kept = given if limit is None else given[max(0, len(given) - limit) :]
            self.num_truncated += len(kept) < len(given)
            return [Pair(tuple(kept), tuple(self._ids(continuation)), ends=True)]
        given, scored = split_ids(context, continuation, self.lm.tokenizer)
        pairs = list(windows(given, scored, scorer.max_length, self.score_end))
        self.num_truncated += bool(pairs) and len(pairs[0].context) < len(given)
        return pairs

    def _scored(self, parts: Sequence[Sequence[Pair]], name: str, disable_tqdm: bool) -> list[list[Score]]:
        """The scores of each request's pairs; pairs of similar length are batched, and equal pairs are scored once."""
        unique = sorted(
            {pair for pairs in parts for pair in pairs},
            key=lambda p: (len(p.context) + len(p.continuation), p.context, p.continuation),
        )
        found: dict[Pair, Score] = {}
        with _progress(name, len(unique), disable_tqdm) as advance:
            for start in range(0, len(unique), self.batch_size):
                batch = unique[start : start + self.batch_size]
                found.update(zip(batch, self.scorer.score(batch), strict=True))
                advance(len(batch))
        self._errors += [score.standard_error for score in found.values()]
        return [[found[pair] for pair in pairs] for pairs in parts]


@contextmanager
def _progress(name: str, total: int, disable: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, and the function that advances it."""
    with Progress(console=plain_console(stderr=True), disable=disable) as progress:
        task = progress.add_task(name, total=total)
        yield lambda count: progress.advance(task, count)


def _args(requests: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return (request.args for request in requests)


def _summed(scores: Sequence[Score]) -> tuple[float, bool]:
    return math.fsum(score.log_likelihood for score in scores), all(score.is_greedy for score in scores)


def _groups(asked: Sequence[Wanted], batch_size: int) -> Iterator[list[int]]:
    """Indices of requests that can run together: those with equal options, in order."""
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(asked):
        groups.setdefault(repr(one.options), []).append(place)
    for places in groups.values():
        yield from (places[start : start + batch_size] for start in range(0, len(places), batch_size))


def _check(**counts: Any) -> None:
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} is {value}, and must be a whole number of at least 1.", key=name)


def _batch_size(said: int | str | None) -> int:
    """Rows per batch; `auto`, which lm-eval allows, means the default."""
    if said is None or str(said).startswith("auto"):
        return 64
    if not str(said).isdecimal() or int(said) < 1:
        raise ConfigError(f"batch_size is {said}, and must be a whole number of at least 1.", key="batch_size")
    return int(said)


def _sampler(given: dict[str, Any], lm: TrainedModel) -> dict[str, Any]:
    """The sampler's options among the arguments; ConfigError for any other argument."""
    for key in given:
        option = key.removeprefix(PREDICTOR)
        if option == key or option not in lm.options:
            near = did_you_mean([f"{PREDICTOR}{name}" for name in nearest_names(option, lm.options, 1)])
            options = ", ".join(f"{PREDICTOR}{name}" for name in lm.options)
            raise ConfigError(
                f"The model 'xlm' has no argument '{key}'. Options of its sampler: {options}. {near}".rstrip(), key=key
            )
    return {key.removeprefix(PREDICTOR): value for key, value in given.items()}
