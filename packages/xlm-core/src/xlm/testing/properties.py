"""What a property is, and the two ways in which it may not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from xlm.utils.imports import get_function

if TYPE_CHECKING:
    from xlm.testing.subject import Subject

CHECKS = "xlm.testing.checks"


class Violation(AssertionError):  # noqa: N818 - the name of what it is
    """The model breaks the property; the message says how."""


class Inapplicable(Exception):  # noqa: N818 - nothing went wrong
    """The property says nothing about this model, or cannot be seen here; the message says why."""


class TooManyCalls(Exception):  # noqa: N818 - it ends a loop
    """A predictor called the network more often than any limit of its own explains."""


def require(condition: object, reason: str) -> None:
    """Violation with this reason unless the condition holds."""
    if not condition:
        raise Violation(reason)


@dataclass(frozen=True)
class Property:
    """One line of the contract.

    Args:
        name: short, with hyphens; the id of the test.
        proves: what holds when it passes, as a sentence.
        remedy: what to do when it fails.
        check: `<module>.<function>` below `xlm.testing.checks`; a name, so that the table is there without torch.
        needs: other properties that have to hold first; while one doesn't, this one waits, so that a mistake is
            reported once.
        slow: it takes seconds rather than milliseconds.
    """

    name: str
    proves: str
    remedy: str
    check: str
    needs: tuple[str, ...] = ()
    slow: bool = False

    def load(self) -> Callable[[Subject], None]:
        """The function that raises Violation or Inapplicable, or returns."""
        return cast("Callable[[Subject], None]", get_function(f"{CHECKS}.{self.check}"))
