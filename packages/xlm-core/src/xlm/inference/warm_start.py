"""`init_from=…`: a new run starts with the weights of another model, and reads text with the same tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from xlm.datamodule import load_auto_tokenizer
from xlm.errors import CheckpointCorruptError, CheckpointError, ConfigError, NotAllowedError, XLMError, of_option
from xlm.harness import Harness
from xlm.inference.session import display_path
from xlm.inference.sources import Source, Weights, check_trusted, find_source, find_weights
from xlm.training.partial_weights import PartialLoad, load_what_fits
from xlm.training.weights import TOKENIZER, SavedTokenizer, select_weights
from xlm.utils.instantiate import components, instantiate
from xlm.utils.weight_files import read_weights

_TOKENIZER_NODE = "global_components.tokenizer"


@dataclass
class Origin:
    """The model that a run starts from.

    Args:
        weights: its file.
        name: what the user gave.
        config: its configuration, if any. Only its tokenizer is built, under the rules for stored configurations.
        tokenizer: its tokenizer; None if it is not known.
        has_equal_tokenizer: the configuration describes the tokenizer as that of the new run does.
        reason: why the tokenizer is not known.
    """

    weights: Weights
    name: str
    config: DictConfig | None = None
    tokenizer: Any = None
    has_equal_tokenizer: bool = False
    reason: str = ""
    loaded: PartialLoad = field(default_factory=PartialLoad)
    tokens: str = ""
    step: int | None = None

    @property
    def family(self) -> str:
        """The model family, if its configuration names it."""
        return str(self.config.get("model_name") or "") if self.config is not None else ""

    def load_into(self, harness: Harness, tokenizer: Any, choice: str | None) -> None:
        """Load the weights that fit; sets `loaded` and `tokens`.

        Args:
            harness: with new weights.
            tokenizer: of the new run.
            choice: `init_tokenizer`.

        Raises:
            ConfigError: ids mean other tokens, and `init_tokenizer` doesn't allow it.
            CheckpointError: nothing fits.
        """
        rows = self._token_rows(tokenizer, choice)
        checkpoint = self.weights.checkpoint
        if checkpoint is None:
            found = {f"model.{name}": tensor for name, tensor in read_weights(self.weights.path).items()}
        else:
            found = select_weights(checkpoint, apply_ema=True)
        try:
            self.loaded = load_what_fits(harness, harness.model, found, self.weights.path, rows)
        except CheckpointError as error:
            there, here = self.family, str(harness.config.get("model_name") or "")
            kinds = f" It is a model of the family {there}, and this one is {here}." if there not in ("", here) else ""
            raise CheckpointError(f"init_from: {error}{kinds}", path=self.weights.path) from error
        self.step = None if checkpoint is None else checkpoint.get("global_step")
        self.weights.release()

    def _token_rows(self, tokenizer: Any, choice: str | None) -> dict[int, int] | None:
        """Row of each token in the new network → its row in the source; None if they are equal or not known."""
        if self.has_equal_tokenizer or tokenizer is self.tokenizer:
            self.tokens = "the same tokenizer"
            return None
        there = [] if self.tokenizer is None else tokens_of(self.tokenizer)
        here = tokens_of(tokenizer)
        if not there and choice != "own":
            raise ConfigError(
                f"init_from: the tokenizer of {self.name} is not known: {self.reason}.\n"
                "If the ids of its tokens mean the same as in this run, give init_tokenizer=own.",
                key="init_tokenizer",
            )
        if not there:
            self.tokens = "assumed to be the same; the tokenizer of the source is not known"
            return None
        if there == here:
            self.tokens = "the same tokens"
            return None
        known = {token: row for row, token in enumerate(there)}
        rows = {row: known[token] for row, token in enumerate(here) if token in known}
        other = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), None)
        if other is not None and choice != "own":
            raise ConfigError(
                f"init_from: {self.name} was trained with another tokenizer (token {other} is {there[other]!r} there "
                f"and {here[other]!r} here), so its weights would read other tokens.\n"
                "init_tokenizer=source uses its tokenizer; init_tokenizer=own keeps the one of this run, and takes the "
                f"embeddings of the {len(rows):,} tokens that both have.",
                key="init_tokenizer",
            )
        self.tokens = f"{len(rows):,} of {len(here):,} tokens are in the vocabulary of the source"
        return rows

    def lines(self) -> list[str]:
        """What was loaded, for the terminal."""
        averaged = ", averaged weights" if self.weights.has_averages else ""
        step = "" if self.step is None else f" (step {self.step}{averaged})"
        return [f"{display_path(self.weights.path.absolute())}{step}", *self.loaded.lines(), f"tokens: {self.tokens}"]

    def as_dict(self) -> dict[str, Any]:
        """The same for the run's record."""
        return {
            "source": self.name,
            "file": str(self.weights.path),
            "sha256": _sha256(self.weights.path),
            "step": self.step,
            "averaged": self.weights.has_averages,
            "tokens": self.tokens,
            **self.loaded.as_dict(),
        }


