"""The model under test: found, composed, and built in small from its own configuration, each part when first used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from xlm import flags
from xlm.compose.load import load_config, without_reporting
from xlm.datamodule import TextDataModule
from xlm.external_models import Discovery, ModelPackage, activate, discover
from xlm.harness import Harness
from xlm.inference.session import Session, quiet_libraries, start
from xlm.testing.finding import find_model, with_search
from xlm.testing.properties import Inapplicable
from xlm.testing.samples import Sample, find_samples
from xlm.testing.small import first_experiment, run_overrides, shrink, without_experiment
from xlm.training.rng import random_state_of
from xlm.utils.instantiate import components

SEED = 1234


class Subject:
    """A model by name, and what is needed to try it; `folder` is for the files that this makes.

    The other arguments are those of `check_model`.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        search: Path | str | None = None,
        experiment: str | None = None,
        overrides: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.environ = with_search(os.environ if environ is None else environ, search)
        self.cwd = cwd or Path.cwd()
        self._experiment = experiment
        self._overrides = tuple(overrides)
        self._live: dict[str, Any] = {}

    # Found and composed.

    @cached_property
    def found(self) -> Discovery:
        """What a search for models finds."""
        return discover(self.environ, self.cwd)

    @cached_property
    def package(self) -> ModelPackage:
        """The model's package; UnknownModelError if there is none."""
        return find_model(self.name, self.found)

    def owns(self, file: str) -> bool:
        """Whether a file is part of the model's package."""
        try:
            return Path(file).resolve().is_relative_to(self.package.package_dir.resolve())
        except (OSError, ValueError):
            return False

    def compose(self, *overrides: str) -> DictConfig:
        """The configuration that the command line would run with."""
        return load_config(overrides, environ=self.environ, cwd=self.cwd)

    @cached_property
    def experiments(self) -> list[str]:
        """The experiments that the model ships."""
        return sorted(path.stem for path in (self.package.config_dir / "experiment").rglob("*.yaml"))

    @cached_property
    def composed(self) -> dict[str, DictConfig]:
        """Each experiment's configuration; without any, that of core's star graphs with the model."""
        if not self.experiments:
            return {"": self.compose(*without_experiment(self.name, self.name))}
        return {name: self.compose(f"experiment={name}") for name in self.experiments}

    @cached_property
    def experiment(self) -> str:
        """The experiment that is tried; empty for a model without any."""
        return self._experiment or first_experiment(self.experiments)

    @cached_property
    def cfg(self) -> DictConfig:
        """The configuration of the experiment that is tried, in small."""
        overrides = run_overrides(self.package, self.experiment)
        return shrink(self.compose(*overrides, *self._overrides), self.folder)

    # Built. All of it lives between `active()`'s ends only.

    @contextmanager
    def active(self) -> Iterator[None]:
        """The model importable and its live objects set; afterwards global state is what it was."""
        before = {name: value for name, value in vars(flags).items() if name.isupper()}
        seed = os.environ.get("PL_GLOBAL_SEED")
        with components(**self._live), random_state_of(SEED), warnings.catch_warnings():
            quiet_libraries()
            activate(self.found.models, folders=self.found.folders)
            try:
                yield
            finally:
                flags.set_flags(before)
                os.environ.pop("PL_GLOBAL_SEED", None)
                if seed is not None:
                    os.environ["PL_GLOBAL_SEED"] = seed

    @cached_property
    def session(self) -> Session:
        """Tokenizer and datamodule, its few examples prepared."""
        from xlm.utils.instantiate import get_component

        session = start(self.cfg)
        session.datamodule.setup(None)
        names = ("datamodule", *self.cfg.global_components)
        self._live = {str(name): get_component(str(name)) for name in names}
        return session

    @property
    def tokenizer(self) -> Any:
        return self.session.tokenizer

    @property
    def datamodule(self) -> TextDataModule:
        return self.session.datamodule

    @cached_property
    def bare(self) -> DictConfig:
        """The configuration without what only a Trainer needs: metrics, files of predictions, a judge."""
        return without_reporting(self.cfg)

    def harness(self, seed: int = SEED) -> Harness:
        """A new harness in evaluation mode, its weights drawn from a seed."""
        session = replace(self.session, cfg=self.bare)
        with random_state_of(seed):
            harness = session.harness().eval()
            harness.configure_components()
        return harness

    def tried(self) -> Harness:
        """A harness whose weights are far from where they start, in float64 where it can.

        Layers that start at zero would hide what goes on before them, and rounding would hide small differences.
        """
        harness = self.harness()
        unsettle(harness.model)
        sample = self.loss_samples[0] if self.has_loss else self.prediction_samples[0]
        wide = self.harness()
        wide.load_state_dict(harness.state_dict())
        wide.double()
        try:
            sample.run(wide, sample.batch(wide))
        except (RuntimeError, TypeError):
            return harness  # somewhere it insists on float32
        return wide

    # Samples.

    @cached_property
    def samples(self) -> list[Sample]:
        """Examples and collator of every kind of batch that the model's configuration makes."""
        return find_samples(self.cfg, self.datamodule)

    @property
    def has_loss(self) -> bool:
        return bool(self.cfg.get("loss"))

    @property
    def loss_samples(self) -> list[Sample]:
        """Those that the loss reads; Inapplicable without a loss."""
        if not self.has_loss:
            raise Inapplicable("the model has no loss")
        return self._of_role("loss")

    @property
    def prediction_samples(self) -> list[Sample]:
        """Those that the predictor reads; Inapplicable without a predictor."""
        if not self.cfg.get("predictor"):
            raise Inapplicable("the model has no predictor")
        return self._of_role("prediction")

    def _of_role(self, role: str) -> list[Sample]:
        found = [sample for sample in self.samples if sample.role == role]
        if not found:
            raise Inapplicable(f"no dataloader of {self.experiment or 'the datamodule'} has the role '{role}'")
        return found


def unsettle(model: torch.nn.Module) -> None:
    """Add noise to every weight, about as large as what is in a trained network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
