"""Random compositions of data, model, network and run options: each trains and generates, or one sentence says why not.

A draw is printed as the command of a user, so that a failure can be repeated.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from warm_xlm import warm_xlm
from xlm.compose import load_config
from xlm.errors import XLMError
from xlm.scaffold.cli import main as scaffold

Draw = st.DrawFn
# One step, one validation that predicts a batch.
RUN = (
    "job_name=t", "loggers=debug", "trainer_strategy=cpu", "trainer.max_steps=1", "trainer.val_check_interval=1",
    "trainer.log_every_n_steps=1", "trainer.limit_val_batches=1", "test_after_training=false",
    "per_device_batch_size=4", "per_device_val_batch_size=2",
)  # fmt: skip
OWN = ("own_text", "own_infill", "own_pairs", "own_chat")
GENERATED = (
    "star_mini",
    "star_easy",
    "arithmetic",
    "countdown",
    "n_queens",
    "graph_coloring",
    "grammar",
    "sudoku",
    "zebra",
)
TEXTS = [
    "",
    "a",
    "b b b",
    "the cat sat on the mat and slept",
    "ragged " * 30,
    "é ü",
    "one two three four five six",
    "no",
] * 4


@st.composite
def data(draw: Draw) -> list[str]:
    """A data module, and where its examples are from."""
    name = draw(st.sampled_from(OWN + GENERATED))
    few = "datamodule.dataset_managers"
    if name not in OWN:
        sizes = [
            f"{few}.train.lm.num_examples=24",
            f"{few}.val.lm.num_examples=4",
            f"{few}.val.prediction.num_examples=2",
        ]
        level = [] if name.startswith("star") else ["difficulty=mini"]
        return [f"datamodule={name}", *level, *sizes]
    chosen = [f"datamodule={name}", f"data_files.train={name}.jsonl", "held_out.val=0.2", "held_out.test=0.2"]
    chosen += [f"block_size={draw(st.sampled_from([8, 24, 64]))}"]
    chosen += draw(
        st.sampled_from([[f"too_long={policy}"] for policy in ("truncate", "drop", "split", "error", "null")])
    )
    chosen += [
        f"tokenizer={draw(st.sampled_from(['byte', 'bpe', 'word', 'character', 'wordpiece', 'unigram']))}",
        "vocab_size=280",
    ]
    if name in ("own_pairs", "own_chat"):
        chosen += [f"input_block_size={draw(st.sampled_from([12, 128]))}", f"{few}.val.prediction.num_examples=2"]
    else:
        chosen += [f"{few}.val.unconditional_prediction.num_examples=2"]
    if name == "own_infill":
        chosen += [f"{few}.val.infill_prediction.num_examples=2"]
    return [*chosen, *draw(options(streaming=["true"], **{"reading.dedup": ["true"]}))]


def write_data(folder: Path) -> None:
    rows = {
        "own_text": [{"text": text} for text in TEXTS],
        "own_pairs": [{"prompt": text, "answer": text.upper() or "?"} for text in TEXTS],
        "own_chat": [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes " * n}]}
                     for n, text in enumerate(TEXTS)],
    }  # fmt: skip
    rows["own_infill"] = rows["own_text"]
    for name, examples in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))


def options(least: int = 0, most: int = 2, **choices: list[str]) -> st.SearchStrategy[list[str]]:
    """So many of the options, each with one of its values."""
    each = [st.sampled_from([f"{name}={value}" for value in values]) for name, values in choices.items()]
    names = st.lists(st.sampled_from(range(len(each))), min_size=least, max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.tuples(*(each[n] for n in chosen)).map(list))


FILTERS = {
    "predictor.temperature": ["0.0", "0.7"], "predictor.top_k": ["1", "5"], "predictor.top_p": ["0.5", "1.0"],
    "predictor.seed": ["7"],
}  # fmt: skip
MASKED = {
    "predictor.confidence": ["top_prob", "prob_diff", "entropy"], "predictor.threshold": ["0.5"],
    "predictor.entropy_bound": ["0.3"],
    "predictor.min_p": ["0.1"], "predictor.suppressed_tokens": ["[a,e]"],
    "text_length": ["learnt", "modelled", "given", "lm1b_protocol"],
}  # fmt: skip
OF_FAMILY: dict[str, dict[str, list[str]]] = {
    "arlm": {**FILTERS, "predictor.use_cache": ["false"], "predictor.repetition_limit": ["2"]},
    "mlm": {**FILTERS, **MASKED, "predictor.max_steps": ["1", "3"], "loss.weighting": ["none", "elbo", "nelbo"]},
    "mdlm": {
        **FILTERS, **MASKED, "predictor.num_steps": ["1", "4"], "noise_schedule": ["linear", "cosine", "geometric"],
        "predictor.sampler": ["ancestral", "ancestral_every_step", "first_hitting", "confidence", "remasking"],
        "predictor.max_length": ["40"], "predictor.context": ["4"],
    },
    "ilm": {
        **FILTERS, "predictor.sampling": ["slot_first", "joint"], "predictor.stopping_threshold": ["0.5", "null"],
        "predictor.max_steps": ["2"], "predictor.slot_top_k": ["2"], "predictor.slot_top_p": ["0.5"],
        "predictor.parallel_slots": ["3"], "predictor.suppressed_tokens": ["[a,e]"], "loss.length_loss": ["ce"],
        "loss.weighting": ["elbo"], "loss.stopping_class_weight": ["0.3"],
    },
}  # fmt: skip
# Also the package that `xlm-scaffold mine` writes.
WITH_SCAFFOLDED = {**OF_FAMILY, "mine": {"predictor.max_length": ["12", "40"]}}
OF_RUN = {
    "batching": ["longest", "buckets", "packed"], "max_tokens_per_batch": ["64", "200"],
    "optimizer": ["adamw", "muon"],
    "lr_scheduler": ["constant", "cosine", "cosine_with_min_lr"], "trainer.precision": ["bf16-true", "bf16-mixed"],
    "ema_decay": ["null", "0.9"], "global_batch_size": ["8", "4"], "trainer.accumulate_grad_batches": ["2"],
    "num_dataloader_workers": ["2"], "trainer.gradient_clip_val": ["null", "0.1"], "max_tokens": ["50"],
    "trainer_strategy": ["ddp", "fsdp2", "single_device"], "trace": ["true"], "optimizer.weight_decay": ["0"],
}  # fmt: skip


@st.composite
def compositions(draw: Draw, families: dict[str, dict[str, list[str]]]) -> list[str]:
    """The words of `xlm train`."""
    family = draw(st.sampled_from(sorted(families)))
    size = draw(st.sampled_from(["xtiny", "xtiny", "tiny"]))
    more = draw(options(1, 4, **families[family])) + draw(options(2, 6, **OF_RUN))
    if any(word.startswith("max_tokens_per_batch") for word in more) and draw(st.integers(0, 9)):
        more = [word for word in more if not word.startswith("batching")]  # it needs one of these
        more += draw(st.sampled_from([["batching=buckets"], ["batching=packed"]]))
    if "trainer_strategy=ddp" in more or "trainer_strategy=fsdp2" in more:
        more += ["trainer.accelerator=cpu", f"trainer.devices={draw(st.sampled_from([1, 2]))}"]
    network = draw(options(0, 1, **{"model.dropout": ["0.1"], "model.d_model": ["32"], "model.num_layers": ["1"]}))
    model = family if family == "mine" else f"{size}_{family}"
    return [*draw(data()), f"model_type={family}", f"model={model}", *network, *more]


def scaffolded(folder: Path) -> str:
    """A folder of models in `folder`, with a package as xlm-scaffold writes it."""
    models = folder / "models"
    models.mkdir()
    assert scaffold(["mine", "--output-dir", str(models)]) == 0
    return str(models)


class Faults:
    """Runs commands in a new folder each, and says what a user would not accept."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.refused: list[str] = []
        self.environ = {**os.environ, "OMP_NUM_THREADS": "1", "XLM_CACHE_DIR": str(folder / "cache")}
        self.environ["XLM_MODELS_PATH"] = scaffolded(folder)

    def xlm(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*warm_xlm(self.environ), *words]
        return subprocess.run(
            command, cwd=self.place, env=self.environ, capture_output=True, text=True, timeout=300, check=False
        )

    def find(self, words: list[str]) -> str | None:
        self.number += 1
        self.place = self.folder / str(self.number)
        self.place.mkdir()
        write_data(self.place)
        run = self.place / "runs/t"
        done = self.xlm("train", *RUN, *words)
        if done.returncode:
            self.refused.append(done.stderr)
            return refusal(done) or ("refused after training began" if (run / "metrics.csv").exists() else None)
        with (run / "metrics.csv").open() as file:
            values = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
        losses = [value for name, value in values.items() if name.endswith("accumulated_loss")]
        if len(losses) < 2 or not all(map(math.isfinite, losses)):
            return f"losses {losses}"
        is_text = any("own_text" in word or "own_infill" in word for word in words)
        num = "num_samples" if is_text else "num_examples"
        prompts = ["generation.prompts=['']"] if is_text else ["generation.split=val"]
        done = self.xlm(
            "generate", "generation.checkpoint_path=runs/t", *prompts, f"generation.{num}=2", "generation.output=-"
        )
        if done.returncode:
            return f"generate: {refusal(done) or done.stderr}"
        texts = [
            row
            for line in done.stdout.splitlines()
            if line.startswith("{") and "prediction" in (row := json.loads(line))
        ]
        return None if len(texts) == 2 else f"{len(texts)} texts"


