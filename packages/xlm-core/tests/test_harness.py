"""The harness on a model of its own: what is registered, called, counted, saved and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from xlm import flags
from xlm.cli.main import main
from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.commands.train import resolve_length
from xlm.compose import load_config
from xlm.errors import CheckpointMismatchError, ConfigError, NotLearntError
from xlm.harness import Harness
from xlm.inference import session, sources
from xlm.reports.run import read_run
from xlm.training import resume, weights
from xlm.utils.instantiate import clear_components, instantiate

MODELS = Path(__file__).parent / "models"
BIGRAM = (
    "experiment=star_easy", "model_type=bigram", "model=bigram", "job_name=t", "trainer_strategy=cpu",
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=20",
    "datamodule.dataset_managers.val.prediction.num_examples=20",
    "datamodule.dataset_managers.test.lm.num_examples=30",
    "datamodule.dataset_managers.test.prediction.num_examples=30",
    "per_device_batch_size=16", "trainer.max_steps=6", "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=2", "loggers=debug", "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
)  # fmt: skip

TRAIN = "datamodule.dataset_managers.train"
Configure = Callable[..., DictConfig]


@pytest.fixture
def configure(work_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compose the bigram run with further overrides, in an empty directory; one cache for the whole session."""
    monkeypatch.setenv("XLM_MODELS_PATH", str(MODELS))
    monkeypatch.setenv("XLM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "harness-cache"))

    def compose(*overrides: str) -> DictConfig:
        return load_config([*BIGRAM, *overrides])

    yield compose
    clear_components()
    flags.set_flags({"DEBUG": False, "DEBUG_OVERFIT": False})


def harness_of(cfg: DictConfig) -> Harness:
    return session.start(cfg).harness()


def test_each_weight_is_registered_once(configure: Configure) -> None:
    harness = harness_of(configure())
    assert set(harness.state_dict()) == {"model.table.weight"}
    assert harness.loss_function.model is harness.model
    assert harness.predictor.model is harness.model
    assert harness.predictor.tokenizer is harness.tokenizer
    assert dict(harness.top_level_named_modules()) == {"model": harness.model}


def test_a_run_trains_validates_tests_and_keeps_everything(configure: Configure, work_dir: Path) -> None:
    metrics = train.run(configure("+post_hoc_evaluator._target_=bigram.components_bigram.CountRows"))
    assert {"val/lm/accumulated_loss", "test/lm/accumulated_loss", "test/prediction/exact_match"} <= metrics.keys()
    assert metrics["test/prediction/num_rows"] == 30
    run = work_dir / "runs/t"
    record = json.loads((run / "results.json").read_text())
    assert record["n"] == {"val/lm": 20, "val/prediction": 20, "test/lm": 30, "test/prediction": 30}
    assert {name: found["value"] for name, found in record["results"].items()} == record["metrics"]
    read = read_run(run).measured
    for name, found in record["results"].items():
        assert found["n"] == record["n"][name.rpartition("/")[0]]
        assert (read[name].value, read[name].n) == (found["value"], found["n"])
        assert found["se"] is None or read[name].error == found["se"]
    assert min(record["results"][f"{split}/lm/accumulated_loss"]["se"] for split in ("val", "test")) > 0
    assert {f.name for f in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "step-6.ckpt"}
    assert len((run / "predictions/val/prediction/step_00000003.jsonl").read_text().splitlines()) == 20


def test_the_validation_loss_is_the_corpus_mean_whatever_the_batch(configure: Configure) -> None:
    train.run(configure())
    losses = [
        evaluation.run(configure("++eval.split=val", f"per_device_val_batch_size={size}"))["val/lm/accumulated_loss"]
        for size in (1, 7, 20)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_a_checkpoint_is_read_once(configure: Configure, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    train.run(configure("ema_decay=0.5", "test_after_training=false"))
    reads: list[Path] = []

    def load_checkpoint(path: Path) -> Any:
        reads.append(path)
        return resume.load_checkpoint(path)

    for module in (sources, weights):
        monkeypatch.setattr(module, "load_checkpoint", load_checkpoint)
    assert main([command, "runs/t"]) == 0
    assert [path.name for path in reads] == ["best.ckpt"]
    # Another file under the same name is read anew.
    shutil.copy("runs/t/checkpoints/last.ckpt", "runs/t/checkpoints/best.ckpt")
    assert main([command, "runs/t"]) == 0
    assert len(reads) == 2


def test_a_metric_without_a_meaning_for_the_model_is_left_out(configure: Configure) -> None:
    no_input = "metric_inputs.seq2seq_token_accuracy=null"
    harness = harness_of(configure(no_input))
    assert [metric.name for metric in harness.metrics_at("test", "prediction")] == ["exact_match"]
    harness = harness_of(configure(no_input, "reported_metrics.val.prediction.exact_match=null"))
    assert harness.metrics_at("test", "prediction") == []


def test_scalars_of_a_loss_are_logged_as_means_over_its_terms(configure: Configure) -> None:
    short = ("loss._target_=bigram.components_bigram.TrackingLoss", "model.dropout=0.0",
             "predictor._target_=bigram.components_bigram.ShortPredictor", "~predictor.length")  # fmt: skip
    trained = train.run(configure(*short))
    assert {"val/lm/hard", "test/lm/hard", "val/lm/rows"} <= trained.keys()
    assert {name.rpartition("/")[2] for name in trained if name.startswith("val/lm/")} == {
        "accumulated_loss", "hard", "rows",
    }  # fmt: skip
    found = [evaluation.run(configure(*short, f"per_device_val_batch_size={size}")) for size in (1, 7, 30)]
    # Whatever the batch, the same mean over the tokens of the corpus; of batches of at most 4 rows, no `rows`.
    assert [each["test/lm/hard"] for each in found] == pytest.approx([found[0]["test/lm/hard"]] * 3, rel=1e-6)
    assert 0 < found[0]["test/lm/hard"] < 1
    assert "test/lm/rows" not in found[0]
    assert found[2]["test/lm/rows"] == 30
    off = evaluation.run(configure(*short, "++diagnostic_metrics.test.lm.hard=null"))
    assert "test/lm/hard" not in off


@pytest.mark.parametrize(
    ("overrides", "steps", "reason"),
    [
        (["trainer.max_epochs=2", "trainer.max_steps=50"], 8, "2 epochs of 4 steps; trainer.max_steps: 50"),
        (["trainer.max_epochs=2"], 6, "trainer.max_steps; 2 epochs of 4 steps: 8"),
        (["trainer.max_epochs=1", "trainer.max_steps=-1"], 4, "1 epoch of 4 steps"),
        (["trainer.max_epochs=1", "per_device_batch_size=15"], 4, "1 epoch of 4 steps; trainer.max_steps: 6"),
        (["trainer.max_epochs=3", "trainer.limit_train_batches=3", "global_batch_size=32"], 6, None),
        (["trainer.max_epochs=4", "trainer.limit_train_batches=0.5", "trainer.max_steps=50"], 8, None),
        (["trainer.max_epochs=4", "trainer.devices=2", "trainer.max_steps=50"], 8, None),
        (["trainer.max_epochs=4", "trainer.devices=2", "trainer.num_nodes=2", "trainer.max_steps=50"], 4, None),
        (["max_tokens=1"], 1, None),
        (["max_tokens=2.2e3"], 4, None),
        (["max_tokens=2200", "trainer.devices=2"], 2, None),
        (["max_tokens=9999", "trainer.max_epochs=1"], 4, None),
        (["max_tokens=2200", f"+{TRAIN}.more=${{{TRAIN}.lm}}"], 2, None),
        ([], 6, ""),
    ],
)  # fmt: skip
def test_epochs_and_tokens_are_steps(
    configure: Configure, overrides: list[str], steps: int, reason: str | None
) -> None:
    cfg = configure(*overrides)
    length = resolve_length(cfg, session.start(cfg).datamodule)
    assert cfg.trainer.max_steps == steps
    assert reason is None or (length.reason if length else "") == reason


def test_a_schedule_ends_with_the_last_epoch(configure: Configure, work_dir: Path) -> None:
    cosine = ("lr_scheduler=cosine", "trainer.max_steps=50", "test_after_training=false", "loggers=default")
    train.run(configure(*cosine, "trainer.max_epochs=2"))
    lines = (work_dir / "runs/t/metrics.csv").read_text().splitlines()
    rates = [line.split(",") for line in lines if "train/lr" in line]
    assert [int(rate[0]) for rate in rates] == [2, 4, 6, 8]
    assert float(rates[0][2]) > 5e-5
    assert float(rates[-1][2]) == pytest.approx(0, abs=1e-8)


def test_configure_runs_once_and_compile_replaces_only_loss_fn(configure: Configure) -> None:
    harness = harness_of(configure("compile=true"))
    before = harness.loss_function.loss_fn
    harness.configure_components()
    harness.configure_components()
    assert harness.loss_function.num_configured == 1
    assert harness.loss_function.loss_fn is not before
    assert set(harness.state_dict()) == {"model.table.weight"}


def test_several_train_loaders_add_their_losses(configure: Configure) -> None:
    other = "+datamodule.dataset_managers.train.more=${datamodule.dataset_managers.train.lm}"
    cfg = configure(other, "model.dropout=0.0", "trainer.max_steps=1", "test_after_training=false")
    train.run(cfg)
    with (Path(cfg.paths.run_dir) / "checkpoints/last.ckpt").open("rb") as file:
        both = torch.load(file, weights_only=True)["optimizer_states"][0]["state"][0]["exp_avg"]
    assert torch.isfinite(both).all()
    assert both.abs().sum() > 0


def test_a_role_in_the_data_set_wins_over_its_name(configure: Configure) -> None:
    started = session.start(configure("datamodule.dataset_managers.val.lm.role=prediction"))
    assert started.datamodule.role("val", "lm") == "prediction"
    assert started.datamodule.role("val", "prediction") == "prediction"
    assert started.datamodule.role("train", "lm") == "loss"


def test_weights_of_another_size_are_refused_before_anything_changes(configure: Configure) -> None:
    cfg = configure()
    train.run(cfg)
    other = configure("model.num_embeddings=40")
    started = session.start(other)
    path = Path(cfg.checkpointing_dir) / "best.ckpt"
    with pytest.raises(
        CheckpointMismatchError, match=r"model\.table\.weight: \(27, 27\) in the checkpoint, \(40, 40\)"
    ):
        Harness.from_checkpoint(path, other, started.tokenizer, started.datamodule, apply_ema=True)


def test_from_checkpoint_gives_raw_or_averaged_weights(configure: Configure) -> None:
    cfg = configure("ema_decay=0.5", "optimizer.lr=0.5")
    train.run(cfg)
    started = session.start(cfg)
    path = Path(cfg.checkpointing_dir) / "last.ckpt"
    raw, averaged = (
        Harness.from_checkpoint(path, cfg, started.tokenizer, started.datamodule, apply_ema=flag).state_dict()
        for flag in (False, True)
    )
    saved = torch.load(path, weights_only=True)
    assert torch.equal(raw["model.table.weight"], saved["state_dict"]["model.table.weight"])
    assert torch.equal(averaged["model.table.weight"], saved["xlm_ema"]["average"]["model.table.weight"])
    assert not torch.equal(raw["model.table.weight"], averaged["model.table.weight"])


def test_weights_are_written_once_and_not_over(configure: Configure, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from xlm.errors import CheckpointError

    harness = harness_of(configure())
    path = harness.save_model_weights(tmp_path / "model.safetensors")
    assert torch.equal(load_file(path)["table.weight"], harness.model.table.weight)
    with pytest.raises(CheckpointError, match="already exists"):
        harness.save_model_weights(path)
    harness.save_model_weights(path, overwrite=True)


def test_a_model_without_loss_or_predictor_says_so_when_one_is_needed(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"train/lm needs a loss, but model_type has none"):
        train.run(configure("loss=null"))
    with pytest.raises(ConfigError, match=r"val/prediction needs a predictor"):
        train.run(configure("predictor=null", "job_name=u"))


def test_overfitting_sees_one_batch_and_keeps_no_checkpoint(configure: Configure, work_dir: Path) -> None:
    with pytest.raises(NotLearntError, match=r"Not learnt: exact match 0\.00 on the one batch, .* after 4 steps"):
        train.run(configure("debug=overfit", "trainer.max_steps=4"))  # checked at its end, before step 50
    run = work_dir / "runs/debug/t"
    assert not (run / "checkpoints").exists()
    assert json.loads((run / "results.json").read_text())["n"]["val/lm"] == 16


def test_the_first_batches_are_shown_while_debugging(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    train.run(configure("debug=small_data", "datamodule.print_batch_fn=bigram.components_bigram.print_batch"))
    assert "first batch of train/lm: (16, 36)" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_weights(configure: Configure) -> None:
    results = []
    for name in ("a", "b"):
        cfg = configure(f"job_name={name}", "test_after_training=false")
        train.run(cfg)
        results.append(torch.load(Path(cfg.checkpointing_dir) / "last.ckpt", weights_only=True)["state_dict"])
    assert torch.equal(results[0]["model.table.weight"], results[1]["model.table.weight"])


def built_by(configure: Configure, cls: type[Harness], *overrides: str) -> Harness:
    started = session.start(configure(*overrides))
    return cls(started.cfg, tokenizer=started.tokenizer, datamodule=started.datamodule)


class TakesTheConfigAndReturns(Harness):
    def instantiate_model(self, cfg: DictConfig) -> Any:
        return Marked.of(super().instantiate_model(cfg))

    def instantiate_loss_function(self, cfg: DictConfig) -> Any:
        return Marked.of(super().instantiate_loss_function(cfg))


class TakesNothingAndSets(Harness):
    def instantiate_model(self) -> None:
        super().instantiate_model()
        Marked.of(self.model)

    def instantiate_loss_function(self) -> None:
        self.loss_function = Marked.of(instantiate(self.config.loss))


class Marked:
    """Leaves a mark on an object."""

    @staticmethod
    def of(part: Any) -> Any:
        part.mark = True
        return part


@pytest.mark.parametrize("cls", [TakesTheConfigAndReturns, TakesNothingAndSets])
def test_an_override_takes_the_config_or_not_and_returns_the_part_or_sets_it(
    configure: Configure, cls: type[Harness]
) -> None:
    harness = built_by(configure, cls)
    assert harness.model.mark
    assert harness.loss_function.mark
    assert set(harness.state_dict()) == {"model.table.weight"}
    assert harness.loss_function.model is harness.model


def test_a_harness_alone_resolves_what_it_is_given(configure: Configure) -> None:
    """A command of a model builds one, or loads one from a checkpoint, without a job around it."""
    cfg = configure()
    clear_components()
    tokenizer = instantiate(cfg.global_components.tokenizer)
    assert Harness(cfg, tokenizer=tokenizer).model.table.num_embeddings == tokenizer.full_vocab_size


def test_hooks_without_super_and_parts_of_its_own(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "lightning_module._target_=bigram.components_bigram.SilentHarness"
    train.run(configure(own))
    assert "the table" in capsys.readouterr().out
    configured: list[Any] = []
    monkeypatch.setattr(Harness, "configure_components", lambda harness: configured.append(harness))
    evaluation.run(configure(own, "++eval.split=val"))
    assert configured


def test_a_schedule_without_a_name_is_called_by_its_class() -> None:
    assert train.short_name(DictConfig({"_target_": "somewhere.Rsqrt", "warmup": 1})) == "Rsqrt"
    assert train.short_name(DictConfig({"name": "cosine", "_target_": "somewhere.Rsqrt"})) == "cosine"
