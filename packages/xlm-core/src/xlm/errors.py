"""Every error that a user can cause or act on, in one tree; the first line of each is what a person reads.

XLMError                            exit code 1
├── ConfigError                     a configuration that cannot be composed or used
│   ├── MissingConfigError          a group member that no searched folder holds
│   ├── MissingRoleError            a dataset needs a collator that the model type doesn't bring
│   ├── BadTargetError              a `_target_` or dotted path that cannot be imported
│   ├── BadArgumentError            a `_target_` called with arguments that it doesn't take
│   └── UnknownJobError             a job_type that nobody registered
├── ExternalModelError              discovery of model packages
│   ├── ExternalModelConflictError  one name, two directories
│   ├── ModelsFileError             an xlm_models.json or commands.yaml that cannot be used
│   ├── UnknownModelError           a name that nobody lists
│   ├── ModelNotInstalledError      a listed package that Python does not find
│   ├── ModelLayoutError            a model directory without its package or its configs
│   └── ScaffoldError               a model package that cannot be created
├── DataError                       data sources, preprocessing, collation
│   └── CacheCorruptError           a prepared data set that cannot be read back
├── CheckpointError                 saving and loading of runs
│   ├── CheckpointMismatchError     weights that do not fit the model
│   └── CheckpointCorruptError      a file that cannot be read
├── RunInUseError                   another training run writes into the same folder
├── NonFiniteLossError              training diverged
└── TrainingInterrupted             a signal ended the run after a checkpoint; exit code 128 + signal
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar


def nearest_names(name: str, choices: Iterable[str], num_names: int = 3) -> list[str]:
    """The choices most like `name`, best first, at most `num_names`; none when nothing is close."""
    return get_close_matches(name, list(choices), n=num_names, cutoff=0.6)


def did_you_mean(names: Sequence[str]) -> str:
    """`Did you mean 'a' or 'b'?`, or nothing for no names."""
    if not names:
        return ""
    return "Did you mean " + " or ".join(f"'{name}'" for name in names) + "?"


def as_line(text: object) -> str:
    """`text` on one line that any terminal takes: the unprintable becomes an escape, such as `\\n` or `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _restore(cls: type[XLMError], message: str, state: dict[str, Any]) -> XLMError:
    error = cls.__new__(cls, message)
    error.__dict__.update(state)
    return error


class XLMError(Exception):
    """Base of all errors here; `str(error)` is the message, its first line stands alone."""

    exit_code: int = 1
    #: What stands before the message on the screen: for errors that people search for by name, that name.
    label: ClassVar[str] = "Error"

    def __reduce__(self) -> tuple[Any, ...]:
        # Launchers send errors between processes; subclasses take other arguments than the message.
        return _restore, (type(self), str(self), dict(self.__dict__))


class ConfigError(XLMError):
    """The configuration cannot be composed or used; `key` is the dotted key at fault, if one is."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class MissingConfigError(ConfigError):
    """No searched folder holds `name` (`group/member`); `options` are the members there are."""

    label = "hydra.errors.ConfigCompositionException"

    def __init__(self, message: str, *, name: str, options: Sequence[str] = ()) -> None:
        super().__init__(message, key=name)
        self.name = name
        self.options = tuple(options)


class MissingRoleError(ConfigError):
    """`datamodule` needs a collator for `role`; `model_type` fills only `available`."""

    def __init__(self, role: str, *, model_type: str, datamodule: str, available: Sequence[str]) -> None:
        has = ", ".join(available) if available else "none"
        super().__init__(
            f"model_type '{model_type}' has no collator for the role '{role}', "
            f"which datamodule '{datamodule}' needs; it has: {has}",
            key=f"collators.{role}",
        )
        self.role = role
        self.model_type = model_type
        self.datamodule = datamodule
        self.available = tuple(available)


class BadTargetError(ConfigError):
    """`target` cannot be imported; `reason` is the original error, `config_file` where it is written.

    `python_path` is the folder that must be on Python's path to import it, where that isn't so anyway.
    """

    def __init__(
        self,
        target: str,
        reason: str,
        *,
        key: str | None = None,
        config_file: Path | None = None,
        python_path: Path | None = None,
    ) -> None:
        where = [f"key '{key}'"] if key else []
        where += [f"written in {config_file}"] if config_file else []
        module, _, attribute = target.rpartition(".")
        attempt = f"from {module} import {attribute}" if module else f"import {target}"
        lines = [
            f"Unable to find or instantiate {target}" + (f" ({', '.join(where)})" if where else ""),
            reason,
            f'Try it alone: {f"PYTHONPATH={python_path} " if python_path else ""}python -c "{attempt}"',
        ]
        super().__init__("\n".join(lines), key=key)
        self.target = target
        self.reason = reason
        self.config_file = config_file
        self.python_path = python_path


class BadArgumentError(ConfigError):
    """`target` was found but doesn't take the arguments that the configuration gives it."""

    def __init__(self, target: str, reason: str, *, key: str | None = None, hint: str = "") -> None:
        where = f" (key '{key}')" if key else ""
        super().__init__(f"{target} cannot be called{where}: {reason}" + (f"\n{hint}" if hint else ""), key=key)
        self.target = target
        self.reason = reason


class UnknownJobError(ConfigError):
    """`job_type` is none of `jobs`."""

    def __init__(self, job_type: str, jobs: Iterable[str]) -> None:
        self.job_type = job_type
        self.jobs = tuple(sorted(jobs))
        hint = did_you_mean(nearest_names(job_type, self.jobs, 1))
        super().__init__(
            f"Unknown job_type '{job_type}'. Jobs: {', '.join(self.jobs)}.{' ' + hint if hint else ''}",
            key="job_type",
        )


class ExternalModelError(XLMError):
    """A model package cannot be used; `name` is the model's, where one is concerned."""

    def __init__(self, message: str, *, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class ExternalModelConflictError(ExternalModelError):
    """Several directories claim `name`; `claims` are their (directory, source) pairs."""

    label = "ExternalModelConflictError"

    def __init__(self, name: str, claims: Sequence[tuple[Path, str]]) -> None:
        lines = [as_line(f"  {directory}  (from {source})") for directory, source in claims]
        super().__init__(
            "\n".join(
                [
                    as_line(f"Duplicate model name: {name}"),
                    *lines,
                    "Each model needs a name of its own: remove or rename the entry in all but one of these places.",
                ]
            ),
            name=name,
        )
        self.claims = tuple(claims)


class ModelsFileError(ExternalModelError):
    """`path` (an xlm_models.json or commands.yaml) cannot be used, for `reason`."""

    def __init__(self, path: Path | str, reason: str, *, name: str | None = None) -> None:
        super().__init__(as_line(f"{path}: {reason}"), name=name)
        self.path = path
        self.reason = reason


class UnknownModelError(ExternalModelError):
    """No model is called `name`; `known` are those that were found in `places`."""

    def __init__(self, name: str, known: Iterable[str], places: Iterable[str] = ()) -> None:
        self.known = tuple(sorted(known))
        models = f"Models: {', '.join(self.known) or 'none'}."
        hint = did_you_mean(nearest_names(name, self.known, 1)) or models
        searched = f" Searched: {', '.join(places)}." if places else ""
        super().__init__(f"There is no model '{name}'. {hint}{searched}", name=name)


class ModelNotInstalledError(ExternalModelError):
    """`package`, which `listed_by` lists, is nowhere on Python's path."""

    def __init__(self, package: str, listed_by: str) -> None:
        super().__init__(
            as_line(f"No module named '{package}', which {listed_by} lists. Is it installed in this environment?"),
            name=package,
        )
        self.package = package
        self.listed_by = listed_by


class ModelLayoutError(ExternalModelError):
    """`directory` of model `name` lacks a part that every model has; `reason` says which."""

    def __init__(self, name: str, directory: Path | str, reason: str) -> None:
        super().__init__(as_line(f"Model '{name}' in {directory}: {reason}"), name=name)
        self.directory = directory
        self.reason = reason


class ScaffoldError(ExternalModelError):
    """A model package cannot be created as asked; nothing has been changed."""


class DataError(XLMError):
    """Data that cannot be found, read or used as the configuration says."""


class CacheCorruptError(DataError):
    """The prepared data in `path` cannot be read back."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"The prepared data in {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class CheckpointError(XLMError):
    """A checkpoint cannot be saved, found or loaded; `path` where one is concerned."""

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        super().__init__(message)
        self.path = path


@contextmanager
def of_option(key: str) -> Iterator[None]:
    """For a block that reads the checkpoint which an option names: its errors begin with the option's key."""
    try:
        yield
    except CheckpointError as error:
        error.args = (f"{key}: {error}",)
        raise


class CheckpointMismatchError(CheckpointError):
    """The weights in `path` don't fit: keys `missing`, `unexpected`, or `shapes` as {key: (found, expected)}."""

    MAX_SHOWN: ClassVar[int] = 8

    def __init__(
        self,
        path: Path | str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        shapes: Mapping[str, tuple[Sequence[int], Sequence[int]]] | None = None,
    ) -> None:
        shapes = dict(shapes or {})
        lines = [f"The checkpoint {path} does not fit the model."]
        lines += self._shown("keys that the checkpoint lacks", list(missing))
        lines += self._shown("keys that the model doesn't have", list(unexpected))
        differing = [f"{k}: {tuple(a)} in the checkpoint, {tuple(b)} in the model" for k, (a, b) in shapes.items()]
        lines += self._shown("shapes that differ", differing)
        lines.append("Was it trained with another model= or other sizes? Choose those, or another job_name.")
        super().__init__("\n".join(lines), path=path)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.shapes = shapes

    @classmethod
    def _shown(cls, title: str, items: list[str]) -> list[str]:
        if not items:
            return []
        rest = len(items) - cls.MAX_SHOWN
        more = [f"    … and {rest} more"] if rest > 0 else []
        return [f"  {title} ({len(items)}):", *(f"    {item}" for item in items[: cls.MAX_SHOWN]), *more]


class CheckpointCorruptError(CheckpointError):
    """The file `path` cannot be read as a checkpoint."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"The checkpoint {path} cannot be read: {reason}", path=path)
        self.reason = reason


class RunInUseError(XLMError):
    """Another training run writes into `folder`."""

    def __init__(self, message: str, *, folder: Path | str) -> None:
        super().__init__(message)
        self.folder = folder


class NonFiniteLossError(XLMError):
    """The loss was NaN or infinite at optimizer step `step`."""

    def __init__(self, step: int, loss: float | None = None) -> None:
        value = "not finite" if loss is None else f"{loss}"
        super().__init__(
            f"The training loss is {value} at step {step}.\n"
            "A smaller optimizer.lr, a longer lr_scheduler.num_warmup_steps or trainer.precision=32-true may help."
        )
        self.step = step
        self.loss = loss


class TrainingInterrupted(XLMError):  # noqa: N818 - a person wanted it: nothing went wrong
    """Signal `signum` ended the run; `checkpoint_path` continues it (None: nothing was saved)."""

    def __init__(self, signum: int, checkpoint_path: Path | str | None = None) -> None:
        saved = f"saved {checkpoint_path}" if checkpoint_path else "nothing was saved"
        super().__init__(
            f"Interrupted by {signal.Signals(signum).name}; {saved}."
            + ("\nThe same command continues this run." if checkpoint_path else "")
        )
        self.signum = signum
        self.checkpoint_path = checkpoint_path
        self.exit_code = 128 + signum
