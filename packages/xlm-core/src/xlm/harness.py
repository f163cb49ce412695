"""The Lightning module: connects model, loss function, predictor and metrics, and delegates everything else."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from xlm.data.endless import PARTS
from xlm.datamodule import TextDataModule
from xlm.errors import ConfigError
from xlm.evaluation.cost import GenerationCost
from xlm.evaluation.metrics import TrackedScalars, null_metrics
from xlm.log_predictions import LogPredictions, PostHocPasses
from xlm.metrics import MetricWrapper
from xlm.protocols import ChecksTokenizer, LossFunction, Predictor, call_at, call_loss
from xlm.training.blocks import checkpoint_activations, compile_blocks, compiled
from xlm.training.interval import load_metric_counts, metric_counts
from xlm.training.loss_terms import SEVERAL_LOADERS, TermWeightedModule
from xlm.training.optim import LRSchedulerWithConfig, build_optimizer, create_lr_scheduler
from xlm.training.parts import PartLog, num_rows
from xlm.training.resume import align_progress, load_checkpoint
from xlm.training.sharding import FSDP2Strategy, gather_weights, release_weights, shard
from xlm.training.weights import load_weights, push_folder, save_weights, select_weights
from xlm.utils.history import PredictorHistoryMixin
from xlm.utils.instantiate import get_component, has_component, instantiate, set_component
from xlm.utils.rank_zero import RankedLogger, warn_once
from xlm.utils.secrets import without_secrets

log = RankedLogger(__name__, rank_zero_only=True)

Stage = Literal["train", "val", "test", "predict"]
KIND_OF_METRIC = ("reported", "diagnostic")


def attach(component: Any, name: str, value: Any) -> None:
    """Set an attribute without registering a submodule, so that a state dict holds each weight once."""
    if component is not None and getattr(component, name, None) is None:
        component.__dict__[name] = value


def _is_of(place: str, stage: str) -> bool:
    """Whether `stage/loader` is a loader of this stage."""
    return place.split("/", 1)[0] == stage


def _left_out(metric: Any) -> bool:
    """Whether a metric's node is null, or a model type disables it by a null input."""
    return metric is None or metric.get("update_fn", "") is None


def _show_nothing(_: Any) -> None:
    """Prints nothing."""


def _check_blocks(option: str, num_blocks: int, network: nn.Module) -> None:
    if not num_blocks:
        raise ConfigError(
            f"{option}: {type(network).__name__} has no blocks, that is, no nn.ModuleList of layers with weights.",
            key=option,
        )


