"""`xlm eval`: the metrics of a checkpoint on a split, with no training data needed."""

from __future__ import annotations

from omegaconf import DictConfig

from xlm.errors import ConfigError
from xlm.jobs.checkpoint_choice import chosen_checkpoint, load_chosen
from xlm.jobs.session import shown, start
from xlm.training.progress import EvaluationProgress
from xlm.training.results import print_results, write_results
from xlm.training.rng import RandomState

SPLITS = ("val", "test")


def run(cfg: DictConfig) -> dict[str, float]:
    """Score `eval.split` (default test) of the datamodule; returns the metrics.

    Raises:
        ConfigError: the split is unknown or has no loader.
        CheckpointError: no checkpoint, or one that cannot be read or does not fit.
    """
    split = str((cfg.get("eval") or {}).get("split", "test"))
    if split not in SPLITS:
        raise ConfigError(f"eval.split is '{split}', and must be one of: {', '.join(SPLITS)}.", key="eval.split")
    chosen_checkpoint(cfg, "eval")
    session = start(cfg)
    if not session.datamodule.dataloader_names.get(split):
        raise ConfigError(f"datamodule.dataset_managers.{split} has no loader, so there is nothing to evaluate on.")
    harness = session.harness()
    checkpoint = load_chosen(cfg, harness, "eval")
    trainer = session.trainer([RandomState(cfg.seed), EvaluationProgress()], [])
    record = session.write_record(trainer, "eval")
    loop = trainer.test if split == "test" else trainer.validate
    loop(harness, datamodule=session.datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        print_results(f"{shown(checkpoint)} on {split}", metrics, harness.last_counts, session.console)
        written = write_results(
            session.run_dir / f"eval_{split}.json",
            {
                **record,
                "weights": str(checkpoint),
                "split": split,
                "metrics": metrics,
                "n": harness.last_counts,
            },
        )
        session.console.print(f"Written to {shown(written)}.", soft_wrap=True)
    return metrics
