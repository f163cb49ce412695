"""A trained model in Python: `lm = xlm.load("runs/x")`, then `lm.generate`, `infill`, `score` and `trace`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.compose import register_resolvers
from xlm.compose.load import without_reporting
from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.external_models import activate, active_models, discover
from xlm.harness import Harness
from xlm.inference.session import build_components, build_harness
from xlm.inference.sources import Source, check_trusted, find_source
from xlm.inference.text_scores import Scores, score_texts
from xlm.inference.traced import TracedGeneration, trace_texts
from xlm.inference.writer import Sample, Writer
from xlm.model import load_safetensors
from xlm.training.card import Origin
from xlm.training.ema import averaged_state_dict
from xlm.training.rng import random_state_of
from xlm.training.weights import load_weights, push_folder, save_folder, save_for_transformers, select_weights
from xlm.utils.instantiate import components, instantiate

# The sections that loading builds; metrics, data and loggers are not built.
BUILT = ("global_components", "noise_schedule", "model", "loss", "predictor", "lightning_module")


class TrainedModel:
    """A trained model with its tokenizer and sampler, made by `xlm.load`: generates, fills, scores and traces texts.

    Args:
        harness: in evaluation mode on its device; its loss, predictor, model and tokenizer are live.
        source: the file of the weights.
        live: the objects that the configuration's late values (`${tokenizer:…}`) refer to.
        seed: random seed for all calls of `generate`, one after the other; None: each call differs.
    """

    def __init__(self, harness: Harness, source: Path, live: dict[str, Any], seed: int | None = None) -> None:
        self.harness = harness
        self.source = source
        #: The file of the weights and what it says, for the card of an exported model.
        self.origin = Origin(source)
        self._versions = versions_of(harness.model)
        self._writer = Writer(harness, live)
        self._seeds = None if seed is None else torch.Generator().manual_seed(seed)

    @property
    def config(self) -> DictConfig:
        """The configuration of the run."""
        return self.harness.config

    @property
    def model(self) -> Any:
        """The network with the loaded weights."""
        return self.harness.model

    @property
    def tokenizer(self) -> Any:
        """Converts text to token ids and back."""
        return self.harness.tokenizer

    @property
    def predictor(self) -> Any:
        """The predictor, with the options of the run's configuration."""
        return self.harness.predictor

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def continues(self) -> bool:
        """Whether prompts are beginnings of texts, because the model was trained on whole texts, not on answers."""
        return self._writer.continues

    @property
    def options(self) -> dict[str, Any]:
        """All sampler options that `generate` accepts, with their default values."""
        return self._writer.options

    def generate(
        self,
        prompts: str | Sequence[str] | None = None,
        num_samples: int = 1,
        *,
        seed: int | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """Generate answers to prompts, or continuations for a model of whole texts, without special tokens.

        Args:
            prompts: texts of any length; None: an unconditional sample. If the model has the role `infill`, a prompt
                with blanks (see `infill`) or mask tokens is returned whole, with all of them filled.
            num_samples: samples per prompt, one after the other in the list.
            seed: the same seed gives the same texts; None continues the random stream of `load`.
            batch_size: rows at once. Greedy answers don't depend on it.
            options: sampler options for this call only; see `options`.

        Raises:
            ConfigError: an unknown option, a task that the model cannot do, or a prompt that is too long for it.
        """
        return _texts(self.samples(prompts, num_samples, seed=seed, batch_size=batch_size, **options))

    def infill(self, texts: str | Sequence[str], num_samples: int = 1, **options: Any) -> list[str]:
        """Fill the blanks of texts, and return each text whole.

        Args:
            texts: `___` is a blank of any length, `___[3]` a blank of three tokens; a mask token is a blank too. A
                model that fills masks needs the number; one that inserts tokens chooses it. A model that only continues
                texts accepts a blank of any length at the end.
            num_samples, options: as for `generate`, with `seed` and `batch_size`.

        Raises:
            ConfigError: a text has no blank, or one that this model cannot fill.
        """
        return _texts(self.samples(texts, num_samples, mode="infill", **options))

    def continue_text(self, prompts: str | Sequence[str], num_samples: int = 1, **options: Any) -> list[str]:
        """Continue the beginnings of texts; ConfigError if the model was not trained on whole texts.

        `num_samples` and `options` are as for `generate`, with `seed` and `batch_size`.
        """
        return _texts(self.samples(prompts, num_samples, mode="continue", **options))

    def samples(
        self,
        prompts: str | Sequence[str] | None = None,
        num_samples: int = 1,
        *,
        mode: str = "auto",
        seed: int | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> list[Sample]:
        """Like `generate`, but returns the seed and the network calls of each text too.

        `mode` is "answer", "continue" or "infill"; "auto" depends on the model and the prompt.
        """
        prompts = [""] if prompts is None else _as_list(prompts, "prompts")
        seed = self._next_seed() if seed is None else seed
        return self._writer.write(prompts, num_samples, seed=seed, mode=mode, batch_size=batch_size, options=options)

    def score(
        self,
        texts: str | Sequence[str],
        prompts: str | Sequence[str] | None = None,
        *,
        num_samples: int = 8,
        seed: int | None = None,
        batch_size: int = 64,
        with_end: bool = True,
    ) -> Scores:
        """−log p of texts in nats, each with its end: exact, or an upper bound with its standard error.

        The values are those of `xlm eval` for the same rows. They don't depend on `batch_size`.

        Args:
            texts: one text or several, of any length; an empty one is scored too. A model of whole texts scores a text
                that is longer than its block in windows, each given as many tokens before it as fit.
            prompts: what is given before each text, or one prompt for all: −log p of a text given its prompt. A model
                of answers needs them. A model of whole texts joins prompt and text as they stand, or with a blank if
                its tokenizer splits at blanks, and cuts the start of a prompt that doesn't fit.
            num_samples: draws of a bound for each text; each is the mean over four maskings or corruptions. No effect
                if the likelihood is exact.
            seed: of the draws of a bound; None for that of the run, which `xlm eval` uses too. The draws depend on the
                position of a text in the list, as those of `xlm eval` on its position in the data.
            batch_size: rows at once.
            with_end: score the end of each text too, as one token. Only a model of whole texts can leave it out.

        Returns:
            A sequence of `TextScore` (`nll`, `standard_error`, `nll_per_token`, `bits_per_byte`, `kind`, …), one for
            each text; `values()` has the figures of all of them together.

        Raises:
            ConfigError: the model has no likelihood, or cannot score such texts; the message says why.
        """
        texts = _as_list(texts, "texts")
        if prompts is not None:
            prompts = [prompts] * len(texts) if isinstance(prompts, str) else _as_list(prompts, "prompts")
        seed = int(self.config.get("seed") or 0) if seed is None else seed
        return score_texts(
            self, texts, prompts, num_samples=num_samples, seed=seed, batch_size=batch_size, with_end=with_end
        )

    def trace(
        self,
        prompts: str | Sequence[str] | None = None,
        num_samples: int = 1,
        *,
        mode: str = "auto",
        seed: int | None = None,
        title: str | None = None,
        **options: Any,
    ) -> TracedGeneration:
        """Generate texts and record how: every network call, and every token with its position and probability.

        The result shows itself in a notebook; `.save("trace.html")` writes the same page, and `.texts` are the texts.
        Recording doesn't change them.

        Args:
            prompts, num_samples, mode, options: as for `samples`; None: an unconditional sample.
            seed: that of the first prompt; the others count up from it.
            title: of the page; by default the name of the run's folder.

        Raises:
            ConfigError: as for `generate`, or the model's sampler does not support traces.
        """
        asked = [""] if prompts is None else _as_list(prompts, "prompts")
        return trace_texts(self, asked, num_samples, mode=mode, seed=seed, title=title, **options)

    def _next_seed(self) -> int:
        if self._seeds is None:
            own = self.options.get("seed")
            return secrets.randbits(62) if own is None else int(own)
        return int(torch.randint(2**62, (), generator=self._seeds))

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str | None = None) -> Path:
        """Write the model as a folder that `load` can read: current weights, configuration, tokenizer.

        `max_shard_size` (bytes, or "5GB"): larger weights become several files with an index.
        """
        return save_folder(folder, self.model, self.config, self.tokenizer, max_shard_size, self._origin())

    def save_for_transformers(self, folder: str | Path, max_shard_size: int | str | None = None) -> Path:
        """Write the network in the format of transformers, with the tokenizer; ConfigError if it has no such format."""
        return save_for_transformers(folder, self.model, self.tokenizer, max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = "Upload model",
        private: bool | None = None,
        max_shard_size: int | str | None = None,
    ) -> str:
        """Upload that folder; `load(repo_id)` loads it again."""
        settings = (commit_message, private, max_shard_size, self._origin())
        return push_folder(repo_id, self.model, self.config, self.tokenizer, *settings)

    def _origin(self) -> Origin:
        """Where the current weights come from."""
        return replace(self.origin, is_unchanged=versions_of(self.model) == self._versions)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"TrainedModel({type(self.model).__name__}, {size:,} parameters, {self.source}, {self.device})"


def _texts(samples: list[Sample]) -> list[str]:
    return [sample.text for sample in samples]


def _as_list(texts: str | Sequence[str], name: str) -> list[str]:
    """One text or several as a list; ConfigError for anything else."""
    found = [texts] if isinstance(texts, str) else list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(f"{name}[{place}] is {text!r}, and must be a text.", key=name)
    return found


def load(
    path_or_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    apply_ema: bool = True,
    seed: int | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
    trust: bool = False,
    trust_remote_code: bool = False,
) -> TrainedModel:
    """Load a trained model from a checkpoint, weights with a configuration, a run's folder, or the hub.

    Writes only to the hub's cache, and does not change global random state or the components of a run. Several
    models can be loaded at the same time.

    Args:
        path_or_id: see `xlm.inference.sources.find_source`.
        device: a torch device, or "auto" for the best one available.
        apply_ema: use the averaged weights if the checkpoint has them.
        seed: makes all later calls of `generate` reproducible.
        config: another file to read the configuration from.
        revision: branch, tag or commit on the hub.
        trust: allow the stored configuration to name any class or function; by default it may name those that are made
            for configurations (see docs/security.md).
        trust_remote_code: older name of `trust`.

    Raises:
        CheckpointError: the model doesn't exist, is damaged, or its weights don't fit its configuration.
        ConfigError: the configuration cannot be built here, for example because its model package isn't installed.
        NotAllowedError: the configuration names more than it may, and `trust` is not given.
    """
    source = find_source(path_or_id, config, revision)
    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    # Models that are already active stay usable.
    activate({**active_models(), **found.models}, folders=found.folders)
    register_resolvers()
    source = check_trusted(source, trust or trust_remote_code, "trust=true")
    return load_source(source, device=device, apply_ema=apply_ema, seed=seed)


def load_source(
    source: Source, *, device: str | torch.device = "cpu", apply_ema: bool = True, seed: int | None = None
) -> TrainedModel:
    """Build the model from a checked source; arguments as for `load`."""
    with random_state_of(0):
        harness, live = _built(source)
    if source.checkpoint is None:
        load_safetensors(harness.model, source.path)
    else:
        load_weights(harness, select_weights(source.checkpoint, apply_ema), source.path)
    harness.to(usable_device(device)).eval()
    model = TrainedModel(harness, source.path, live, seed)
    if source.checkpoint is not None:
        has_averages = averaged_state_dict(source.checkpoint) is not None
        model.origin = Origin(
            source.path,
            is_averaged=has_averages and apply_ema,
            has_averages=has_averages,
            step=source.checkpoint.get("global_step"),
            data=source.checkpoint.get("xlm_data") or {},
        )
    return model


def versions_of(model: Any) -> list[tuple[int, int]]:
    """The place and the number of changes in place of every weight: equal as long as none has changed."""
    return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]


