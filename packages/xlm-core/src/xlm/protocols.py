"""The contracts between core and a model package: what each component provides, and how core calls it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from xlm.harness import Harness

T_in = TypeVar("T_in", contravariant=True)
T_out = TypeVar("T_out", covariant=True)
T_out_pred = TypeVar("T_out_pred")

# The arguments that may follow the batch, in the documented order.
PLACE = ("batch_idx", "dataloader_idx", "dataloader_name")
# The module of `torch.nn.Module`, by name: importing torch takes seconds.
_MODULE = "torch.nn.modules.module"


def call_at(function: Callable[..., Any], batch: Any, *place: Any) -> Any:
    """Call `function(batch, …)` with as much of `place` (the values of `PLACE`) as the function accepts.

    `loss_fn(self, batch)`, `loss_fn(self, batch, dataloader_name)`, `loss_fn(self, batch, **kwargs)` and the whole
    documented signature all work. An argument with another name keeps its default; without one it is filled by
    position. A signature with three arguments after the batch, one of them documented, gets all three by position.
    """
    # A `torch.nn.Module` is called as its `forward`.
    module: Any = function
    num_positional, names = _taken(module.forward if _is_called_as_module(module) else function)
    named = {name: place[PLACE.index(name)] for name in names if PLACE.index(name) < len(place)}
    return function(batch, *place[:num_positional], **named)


def call_loss(loss: Any, batch: Any, *place: Any) -> Any:
    """Call a loss function with a batch and return its outputs.

    Calls `loss_fn` directly if calling the object would not reach it: the object is not callable, or it has no
    `forward` and `torch.nn.Module` comes before `LossFunction` among its bases.
    """
    stops = _is_called_as_module(loss) and type(loss).forward.__module__ == _MODULE
    return call_at(loss.loss_fn if stops or not callable(loss) else loss, batch, *place)


def _is_called_as_module(function: Any) -> bool:
    call = next((vars(base)["__call__"] for base in type(function).__mro__ if "__call__" in vars(base)), None)
    return getattr(call, "__module__", None) == _MODULE


def _taken(function: Callable[..., Any]) -> tuple[int, tuple[str, ...]]:
    """How many of `PLACE` a function accepts by position after the batch, and which others it accepts by name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return len(PLACE), ()
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return len(PLACE), ()
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    rest = [parameter for parameter in parameters if parameter.kind in by_position][1:]
    if len(rest) >= len(PLACE) and any(parameter.name in PLACE for parameter in rest[: len(PLACE)]):
        return len(PLACE), ()
    num_positional = 0
    for name, parameter in zip(PLACE, rest, strict=False):
        other = parameter.name not in PLACE and parameter.default is inspect.Parameter.empty
        if parameter.name != name and not other:
            break
        num_positional += 1
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return num_positional, PLACE[num_positional:]
    by_name = {parameter.name for parameter in rest[num_positional:]}
    by_name |= {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    return num_positional, tuple(name for name in PLACE[num_positional:] if name in by_name)


@runtime_checkable
class Tokenizer(Protocol):
    """Converts text to token ids and back; `full_vocab_size` counts every id that a model must embed."""

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
    """How noise grows with time. Core only passes it on, so its members are up to the model family."""


@runtime_checkable
class StandaloneModel(Protocol):
    """A network built from other files, which can be rebuilt without them once its weights are stored."""

    def standalone_arguments(self) -> dict[str, Any]: ...


@runtime_checkable
class TransformersModel(Protocol):
    """A network that transformers also has: `for_transformers` returns its `PreTrainedModel` with the same weights."""

    def for_transformers(self) -> Any: ...


@runtime_checkable
class ChecksTokenizer(Protocol):
    """A pretrained network; raises ConfigError if the run's tokenizer does not have its vocabulary."""

    def check_tokenizer(self, tokenizer: Any) -> None: ...


class Model(Protocol):
    """The network; the signature of `forward` is private to the model family."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any: ...


class LossFunction(Protocol[T_in, T_out]):
    """Turns a batch into a dict with `"loss"` (scalar mean) and any other values that metrics need."""

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
        """Called once on the device before the first batch, for example to turn scalars into tensors."""

    def __call__(
        self,
        batch: T_in,
        batch_idx: int | None = None,
        dataloader_idx: int | None = None,
        dataloader_name: str | None = None,
    ) -> T_out:
        # Through the attribute, so that core can replace it with the compiled function.
        found: T_out = call_at(self.loss_fn, batch, batch_idx, dataloader_idx, dataloader_name)
        return found


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
        """One JSON-serializable row per example."""
        ...


class BaseCollatorInput(TypedDict):
    """One example for language modelling, before collation."""

    input_ids: list[int]
    noise_seed: NotRequired[int]
    time_quantile: NotRequired[float]
    noise_level: NotRequired[float]  # older name of time_quantile


class Seq2SeqCollatorInput(BaseCollatorInput):
    """One example with a prompt; `input_ids` is the answer."""

    prompt_ids: list[int]


class Collator(Protocol):
    """Turns a list of examples into a dict of tensors; must be picklable, since workers receive a copy.

    A collator with `token_limits()` (see `xlm.data.collate.limits`) declares which lengths fit, for `too_long`.
    """

    def __call__(self, examples: Sequence[Any]) -> Any: ...


class Seq2SeqCollator(Collator, Protocol):
    """A collator for training on prompts and answers."""

    def __call__(self, examples: Sequence[Any]) -> Any: ...


class Seq2SeqCollatorPrediction(Collator, Protocol):
    """A collator for generating the answer to a prompt; the true answer is kept apart in `target_ids`."""

    def __call__(self, examples: Sequence[Any]) -> Any: ...
