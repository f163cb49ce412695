"""Import paths of before: they work until the next minor version, with a warning that names the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

# Old module: the module that has most of its names.
MODULES = {
    "xlm.cli.check": "xlm.commands.check",
    "xlm.cli.models": "xlm.commands.models",
    "xlm.cli.report": "xlm.commands.report",
    "xlm.cli.runs": "xlm.commands.report",
    "xlm.cli.words": "xlm.commands.words",
    "xlm.compose.arithmetic": "xlm.compose.resolvers",
    "xlm.compose.as_typed": "xlm.compose.overrides",
    "xlm.compose.search": "xlm.compose.messages",
    "xlm.compose.sections": "xlm.compose.overrides",
    "xlm.compose.values": "xlm.compose.checks",
    "xlm.data.checks": "xlm.data.steps",
    "xlm.data.files": "xlm.data.file_rows",
    "xlm.data.joined": "xlm.data.sources",
    "xlm.data.packing": "xlm.data.functional",
    "xlm.data.parallel": "xlm.data.mapping",
    "xlm.data.progress": "xlm.training.resume",
    "xlm.data.samplers": "xlm.data.loaders",
    "xlm.data.show": "xlm.utils.rich_utils",
    "xlm.data.unconditional": "xlm.data.manager",
    "xlm.decoding.blanks": "xlm.decoding.infill_syntax",
    "xlm.decoding.bound": "xlm.masked.elbo",
    "xlm.decoding.collate": "xlm.masked.collate",
    "xlm.decoding.extend": "xlm.masked.semi_autoregressive",
    "xlm.decoding.fill": "xlm.masked.unmasking",
    "xlm.decoding.masking": "xlm.masked.collate",
    "xlm.decoding.orders": "xlm.masked.unmasking",
    "xlm.decoding.output": "xlm.masked.predictor",
    "xlm.decoding.remask": "xlm.masked.unmasking",
    "xlm.decoding.streams": "xlm.decoding.counter_rng",
    "xlm.decoding.text_length": "xlm.masked.text_length",
    "xlm.decoding.unread": "xlm.decoding.options",
    "xlm.decoding.writing": "xlm.decoding.trace",
    "xlm.evaluation.estimates": "xlm.evaluation.metrics",
    "xlm.evaluation.likelihood_pass": "xlm.evaluation.likelihood",
    "xlm.evaluation.post_hoc": "xlm.log_predictions",
    "xlm.evaluation.text_quality.estimate": "xlm.evaluation.text_quality.texts",
    "xlm.evaluation.text_quality.judge": "xlm.evaluation.text_quality.scorer",
    "xlm.evaluation.text_quality.mauve": "xlm.evaluation.text_quality.scorer",
    "xlm.evaluation.text_quality.ngrams": "xlm.evaluation.text_quality.diversity",
    "xlm.evaluation.text_quality.overlap": "xlm.evaluation.text_quality.diversity",
    "xlm.evaluation.text_quality.units": "xlm.evaluation.text_quality.texts",
    "xlm.evaluation.tracked": "xlm.evaluation.metrics",
    "xlm.external_models.commands": "xlm.external_models.package",
    "xlm.external_models.installed": "xlm.external_models.discovery",
    "xlm.external_models.models_file": "xlm.external_models.discovery",
    "xlm.external_models.problems": "xlm.external_models.discovery",
    "xlm.jobs": "xlm.commands",
    "xlm.jobs.checkpoint_choice": "xlm.inference.sources",
    "xlm.jobs.eval": "xlm.commands.eval",
    "xlm.jobs.exchange": "xlm.commands.exchange",
    "xlm.jobs.generate": "xlm.commands.generate",
    "xlm.jobs.interactive": "xlm.commands.generate",
    "xlm.jobs.judging": "xlm.inference.texts",
    "xlm.jobs.length": "xlm.commands.train",
    "xlm.jobs.lm_eval": "xlm.commands.lm_eval",
    "xlm.jobs.name": "xlm.commands.name",
    "xlm.jobs.naming_a_checkpoint": "xlm.commands.words",
    "xlm.jobs.options": "xlm.inference.session",
    "xlm.jobs.plan": "xlm.commands.plan",
    "xlm.jobs.prepare_data": "xlm.commands.prepare_data",
    "xlm.jobs.prompts": "xlm.inference.prompts",
    "xlm.jobs.session": "xlm.inference.session",
    "xlm.jobs.sources": "xlm.inference.sources",
    "xlm.jobs.stored": "xlm.inference.stored_config",
    "xlm.jobs.sweep_sampler": "xlm.commands.sweep_sampler",
    "xlm.jobs.sweep_scoring": "xlm.commands.sweep_sampler",
    "xlm.jobs.text_files": "xlm.inference.texts",
    "xlm.jobs.text_quality": "xlm.commands.text_quality",
    "xlm.jobs.trace": "xlm.commands.trace",
    "xlm.jobs.trace_request": "xlm.commands.trace",
    "xlm.jobs.tracing": "xlm.inference.tracing",
    "xlm.jobs.train": "xlm.commands.train",
    "xlm.jobs.writer": "xlm.inference.writer",
    "xlm.lm_eval.record": "xlm.lm_eval.model",
    "xlm.lm_eval.scoring": "xlm.inference.scorer",
    "xlm.lm_eval.writing": "xlm.lm_eval.requests",
    "xlm.modules.kv_cache": "xlm.modules.attention",
    "xlm.modules.short_convolution": "xlm.modules.layers",
    "xlm.reports.curves": "xlm.reports.document",
    "xlm.reports.differences": "xlm.reports.document",
    "xlm.reports.finding": "xlm.reports.run",
    "xlm.reports.plain": "xlm.reports.page",
    "xlm.reports.predictions": "xlm.reports.pairs",
    "xlm.reports.statistics": "xlm.reports.quantities",
    "xlm.scaffold.copying": "xlm.scaffold.templates",
    "xlm.scaffold.registry": "xlm.scaffold.plan",
    "xlm.scaffold.rename": "xlm.scaffold.names",
    "xlm.scaffold.request": "xlm.scaffold.project",
    "xlm.scaffold.write": "xlm.scaffold.plan",
    "xlm.tasks.star.judge": "xlm.tasks.star.graphs",
    "xlm.tasks.star.preprocess": "xlm.tasks.star.graphs",
    "xlm.tasks.text.corpus": "xlm.tasks.text.king_james",
    "xlm.testing.by_heart": "xlm.testing.runner",
    "xlm.testing.checks.batches": "xlm.testing.checks.interfaces",
    "xlm.testing.checks.configs": "xlm.testing.checks.package",
    "xlm.testing.checks.determinism": "xlm.testing.checks.invariance",
    "xlm.testing.checks.devices": "xlm.testing.checks.invariance",
    "xlm.testing.checks.loss": "xlm.testing.checks.training",
    "xlm.testing.checks.outputs": "xlm.testing.checks.interfaces",
    "xlm.testing.checks.packaging": "xlm.testing.checks.package",
    "xlm.testing.checks.prediction": "xlm.testing.checks.interfaces",
    "xlm.testing.checks.running": "xlm.testing.checks.training",
    "xlm.testing.checks.weights": "xlm.testing.checks.training",
    "xlm.testing.declared": "xlm.testing.compare",
    "xlm.testing.equality": "xlm.testing.compare",
    "xlm.testing.finding": "xlm.testing.model_under_test",
    "xlm.testing.prediction": "xlm.testing.samples",
    "xlm.testing.processes": "xlm.testing.checks.distributed",
    "xlm.testing.properties": "xlm.testing.contract",
    "xlm.testing.pytest_tests": "xlm.testing.pytest_plugin",
    "xlm.testing.small": "xlm.testing.model_under_test",
    "xlm.testing.subject": "xlm.testing.model_under_test",
    "xlm.testing.table": "xlm.testing.contract",
    "xlm.traces.drawings": "xlm.traces.document",
    "xlm.traces.moments": "xlm.traces.terminal",
    "xlm.traces.page": "xlm.traces.document",
    "xlm.trained": "xlm.inference.trained",
    "xlm.training.cost": "xlm.training.train_log",
    "xlm.training.exported": "xlm.training.weights",
    "xlm.training.guard": "xlm.training.guards",
    "xlm.training.loggers": "xlm.training.train_log",
    "xlm.training.monitored": "xlm.training.guards",
    "xlm.training.peak": "xlm.training.flops",
    "xlm.training.results": "xlm.training.progress",
    "xlm.training.signals": "xlm.training.guards",
    "xlm.utils.arguments": "xlm.utils.annotations",
    "xlm.utils.components": "xlm.utils.instantiate",
    "xlm.utils.options": "xlm.utils.annotations",
    "xlm.utils.outputs": "xlm.utils.files",
}
# Names that have another one now, or went elsewhere.
NAMES = {
    "xlm.compose.values.SECTIONS_OF_JOBS": "xlm.schemas.SECTIONS_OF_JOBS",
    "xlm.compose.values.plain": "xlm.compose.checks.plain",
    "xlm.data.hashing.noise_levels": "xlm.data.hashing.time_quantiles",
    "xlm.data.progress.settle_progress": "xlm.training.resume.align_progress",
    "xlm.decoding.collate.PadTo": "xlm.data.collate.PadTo",
    "xlm.decoding.collate.noise_levels": "xlm.data.collate.time_quantiles",
    "xlm.decoding.collate.noise_seeds": "xlm.data.collate.noise_seeds",
    "xlm.decoding.collate.width": "xlm.data.collate.width",
    "xlm.decoding.masking.IGNORE": "xlm.data.collate.IGNORE",
    "xlm.decoding.masking.StretchedSchedule": "xlm.noise.RescaledSchedule",
    "xlm.decoding.orders.fill_rates": "xlm.masked.unmasking.fill_mask_probs",
    "xlm.decoding.output.suppressed_ids": "xlm.decoding.options.suppressed_ids",
    "xlm.evaluation.text_quality.Judge": "xlm.evaluation.text_quality.scorer.Scorer",
    "xlm.evaluation.text_quality.judge.Judge": "xlm.evaluation.text_quality.scorer.Scorer",
    "xlm.evaluation.text_quality.judge.load_judge": "xlm.evaluation.text_quality.scorer.load_scorer",
    "xlm.evaluation.text_quality.load_judge": "xlm.evaluation.text_quality.scorer.load_scorer",
    "xlm.evaluation.text_quality.ngrams.Tokens": "xlm.evaluation.text_quality.texts.Tokens",
    "xlm.evaluation.text_quality.ngrams.mixed": "xlm.data.hashing.splitmix64",
    "xlm.external_models.activation.config_dirs_of": "xlm.external_models.package.config_dirs_of",
    "xlm.external_models.activation.core_config_dir": "xlm.external_models.package.core_config_dir",
    "xlm.external_models.commands.FILE_NAME": "xlm.external_models.package.COMMANDS_FILE",
    "xlm.external_models.models_file.FILE_NAME": "xlm.external_models.discovery.MODELS_FILE",
    "xlm.jobs.generate.STAGES": "xlm.data.manager.STAGES",
    "xlm.jobs.judging.Judging": "xlm.inference.texts.TextScoring",
    "xlm.jobs.judging.judge_of": "xlm.inference.texts.scorer_of",
    "xlm.jobs.length.settle_length": "xlm.commands.train.resolve_length",
    "xlm.jobs.lm_eval.said_of": "xlm.commands.lm_eval.stated_options",
    "xlm.jobs.naming_a_checkpoint.PATH_KEYS": "xlm.schemas.PATH_KEYS",
    "xlm.jobs.naming_a_checkpoint.SECTIONS": "xlm.schemas.SECTIONS_OF_JOBS",
    "xlm.jobs.naming_a_checkpoint.names_a_checkpoint_alone": "xlm.commands.words.job_of_stored_config",
    "xlm.jobs.stored.name_of_run": "xlm.inference.folders.name_of_run",
    "xlm.jobs.session.shown": "xlm.inference.session.display_path",
    "xlm.jobs.trace_request.STAGES": "xlm.data.manager.STAGES",
    "xlm.jobs.train.StillHeld": "xlm.commands.train.RunLockHeld",
    "xlm.sampling.widest_float": "xlm.sampling.sampling_dtype",
    "xlm.scaffold.request.Request": "xlm.scaffold.project.Request",
    "xlm.schemas.Judged": "xlm.schemas.ScorerOptions",
    "xlm.tasks.text.tokenizer.logger": "xlm.data.trained_tokenizer.logger",
    "xlm.testing.checks.batches.types": "xlm.testing.checks.interfaces.batch_types",
    "xlm.testing.checks.devices.TOLERANCE": "xlm.testing.checks.invariance.DEVICE_TOLERANCE",
    "xlm.testing.checks.devices.same": "xlm.testing.checks.invariance.devices",
    "xlm.testing.checks.invariance.TOLERANCE": "xlm.testing.checks.invariance.ROW_TOLERANCE",
    "xlm.testing.checks.outputs.types": "xlm.testing.checks.interfaces.output_types",
    "xlm.testing.checks.prediction.FEW": "xlm.testing.checks.interfaces.SMALL_LIMITS",
    "xlm.testing.checks.prediction.ends": "xlm.testing.checks.interfaces.ends",
    "xlm.testing.checks.prediction.limits": "xlm.testing.checks.interfaces.limits",
    "xlm.testing.checks.prediction.predicts": "xlm.testing.checks.interfaces.predicts",
    "xlm.testing.checks.running.TOLERANCE": "xlm.testing.checks.training.TOLERANCE",
    "xlm.testing.checks.running.TOLERANCE_BF16": "xlm.testing.checks.training.TOLERANCE_BF16",
    "xlm.testing.checks.running.two_processes": "xlm.testing.checks.distributed.two_processes",
    "xlm.testing.finding.find_model": "xlm.external_models.discovery.find_model",
    "xlm.testing.prediction.COUNTS": "xlm.testing.samples.TOKENS",
    "xlm.testing.prediction.is_part": "xlm.testing.checks.interfaces.is_part",
    "xlm.testing.prediction.is_subsequence": "xlm.testing.checks.interfaces.is_subsequence",
    "xlm.testing.processes.Step": "xlm.testing.checks.distributed.Step",
    "xlm.testing.processes.TIMEOUT": "xlm.testing.checks.distributed.TIMEOUT",
    "xlm.testing.processes.second": "xlm.testing.checks.distributed.run_rank_1",
    "xlm.testing.properties.CHECKS": "xlm.testing.contract.CHECKS",
    "xlm.testing.properties.Inapplicable": "xlm.testing.contract.Inapplicable",
    "xlm.testing.properties.Property": "xlm.testing.contract.Property",
    "xlm.testing.properties.TooManyCalls": "xlm.testing.contract.TooManyCalls",
    "xlm.testing.properties.Violation": "xlm.testing.contract.Violation",
    "xlm.testing.properties.require": "xlm.testing.contract.require",
    "xlm.testing.pytest_plugin.ModelUnderTest": "xlm.testing.model_under_test.ModelUnderTest",
    "xlm.testing.samples.Examples": "xlm.testing.samples.Sample",
    "xlm.testing.small.BATCH_SIZE": "xlm.testing.samples.BATCH_SIZE",
    "xlm.testing.small.run_overrides": "xlm.testing.model_under_test.small_run",
    "xlm.testing.small.shrink": "xlm.testing.model_under_test.downscale",
    "xlm.testing.subject.SEED": "xlm.testing.model_under_test.SEED",
    "xlm.testing.subject.Subject": "xlm.testing.model_under_test.ModelUnderTest",
    "xlm.testing.subject.unsettle": "xlm.testing.model_under_test.perturb",
    "xlm.training.loggers.LogRewind": "xlm.training.train_log.LogTruncation",
    "xlm.training.signals.ending_in_order": "xlm.training.guards.raising_on_sigterm",
    "xlm.utils.annotations.shown": "xlm.utils.annotations.display_value",
    "xlm.utils.arguments.check_arguments": "xlm.utils.instantiate.check_arguments",
    "xlm.utils.arguments.parameter_names": "xlm.utils.instantiate.parameter_names",
    "xlm.utils.arguments.promises_types": "xlm.utils.instantiate.promises_types",
    "xlm.utils.rank_zero.gathered": "xlm.utils.rank_zero.all_gather_objects",
}

_HOLDERS = {name.rpartition(".")[0] for name in NAMES}


class MovedModules(MetaPathFinder, Loader):
    """Finds modules that no file has any more, and lends the others the names that they had before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MODULES:
            return ModuleSpec(fullname, self, is_package=any(name.startswith(f"{fullname}.") for name in MODULES))
        spec = PathFinder.find_spec(fullname, path) if fullname in _HOLDERS else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _WithOldNames(spec.loader.name, spec.loader.path)
        return spec

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _finder_of(module.__name__)  # type: ignore[method-assign]


class _WithOldNames(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        module.__dict__.setdefault("__getattr__", _finder_of(module.__name__))


def _finder_of(old: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module: where its names of before are now."""

    def moved(name: str) -> Any:
        new = NAMES.get(f"{old}.{name}") or (f"{MODULES[old]}.{name}" if old in MODULES else None)
        if new is None or name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        module, _, attribute = new.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        warnings.warn(f"{old}.{name} is now {new}.", DeprecationWarning, stacklevel=2)
        return found

    return moved


def install() -> None:
    """Let this process find the paths of before."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
