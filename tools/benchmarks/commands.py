"""Commands that a person waits for: help, discovery, the first training step, lists and reports of many runs."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.copied_runs import copy_runs
from benchmarks.measure import OURS, XLM, Case, Setting, Spent, Way, of_command

IMPORTS = "import of torch and lightning"
# One step of the smallest network on data that are prepared already, from the shell's prompt to its return.
FIRST_STEP = (
    "train", "experiment=star_mini_mlm", "model=xtiny_mlm", "trainer_strategy=cpu", "trainer.max_steps=1",
    "trainer.limit_val_batches=0", "test_after_training=false", "loggers=csv",
)  # fmt: skip
_TRAINER = """
import torch, transformers as t
t.logging.set_verbosity_error()
config = t.BertConfig(
    vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256
)
rows = [{"input_ids": torch.randint(7, 32, (32,)), "labels": torch.randint(7, 32, (32,))} for _ in range(64)]
arguments = t.TrainingArguments("out", max_steps=1, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no")
t.Trainer(t.BertForMaskedLM(config), arguments, train_dataset=rows).train()
"""


def cases(setting: Setting) -> list[Case]:
    """Each repetition is a process of its own."""
    runs = 20 if setting.is_quick else 1000
    models = 10 if setting.is_quick else 100
    return [
        Case("start", "answers at once", "no torch", "commands", _doors, 1, 5),
        Case("start", "first training step", "star_mini, xtiny_mlm, prepared data", "commands", _first_step, 1, 5),
        Case("discovery", f"{models} models", f"`xlm models`, {models} folders", "models", _discovery(models), 1, 5),
        Case("reports", f"{runs:,} runs", "copies of a run of 4 steps", "runs", _reports(runs), 0, 3),
    ]


def _way(name: str, words: list[str], folder: str, units: float = 1) -> Way:
    def run() -> Spent:
        return of_command(words, Path(folder), {"XLM_CACHE_DIR": f"{folder}/cache"})

    return Way(name, run, units)


@contextmanager
def _doors(setting: Setting) -> Iterator[list[Way]]:
    with tempfile.TemporaryDirectory() as folder:
        yield [
            _way(" ".join(["xlm", *words]), [*XLM, *words], folder)
            for words in (["--help"], ["models"], ["job_type=name", "experiment=star_easy_arlm"])
        ]


@contextmanager
def _first_step(setting: Setting) -> Iterator[list[Way]]:
    number = 0
    with tempfile.TemporaryDirectory() as folder:

        def first_step() -> Spent:
            nonlocal number
            number += 1
            return _way(OURS, [*XLM, *FIRST_STEP, f"job_name=r{number}"], folder).run() or Spent(0, 0)

        yield [
            Way(OURS, first_step),
            _way(IMPORTS, [sys.executable, "-c", "import torch, lightning.pytorch"], folder),
            _way("Trainer of transformers", [sys.executable, "-c", _TRAINER], folder),
        ]


def _discovery(number: int):  # type: ignore[no-untyped-def]
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        with tempfile.TemporaryDirectory() as folder:
            for index in range(number):
                package = Path(folder) / f"model{index}"
                (package / "configs" / "model").mkdir(parents=True)
                (package / "__init__.py").write_text("")
                (package / "configs" / "model" / f"model{index}.yaml").write_text("_target_: torch.nn.Identity\n")
            listing = {f"model{index}": f"model{index}" for index in range(number)}
            (Path(folder) / "xlm_models.json").write_text(json.dumps(listing))
            compose = ["job_type=name", "experiment=star_easy_arlm"]
            yield [
                _way("xlm models", [*XLM, "models"], folder, number),
                _way("compose a run", [*XLM, *compose], folder, number),
            ]

    return opened


def _reports(number: int):  # type: ignore[no-untyped-def]
    @contextmanager
    def opened(setting: Setting) -> Iterator[list[Way]]:
        with tempfile.TemporaryDirectory() as folder:
            steps = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.limit_val_batches=1"]
            command = [word for word in FIRST_STEP if "max_steps" not in word and "limit_val" not in word]
            tested = ["test_after_training=true", "trainer.limit_test_batches=1"]
            _way("", [*XLM, *command, *steps, *tested, "job_name=one"], folder).run()
            source = Path(folder) / "runs" / "one"
            copy_runs(source, Path(folder) / "runs" / "sweep", number)
            shutil.rmtree(source)
            yield [
                _way("xlm runs", [*XLM, "runs"], folder, number),
                _way("xlm report", [*XLM, "report", "runs/sweep/*"], folder, number),
            ]

    return opened