def refusal(done: subprocess.CompletedProcess[str]) -> str | None:
    """What is wrong with the words of a command that refuses; None if they are one clear message."""
    found = re.search(r"^(Error|hydra\.errors\.\w+): (.*)", done.stderr, re.MULTILINE)
    if "Traceback" in done.stderr or found is None or len(found.group(2)) < 20:
        return done.stderr[-3000:]
    return None


def check(faults: Faults, words: list[str]) -> None:
    command = " ".join(words)
    note(f"xlm train {command}")
    fault = faults.find(words)
    assert fault is None, f"xlm train {command}\n{fault}"


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("compositions"))


few = settings(max_examples=5, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
               suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip


@few
@given(words=compositions(OF_FAMILY))
def test_few_compositions_are_checked(words: list[str]) -> None:
    """Composed and checked only: what a training run begins with."""
    note(f"xlm train {' '.join(words)}")
    said = None
    try:
        assert load_config([*RUN, *words]).trainer.max_steps == 1
    except XLMError as error:
        said = str(error)
    assert said is None or len(said.splitlines()[0]) > 20, said


# Each trains and generates in about 8 CPU seconds.
@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(
    few,
    max_examples=int(os.environ.get("XLM_COMPOSITIONS", "60")),
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
)
@given(words=compositions(WITH_SCAFFOLDED))
def test_many_compositions(faults: Faults, words: list[str]) -> None:
    check(faults, words)


def draws(number: int, use: Callable[[list[str]], None]) -> None:
    """Random compositions without stopping at a fault."""

    @settings(few, max_examples=number, derandomize=False)
    @given(words=compositions(WITH_SCAFFOLDED))
    def run(words: list[str]) -> None:
        use(words)

    run()


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        every = Faults(Path(name))

        def tell(words: list[str]) -> None:
            fault = every.find(words)
            print(
                f"{'-' if fault is None else 'FAULT'} {' '.join(words)}",
                fault or "",
                *every.refused[-1:],
                sep="\n",
                flush=True,
            )
            every.refused.clear()

        draws(int(sys.argv[1]), tell)
        print(f"{every.number} compositions")
