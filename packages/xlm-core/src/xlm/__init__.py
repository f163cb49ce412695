"""XLM: train, evaluate and share language models that are not only left-to-right.

    import xlm

    run = xlm.train("experiment=star_mini_mlm", "trainer.max_steps=200")  # the words of `xlm train`
    lm = run.load()                       # or xlm.load("runs/x" | checkpoint | folder | hub id)

    lm.generate(["3 1 4"])                # answers or continuations
    lm.infill("The cat ___ mat")          # the text with its gaps filled
    lm.score(["a text"])                  # its likelihood, exact or a bound, with standard errors
    lm.trace("3 1 4").save("trace.html")  # how it was generated, call by call

Mistakes are raised as subclasses of `xlm.XLMError`. docs/guide/python.md has more.
"""

from typing import TYPE_CHECKING, Any

from xlm import moved
from xlm.__about__ import __version__
from xlm.errors import XLMError

if TYPE_CHECKING:
    from xlm.commands.from_python import TrainingRun, train
    from xlm.inference.trained import TrainedModel, load

moved.install()

__all__ = ["TrainedModel", "TrainingRun", "XLMError", "__version__", "load", "train"]

# `import xlm` is every command's first step: torch comes with the first of these.
_LATER = {
    "TrainedModel": "xlm.inference.trained",
    "TrainingRun": "xlm.commands.from_python",
    "load": "xlm.inference.trained",
    "train": "xlm.commands.from_python",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import warnings
        from importlib import import_module

        with warnings.catch_warnings():
            # Libraries ask for widgets in a notebook; progress is shown there without them.
            warnings.filterwarnings("ignore", message="IProgress not found")
            return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
