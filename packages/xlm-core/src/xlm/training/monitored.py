"""Refuses a monitored metric that nothing logs before a step is taken, and says where the mode seems the wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from xlm.errors import ConfigError, did_you_mean, nearest_names
from xlm.metrics import MetricWrapper
from xlm.utils.rank_zero import RankedLogger

log = RankedLogger(__name__, rank_zero_only=True)

_TRAIN = "train/"
# Parts of names of metrics whose class doesn't say which way is better.
_LOWER = ("loss", "nll", "perplexity", "ppl", "bpb", "bpd", "error", "network_calls")
_HIGHER = ("accuracy", "exact_match", "f1", "bleu", "rouge", "precision", "recall")


class MonitoredMetric(Callback):
    """Looks at what the callbacks of a run monitor.

    Metrics are known by their names in the configuration; but losses and models may log further ones, so that a name
    which isn't among them is looked for after one batch of each validation loader, before training.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = {metric.full_name(place): metric for place, metric in _metrics(pl_module)}
        for callback in _monitoring(trainer):
            if callback.monitor not in known and not trainer.num_sanity_val_steps:
                trainer.num_sanity_val_steps = 1
            better = _better(callback.monitor, known.get(callback.monitor))
            if better is not None and better != callback.mode:
                key = _mode_key(pl_module, callback)
                wanted, other = ("lowest", "higher") if callback.mode == "min" else ("highest", "lower")
                log.warning(
                    f"{key}={callback.mode} keeps the {wanted} {callback.monitor}, of which {other} is better. "
                    f"Is {key}={better} meant?"
                )

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that goes on has no validation before its first step.
        if not trainer.sanity_checking:
            self._check(trainer, pl_module)

    def _check(self, trainer: Trainer, pl_module: LightningModule) -> None:
        there = [str(name) for name in trainer.callback_metrics]
        for callback in _monitoring(trainer):
            if callback.monitor not in there and not (trainer.sanity_checking and callback.monitor.startswith(_TRAIN)):
                names = sorted(name for name in there if not name.startswith(_TRAIN))
                hint = did_you_mean(nearest_names(callback.monitor, names, 1))
                key = _key(pl_module, callback)
                raise ConfigError(
                    f"{key} is '{callback.monitor}', and validation has no such metric. "
                    f"It has: {', '.join(names) or 'none'}. {hint}".rstrip(),
                    key=key,
                )


def _monitoring(trainer: Trainer) -> list[Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(getattr(callback, "monitor", None), str)]


def _metrics(pl_module: LightningModule) -> Iterable[tuple[str, MetricWrapper]]:
    metrics: Any = getattr(pl_module, "metrics", {})
    return [(place, metric) for place, found in metrics.items() for metric in found]


def _better(name: str, metric: MetricWrapper | None) -> str | None:
    """`min` or `max`, whichever is better of a metric; None where nothing says it."""
    higher = None if metric is None else metric.metric.higher_is_better
    if higher is not None:
        return "max" if higher else "min"
    last = name.rpartition("/")[-1].lower()
    if any(part in last for part in _LOWER):
        return "min"
    return "max" if any(part in last for part in _HIGHER) else None


def _key(pl_module: LightningModule, callback: Any) -> str:
    """Where the configuration says what is monitored."""
    return "monitored_metric" if _is_ours(pl_module, callback) else f"The monitor of {type(callback).__name__}"


def _mode_key(pl_module: LightningModule, callback: Any) -> str:
    return "monitored_mode" if _is_ours(pl_module, callback) else f"mode of {type(callback).__name__}"


def _is_ours(pl_module: LightningModule, callback: Any) -> bool:
    return bool(getattr(pl_module, "config", {}).get("monitored_metric") == callback.monitor)