def _built(source: Source) -> tuple[Harness, dict[str, Any]]:
    """A harness with fresh weights, and the live objects that its configuration refers to."""
    cfg = without_reporting(source.config)
    with open_dict(cfg):
        cfg.compile = False
    with components():
        live = build_components(cfg, source.tokenizer)
        if "${datamodule:" in OmegaConf.to_yaml(cfg, resolve=False):
            live["datamodule"] = instantiate(cfg.datamodule)
    with components(**live):
        harness = build_harness(cfg, live["tokenizer"], live.get("datamodule"))
        harness.configure_components()
        _settle(source.config)
    harness.config = source.config
    return harness, live


def _settle(node: Any) -> None:
    """Replace late values (`${tokenizer:full_vocab_size}`) by their current values, which need no live objects."""
    keys = range(len(node)) if OmegaConf.is_list(node) else list(node)
    for key in keys:
        raw = node._get_node(key)
        if raw is not None and raw._is_interpolation():
            if "${tokenizer:" in str(raw._value()):
                value = node[key]
                if isinstance(value, str | int | float | bool):
                    node[key] = value
        elif raw is not None and OmegaConf.is_config(raw) and not raw._is_none() and not raw._is_missing():
            _settle(raw)


def usable_device(name: str | torch.device) -> torch.device:
    """The device of a name; `auto` is CUDA, else MPS, else the CPU. ConfigError for a device that isn't available."""
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            here = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
            here += ["mps"] if torch.backends.mps.is_available() else []
            hint = did_you_mean(nearest_names(str(name), here, 1))
            raise ConfigError(
                f"device is {str(name)!r}, and must be one of: {', '.join(here)}. {hint}".rstrip(), key="device"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
