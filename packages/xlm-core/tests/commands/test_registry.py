"""The registry: core's jobs, jobs of models, and conflicts between them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xlm.commands import BUILT_IN_JOBS, Job, custom_jobs, find_job, job_names
from xlm.errors import BadTargetError, ConfigError, UnknownJobError
from xlm.external_models.package import ModelPackage, read_directory

if TYPE_CHECKING:
    from ..conftest import WriteModel


@pytest.fixture
def toy(tmp_path: Path, write_model: WriteModel) -> ModelPackage:
    return read_directory("toy", write_model(tmp_path / "toy"), "xlm_models.json")


def commands(model: ModelPackage, text: str) -> None:
    (model.config_dir / "commands.yaml").write_text(text)


def test_built_in_jobs_are_those_of_the_interface_and_exist() -> None:
    composed = {
        "train", "eval", "generate", "plan", "prepare_data", "sweep_sampler", "extract_checkpoint", "push_to_hub",
        "name",
    }  # fmt: skip
    assert {job.name for job in BUILT_IN_JOBS.values() if not job.is_standalone} == composed
    assert set(BUILT_IN_JOBS) - composed == {
        "check", "completion", "experiments", "lm_eval", "models", "mv", "repeat", "report", "rm", "runs",
        "text_quality", "trace", "train_tokenizer",
    }  # fmt: skip
    for job in BUILT_IN_JOBS.values():
        module, _, function = job.target.rpartition(".")
        spec = importlib.util.find_spec(module)  # not imported, since importing a job imports torch
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert job.help
    assert BUILT_IN_JOBS["name"].load()


def test_models_bring_jobs(toy: ModelPackage) -> None:
    jobs, warnings = custom_jobs({"toy": toy})
    assert jobs == [Job("hello_toy", "toy.parts.hello", "job of model 'toy'", "toy")]
    assert warnings == []
    assert find_job("hello_toy", jobs) is jobs[0]
    assert job_names(jobs) == sorted([*BUILT_IN_JOBS, "hello_toy"])


def test_a_built_in_job_of_the_same_name_wins_with_a_warning(toy: ModelPackage) -> None:
    commands(toy, "train: toy.parts.hello\nother: toy.parts.hello\n")
    jobs, warnings = custom_jobs({"toy": toy})
    assert [job.name for job in jobs] == ["other"]
    assert warnings == ["Model 'toy' defines a job 'train'; the built-in job of that name is used."]
    assert find_job("train", jobs) is BUILT_IN_JOBS["train"]


def test_an_unreadable_file_stops_only_its_own_jobs(toy: ModelPackage, tmp_path: Path, write_model: WriteModel) -> None:
    commands(toy, "a: [")
    other = read_directory("other", write_model(tmp_path / "other", "other"), "xlm_models.json")
    jobs, warnings = custom_jobs({"toy": toy, "other": other})
    assert [job.name for job in jobs] == ["hello_other"]
    assert "commands.yaml: it cannot be read as YAML" in warnings[0]


def test_models_that_disagree_about_a_job_are_named() -> None:
    jobs = [Job("draw", "a.draw", "", "a"), Job("draw", "b.draw", "", "b")]
    with pytest.raises(ConfigError, match=r"a\.draw \(model 'a'\), b\.draw \(model 'b'\)"):
        find_job("draw", jobs)
    assert find_job("draw", [jobs[0], jobs[0]]).target == "a.draw"


def test_unknown_jobs_list_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownJobError) as caught:
        find_job("trian", [Job("draw", "a.draw", "", "a")])
    assert str(caught.value) == (
        "Unknown job_type 'trian'. Jobs: "
        "check, completion, draw, eval, experiments, extract_checkpoint, generate, lm_eval, models, mv, name, plan, "
        "prepare_data, push_to_hub, repeat, report, rm, runs, sweep_sampler, text_quality, trace, train, "
        "train_tokenizer. Did you mean 'train'?"
    )
    assert caught.value.job_type == "trian"


def test_a_job_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(BadTargetError, match="key 'job_type=draw'"):
        Job("draw", "no_such_toy.draw", "").load()
