"""All errors that a user can cause or fix, in one tree; the first line of a message can be read on its own.

XLMError                            exit code 1
├── ConfigError                     a configuration that cannot be composed or used
│   ├── MissingConfigError          a group member that is not in any searched folder
│   ├── MissingRoleError            a dataset needs a collator that the model type does not have
│   ├── BadTargetError              a `_target_` or dotted path that cannot be imported
│   ├── BadArgumentError            a `_target_` that does not accept its arguments
│   ├── NotAllowedError             a stored configuration that names more than classes for configurations
│   └── UnknownJobError             a job_type that does not exist
├── ExternalModelError              discovery of model packages
│   ├── ExternalModelConflictError  one model name for several directories
│   ├── ModelsFileError             an xlm_models.json or commands.yaml that cannot be used
│   ├── UnknownModelError           a model name that is not listed anywhere
│   ├── ModelNotInstalledError      a listed package that Python cannot find
│   ├── ModelLayoutError            a model directory without its package or its configs
│   └── ScaffoldError               a model package that cannot be created
├── DataError                       data sources, preprocessing, collation
│   └── CacheCorruptError           a prepared dataset that cannot be read
├── CheckpointError                 saving and loading of runs
│   ├── CheckpointMismatchError     weights that don't fit the model
│   └── CheckpointCorruptError      a file that cannot be read
├── StorageError                    a full or read-only disk, a folder that was removed
├── OutOfMemoryError                the memory of a device or of the machine is not enough
├── RunInUseError                   another training run is writing to the same folder
├── RankLostError                   a process of a run with several of them has ended or does not answer
├── NonFiniteLossError              the training loss is NaN or infinite
├── NotLearntError                  debug=overfit: a model has not learnt its one batch
├── SweepError                      some runs of a sweep failed
└── TrainingInterrupted             a signal ended the run after a checkpoint; exit code 128 + signal
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar


def nearest_names(name: str, choices: Iterable[str], num_names: int = 3) -> list[str]:
    """The choices most similar to `name`, best first, at most `num_names`; empty if nothing is close."""
    return get_close_matches(name, list(choices), n=num_names, cutoff=0.6)


def did_you_mean(names: Sequence[str]) -> str:
    """`Did you mean 'a' or 'b'?`; empty without names."""
    if not names:
        return ""
    return "Did you mean " + " or ".join(f"'{as_line(name)}'" for name in names) + "?"


def as_line(text: object) -> str:
    """`text` on one line, with unprintable characters as escapes such as `\\n` or `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


# Characters without a picture of their own that scripts need: joiners, and the mark of an emoji's form.
_JOINERS = "\u200c\u200d\ufe0f"


def printable(text: object) -> str:
    """`text` with control characters as escapes, so that it cannot move a terminal's cursor or reverse what is read.

    Line ends, tabs and joiners are kept; the controls of terminals (C0, C1) and of the direction of text are not.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c
        if c.isprintable() or c in "\n\t" or c in _JOINERS or (c.isspace() and c not in _CONTROL_SPACES)
        else c.encode("unicode_escape").decode()
        for c in shown
    )


# Characters that Python counts as space and terminals as commands.
_CONTROL_SPACES = "\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"


def _restore(cls: type[XLMError], message: str, state: dict[str, Any]) -> XLMError:
    error = cls.__new__(cls, message)
    error.__dict__.update(state)
    return error


# A word that nobody reads to its end: its beginning and its end.
_LONG_WORD = re.compile(r"(\S{200})\S{200,}(\S{100})")


class XLMError(Exception):
    """Base of all errors here; `str(error)` is the message, and its first line can be read on its own."""

    exit_code: int = 1
    #: Printed before the message; errors that people search for by name print that name.
    label: ClassVar[str] = "Error"

    def __init__(self, message: str = "") -> None:
        # A damaged file may have a name of any length.
        super().__init__(_LONG_WORD.sub(r"\1…\2", message))

    def __reduce__(self) -> tuple[Any, ...]:
        # Launchers send errors between processes, and subclasses don't take the message as an argument.
        return _restore, (type(self), str(self), dict(self.__dict__))


class ConfigError(XLMError):
    """The configuration cannot be composed or used; `key` is the dotted key at fault, if it is known."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class MissingConfigError(ConfigError):
    """`name` (`group/member`) is not in any searched folder; `options` are the existing members."""

    label = "hydra.errors.ConfigCompositionException"

    def __init__(self, message: str, *, name: str, options: Sequence[str] = ()) -> None:
        super().__init__(message, key=name)
        self.name = name
        self.options = tuple(options)


class MissingRoleError(ConfigError):
    """`datamodule` needs a collator for `role`; `model_type` has only those in `available`."""

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
    """`target` cannot be imported; `reason` is the original error, `config_file` the file that names it.

    `python_path` is the folder that must be on Python's path to import it, if it is not there by default.
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
    """`target` was found but does not accept the arguments in the configuration."""

    def __init__(self, target: str, reason: str, *, key: str | None = None, hint: str = "") -> None:
        where = f" (key '{key}')" if key else ""
        super().__init__(f"{target} cannot be called{where}: {reason}" + (f"\n{hint}" if hint else ""), key=key)
        self.target = target
        self.reason = reason


class NotAllowedError(ConfigError):
    """The configuration stored in `source` would run more than models; `option` is how a user allows it."""

    def __init__(self, source: str, reason: str, option: str, *, key: str | None = None) -> None:
        super().__init__(f"The configuration in {source} {reason}. If you trust its author, give {option}.", key=key)
        self.source = source
        self.reason = reason


class UnknownJobError(ConfigError):
    """`job_type` is not one of `jobs`."""

    def __init__(self, job_type: str, jobs: Iterable[str]) -> None:
        self.job_type = job_type
        self.jobs = tuple(sorted(jobs))
        hint = did_you_mean(nearest_names(job_type, self.jobs, 1))
        super().__init__(
            f"Unknown job_type '{job_type}'. Jobs: {', '.join(self.jobs)}.{' ' + hint if hint else ''}",
            key="job_type",
        )


class ExternalModelError(XLMError):
    """A model package cannot be used; `name` is the name of the model, if it is known."""

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
                    "Each model needs its own name: remove or rename the entry in all but one of these places.",
                ]
            ),
            name=name,
        )
        self.claims = tuple(claims)


class ModelsFileError(ExternalModelError):
    """`path` (an xlm_models.json or commands.yaml) cannot be used; `reason` says why."""

    def __init__(self, path: Path | str, reason: str, *, name: str | None = None) -> None:
        super().__init__(as_line(f"{path}: {reason}"), name=name)
        self.path = path
        self.reason = reason


class UnknownModelError(ExternalModelError):
    """There is no model `name`, which `listed_by` lists; `known` are the models that were found in `places`."""

    def __init__(self, name: str, known: Iterable[str], places: Iterable[str] = (), listed_by: str = "") -> None:
        self.known = tuple(sorted(known))
        models = f"Models: {', '.join(self.known) or 'none'}."
        hint = did_you_mean(nearest_names(name, self.known, 1)) or models
        searched = f" Searched: {', '.join(places)}." if places else ""
        listed = f", which {listed_by} lists" if listed_by else ""
        super().__init__(as_line(f"There is no model '{name}'{listed}. {hint}{searched}"), name=name)


class ModelNotInstalledError(ExternalModelError):
    """`package`, which `listed_by` lists, is not on Python's path."""

    def __init__(self, package: str, listed_by: str) -> None:
        super().__init__(
            as_line(f"No module named '{package}', which {listed_by} lists. Is it installed in this environment?"),
            name=package,
        )
        self.package = package
        self.listed_by = listed_by


class ModelLayoutError(ExternalModelError):
    """`directory` of model `name` lacks a required part; `reason` says which."""

    def __init__(self, name: str, directory: Path | str, reason: str) -> None:
        super().__init__(as_line(f"Model '{name}' in {directory}: {reason}"), name=name)
        self.directory = directory
        self.reason = reason


class ScaffoldError(ExternalModelError):
    """A model package cannot be created as requested; nothing has been changed."""


class DataError(XLMError):
    """Data cannot be found, read or used as configured."""


class CacheCorruptError(DataError):
    """The prepared data in `path` cannot be read."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"The prepared data in {path} cannot be used: {reason}")
        self.path = path
        self.reason = reason


class CheckpointError(XLMError):
    """A checkpoint cannot be saved, found or loaded; `path` is its path, if it has one."""

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        super().__init__(message)
        self.path = path


@contextmanager
def of_option(key: str) -> Iterator[None]:
    """Prefix the checkpoint errors of a block with the key of the option that names the checkpoint."""
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
        lines += self._shown("keys missing in the checkpoint", list(missing))
        lines += self._shown("keys missing in the model", list(unexpected))
        differing = [f"{k}: {tuple(a)} in the checkpoint, {tuple(b)} in the model" for k, (a, b) in shapes.items()]
        lines += self._shown("different shapes", differing)
        lines.append("Was it trained with another model= or other sizes? Use the same ones, or another job_name.")
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


class StorageError(XLMError):
    """A disk is full, read-only, over its quota or damaged, or a file or folder (`path`) was removed."""

    def __init__(self, message: str, *, path: Path | str | None = None) -> None:
        super().__init__(as_line(message))
        self.path = path

    @classmethod
    def of(cls, error: BaseException) -> StorageError | None:
        """The same in a sentence, if an error is one of the file system; None otherwise."""
        if not isinstance(error, OSError) or error.errno not in _OF_THE_DISK:
            return None
        path, reason = error.filename, error.strerror or str(error)
        return cls(f"{reason}." if path is None else f"{path}: {reason}.", path=path)


_OF_THE_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE, errno.ENODEV,
}  # fmt: skip


class OutOfMemoryError(XLMError):
    """The memory of a device or of the machine is not enough."""

    @classmethod
    def of(cls, error: BaseException) -> OutOfMemoryError | None:
        """The same with what to change, if an error is one of memory; None otherwise."""
        message = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
        # torch.OutOfMemoryError by its name, since errors must not import torch.
        is_one = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if not is_one and not (isinstance(error, RuntimeError) and any(text in message for text in _OF_THE_MEMORY)):
            return None
        is_said = "out of memory" in message
        return cls(
            (message if is_said else f"Out of memory. {message[:1].upper()}{message[1:]}").rstrip() + "\n"
            "Smaller batches need less: per_device_batch_size=… with the same global_batch_size=… in training, "
            "per_device_val_batch_size=… in evaluation, generation.batch_size=… in generation. "
            "activation_checkpointing=true and other ways: docs/guide/out-of-memory.md"
        )


# What the allocators of the CPU and of MPS say.
_OF_THE_MEMORY = ("can't allocate memory", "not enough memory", "backend out of memory")


class RunInUseError(XLMError):
    """Another training run is writing to `folder`."""

    def __init__(self, message: str, *, folder: Path | str) -> None:
        super().__init__(message)
        self.folder = folder


class RankLostError(XLMError):
    """Process `rank` of a run ended or does not answer; `checkpoint_path` is what a survivor saved, if anything."""

    def __init__(
        self, rank: int, who: str, reason: str, checkpoint_path: Path | str | None = None, *, is_quiet: bool = False
    ) -> None:
        saved = (
            f"{checkpoint_path} holds the state after the last finished step; the same command continues from there."
            if checkpoint_path
            else "The same command continues from the run's last checkpoint, if it has one."
        )
        super().__init__(f"Rank {rank}{who} {reason}.\n{saved}")
        self.rank = rank
        self.checkpoint_path = checkpoint_path
        #: Another process of the same run prints the message.
        self.is_quiet = is_quiet


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


class NotLearntError(XLMError):
    """The verdict of `debug=overfit` on a model that has not learnt its one batch, with what to look at."""

    label = ""


class SweepError(XLMError):
    """Some runs of a sweep failed: `failed` has the first line of the error of each, by the run's name."""

    _MOST = 20

    def __init__(self, failed: Mapping[str, str], num_runs: int) -> None:
        lines = [f"  {name}: {message}" for name, message in failed.items()]
        more = [f"  and {len(lines) - self._MOST} more"] if len(lines) > self._MOST else []
        others = "" if len(failed) == num_runs else " The others are complete."
        first = f"{len(failed)} of {num_runs} runs failed.{others}"
        last = "The same command continues or repeats them."
        super().__init__("\n".join([first, *lines[: self._MOST], *more, last]))
        self.failed = dict(failed)


_CLOSED_OUTPUT = {"SIGHUP": "The terminal was closed (SIGHUP)", "SIGPIPE": "Standard output was closed (SIGPIPE)"}


class TrainingInterrupted(XLMError):  # noqa: N818 - not an error: a person asked for it
    """Signal `signum` ended the run; it can continue from `checkpoint_path` (None: nothing was saved)."""

    def __init__(self, signum: int, checkpoint_path: Path | str | None = None) -> None:
        saved = f"saved {checkpoint_path}" if checkpoint_path else "nothing was saved"
        name = signal.Signals(signum).name
        reason = _CLOSED_OUTPUT.get(name, f"Interrupted by {name}")
        super().__init__(f"{reason}; {saved}." + ("\nThe same command continues this run." if checkpoint_path else ""))
        self.signum = signum
        self.checkpoint_path = checkpoint_path
        self.exit_code = 128 + signum
