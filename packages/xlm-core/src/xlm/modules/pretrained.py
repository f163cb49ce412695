"""Networks of transformers as backbones: loaded or new, resized to the vocabulary, without their output layer."""

from __future__ import annotations

import copy
import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Integer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.model import Model
from xlm.modules.attention import drop_full_mask, positions_from_mask
from xlm.modules.length_model import LengthModel
from xlm.utils.instantiate import first_sentence
from xlm.utils.weight_files import read_weights, weights_in, without_wrappers

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
# Learned tables of absolute positions, by their names in transformers.
_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")


class _PassThrough(nn.Identity):
    """Replaces the output layer."""

    weight = None
    bias = None


class PretrainedNetwork(nn.Module, Model):
    """A network of transformers with a separate output layer, so that logits are computed only where needed.

    Args:
        num_embeddings: the vocabulary size of the run, including special tokens (V); the network is resized to it.
        pretrained_model_name_or_path: a folder written by transformers, or an id of the hub.
        pretrained: False takes only the architecture from there and initializes new weights.
        check_vocabulary: compare the tokenizer stored with the weights to that of the run.
        overrides: values of the network's own configuration, for instance `hidden_dropout_prob`.
        architecture: the whole configuration, in place of a folder; `standalone_arguments` gives it.
        num_text_lengths: number of lengths of a length model next to the network, for masked models with
            `text_length=modelled`; None for none.

    Raises:
        ConfigError: there is no such network, it is of another kind, or it violates an assumption made here: its
            logits are not a linear map of its features, or padding changes its predictions.
    """

    auto_class: ClassVar[Any]

    def __init__(
        self,
        num_embeddings: int,
        pretrained_model_name_or_path: str | None = None,
        pretrained: bool = True,
        check_vocabulary: bool = True,
        overrides: Mapping[str, Any] | None = None,
        architecture: Mapping[str, Any] | None = None,
        num_text_lengths: int | None = None,
    ) -> None:
        super().__init__()
        self.length_model = None if num_text_lengths is None else LengthModel(num_text_lengths)
        self.num_embeddings = num_embeddings
        self._vocabulary_of = pretrained_model_name_or_path if pretrained and check_vocabulary else None
        self._num_known = 0
        if (pretrained_model_name_or_path is None) == (architecture is None):
            raise ConfigError(
                "This network comes from transformers: model.pretrained_model_name_or_path=… names the folder that "
                "holds it.",
                key="model.pretrained_model_name_or_path",
            )
        if architecture is not None:
            backbone = self._from_architecture(_plain(architecture))
        else:
            backbone = self._from_folder(str(pretrained_model_name_or_path), pretrained, _plain(overrides or {}))
        self._check_arguments(backbone)
        backbone.eval()
        example = _example(backbone)
        before = backbone(**example).logits
        output_layer = backbone.get_output_embeddings()
        if not isinstance(output_layer, nn.Linear):
            raise ConfigError(f"{type(backbone).__name__} has no linear output layer.", key="model")
        backbone.set_output_embeddings(_PassThrough())
        self.backbone: Any = backbone
        self.head: nn.Linear = output_layer
        self._shift, self.max_length = _positions_of(backbone)
        self._check_parts(example, before)
        self.train()

    # Construction.

    def _from_folder(self, path: str, pretrained: bool, overrides: dict[str, Any]) -> Any:
        try:
            # Code beside the files is never run, and transformers doesn't ask in the terminal.
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            _check_options(config, overrides, "model.overrides")
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, **overrides)
            if not pretrained:
                config.vocab_size = self.num_embeddings
                return self.auto_class.from_config(config, dtype=torch.float32)
            # The trainer sets the precision of a run; weights are stored in float32.
            backbone, info = self.auto_class.from_pretrained(
                path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
        except Exception as error:
            raise ConfigError(
                f"{path} cannot be used as {self.auto_class.__name__}: {first_sentence(error)}",
                key="model.pretrained_model_name_or_path",
            ) from error
        names = {name for name, _ in backbone.named_parameters()}
        if names <= info["missing_keys"] and (file := weights_in(Path(path))) is not None:
            unwrapped = without_wrappers(read_weights(file), backbone.state_dict(), path)
            info["missing_keys"] = set(backbone.load_state_dict(unwrapped, strict=False).missing_keys)
        if names <= info["missing_keys"]:
            found = ", ".join(sorted(info["unexpected_keys"])[:3]) or "nothing"
            raise ConfigError(
                f"{path} contains no weights of {type(backbone).__name__}, but {found}. "
                "To train from scratch, set model.pretrained=false.",
                key="model.pretrained_model_name_or_path",
            )
        if info["missing_keys"]:
            logger.warning("%s lacks %s; initialized randomly.", path, ", ".join(sorted(info["missing_keys"])))
        self._num_known = backbone.get_input_embeddings().num_embeddings
        if self._num_known != self.num_embeddings:
            backbone.resize_token_embeddings(self.num_embeddings)
        return backbone

    def _from_architecture(self, architecture: dict[str, Any]) -> Any:
        try:
            config = AutoConfig.for_model(**architecture)
            _check_options(type(config)(), architecture, "model.architecture")
            config.vocab_size = self.num_embeddings
            return self.auto_class.from_config(config, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"model.architecture cannot be built: {reason}", key="model.architecture") from error

    def _check_arguments(self, backbone: Any) -> None:
        taken = inspect.signature(backbone.forward).parameters
        for name in ("attention_mask", "position_ids"):
            if name not in taken:
                raise ConfigError(
                    f"{type(backbone).__name__} does not accept {name}, so padding would change its predictions.",
                    key="model",
                )

    @torch.no_grad()
    def _check_parts(self, example: dict[str, Tensor], before: Tensor) -> None:
        """Check the assumptions about a wrapped network on a row of a few tokens."""
        name = type(self.backbone).__name__
        features = self.backbone(**example).logits
        if features.shape[-1] != self.head.in_features or not _close(self.head(features), before):
            raise ConfigError(f"The logits of {name} are not a linear map of its features, so it cannot be used here.")
        ids = example["input_ids"]
        mask = torch.ones_like(ids, dtype=torch.bool)
        alone = self._run(ids, mask)
        pads = torch.zeros_like(ids[:, :2])
        padded = self._run(torch.cat([pads, ids], 1), torch.cat([pads.bool(), mask], 1))
        if not _close(padded[:, 2:], alone):
            raise ConfigError(f"Padding changes the predictions of {name}, so it cannot be used here.")

    # Use.

    def _run(
        self, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor | None = None, **more: Any
    ) -> Tensor:
        """Features (B, L, d); padding does not shift positions."""
        length = input_ids.shape[1]
        self._check_length(length)
        if positions is None:
            positions = (
                torch.arange(length, device=input_ids.device)
                if attention_mask is None
                else positions_from_mask(attention_mask)
            )
        positions = (positions + self._shift).expand(input_ids.shape)
        out = self.backbone(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, **more)
        features: Tensor = out.logits
        return features

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise ConfigError(
                f"A row has {length} tokens, but {type(self.backbone).__name__} has only {self.max_length} positions. "
                "Choose a smaller block_size or input_block_size.",
                key="block_size",
            )

    # Sharing.

    def standalone_arguments(self) -> dict[str, Any]:
        """Arguments that build a network of this shape without its original files."""
        architecture = json.loads(self.backbone.config.to_json_string(use_diff=False))
        return {
            "num_embeddings": self.num_embeddings,
            "pretrained_model_name_or_path": None,
            "pretrained": False,
            "check_vocabulary": False,
            "overrides": None,
            "architecture": {name: value for name, value in architecture.items() if name != "_name_or_path"},
            "num_text_lengths": None if self.length_model is None else len(self.length_model.counts),
        }

    def for_transformers(self) -> Any:
        """A copy of the complete network of transformers."""
        whole = copy.deepcopy(self)
        whole.backbone.set_output_embeddings(whole.head)
        return whole.backbone

    def check_tokenizer(self, tokenizer: Any) -> None:
        """ConfigError if the run's tokenizer gives tokens other ids than the network was trained with."""
        path = self._vocabulary_of
        if path is None or tokenizer is None:
            return
        if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in _TOKENIZER_FILES):
            raise ConfigError(
                f"{path} contains no tokenizer to compare with that of the run. If its {self._num_known} tokens have "
                "the same ids, set model.check_vocabulary=false. To train from scratch, set model.pretrained=false.",
                key="model.check_vocabulary",
            )
        vocabulary = AutoTokenizer.from_pretrained(path, trust_remote_code=False).get_vocab()
        known = {text: i for text, i in vocabulary.items() if i < self._num_known}
        own = dict(zip(known, tokenizer.convert_tokens_to_ids(list(known)), strict=True))
        wrong = sorted((i, text) for text, i in known.items() if own[text] != i)
        if wrong:
            number, text = wrong[0]
            raise ConfigError(
                f"The network in {path} was trained with another tokenizer: {text!r} is {number} there and "
                f"{own[text]} here ({len(wrong)} of {len(known)} tokens differ).\n"
                "Use its tokenizer: ++global_components.tokenizer._target_=xlm.datamodule.load_auto_tokenizer "
                f"++global_components.tokenizer.pretrained_model_name_or_path={path}",
                key="global_components.tokenizer",
            )