class Harness(TermWeightedModule):
    """Trains, validates, tests and predicts with the four components of a model package.

    Args:
        cfg: the whole composed config, with `model`, `loss`, `predictor`, `reported_metrics` ….
        tokenizer: given to components whose `tokenizer` is None.
        datamodule: gives `dataloader_names` and each loader's role.
    """

    datamodule: Any

    def __init__(self, cfg: DictConfig, tokenizer: Any = None, datamodule: Any = None, **kwargs: Any) -> None:
        super().__init__()
        self.config = cfg
        self.tokenizer = tokenizer
        # Not registered: Lightning owns the datamodule.
        object.__setattr__(self, "datamodule", datamodule)
        for name, obj in {"lightning_module": self, "tokenizer": tokenizer, "datamodule": datamodule}.items():
            if obj is not None:
                set_component(name, obj)
        self.noise_schedule: Any = self.instantiate_noise_schedule(cfg)
        set_component("noise_schedule", self.noise_schedule)
        self.model: Any = None
        self.loss_function: Any = None
        self._make("model")
        self._check_tokenizer()
        self._make("loss_function")
        self._check_packing()
        self.predictor: Any = self.instantiate_predictor(cfg)
        for component in (self.loss_function, self.predictor):
            attach(component, "model", self.model)
            attach(component, "tokenizer", tokenizer)
        attach(self.predictor, "noise_schedule", self.noise_schedule)
        self.metrics = self.instantiate_metrics(cfg)
        # Registered as modules, so that their states move to the device.
        self.metric_modules = nn.ModuleDict({place: nn.ModuleList(found) for place, found in self.metrics.items()})
        self.tracked = TrackedScalars(null_metrics(cfg))
        judge = cfg.get("post_hoc_evaluator")
        self.post_hoc = PostHocPasses(instantiate(judge) if judge and judge.get("_target_") else None)
        self.generation_cost = GenerationCost()
        self.log_predictions: LogPredictions | None = self.instantiate_log_predictions(cfg)
        train = getattr(datamodule, "dataset_managers", {}).get("train", {})
        self.part_log = PartLog({name: list(getattr(manager, "parts", ())) for name, manager in train.items()})
        self._configured = False
        self._blocks_configured = False
        self._counts: dict[str, int] = {}
        # The number of examples in the newest metrics of each loader, on this rank.
        self.last_counts: dict[str, int] = {}

    # Building the components. External harnesses override these methods individually.

    def instantiate_noise_schedule(self, cfg: DictConfig) -> Any:
        """The noise schedule of `global_components`, an object of any type."""
        if has_component("noise_schedule"):
            return get_component("noise_schedule")
        return instantiate(cfg.noise_schedule) if cfg.get("noise_schedule") else None

    def _make(self, name: str) -> None:
        """Let `instantiate_<name>` build a component. Published overrides may take the config, and return or set it."""
        method = getattr(self, f"instantiate_{name}")
        made = method(self.config) if inspect.signature(method).parameters else method()
        if made is not None:
            setattr(self, name, made)

    def instantiate_model(self, cfg: DictConfig | None = None) -> Any:
        """Build the network from the config's `model`; it becomes `self.model`."""
        self.model = instantiate((self.config if cfg is None else cfg).model)
        return self.model

    def _check_tokenizer(self) -> None:
        if isinstance(self.model, ChecksTokenizer):
            self.model.check_tokenizer(self.tokenizer)

    def _check_packing(self) -> None:
        is_packed = isinstance(self.datamodule, TextDataModule) and self.datamodule.is_packed
        for part in (self.model, self.loss_function) if is_packed else ():
            if part is not None and not getattr(part, "packs", False):
                raise ConfigError(
                    f"batching=packed: {type(part).__name__} cannot compute packed batches. Set batching=buckets.",
                    key="batching",
                )

    def instantiate_loss_function(self, cfg: DictConfig | None = None) -> Any:
        """Build the loss from the config's `loss`; None for a model that only predicts."""
        node = (self.config if cfg is None else cfg).get("loss")
        self.loss_function = instantiate(node) if node else None
        return self.loss_function

    def instantiate_predictor(self, cfg: DictConfig) -> Any:
        """Build the predictor from `cfg.predictor`; None for a model that only scores."""
        return instantiate(cfg.predictor) if cfg.get("predictor") else None

    def predictor_with(self, options: Mapping[str, Any]) -> Any:
        """Another predictor with other options, around the same components."""
        predictor = instantiate(self.config.predictor, **options)
        for name in ("model", "tokenizer", "noise_schedule"):
            attach(predictor, name, getattr(self, name))
        return predictor

    def instantiate_log_predictions(self, cfg: DictConfig) -> LogPredictions | None:
        """The object that writes predictions, or None."""
        return instantiate(cfg.log_predictions) if cfg.get("log_predictions") else None

    def instantiate_metrics(self, cfg: DictConfig) -> dict[str, list[MetricWrapper]]:
        """Every `{reported,diagnostic}_metrics.<stage>.<loader>.<name>`, by `stage/loader`, without null ones."""
        found: dict[str, list[MetricWrapper]] = {}
        for kind in KIND_OF_METRIC:
            for stage, loaders in (cfg.get(f"{kind}_metrics") or {}).items():
                for loader, metrics in (loaders or {}).items():
                    for name in metrics or {}:
                        if not _left_out(metrics[name]):
                            found.setdefault(f"{stage}/{loader}", []).append(instantiate(metrics[name]))
        return found

    # Lookups.

    @property
    def dataloader_names(self) -> dict[str, dict[int, str]]:
        """Stage → index → name of each loader."""
        names: dict[str, dict[int, str]] = {} if self.datamodule is None else self.datamodule.dataloader_names
        return names

    def top_level_named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The components with weights, for counts and summaries."""
        yield "model", self.model

    def _name(self, stage: str, dataloader_idx: int) -> str:
        return self.dataloader_names[stage][dataloader_idx]

    def metrics_at(self, stage: str, name: str) -> list[MetricWrapper]:
        """The metrics of one loader, and the scalars of its loss that are logged with them.

        The scalars are gathered from all processes, so all must call this.
        """
        place = f"{stage}/{name}"
        return [*self.metrics.get(place, []), *self.tracked.metrics_at(place, self.device)]

    # Setup.

    def configure_components(self) -> None:
        """Call `loss_function.configure` once on the device, and compile `loss_fn` where `compile=true`."""
        if self._configured:
            return
        self._configured = True
        loss = self.loss_function
        if loss is None:
            return
        if hasattr(loss, "configure"):
            loss.configure(self)
        if self.config.get("compile") is True and not self._is_sharded:
            # Set on the instance without registering, so that a loss that is a Module gets no submodule.
            loss.__dict__["loss_fn"] = compiled(loss.loss_fn)

    @property
    def _is_sharded(self) -> bool:
        return self._trainer is not None and isinstance(self._trainer.strategy, FSDP2Strategy)

    def configure_model(self) -> None:
        """Compile, checkpoint and split the blocks of the network as configured, once."""
        if self._blocks_configured:
            return
        self._blocks_configured = True
        chosen = self.config.get("compile")
        # Collectives between blocks cannot be compiled, so a sharded run compiles block by block.
        if chosen == "blocks" or (chosen and self._is_sharded):
            _check_blocks("compile", compile_blocks(self.model), self.model)
        if self.config.get("activation_checkpointing"):
            _check_blocks("activation_checkpointing", checkpoint_activations(self.model), self.model)
        if self._is_sharded:
            strategy = self.trainer.strategy
            assert isinstance(strategy, FSDP2Strategy)
            shard(self, self.model, strategy.reshard_after_forward)

    def prepare_shards(self) -> None:
        """Does nothing; calling it lets torch prepare a sharded module before its first step."""

    def on_fit_start(self) -> None:
        self.configure_components()

    def on_predict_start(self) -> None:
        self.configure_components()
        gather_weights(self)

    def on_predict_end(self) -> None:
        release_weights(self)

    # Steps.

    def _step(self, batch: Any, batch_idx: int, dataloader_idx: int, stage: Stage) -> dict[str, Any]:
        """The loss of one batch; updates the metrics of its loader."""
        name = self._name(stage, dataloader_idx)
        if self.loss_function is None:
            raise ConfigError(f"{stage}/{name} needs a loss, but model_type has none (loss: null).")
        loss_dict = call_loss(self.loss_function, batch, batch_idx, dataloader_idx, name)
        self._update_metrics(batch, loss_dict, stage, name)
        place = f"{stage}/{name}"
        self.tracked.update(place, batch, loss_dict, [metric.name for metric in self.metrics.get(place, [])])
        return dict(loss_dict)

    def _prediction_step(self, batch: Any, batch_idx: int, dataloader_idx: int, stage: Stage) -> dict[str, Any]:
        """Predictions of one batch; updates the metrics and writes the rows."""
        name = self._name(stage, dataloader_idx)
        if self.predictor is None:
            raise ConfigError(f"{stage}/{name} needs a predictor, but model_type has none (predictor: null).")
        predictions = self.generation_cost.timed(
            name, num_rows(batch), self.device, lambda: self._predict(batch, batch_idx, dataloader_idx, name)
        )
        self._update_metrics(batch, predictions, stage, name)
        if self.log_predictions is not None or self.post_hoc.evaluator is not None:
            rows = self.post_hoc.add(name, self.predictor.to_dict(batch, predictions))
            if self.log_predictions is not None:
                self.log_predictions.add(name, rows)
        return dict(predictions)

    def _predict(self, batch: Any, *place: Any) -> Any:
        return call_at(self.predictor.predict, batch, *place)

    def _update_metrics(self, batch: Any, outputs: Mapping[str, Any], stage: str, name: str) -> None:
        place = f"{stage}/{name}"
        self._counts[place] = self._counts.get(place, 0) + num_rows(batch)
        for metric in self.metrics.get(place, []):
            metric.update(batch, outputs, self.tokenizer)

    def _run(self, batch: Any, batch_idx: int, dataloader_idx: int, stage: Stage) -> dict[str, Any]:
        name = self._name(stage, dataloader_idx)
        is_prediction = self.datamodule.role(stage, name) == "prediction"
        step = self._prediction_step if is_prediction else self._step
        return step(batch, batch_idx, dataloader_idx, stage)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        names = self.dataloader_names["train"]
        if len(names) == 1:
            return self._weigh(self._train_on(batch, batch_idx, 0), batch_idx)
        if self._num_parts > 1:
            warn_once(SEVERAL_LOADERS)
        # One batch per loader: their losses are added.
        outputs = {name: self._train_on(batch[name], batch_idx, index) for index, name in names.items()}
        return {"loss": torch.stack([out["loss"] for out in outputs.values()]).sum()}

    def _train_on(self, batch: Any, batch_idx: int, dataloader_idx: int) -> dict[str, Any]:
        """The loss of a training batch; counts a mixture's parts, and measures their losses if the batch has them."""
        # Taken out, since a model may not expect it.
        parts = batch.pop(PARTS, None) if isinstance(batch, dict) else None
        outputs = self._step(batch, batch_idx, dataloader_idx, "train")
        if parts is not None:
            name = self._name("train", dataloader_idx)
            self.part_log.count(name, parts["of_rows"])
            # Batches of other sizes would be compiled again. With split weights every process must run the network
            # equally often, but processes may have examples of different parts.
            if not self.config.get("compile") and not self._is_sharded:
                place = (batch_idx, dataloader_idx, name)
                loss = self.loss_function
                self.part_log.measure(name, parts["batches"], self.device, lambda rows: call_loss(loss, rows, *place))
        return outputs

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._run(batch, batch_idx, dataloader_idx, "val")

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._run(batch, batch_idx, dataloader_idx, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        name = self._name("predict", dataloader_idx)
        predictions = self._predict(batch, batch_idx, dataloader_idx, name)
        rows: list[dict[str, Any]] = self.predictor.to_dict(batch, predictions)
        return rows

    # Metrics at the end of a pass, or of a logging interval.

    def pop_metrics(self, stage: str) -> dict[str, float]:
        """The value of every metric of a stage with new data since the last call, by `stage/loader/name`."""
        values = {
            wrapper.full_name(place): float(wrapper.compute())
            for place, num_examples in self.counts(stage).items()
            if num_examples
            for wrapper in self.metrics_at(*place.split("/", 1))
        }
        self._forget(stage)
        return values | self.part_log.pop() if stage == "train" else values

    def counts(self, stage: str) -> dict[str, int]:
        """Examples seen on this rank since the metrics of a stage were last read, by `stage/loader`."""
        return {place: n for place, n in self._counts.items() if _is_of(place, stage)}

    def training_counts(self) -> dict[str, Any]:
        """What the training metrics of this process have counted since they were last read, as plain values."""
        metrics = {
            place: [metric_counts(wrapper.metric) for wrapper in wrappers]
            for place, wrappers in self.metrics.items()
            if _is_of(place, "train")
        }
        counts = {place: n for place, n in self._counts.items() if _is_of(place, "train")}
        return {
            "metrics": metrics, "tracked": self.tracked.state("train"), "parts": self.part_log.state(), "counts": counts
        }  # fmt: skip

    def load_training_counts(self, counts: dict[str, Any]) -> None:
        """Continue from what `training_counts` returned; metrics that the config has changed start anew."""
        for place, found in counts["metrics"].items():
            wrappers = self.metrics.get(place, [])
            for wrapper, state in zip(wrappers, found, strict=False) if len(found) == len(wrappers) else ():
                load_metric_counts(wrapper.metric, state)
        self.tracked.load(counts["tracked"], self.device)
        self.part_log.load(counts["parts"])
        self._counts |= counts["counts"]

    def _forget(self, stage: str) -> None:
        """Reset the metrics and counts of a stage."""
        for place, wrappers in self.metrics.items():
            if _is_of(place, stage):
                for wrapper in wrappers:
                    wrapper.reset()
        self.tracked.forget(stage)
        self._counts = {place: n for place, n in self._counts.items() if not _is_of(place, stage)}

    def _start_pass(self, stage: str) -> None:
        # Not in on_validation_start or on_test_start: published harnesses override those without calling super.
        self.configure_components()
        gather_weights(self)
        self._forget(stage)
        if self.log_predictions is not None:
            directory = Path(self.config.paths.run_dir) / "predictions"
            for name in self.dataloader_names.get(stage, {}).values():
                if self.datamodule.role(stage, name) == "prediction":
                    self.log_predictions.start(stage, name, self.global_step, directory)

    def _end_pass(self, stage: str) -> None:
        release_weights(self)
        self.last_counts |= self.counts(stage)
        values = self.pop_metrics(stage)
        found = self.post_hoc.finish(self.tokenizer) | self.generation_cost.finish(stage)
        values |= {f"{stage}/{name}": value for name, value in found.items()}
        self.log_dict(values, sync_dist=False, rank_zero_only=False)
        if self.log_predictions is not None:
            # During training, a validation prints one line; its rows are in the file.
            self.log_predictions.finish(show=None if stage == "test" else _show_nothing)

    def on_validation_epoch_start(self) -> None:
        self._start_pass("val")

    def on_validation_epoch_end(self) -> None:
        self._end_pass("val")

    def on_test_epoch_start(self) -> None:
        self._start_pass("test")

    def on_test_epoch_end(self) -> None:
        self._end_pass("test")

    # Optimization.

    def configure_optimizers(self) -> Any:
        """AdamW or the optimizer of `cfg.optimizer`, with the schedule of `cfg.lr_scheduler`."""
        optimizer = build_optimizer(self.config.optimizer, self.model)
        if not self.config.get("lr_scheduler"):
            return optimizer
        scheduler = self.create_lr_scheduler(optimizer, **self.config.lr_scheduler)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def check_optimizer(self) -> None:
        """Build optimizer and schedule once as a check, to raise a ConfigError before a run writes anything.

        A model's own `configure_optimizers` may need the trainer, so it is called only when training starts.
        """
        if type(self).configure_optimizers is Harness.configure_optimizers:
            self.configure_optimizers()

    @staticmethod
    def create_lr_scheduler(optimizer: Optimizer, name: str, **kwargs: Any) -> LRSchedulerWithConfig:
        """See `xlm.training.optim.create_lr_scheduler`."""
        return create_lr_scheduler(optimizer, name, **kwargs)

    # Weights.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["xlm_config"] = without_secrets(OmegaConf.to_yaml(self.config, resolve=False))
        if isinstance(self.datamodule, TextDataModule):
            checkpoint["xlm_data"] = self.datamodule.contents("train")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = self.trainer
        align_progress(checkpoint, trainer.accumulate_grad_batches, trainer.limit_train_batches)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        cfg: DictConfig,
        tokenizer: Any,
        datamodule: Any,
        apply_ema: bool = True,
        map_location: str = "cpu",
    ) -> Harness:
        """A harness for `cfg` with the weights of a checkpoint, the averaged ones if `apply_ema` and it has them.

        Raises:
            CheckpointError: the file is missing or damaged, or its weights don't fit (with keys and shapes).
        """
        checkpoint = load_checkpoint(checkpoint_path, map_location)
        harness = cls(cfg, tokenizer=tokenizer, datamodule=datamodule)
        load_weights(harness, select_weights(checkpoint, apply_ema), checkpoint_path)
        return harness

    def save_model_weights(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the model's current weights as safetensors."""
        return save_weights(self.model, path, overwrite)

    def push_to_hub(self, repo_id: str, commit_message: str = "Upload model") -> str:
        """Upload weights, configuration and tokenizer, in the format of `xlm.load(repo_id)`."""
        return push_folder(repo_id, self.model, self.config, self.tokenizer, commit_message)


__all__ = ["Harness", "LRSchedulerWithConfig", "LossFunction", "Predictor", "PredictorHistoryMixin"]
