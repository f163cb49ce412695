"""A trained model in three lines of Python: `lm = xlm.load("runs/x"); lm.generate(["…"])`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
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
from xlm.inference.writer import Sample, Writer
from xlm.model import load_safetensors
from xlm.training.rng import random_state_of
from xlm.training.weights import load_weights, push_folder, save_folder, save_for_transformers, select_weights
from xlm.utils.instantiate import components, instantiate

# What loading builds; metrics, data and loggers stay as they are written.
BUILT = ("global_components", "noise_schedule", "model", "loss", "predictor", "lightning_module")


class TrainedModel:
    """A model with its tokenizer and predictor, ready to generate; `load` makes one.

    Args:
        harness: in evaluation mode on its device; its loss, predictor, model and tokenizer are live.
        source: the file that the weights came from.
        live: the objects that the configuration's late values (`${tokenizer:…}`) read.
        seed: from which all calls of `generate` draw, one after the other; None: each call differs.
    """

    def __init__(self, harness: Harness, source: Path, live: dict[str, Any], seed: int | None = None) -> None:
        self.harness = harness
        self.source = source
        self._writer = Writer(harness, live)
        self._seeds = None if seed is None else torch.Generator().manual_seed(seed)

    @property
    def config(self) -> DictConfig:
        """The configuration of the run."""
        return self.harness.config

    @property
    def model(self) -> Any:
        """The network, with the weights that were loaded."""
        return self.harness.model

    @property
    def tokenizer(self) -> Any:
        """Text to token ids and back."""
        return self.harness.tokenizer

    @property
    def predictor(self) -> Any:
        """What writes; its options are those of the run's configuration."""
        return self.harness.predictor

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def continues(self) -> bool:
        """Whether prompts are the beginnings of texts, because the model learnt whole texts and no answers."""
        return self._writer.continues

    @property
    def options(self) -> dict[str, Any]:
        """Every option that `generate` takes for the sampler, with the value that it has without."""
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
        """Answers to prompts, without special tokens; for a model of whole texts, what follows them.

        Args:
            prompts: of any lengths; None writes from nothing. One with blanks (see `infill`) or mask tokens comes back
                whole, with all of them filled, where the model has the role `infill`.
            num_samples: of each prompt, one after the other in the list.
            seed: the same seed gives the same texts; None goes on in the stream that `load` was given.
            batch_size: how many rows run at once. Greedy answers don't depend on it.
            options: of the sampler, for this call only; see `options`.

        Raises:
            ConfigError: the predictor has no such option, the model cannot do this, or a prompt is too long for it.
        """
        return _texts(self.samples(prompts, num_samples, seed=seed, batch_size=batch_size, **options))

    def infill(self, texts: str | Sequence[str], num_samples: int = 1, **options: Any) -> list[str]:
        """Texts with their blanks filled, each given back whole.

        Args:
            texts: `___` is a blank for any number of tokens, `___[3]` one for three; a mask token is one too. A
                model that fills masks needs the number, one that inserts decides it itself; a model that only continues
                texts takes a blank of any length at the end.
            num_samples, options: as for `generate`, `seed` and `batch_size` included.

        Raises:
            ConfigError: a text without a blank, or with one that this model cannot fill.
        """
        return _texts(self.samples(texts, num_samples, mode="infill", **options))

    def continue_text(self, prompts: str | Sequence[str], num_samples: int = 1, **options: Any) -> list[str]:
        """What follows the beginnings of texts; ConfigError if the model didn't learn whole texts.

        `num_samples` and `options` are as for `generate`, `seed` and `batch_size` included.
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
        """As `generate`, with the seed and the network calls of each text.

        `mode` says what prompts are: "answer", "continue", "infill"; "auto" looks at the model and the prompt.
        """
        prompts = [""] if prompts is None else [prompts] if isinstance(prompts, str) else list(prompts)
        seed = self._next_seed() if seed is None else seed
        return self._writer.write(prompts, num_samples, seed=seed, mode=mode, batch_size=batch_size, options=options)

    def _next_seed(self) -> int:
        if self._seeds is None:
            own = self.options.get("seed")
            return secrets.randbits(62) if own is None else int(own)
        return int(torch.randint(2**62, (), generator=self._seeds))

    def save_pretrained(self, folder: str | Path, max_shard_size: int | str | None = None) -> Path:
        """Write the model as a folder that `load` reads: weights as they are now, configuration, tokenizer.

        `max_shard_size` (bytes, or "5GB"): larger weights become several files with an index.
        """
        return save_folder(folder, self.model, self.config, self.tokenizer, max_shard_size)

    def save_for_transformers(self, folder: str | Path, max_shard_size: int | str | None = None) -> Path:
        """Write the network alone as transformers reads it, with the tokenizer's files; ConfigError if it has none."""
        return save_for_transformers(folder, self.model, self.tokenizer, max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str = "Upload model",
        private: bool | None = None,
        max_shard_size: int | str | None = None,
    ) -> str:
        """Upload that folder; `load(repo_id)` gets it back."""
        return push_folder(repo_id, self.model, self.config, self.tokenizer, commit_message, private, max_shard_size)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return f"TrainedModel({type(self.model).__name__}, {size:,} parameters, {self.source}, {self.device})"


