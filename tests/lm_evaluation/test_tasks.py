"""Whole tasks of lm-evaluation-harness without a network, the job that runs them, and its error messages."""

from __future__ import annotations

import functools
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

import xlm
from workspace import ROOT
from xlm.cli.main import main
from xlm.errors import ConfigError
from xlm.lm_eval.model import XLMForLMEval
from xlm.utils.imports import get_function


def ask(kind: Any, args: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(args)]


def values(found: list[tuple[float, bool]]) -> list[float]:
    return [value for value, _ in found]


def test_the_name_xlm_is_known_and_found_by_plugins() -> None:
    assert get_model("xlm") is XLMForLMEval
    project = tomllib.loads((ROOT / "packages/xlm-core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lm_eval.models"]["xlm"].partition(":")
    assert get_function(f"{module}.{name}") is XLMForLMEval


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 1}, r"no argument 'temperature'.*Did you mean 'predictor.temperature'"),
        ({"predictor.temprature": 1}, r"Did you mean 'predictor.temperature'"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"batch_size": "many"}, "batch_size is many"),
    ],
)
def test_arguments_that_are_none(
    arguments: dict[str, Any], message: str, of_texts: Callable[..., XLMForLMEval]
) -> None:
    with pytest.raises(ConfigError, match=message):
        of_texts("arlm", **arguments)


def tasks(folder: Path) -> Path:
    """Three tasks on a file of JSON lines: choices, texts to write, whole texts."""
    docs = [
        {"context": "1 2 3", "choices": ["4 5", "6", "7 7 7"], "right": 1},
        {"context": "8 8", "choices": ["0", "1 2", "5"], "right": 0},
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {folder / 'docs.jsonl'}}}\ntest_split: test\n"
    mean = "aggregation: mean\n    higher_is_better: true\n"
    (folder / "choices.yaml").write_text(
        f"task: choices\n{data}output_type: multiple_choice\ndoc_to_text: context\ndoc_to_choice: choices\n"
        f"doc_to_target: right\nmetric_list:\n  - metric: acc\n    {mean}"
    )
    (folder / "texts.yaml").write_text(
        f"task: texts\n{data}output_type: generate_until\ndoc_to_text: context\ndoc_to_target: '{{{{choices[0]}}}}'\n"
        f"generation_kwargs: {{until: ['9'], max_gen_toks: 3}}\nmetric_list:\n  - metric: exact_match\n    {mean}"
    )
    (folder / "whole.yaml").write_text(
        f"task: whole\n{data}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{context}}}}'\n"
        "metric_list:\n  - metric: word_perplexity\n"
    )
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("family", ["arlm", "mdlm"])
def test_whole_tasks(family: str, of_texts: Callable[..., XLMForLMEval], tmp_path: Path) -> None:
    model = of_texts(family)
    manager = TaskManager(include_path=str(tasks(tmp_path)), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model, tasks=["choices", "texts", "whole"], task_manager=manager, bootstrap_iters=0
    )
    samples = results["samples"]["choices"]
    for sample in samples:
        args = [(f"{sample['doc']['context']}", f" {choice}") for choice in sample["doc"]["choices"]]
        scores = values(of_texts(family).loglikelihood(ask("loglikelihood", args), True))
        assert sample["acc"] == (max(range(3), key=scores.__getitem__) == sample["doc"]["right"])
    assert set(results["results"]) == {"choices", "texts", "whole"}
    about = results["config"]["xlm"]
    assert about["family"] == family
    assert len(about["checkpoint_sha256"]) == 64
    assert about["likelihood"]["num_samples"] == (None if family == "arlm" else 8)
    assert about["versions"]["lm-eval"] == lm_eval.__version__


@pytest.mark.usefixtures("offline")
def test_the_job(folder_of_texts: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = folder_of_texts("mdlm")
    include = tmp_path / "tasks"
    include.mkdir()
    tasks(include)
    words = [f"checkpoint={checkpoint}", "tasks=[choices,texts]", f"include_path={include}", "bootstrap_iters=10"]
    assert main(["lm_eval", *words, "num_samples=2", "predictor.temperature=0.5", f"output={tmp_path / 'r.json'}"]) == 0
    said = capsys.readouterr().out
    assert "|choices|" in said
    assert "lower bound on the log-likelihood, 2 draws per request" in said
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["job_type"] == "lm_eval"
    assert record["config"]["xlm"]["sampler"] == {"temperature": 0.5}
    assert 0 <= record["results"]["choices"]["acc,none"] <= 1
    assert "samples" not in record


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks=[a]"], "Which model?"),
        (["checkpoint=x"], "Which tasks?"),
        (["x", "y", "tasks=[a]"], "was also given 'y'"),
        (["x", "tasks=[a]", "limit=many"], "limit is 'many'"),
        (["x", "tasks=[a]", "task=b"], "no option 'task'. Did you mean 'tasks'"),
        (["x", "tasks=[a]"], "There is no file or folder x"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lm_eval", *words]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_task_that_nobody_has(
    folder_of_texts: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = folder_of_texts("arlm")
    own = functools.partial(TaskManager, include_defaults=False)  # the library's thousands take long to read
    monkeypatch.setattr("lm_eval.tasks.TaskManager", own)
    assert main(["lm_eval", str(checkpoint), "tasks=[choics]", f"include_path={tasks(tmp_path)}"]) == 1
    assert "lm-eval has no task 'choics'" in (said := capsys.readouterr().err)
    assert "has: choices, texts, whole." in said
    assert main(["lm_eval", str(checkpoint), "tasks=[a]", f"include_path={tmp_path / 'no'}"]) == 1
    assert "no folder of tasks" in capsys.readouterr().err


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["lm_eval", "x", "tasks=[a]"]) == 1
    assert capsys.readouterr().err.strip() == (
        'Error: lm-evaluation-harness is not installed: pip install "xlm-core[lm-eval]".'
    )


def test_a_loaded_model_is_taken_as_it_is(folder_of_texts: Callable[[str], Path]) -> None:
    lm = xlm.load(folder_of_texts("arlm"))
    assert XLMForLMEval(lm).lm is lm
