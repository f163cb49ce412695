"""The command line before Hydra reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.cli.arguments import parse_arguments, with_sweep_names
from xlm.commands import BUILT_IN_JOBS, Job
from xlm.errors import ConfigError, UnknownJobError

JOBS = [Job("draw", "a.draw", "", "a")]


@pytest.mark.parametrize("job", [*BUILT_IN_JOBS, "draw"])
def test_the_short_form_of_every_job(job: str) -> None:
    assert parse_arguments([job, "a=1"], JOBS).overrides == (f"job_type={job}", "a=1")
    assert parse_arguments(["-m", job, "a=1,2"], JOBS).overrides == (f"job_type={job}", "a=1,2")
    assert parse_arguments(["a=1", job], JOBS).overrides == ("a=1", f"job_type={job}")
    assert parse_arguments([f"job_type={job}"], JOBS).overrides == (f"job_type={job}",)


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["eval", "runs/a"], "++eval.checkpoint_path='runs/a'"),
        (["eval", "checkpoint=runs/a"], "++eval.checkpoint_path='runs/a'"),
        (["job_type=generate", "runs/é, 1.ckpt"], "++generation.checkpoint_path='runs/é, 1.ckpt'"),
        (["sweep_sampler", "owner/name", "sweep.top_p=[1]"], "++sweep.checkpoint_path='owner/name'"),
        (["extract_checkpoint", "runs/a,seed=1"], "++extract.checkpoint_path='runs/a,seed=1'"),
        (["eval", "~/runs/a"], f"++eval.checkpoint_path='{Path.home()}/runs/a'"),
        (["push_to_hub", "/runs/a", "hub.repo_id=a/b"], "++hub.checkpoint_path='/runs/a'"),
    ],
)
def test_a_checkpoint_is_named_in_one_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], key: str
) -> None:
    (tmp_path / "runs" / "a,seed=1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse_arguments(args, JOBS).overrides[1] == key


def test_what_names_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ("job_type=eval", "datamodule@a/b=c", "~datamodule.dataset_managers.train", "a/b=c")
    assert parse_arguments(overrides, JOBS).overrides == overrides
    assert parse_arguments(["train", "checkpoint=a"], JOBS).overrides == ("job_type=train", "checkpoint=a")
    with pytest.raises(ConfigError, match="takes one checkpoint, but was given a and b"):
        parse_arguments(["eval", "a", "checkpoint=b"], JOBS)


@pytest.mark.parametrize("args", [["trian"], ["trian", "a=1"], ["job_type=trian"], ["a=1", "job_type=trian"]])
def test_misspelt_jobs(args: list[str]) -> None:
    with pytest.raises(UnknownJobError, match="Did you mean 'train'"):
        parse_arguments(args, JOBS)


def test_two_jobs_at_once() -> None:
    with pytest.raises(ConfigError, match="Use only one of them"):
        parse_arguments(["train", "job_type=eval"], JOBS)


def test_flags_and_overrides_may_be_mixed() -> None:
    arguments = parse_arguments(["a=1", "--multirun", "b=1,2", "--config-dir", "conf", "~c"])
    assert arguments.overrides == ("a=1", "b=1,2", "~c")
    assert arguments.flags == ("--multirun", "--config-dir", "conf")
    assert arguments.config_dirs == (Path("conf").resolve(),)
    assert arguments.multirun
    assert not arguments.shows_only
    assert parse_arguments(["--cfg", "job", "a=1", "--resolve"]).shows_only


def test_the_value_of_a_flag_is_no_override() -> None:
    for args in (["train", "--config-dir", "train", "a=1"], ["--config-dir", "train", "train", "a=1"]):
        arguments = parse_arguments(args, JOBS)
        assert arguments.overrides == ("job_type=train", "a=1")
        assert arguments.flags == ("--config-dir", "train")
    assert parse_arguments(["--info", "train", "-cd=conf"], JOBS).overrides == ("job_type=train",)
    assert parse_arguments(["--info", "defaults", "train"], JOBS).flags == ("--info", "defaults")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--experiment=toy"], "Overrides are written without dashes: experiment=toy"),
        (["-x"], "Unknown option '-x'. See xlm --help."),
        (["--cfg", "nope"], "invalid choice: 'nope'"),
        (["--config-dir"], "expected one argument"),
    ],
)
def test_flags_that_hydra_does_not_have(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(args)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "args",
    [
        ["train", "job_name=x", "seed=1,2"],
        ["-m", "train", "job_name=x", "seed=1"],
        ["-m", "train", "seed=1,2"],
        ["-m", "train", "job_name=x,y", "seed=1,2"],
        ["-m", "train", "job_name=", "seed=1,2"],
        ["-m", "eval", "job_name=x", "eval.split=val,test"],
        ["-m", "train", "job_name=x", "seed=1,2", "paths.run_dir=runs/x/${seed}"],
        ["-m", "train", "job_name=x", "seed=[1"],
    ],
)
def test_names_that_stay(args: list[str]) -> None:
    arguments = parse_arguments(args)
    assert with_sweep_names(arguments) == arguments


@pytest.mark.parametrize(
    "args",
    [
        ["-m", "job_name=x", "seed=1,2"],
        ["-m", "train", "job_name=x/", "seed=range(3)"],
        ["-m", "eval", "job_name=x", "seed=1,2"],
        ["train", "job_name=x", "hydra/sweeper=optuna", "seed=1"],
    ],
)
def test_one_name_for_a_sweep_is_its_folder(args: list[str]) -> None:
    assert "job_name='x/${swept_settings:}'" in with_sweep_names(parse_arguments(args)).overrides


def test_sections_that_a_config_may_lack_need_no_plus() -> None:
    parsed = parse_arguments(["eval", "eval.split=val", "+generation.num_examples=2", "evaluate.x=1"])
    assert parsed.overrides == ("job_type=eval", "++eval.split=val", "+generation.num_examples=2", "evaluate.x=1")
