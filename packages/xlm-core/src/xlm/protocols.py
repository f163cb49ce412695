"""The contracts between core and a model package: model, loss, predictor, collator, schedule, tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from xlm.harness import Harness

T_in = TypeVar("T_in", contravariant=True)
T_out = TypeVar("T_out", covariant=True)
T_out_pred = TypeVar("T_out_pred")


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back; `full_vocab_size` counts every id a model must be able to embed."""

    pad_token_id: int
    mask_token_id: int
    bos_token_id: int
    eos_token_id: int
    cls_token_id: int
    sep_token_id: int
    unk_token_id: int

    @property
    def full_vocab_size(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    def __len__(self) -> int: ...

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]: ...

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]: ...

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str: ...

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False) -> list[str]: ...

    def convert_tokens_to_ids(self, tokens: Any) -> Any: ...

    def convert_ids_to_tokens(self, ids: Any) -> Any: ...


class NoiseSchedule(Protocol):
    """How corruption grows with time; core only passes it around, so the members are the family's own."""


@runtime_checkable
class StandaloneModel(Protocol):
    """A network made from files elsewhere, which can be made again without them once its weights are stored."""

    def standalone_arguments(self) -> dict[str, Any]: ...


@runtime_checkable
class TransformersModel(Protocol):
    """A network that transformers has too: `for_transformers` gives its `PreTrainedModel`, with the same weights."""

    def for_transformers(self) -> Any: ...


@runtime_checkable
class ChecksTokenizer(Protocol):
    """A network that knows tokens from before; raises ConfigError if the run's tokenizer numbers them otherwise."""

    def check_tokenizer(self, tokenizer: Any) -> None: ...


class Model(Protocol):
    """The network; everything about `forward` is private to the family."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any: ...


class LossFunction(Protocol[T_in, T_out]):
    """Turns a batch into a dict with `"loss"` (scalar mean) and anything else that metrics may want."""

    model: Any
    tokenizer: Any

    def loss_fn(
        self,
        batch: T_in,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> T_out: ...

    def configure(self, pl_module: Harness) -> None:
        """Run once on the device before the first batch, for instance to turn scalars into tensors."""

    def __call__(
        self,
        batch: T_in,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> T_out:
        # Through the attribute, so that core can put the compiled form in its place.
        return self.loss_fn(batch, batch_idx, dataloader_idx, dataloader_name)


class Predictor(Protocol[T_in, T_out_pred]):
    """Runs the model, usually in a loop, to produce token ids and their text."""

    tokenizer: Any
    noise_schedule: Any
    model: Any

    def predict(
        self,
        batch: T_in,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> T_out_pred: ...

    def to_dict(self, batch: T_in, preds: T_out_pred) -> list[dict[str, Any]]:
        """One JSON-able row per example."""
        ...


class BaseCollatorInput(TypedDict):
    """One example for language modelling, before collation."""

    input_ids: list[int]
    noise_seed: NotRequired[int]
    noise_level: NotRequired[float]


class Seq2SeqCollatorInput(BaseCollatorInput):
    """One example with a prompt; `input_ids` is the answer."""

    prompt_ids: list[int]


class Collator(Protocol):
    """Turns a list of examples into a dict of tensors; must pickle, since workers carry it.

    One that has `token_limits()` (see `xlm.data.collate.limits`) says what it takes whole, for `too_long`.
    """

    def __call__(self, examples: Sequence[Any]) -> Any: ...


class Seq2SeqCollator(Collator, Protocol):
    """For training on prompt and answer."""

    def __call__(self, examples: Sequence[Any]) -> Any: ...


class Seq2SeqCollatorPrediction(Collator, Protocol):
    """For generating the answer of a prompt; the truth stays apart in `target_ids`."""

    def __call__(self, examples: Sequence[Any]) -> Any: ...
