"""Each family evaluated and loaded as a user does: one comparable number with an honest error, and texts."""

from __future__ import annotations

import html
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import xlm
from xlm.cli.main import main
from xlm.commands import eval as evaluation
from xlm.commands import train
from xlm.compose import load_config
from xlm.errors import ConfigError
from xlm.traces.document import read_document
from xlm.utils.instantiate import clear_components, components, instantiate

FAMILIES = ("arlm", "ilm", "mdlm", "mlm")
BOUNDS = FAMILIES[1:]
SMALL = (
    "datamodule.dataset_managers.test.lm.num_examples=30",
    "datamodule.dataset_managers.test.prediction.num_examples=4", "trainer_strategy=cpu", "loggers=debug",
)  # fmt: skip
TRAIN = (
    "datamodule.dataset_managers.train.lm.num_examples=64", "datamodule.dataset_managers.val.lm.num_examples=8",
    "datamodule.dataset_managers.val.prediction.num_examples=4", "per_device_batch_size=16", "trainer.max_steps=3",
    "trainer.val_check_interval=3", "trainer.log_every_n_steps=1", "test_after_training=false",
)  # fmt: skip
# 30 examples would get 64 draws.
DRAWS = ("++eval.num_samples=2",)
PROMPTS = ["3 1 19 9 13 3", "", "8 3 7 16"]


class Run(NamedTuple):
    family: str
    folder: Path
    evaluate: Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, home: Path) -> Run:
    """A network after three steps, and its likelihood on the test split as `xlm eval` writes it."""
    name = request.param
    choice = (f"experiment=star_easy_{name}", f"model=xtiny_{name}", f"job_name={name}")
    train.run(load_config([*choice, *SMALL, *TRAIN]))

    def evaluate(*overrides: str) -> dict[str, Any]:
        without = ("~datamodule.dataset_managers.train", "~datamodule.dataset_managers.val")
        evaluation.run(load_config([*choice, *SMALL, *without, *DRAWS, *overrides]))
        record = json.loads((home / f"runs/{name}/eval_test.json").read_text())
        found: dict[str, Any] = record["likelihood"]["test/lm"]
        del found["seconds"]
        return {"loss": record["metrics"]["test/lm/accumulated_loss"], **found}

    return Run(name, home / "runs" / name, evaluate)


def per_token(run: Run) -> str:
    return "sampler_nll_bound_per_token" if run.family == "ilm" else "nll_per_token"


@pytest.fixture(scope="module")
def once(run: Run) -> dict[str, Any]:
    return run.evaluate()


def test_every_family_counts_the_answer_and_one_end(run: Run, once: dict[str, Any]) -> None:
    """Eight numbers and the end, however an answer is laid out; a graph's labels have no bytes."""
    assert (once["n"], once["num_tokens"]) == (30, 30 * 9)
    assert once["exact"] == (run.family == "arlm")
    assert once["kind"] == ("exact" if run.family == "arlm" else "upper bound")
    assert once["of"].startswith("-log p of ")
    names = {name for name, value in once.items() if isinstance(value, dict)}
    if run.family == "ilm":
        assert names == {"sampler_nll_bound_per_token", "sampler_nll_bound_per_sequence", "sampler_perplexity_bound"}
    else:
        assert names == {"nll_per_token", "nll_per_sequence", "perplexity"}
    assert 1.0 < once[per_token(run)]["value"] < 8.0
    assert 0 < once[per_token(run)]["se"] < 0.5


def test_twice_the_same_digits_and_nearly_so_in_other_batches(run: Run, once: dict[str, Any]) -> None:
    assert run.evaluate() == once
    other = run.evaluate("per_device_val_batch_size=7")
    assert other[per_token(run)] == pytest.approx(once[per_token(run)], rel=1e-6)