def find_origin(cfg: DictConfig) -> Origin:
    """The model at `init_from`, with its tokenizer if it can be built.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
    """
    name = str(cfg.init_from)
    with of_option("init_from"):
        weights = find_weights(name)
        if weights.checkpoint is None:
            read_weights(weights.path)  # damage is reported before the data are prepared
        try:
            source = find_source(name)
        except CheckpointCorruptError:
            raise
        except CheckpointError:  # weights without a configuration
            return Origin(weights, name, reason="it has no configuration")
    origin = Origin(weights, name, source.config)
    if weights.tokenizer is not None:
        origin.tokenizer = load_auto_tokenizer(str(weights.tokenizer))
    elif _node(cfg) is not None and _node(source.config) == _node(cfg):
        origin.has_equal_tokenizer = True
    else:
        origin.tokenizer, origin.reason = _built(source)
    return origin


def use_network_of(origin: Origin, cfg: DictConfig) -> None:
    """Give a run whose network was chosen for its data (`data.text=…`) the sizes of its source, if the class agrees."""
    data = cfg.get("data") or {}
    chosen = data.get("chosen") or {}
    if "model" not in chosen or "model" in (data.get("overridden") or []) or origin.config is None:
        return
    there = OmegaConf.to_container(origin.config.model)
    if not isinstance(there, dict) or there.get("_target_") != cfg.model.get("_target_"):
        return
    with open_dict(cfg):
        for name, value in ((str(key), value) for key, value in there.items()):
            # Only numbers: anything else in a stored configuration may come from somebody else.
            if name in cfg.model and isinstance(value, bool | int | float) and cfg.model[name] != value:
                cfg.model[name] = chosen[f"model.{name}"] = value


def tokenizer_for(cfg: DictConfig, origin: Origin | None) -> Any:
    """The tokenizer that a run takes from elsewhere: its own files if it continues, the source's if it starts there.

    None: the configuration's. Own data whose `tokenizer` is not chosen use that of the source.

    Raises:
        ConfigError: `init_tokenizer=source`, but the source's tokenizer is not known or cannot be stored with the run.
    """
    choice = cfg.get("init_tokenizer")
    if choice is not None and not cfg.get("init_from"):
        raise ConfigError(
            f"init_tokenizer={choice} has no effect without init_from=…, which names the model to start from.",
            key="init_tokenizer",
        )
    trains_its_own = "tokenizer" in cfg and cfg.tokenizer is None
    if not cfg.get("init_from") or choice == "own" or (choice is None and not trains_its_own):
        return None
    if origin is None:
        folder = Path(cfg.paths.run_dir) / TOKENIZER
        return _kept(load_auto_tokenizer(str(folder))) if folder.is_dir() else None
    if origin.has_equal_tokenizer:
        return None
    if isinstance(origin.tokenizer, SavedTokenizer):
        return _kept(origin.tokenizer)
    if choice == "source":
        why = origin.reason or f"a {type(origin.tokenizer).__name__} has no files that the run could keep"
        raise ConfigError(
            f"init_tokenizer=source: the tokenizer of {origin.name} cannot be used: {why}. "
            "Set tokenizer=… or init_tokenizer=own.",
            key="init_tokenizer",
        )
    return None


def _kept(tokenizer: Any) -> Any:
    tokenizer.belongs_to_run = True
    return tokenizer


def tokens_of(tokenizer: Any) -> list[str]:
    """The token of every id."""
    size = int(getattr(tokenizer, "full_vocab_size", None) or len(tokenizer))
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(size)))]


def _node(config: DictConfig) -> Any:
    """The configuration of the tokenizer if it refers to nothing else; otherwise None."""
    node = OmegaConf.select(config, _TOKENIZER_NODE)
    if not isinstance(node, DictConfig) or "${" in OmegaConf.to_yaml(node, resolve=False):
        return None
    return OmegaConf.to_container(node)


def _built(source: Source) -> tuple[Any, str]:
    """The tokenizer of a stored configuration, or the reason why it cannot be built."""
    try:
        config = check_trusted(source, trust=False, option="init_tokenizer=own").config
        with components():
            return instantiate(config.global_components.tokenizer), ""
    except NotAllowedError as error:
        return None, f"its configuration {error.reason}"
    except XLMError as error:
        return None, str(error).splitlines()[0].rstrip(".")


def _sha256(path: Path) -> str | None:
    """The hash of a file; None for the folder of a sharded checkpoint."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
