"""Import paths of before: they work until the next minor version, with a warning that names the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
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
    "xlm.data.checks": "xlm.data.manager",
    "xlm.data.files": "xlm.data.locator",
    "xlm.data.packing": "xlm.data.functional",
    "xlm.data.parallel": "xlm.data.cache",
    "xlm.data.progress": "xlm.training.resume",
    "xlm.data.samplers": "xlm.data.loaders",
    "xlm.data.show": "xlm.utils.rich_utils",
    "xlm.data.unconditional": "xlm.data.manager",
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
    "xlm.jobs.prompts": "xlm.inference.writer",
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
    "xlm.lm_eval.scoring": "xlm.lm_eval.requests",
    "xlm.lm_eval.writing": "xlm.lm_eval.requests",
    "xlm.reports.curves": "xlm.reports.document",
    "xlm.reports.differences": "xlm.reports.document",
    "xlm.reports.finding": "xlm.reports.run",
    "xlm.reports.plain": "xlm.reports.page",
    "xlm.reports.predictions": "xlm.reports.pairs",
    "xlm.reports.statistics": "xlm.reports.quantities",
    "xlm.tasks.star.judge": "xlm.tasks.star.graphs",
    "xlm.tasks.star.preprocess": "xlm.tasks.star.graphs",
    "xlm.tasks.text.corpus": "xlm.tasks.text.king_james",
    "xlm.traces.drawings": "xlm.traces.document",
    "xlm.traces.moments": "xlm.traces.terminal",
    "xlm.traces.page": "xlm.traces.document",
    "xlm.trained": "xlm.inference.trained",
    "xlm.training.cost": "xlm.training.train_log",
    "xlm.training.curves": "xlm.training.train_log",
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
    "xlm.data.progress.settle_progress": "xlm.training.resume.align_progress",
    "xlm.evaluation.text_quality.judge.Judge": "xlm.evaluation.text_quality.scorer.Scorer",
    "xlm.evaluation.text_quality.judge.load_judge": "xlm.evaluation.text_quality.scorer.load_scorer",
    "xlm.evaluation.text_quality.ngrams.Tokens": "xlm.evaluation.text_quality.texts.Tokens",
    "xlm.evaluation.text_quality.ngrams.mixed": "xlm.data.hashing.splitmix64",
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
    "xlm.jobs.session.shown": "xlm.inference.session.display_path",
    "xlm.jobs.trace_request.STAGES": "xlm.data.manager.STAGES",
    "xlm.jobs.train.StillHeld": "xlm.commands.train.RunLockHeld",
    "xlm.training.loggers.LogRewind": "xlm.training.train_log.LogTruncation",
    "xlm.training.signals.ending_in_order": "xlm.training.guards.raising_on_sigterm",
    "xlm.utils.arguments.check_arguments": "xlm.utils.instantiate.check_arguments",
    "xlm.utils.arguments.parameter_names": "xlm.utils.instantiate.parameter_names",
    "xlm.utils.arguments.promises_types": "xlm.utils.instantiate.promises_types",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds modules of before that no file has any more, as modules whose names come from where they are now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MODULES:
            return None
        return ModuleSpec(fullname, self, is_package=any(name.startswith(f"{fullname}.") for name in MODULES))

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__

        def moved(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            new = NAMES.get(f"{old}.{name}", f"{MODULES[old]}.{name}")
            found = find(new)
            warnings.warn(f"{old}.{name} is now {new}.", DeprecationWarning, stacklevel=2)
            return found

        module.__getattr__ = moved  # type: ignore[method-assign]


def find(path: str) -> Any:
    """The object at a dotted path; AttributeError if its module has none of that name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def install() -> None:
    """Let this process find modules of before, after all others."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
