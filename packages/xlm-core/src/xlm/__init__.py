"""XLM: train, evaluate and share language models that are not only left-to-right."""

from typing import TYPE_CHECKING, Any

from xlm import moved
from xlm.__about__ import __version__

if TYPE_CHECKING:
    from xlm.inference.trained import TrainedModel, load

moved.install()

__all__ = ["TrainedModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # `import xlm` is every command's first step: torch comes when a model is asked for.
    if name in ("TrainedModel", "load"):
        from xlm.inference import trained

        return getattr(trained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
