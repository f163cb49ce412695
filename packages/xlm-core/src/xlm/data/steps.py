"""The functions that a config names for the examples of a data set, and the check of the ids that they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from xlm.data.functional import BATCHED
from xlm.data.hashing import code_version
from xlm.data.mapping import RowFunction
from xlm.data.on_the_fly import accepted_keys
from xlm.errors import DataError
from xlm.utils.imports import get_function
from xlm.utils.text_files import name_of_kind

# Columns of token ids, and what they are called before the functions of `xlm.data.functional` rename them.
_IDS = ("input_ids", "prompt_ids")
_WHOLE = {int}
_EARLIER = ("token_ids", "input_token_ids", "prompt_token_ids")


def vocabulary_size(tokenizer: Any) -> int | None:
    """The number of ids that a model embeds; None if the tokenizer has no `full_vocab_size`."""
    size = getattr(tokenizer, "full_vocab_size", None)
    if size is None and hasattr(tokenizer, "__len__"):
        size = len(tokenizer)
    return size if isinstance(size, int) else None


def checked_ids(example: Any, vocabulary: int | None) -> dict[str, Any]:
    """The example, its columns of ids as plain lists.

    Raises:
        DataError: it is not an object, or a column of ids contains something other than ids of the vocabulary.
    """
    if type(example) is not dict and not isinstance(example, Mapping):
        raise DataError(f"it is {name_of_kind(example)}, not an object with columns.")
    found = dict(example)
    # Once they are renamed, the original columns are not ids any more.
    for column in _IDS if "input_ids" in found else (*_IDS, *_EARLIER):
        if column in found:
            found[column] = _ids(found[column], column, vocabulary)
    return found


def _ids(value: Any, column: str, vocabulary: int | None) -> list[int]:
    is_whole = type(value) is list and set(map(type, value)) == _WHOLE
    if is_whole and min(value) >= 0 and (vocabulary is None or max(value) < vocabulary):
        return list(value)  # the usual case
    if hasattr(value, "tolist"):  # an array or a tensor
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"column {column!r} holds {name_of_kind(value)}, not a list of ids.")
    kinds = set(map(type, value))
    if kinds - {int}:
        # Integers from numpy are allowed; booleans, fractions and nested lists are not.
        value = [item.item() if hasattr(item, "item") else item for item in value]
        for wrong in (item for item in value if type(item) is not int):
            shown = f"{name_of_kind(wrong)} ({wrong})" if isinstance(wrong, float | bool | str) else name_of_kind(wrong)
            raise DataError(f"column {column!r} holds {shown} among its ids, which must be whole numbers.")
    if value and (min(value) < 0 or (vocabulary is not None and max(value) >= vocabulary)):
        wrong = min(value) if min(value) < 0 else max(value)
        last = "" if vocabulary is None else f" to {vocabulary - 1:,}"
        raise DataError(f"column {column!r} holds the id {wrong}; the tokenizer's ids go from 0{last}.")
    return list(value)


@dataclass(frozen=True)
class Step:
    """A function named in a config, with its keyword arguments."""

    path: str
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, function: str | Callable[..., Any] | None, kwargs: Mapping[str, Any] | None) -> Step | None:
        """None for no function; a callable is stored as its dotted path, which caches and workers need."""
        if function is None:
            return None
        path = function if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"
        return cls(path, plain(kwargs or {}))

    def identity(self) -> dict[str, Any]:
        return {"path": self.path, "code": code_version(get_function(self.path)), "kwargs": self.kwargs}

    def bind(self, tokenizer: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The step as `example -> example`: columns that the function returns are added or replaced."""
        return partial(_apply, get_function(self.path), tokenizer, self.kwargs)

    def bind_keyed(self, tokenizer: Any) -> Callable[..., dict[str, Any]]:
        """The step as `example, noise_seed=, epoch=, row= -> example`; the function gets those that it names."""
        function = get_function(self.path)
        names = tuple(name for name in accepted_keys(function) if name not in self.kwargs)
        return partial(_apply_keyed, function, tokenizer, self.kwargs, names)


def _apply_keyed(
    function: Callable[..., Any],
    tokenizer: Any,
    kwargs: dict[str, Any],
    names: tuple[str, ...],
    example: dict[str, Any],
    **keys: int,
) -> dict[str, Any]:
    return _apply(function, tokenizer, {**kwargs, **{name: keys[name] for name in names}}, example)


def _apply(
    function: Callable[..., Any], tokenizer: Any, kwargs: dict[str, Any], example: dict[str, Any]
) -> dict[str, Any]:
    # A generator may yield bare lists of ids, which `ids_to_example_fn` turns into examples.
    own = example if type(example) is dict or isinstance(example, Mapping) else {}
    return {**own, **function(example, tokenizer=tokenizer, **kwargs)}


def _checked(function: Callable[[Any], Any] | None, vocabulary: int | None, example: Any) -> dict[str, Any]:
    return checked_ids(example if function is None else function(example), vocabulary)


def _all_checked(
    function: Callable[..., list[dict[str, Any]]],
    tokenizer: Any,
    kwargs: dict[str, Any],
    vocabulary: int | None,
    examples: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    found = function(examples, tokenizer=tokenizer, **kwargs)
    return [checked_ids({**own, **new}, vocabulary) for own, new in zip(examples, found, strict=True)]


def row_function(step: Step | None, tokenizer: Any) -> RowFunction:
    """A preprocessing step and the check of ids, of one row and of many."""
    vocabulary = vocabulary_size(tokenizer)
    if step is None:
        return RowFunction(partial(_checked, None, vocabulary))
    one = partial(_checked, step.bind(tokenizer), vocabulary)
    many = BATCHED.get(get_function(step.path))
    return RowFunction(one, many and partial(_all_checked, many, tokenizer, step.kwargs, vocabulary))


def plain(config: Any) -> dict[str, Any]:
    """A config node, or a mapping that contains some, as plain Python data."""
    if isinstance(config, (DictConfig, ListConfig)):
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True))
