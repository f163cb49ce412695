"""The model under test: found, composed from its own configuration, scaled down, and built on first use."""

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
from omegaconf import DictConfig, OmegaConf, open_dict

from xlm import flags
from xlm.compose.load import load_config, without_reporting
from xlm.datamodule import TextDataModule
from xlm.external_models import Discovery, ModelPackage, activate, discover, find_model
from xlm.external_models.discovery import MODELS_FILE, PATH_VARIABLE
from xlm.harness import Harness
from xlm.inference.session import Session, quiet_libraries, start
from xlm.testing.contract import Inapplicable
from xlm.testing.samples import BATCH_SIZE, Sample, find_samples
from xlm.training.rng import random_state_of
from xlm.utils.instantiate import components, get_component

SEED = 1234
NUM_EXAMPLES = 2 * BATCH_SIZE
# Sizes of networks as words of their configs' names (xtiny_mlm, mine_tiny), smallest first.
_SIZES = ("xtiny", "tiny")
# Generated data, for which nothing is downloaded.
_DATA = ("star_mini", "star_easy", "star")
_MANAGERS = "xlm.datamodule."


class ModelUnderTest:
    """A model by name, and everything that checks need of it; `folder` is for the files that they write.

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

    # Discovery and configuration.

    @cached_property
    def found(self) -> Discovery:
        """What discovery finds."""
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
        """The configuration of each experiment; without experiments, of the model on core's star graphs."""
        if not self.experiments:
            return {"": self.compose(*without_experiment(self.name, self.name))}
        return {name: self.compose(f"experiment={name}") for name in self.experiments}

    @cached_property
    def experiment(self) -> str:
        """The experiment to check; empty for a model without experiments."""
        return self._experiment or first_experiment(self.experiments)

    @cached_property
    def cfg(self) -> DictConfig:
        """The configuration of the experiment to check, scaled down."""
        overrides = small_run(self.package, self.experiment)
        return downscale(self.compose(*overrides, *self._overrides), self.folder)

    # Live objects, which exist only inside `active()`.

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the model importable and set its live objects; afterwards global state is as before."""
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
        """Tokenizer and datamodule with prepared examples."""
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
    def bare_cfg(self) -> DictConfig:
        """The configuration without the parts that need a Trainer: metrics, files of predictions, an evaluator."""
        return without_reporting(self.cfg)

    def harness(self, seed: int = SEED) -> Harness:
        """A new harness in evaluation mode, its weights initialized from a seed."""
        session = replace(self.session, cfg=self.bare_cfg)
        with random_state_of(seed):
            harness = session.harness().eval()
            harness.configure_components()
        return harness

    def perturbed_harness(self) -> Harness:
        """A harness whose weights are far from their initial values, in float64 if the model supports it.

        Layers that start at zero would hide the layers before them, and rounding would hide small differences.
        """
        harness = self.harness()
        perturb(harness.model)
        sample = self.loss_samples[0] if self.has_loss else self.prediction_samples[0]
        double = self.harness()
        double.load_state_dict(harness.state_dict())
        double.double()
        try:
            sample.run(double, sample.batch(double))
        except (RuntimeError, TypeError):
            return harness  # some part of the model needs float32
        return double

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
        """The samples for the loss; Inapplicable without a loss."""
        if not self.has_loss:
            raise Inapplicable("the model has no loss")
        return self._of_role("loss")

    @property
    def prediction_samples(self) -> list[Sample]:
        """The samples for the predictor; Inapplicable without a predictor."""
        if not self.cfg.get("predictor"):
            raise Inapplicable("the model has no predictor")
        return self._of_role("prediction")

    def _of_role(self, role: str) -> list[Sample]:
        found = [sample for sample in self.samples if sample.role == role]
        if not found:
            raise Inapplicable(f"no dataloader of {self.experiment or 'the datamodule'} has the role '{role}'")
        return found


def with_search(environ: Mapping[str, str], search: Path | str | None) -> dict[str, str]:
    """The environment in which a folder is also searched for models, if it has an xlm_models.json."""
    changed = dict(environ)
    if search is not None and (Path(search) / MODELS_FILE).is_file():
        listed = [str(Path(search).resolve()), *filter(None, [environ.get(PATH_VARIABLE)])]
        changed[PATH_VARIABLE] = os.pathsep.join(listed)
    return changed


def perturb(model: torch.nn.Module) -> None:
    """Add noise to every weight, about as large as the weights of a trained network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / max(parameter.shape[-1], 1) ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))


def first_experiment(experiments: Sequence[str]) -> str:
    """The experiment to check: one on star graphs if there is one; empty if there is none at all."""
    for prefix in _DATA:
        for name in experiments:
            if name.startswith(prefix):
                return name
    return next(iter(experiments), "")


def without_experiment(name: str, network: str) -> list[str]:
    """Overrides that replace the experiment of a model that ships none: core's star graphs."""
    return ["datamodule=star_easy", f"model_type={name}", f"model={network}"]


def small_run(package: ModelPackage, experiment: str) -> list[str]:
    """Overrides that run the experiment with the model's smallest network on one CPU."""
    networks = sorted(path.stem for path in (package.config_dir / "model").glob("*.yaml"))
    smallest = next((name for size in _SIZES for name in networks if size in name.split("_")), None)
    if experiment:
        chosen = [f"experiment={experiment}", *([f"model={smallest}"] if smallest else [])]
    else:
        chosen = without_experiment(package.name, smallest or package.name)
    return [*chosen, f"per_device_batch_size={BATCH_SIZE}", "global_batch_size=null", "trainer_strategy=cpu"]


def downscale(cfg: DictConfig, folder: Path) -> DictConfig:
    """The configuration with a few examples of each dataset, and with all files written into one folder."""
    with open_dict(cfg):
        cfg.paths.log_dir = str(folder / "runs")
        cfg.paths.run_dir = str(folder / "runs/check")
        cfg.paths.cache_dir = str(folder / "cache")
        cfg.loggers, cfg.callbacks = {}, {}
        cfg.compile, cfg.num_dataloader_workers, cfg.num_dataset_workers = False, 0, 0
        for named in cfg.datamodule.dataset_managers.values():
            for manager in (named or {}).values():
                _limit_examples(manager)
    return cfg


def _limit_examples(manager: Any) -> None:
    """Limit a dataset of core's, or one that has the key `num_examples`."""
    raw = OmegaConf.to_container(manager, resolve=False)
    if isinstance(raw, dict) and (str(raw.get("_target_")).startswith(_MANAGERS) or "num_examples" in raw):
        known = raw.get("num_examples")
        manager.num_examples = min(known, NUM_EXAMPLES) if isinstance(known, int) else NUM_EXAMPLES
