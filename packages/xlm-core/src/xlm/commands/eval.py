"""`xlm eval`: metrics and likelihood of a checkpoint on a split, without the training data."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xlm.compose.checks import read_section
from xlm.compose.other_data import with_data_of
from xlm.errors import ConfigError
from xlm.evaluation.likelihood import NUM_SAMPLES as NUM_SAMPLES
from xlm.evaluation.likelihood import LikelihoodPass, gives_likelihood, print_likelihoods
from xlm.evaluation.metrics import Estimates
from xlm.evaluation.text_quality.measure import print_quality
from xlm.evaluation.text_quality.texts import collecting_texts
from xlm.harness import Harness
from xlm.inference.session import display_path, start
from xlm.inference.sources import chosen_weights, load_chosen
from xlm.inference.texts import TextScoring, caption, loaders_of_texts, named, scorer_of
from xlm.inference.tracing import tracing
from xlm.schemas import Eval
from xlm.training.progress import EvaluationProgress, print_results, write_results
from xlm.training.rng import RandomState
from xlm.utils.files import output_file, output_folder
from xlm.utils.rank_zero import all_gather_objects


def run(cfg: DictConfig) -> dict[str, float]:
    """Evaluate `eval.split` (default test) of the datamodule; returns the metrics and the likelihood.

    Raises:
        ConfigError: an unknown option or a bad value; the split has no loader; draws are requested from a loss
            without a likelihood.
        CheckpointError: the checkpoint is missing, cannot be read or doesn't fit.
    """
    options = read_section(cfg, Eval)
    split = options.split
    if options.data is not None:
        cfg = with_data_of(cfg, options.data, split, options.data_file)
    elif options.data_file is not None:
        raise ConfigError(
            "eval.data_file is the source of eval.data, which is not given. For the run's own data: "
            f"data_files.{split}={options.data_file}.",
            key="eval.data_file",
        )
    run_dir = output_folder(cfg.paths.run_dir, "paths.run_dir")
    of_data = f"_{options.data}" if options.data else ""
    written_to = output_file(run_dir / f"eval_{split}{of_data}.json", "paths.run_dir")
    weights = chosen_weights(cfg, "eval")
    session = start(cfg, weights.tokenizer)
    loaders = loaders_of_texts(session, split)
    judge = scorer_of(options, "eval", loaders, split)
    if not session.datamodule.dataloader_names.get(split):
        raise ConfigError(f"datamodule.dataset_managers.{split} has no loader, so there is nothing to evaluate on.")
    harness = session.harness()
    checkpoint = load_chosen(harness, weights, options.apply_ema)
    likelihood = _likelihood_pass(options.num_samples, harness)
    estimates = Estimates()
    callbacks = [RandomState(cfg.seed), EvaluationProgress(), estimates, *([likelihood] if likelihood else [])]
    trainer = session.trainer(callbacks, [])
    # Load the judge before anything is written: if that fails, nothing is lost.
    judges = TextScoring.of(session, options, judge if trainer.is_global_zero else None, trainer.strategy.root_device)
    record = session.write_record(trainer, "eval")
    loop = trainer.test if split == "test" else trainer.validate
    collecting = collecting_texts(harness.predictor, session.tokenizer, loaders)
    with tracing(session, harness, checkpoint), collecting as collected:
        loop(harness, datamodule=session.datamodule, verbose=False)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    measured = likelihood.measured if likelihood else {}
    results = estimates.record(metrics)
    texts = {
        name: [text for part in all_gather_objects(written) for text in part] for name, written in collected.items()
    }
    if trainer.is_global_zero:
        scores = dict(metrics)
        quality: dict[str, Any] | None = None
        if texts:
            qualities, quality = judges.measure(texts)
            for name, estimate in named(split, qualities).items():
                if estimate.value is not None:
                    results[name], metrics[name] = estimate.record(), estimate.value
        written = write_results(
            written_to,
            {
                **record,
                "weights": str(checkpoint),
                "averaged_weights": options.apply_ema and weights.has_averages,
                "split": split,
                "sampler": sampler_of(cfg),
                "batch_size": cfg.per_device_val_batch_size,
                "num_devices": trainer.world_size,
                "results": results,
                "metrics": metrics,
                "likelihood": {place: found.record() for place, found in measured.items()},
                "text_quality": quality,
                "n": estimates.counts,
            },
        )
        # After writing: the reader of a pipe may be gone.
        print_results(f"{display_path(checkpoint)} on {split}", scores, estimates.counts, session.console, results)
        print_likelihoods(measured, session.console)
        if (asked := options.num_samples) and measured and all(m.likelihood.exact for m in measured.values()):
            told = f"eval.num_samples={asked} has no effect: an exact likelihood needs no draws."
            session.console.print(told, highlight=False, soft_wrap=True)
        if quality is not None:
            print_quality(qualities, "Unconditional samples", caption(quality), session.console)
        session.console.print(f"Written to {display_path(written)}.", soft_wrap=True)
    for place, found in measured.items():
        metrics |= {f"{place}/{name}": value for name, (value, _) in found.values().items()}
    return metrics


def sampler_of(cfg: DictConfig) -> dict[str, Any] | None:
    """The predictor and its options in the configuration; None without a predictor."""
    if not cfg.get("predictor"):
        return None
    plain = OmegaConf.to_container(cfg.predictor, resolve=True)
    assert isinstance(plain, dict)
    # Options may be live objects, such as the tokenizer; record only their class.
    described = json.dumps(
        {str(name): value for name, value in plain.items()}, default=lambda live: type(live).__name__
    )
    return dict(json.loads(described))


def _likelihood_pass(asked: int | None, harness: Harness) -> LikelihoodPass | None:
    """Measures the likelihood with `eval.num_samples` draws; None for 0, and by default if the loss has none."""
    if not gives_likelihood(harness.loss_function):
        if asked:
            name = type(harness.loss_function).__name__
            raise ConfigError(f"{name} gives no likelihood (no token_nll and no nll_bound). Use eval.num_samples=0.")
        return None
    return None if asked == 0 else LikelihoodPass(asked)