@pytest.mark.parametrize("run", [pytest.param("ilm", marks=pytest.mark.slow), "mdlm"], indirect=True)
def test_two_processes_measure_what_one_does(run: Run, once: dict[str, Any], home: Path) -> None:
    """Each scores its share; the draws of an example don't depend on who draws them."""
    command = [
        str(Path(sys.executable).with_name("xlm")), "eval", f"experiment=star_easy_{run.family}",
        f"model=xtiny_{run.family}", f"job_name={run.family}", *SMALL[:2], "trainer_strategy=ddp",
        "trainer.accelerator=cpu", "trainer.devices=2", "per_device_val_batch_size=4",
        "~datamodule.dataset_managers.train", *DRAWS,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((run.folder / "eval_test.json").read_text())["likelihood"]["test/lm"]
    assert (found["n"], found["num_tokens"]) == (once["n"], once["num_tokens"])
    assert found[per_token(run)] == pytest.approx(once[per_token(run)], rel=1e-6)


@pytest.mark.parametrize("run", ["arlm"], indirect=True)
def test_nothing_is_drawn_from_an_exact_likelihood(run: Run, once: dict[str, Any]) -> None:
    assert run.evaluate("seed=2", "++eval.num_samples=5") == once
    assert (once["num_samples"], once["estimator_se"]) == (1, 0.0)
    assert once["nll_per_token"]["value"] == pytest.approx(once["loss"], rel=1e-6)


@pytest.mark.parametrize("run", BOUNDS, indirect=True)
def test_seeds_agree_within_the_error_of_drawing(run: Run) -> None:
    found = [run.evaluate(f"seed={seed}", "++eval.num_samples=4") for seed in range(4)]
    values, errors = ([f[per_token(run)]["value"] for f in found], [f["estimator_se"] for f in found])
    assert 0 < max(values) - min(values) < 5 * max(errors)
    assert min(errors) > 0.6 * max(errors)


@pytest.mark.parametrize("run", BOUNDS, indirect=True)
def test_four_times_the_draws_halve_the_error(run: Run) -> None:
    few, many = (run.evaluate(f"++eval.num_samples={n}") for n in (6, 24))
    assert many["num_samples"] == 24
    assert many["estimator_se"] == pytest.approx(few["estimator_se"] / 2, rel=0.2)


def rows_of_test(lm: xlm.TrainedModel) -> tuple[list[str], list[str]]:
    """Prompts and answers of the test split, as texts."""
    with components(tokenizer=lm.tokenizer, noise_schedule=lm.harness.noise_schedule):
        datamodule = instantiate(lm.config.datamodule)
    datamodule.setup("test")
    loader = datamodule.test_dataloader()[0]
    rows = [row for number in range(len(loader)) for row in loader.rows_of_batch(number)]
    return tuple([lm.tokenizer.decode(row[name]) for row in rows] for name in ("prompt_ids", "input_ids"))


def test_lm_score_gives_the_figures_of_xlm_eval(run: Run, once: dict[str, Any]) -> None:
    lm = xlm.load(run.folder)
    prompts, answers = rows_of_test(lm)
    scores = lm.score(answers, prompts, num_samples=2, batch_size=7)
    record = scores.record()
    assert {name: record[name] for name in ("kind", "of", "n", "num_tokens", "num_samples", "bytes")} == {
        name: once[name] for name in ("kind", "of", "n", "num_tokens", "num_samples", "bytes")
    }
    for name in scores.values():
        assert record[name] == pytest.approx(once[name], rel=1e-6)
    assert record["estimator_se"] == pytest.approx(once["estimator_se"], rel=1e-4)
    mean = sum(score.nll for score in scores) / len(scores)
    assert mean == pytest.approx(once[per_token(run).replace("token", "sequence")]["value"], rel=1e-6)
    assert lm.score(answers[0], prompts[0], num_samples=2)[0].nll == pytest.approx(scores[0].nll, rel=1e-5)


def test_a_trace_has_the_texts_of_generate_and_a_page(run: Run, tmp_path: Path) -> None:
    lm = xlm.load(run.folder)
    trace = lm.trace(PROMPTS, 2, seed=3)
    assert trace.texts == [text for n, prompt in enumerate(PROMPTS) for text in lm.generate(prompt, 2, seed=3 + n)]
    assert len(trace.calls) == 6
    assert min(trace.calls) > 0
    page = trace.save(tmp_path / "new" / "x.html")
    assert read_document(page.with_suffix(".json")) == json.loads(json.dumps(trace.document))
    frame = trace._repr_html_()
    assert frame.startswith('<iframe srcdoc="')
    assert html.unescape(frame.partition('"')[2].partition('" sandbox')[0]) == page.read_text()
    with pytest.raises(ConfigError, match="nothing to trace"):
        lm.trace([])


def test_every_family_writes_strings(run: Run, tmp_path: Path) -> None:
    lm = xlm.load(run.folder, seed=1)
    texts = lm.generate(PROMPTS)
    assert len(texts) == 3
    assert all(isinstance(text, str) and set(text.split()) <= set(map(str, range(20))) for text in texts)
    assert lm.generate([]) == []
    assert len(lm.generate(num_samples=3)) == 3
    greedy = {"arlm": {}, "ilm": {"slot_top_k": 1, "top_k": 1}, "mdlm": {}, "mlm": {}}[run.family]
    texts = lm.generate(PROMPTS, **greedy)
    assert texts == [text for prompt in PROMPTS for text in lm.generate([prompt], **greedy)]
    drawn = lm.generate(PROMPTS, temperature=0.7, top_k=5, seed=3)
    assert drawn == lm.generate(PROMPTS, temperature=0.7, top_k=5, seed=3)
    shared = xlm.load(lm.save_pretrained(tmp_path / "shared"))
    assert shared.generate(PROMPTS, **greedy) == texts
    assert shared.generate(PROMPTS, temperature=0.7, top_k=5, seed=3) == drawn


@pytest.mark.parametrize("run", ["arlm"], indirect=True)
def test_masks_that_nobody_can_fill(run: Run) -> None:
    with pytest.raises(ConfigError, match="arlm cannot fill any"):
        xlm.load(run.folder).generate(["1 [MASK] 2"])


@pytest.mark.parametrize("run", BOUNDS, indirect=True)
def test_masks_in_a_prompt(run: Run) -> None:
    lm = xlm.load(run.folder)
    for text in lm.generate(["1 [MASK] 2", "3 [MASK] [MASK] 4"]):
        assert "[" not in text
    filled = lm.generate(["1 [MASK] 2"])[0].split()
    assert (filled[0], filled[-1]) == ("1", "2")
    if run.family != "ilm":
        assert len(filled) == 3


def test_loading_another_changes_nothing(run: Run, home: Path) -> None:
    """The fixture trains the families one after the other, so that the ones before it are there too."""
    lm = xlm.load(run.folder)
    texts = lm.generate(PROMPTS, seed=1, temperature=0.9)
    others = [xlm.load(home / "runs" / name) for name in FAMILIES if (home / "runs" / name).is_dir()]
    assert all(len(other.generate(PROMPTS)) == 3 for other in others)
    assert lm.generate(PROMPTS, seed=1, temperature=0.9) == texts


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may become larger: the system refuses to write more, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# The first check before a job needs 4 KiB, and the first file that it writes more.
@pytest.mark.parametrize(("job", "size"), [("eval", 0), ("eval", 4096), ("generate", 4096), ("report", 4096)])
@pytest.mark.parametrize("run", ["arlm"], indirect=True)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    run: Run, job: str, size: int, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.folder, tmp_path / "runs/arlm")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with largest_file(size), pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("XLM_CACHE_DIR", str(home / "data/cache"))
        code = main([job, "runs/arlm", *(SMALL[:2] if job != "report" else ())])
    clear_components()
    said = capsys.readouterr().err
    assert code == 1
    assert re.fullmatch(r"Error: \S.* cannot be written: File too large\.\n", said), said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