def _texts(samples: list[Sample]) -> list[str]:
    return [sample.text for sample in samples]


def load(
    path_or_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    apply_ema: bool = True,
    seed: int | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> TrainedModel:
    """The trained model of a checkpoint, of weights beside a configuration, of a run's folder, or of the hub.

    Writes nothing but the hub's own cache, and leaves global random state and the components of a run alone; any
    number of models can be loaded side by side.

    Args:
        path_or_id: see `xlm.inference.sources.find_source`.
        device: as torch names it, or "auto" for the best that is there.
        apply_ema: take the averaged weights where the checkpoint has them.
        seed: makes what all later calls of `generate` draw repeatable.
        config: another file to read the configuration from.
        revision: branch, tag or commit on the hub.
        trust_remote_code: let a configuration from the hub call more than xlm and the installed model packages.

    Raises:
        CheckpointError: nothing is there, it is damaged, or its weights don't fit its configuration.
        ConfigError: the configuration cannot be built here, for instance because its model package isn't installed.
    """
    source = find_source(path_or_id, config, revision)
    found = discover(os.environ, Path.cwd())
    found.raise_errors()
    # Models that are in use stay usable.
    activate({**active_models(), **found.models}, folders=found.folders)
    register_resolvers()
    if source.is_remote and not trust_remote_code:
        check_trusted(source.config, {"xlm", *(model.import_name for model in active_models().values())}, BUILT)
    return load_source(source, device=device, apply_ema=apply_ema, seed=seed)


def load_source(
    source: Source, *, device: str | torch.device = "cpu", apply_ema: bool = True, seed: int | None = None
) -> TrainedModel:
    """The model of weights and a configuration that were found and may be used; arguments as for `load`."""
    with random_state_of(0):
        harness, live = _built(source)
    if source.checkpoint is None:
        load_safetensors(harness.model, source.path)
    else:
        load_weights(harness, select_weights(source.checkpoint, apply_ema), source.path)
    harness.to(usable_device(device)).eval()
    return TrainedModel(harness, source.path, live, seed)


def _built(source: Source) -> tuple[Harness, dict[str, Any]]:
    """A harness with fresh weights and the live objects that its configuration reads."""
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
    """Write down what late values (`${tokenizer:full_vocab_size}`) are, so that reading them needs no live objects."""
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
    """`auto` is the best that is here: CUDA, else MPS, else the CPU; ConfigError for a device that isn't."""
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            here = ["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
            here += ["mps"] if torch.backends.mps.is_available() else []
            hint = did_you_mean(nearest_names(str(name), here, 1))
            raise ConfigError(
                f"device is {str(name)!r}, which cannot be used here: {', '.join(here)}. {hint}".rstrip(), key="device"
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
