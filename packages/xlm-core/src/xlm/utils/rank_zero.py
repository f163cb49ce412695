"""Logging and calling on the first process only, and gathering from all processes, without importing torch."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, MutableMapping
from typing import Any, ParamSpec, TypeVar

from xlm.errors import printable
from xlm.utils.secrets import without_secrets
from xlm.utils.slurm import is_task

P = ParamSpec("P")
R = TypeVar("R")

# Set by torchrun, SLURM and MPI launchers; Lightning sets LOCAL_RANK for the processes that it starts.
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "LOCAL_RANK")
_OF_SLURM = "SLURM_PROCID"


def get_rank() -> int:
    """This process's rank: that of the process group if there is one, otherwise the launcher's, otherwise 0."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    for name in _RANK_VARIABLES:
        value = os.environ.get(name, "")
        # A shell in an allocation has SLURM_PROCID=0, and so have the processes that Lightning starts there.
        if value.isdecimal() and (name != _OF_SLURM or is_task(os.environ)):
            return int(value)
    return 0


def is_first_process() -> bool:
    """Whether this is rank 0 of all machines, even if every machine starts its own processes (NODE_RANK)."""
    nodes = (os.environ.get(name, "") for name in ("NODE_RANK", "GROUP_RANK"))
    return get_rank() == 0 and not any(value.isdecimal() and int(value) > 0 for value in nodes)


def rank_zero_only(fn: Callable[P, R]) -> Callable[P, R | None]:
    """The function on rank 0; on other ranks a call does nothing and returns None."""

    @functools.wraps(fn)
    def on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> R | None:
        return fn(*args, **kwargs) if get_rank() == 0 else None

    return on_rank_zero


def all_gather_objects(value: R) -> list[R]:
    """`value` of every rank in order, on every rank; without a process group, only this one's."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return [value]
    values: list[R] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


@rank_zero_only
def rank_zero_warn(message: str, category: type[Warning] = UserWarning, stacklevel: int = 2) -> None:
    """`warnings.warn` on rank 0; stacklevel 1 is the line that calls this function."""
    warnings.warn(message, category, stacklevel=stacklevel + 2)


_given: set[tuple[str, str]] = set()


def warn_once(message: str, category: type[Warning] = UserWarning, stacklevel: int = 2) -> None:
    """A warning on rank 0, only the first time that this message occurs in this process."""
    if (message, category.__name__) not in _given:
        _given.add((message, category.__name__))
        rank_zero_warn(message, category, stacklevel + 1)


class RankedLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that stays silent on ranks above 0, or names the rank in front of each message.

    `log.info(message, rank=2)` logs on that rank only.
    """

    def __init__(
        self,
        name: str = __name__,
        rank_zero_only: bool = False,
        extra: MutableMapping[str, object] | None = None,
    ) -> None:
        super().__init__(logging.getLogger(name), extra)
        self.rank_zero_only = rank_zero_only

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log the message if this rank may log."""
        rank = kwargs.pop("rank", None)
        if not self.isEnabledFor(level):
            return
        current = get_rank()
        wanted = 0 if self.rank_zero_only and rank is None else rank
        if wanted is not None and current != wanted:
            return
        msg = without_secrets(printable(msg))
        text = msg if self.rank_zero_only else f"[rank {current}] {msg}"
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, text, *args, **kwargs)