class PretrainedMaskedNetwork(PretrainedNetwork):
    """p(x_i | what is visible) by a BERT-like network; arguments as for `PretrainedNetwork`."""

    auto_class = AutoModelForMaskedLM

    @property
    def output_layer(self) -> nn.Linear:
        """The linear map from features to logits."""
        return self.head

    def features(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """What the output layer reads; arguments as for `RotaryMaskedNetwork.features`."""
        return self._run(input_ids, drop_full_mask(attention_mask), positions)

    def forward(
        self,
        input_ids: Integer[Tensor, "batch length"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        positions: Integer[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length vocab"]:
        """Logits at every position, (B, L, V)."""
        return self.head(self.features(input_ids, attention_mask, positions))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = OmegaConf.to_container(values, resolve=True) if isinstance(values, DictConfig) else values
    assert isinstance(plain, Mapping)
    return {str(name): value for name, value in plain.items()}


def _check_options(config: Any, given: Mapping[str, Any], key: str) -> None:
    """ConfigError for an option that the network's configuration doesn't have: transformers would ignore it."""
    known = {*config.to_dict(), *config.attribute_map, *inspect.signature(type(config)).parameters}
    for name in given:
        if name not in known and not hasattr(config, name):
            hint = did_you_mean([f"{key}.{near}" for near in nearest_names(name, known)])
            kind = type(config).__name__
            raise ConfigError(
                f"{kind} has no option '{name}' ({key}.{name}), so it would change nothing. {hint}".rstrip(),
                key=f"{key}.{name}",
            )


def _example(backbone: Any) -> dict[str, Tensor]:
    """One row of a few different tokens, away from the ends of the vocabulary, where special ones often are."""
    size = backbone.get_input_embeddings().num_embeddings
    return {"input_ids": (torch.arange(3, 8)[None] * max(1, size // 16)) % size}


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding, relative to the largest value."""
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1e-6))


def _positions_of(backbone: Any) -> tuple[int, int | None]:
    """The offset added to positions that count from 0, and the number of positions (None: unlimited)."""
    for name, module in backbone.named_modules():
        if name.rsplit(".", 1)[-1] in _POSITION_TABLES and isinstance(module, nn.Embedding):
            shift = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa and its variants
            return shift, module.num_embeddings - max(shift, getattr(module, "offset", 0))
    return 0, None
