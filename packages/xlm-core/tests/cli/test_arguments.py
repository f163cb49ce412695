"""The command line before Hydra reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

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
        (["eval", "ckpt_path=runs/a"], "++eval.checkpoint_path='runs/a'"),
        (["sweep_sampler", "checkpoint_path=runs/a"], "++sweep.checkpoint_path='runs/a'"),
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


@pytest.mark.parametrize(
    ("args", "prompts"),
    [
        (["runs/a", "The cat ___ mat", "it's, [a] {b} #1"], ["The cat ___ mat", "it's, [a] {b} #1"]),
        (["runs/a", "a = b", "2+2=4", "f(x)=3", "~50 of us", "- a list", ""], None),
        (["--prompt", "a=b", "runs/a", "word", "--prompt", "-5", "--prompt=--help"], ["a=b", "word", "-5", "--help"]),
        (["word", "checkpoint=runs/a"], ["word"]),
        (["word", "generation.ckpt_path=runs/a"], ["word"]),
        (["ckpt_path=runs/a", "job_name=x", "word"], ["word"]),
        (["runs/a", "--prompt", "${seed} \\${x}", "--prompt", "a\\", "--prompt", "a\\\n"], None),
        (["runs/a", "--prompt", "job_type=train", "--prompt", "checkpoint=b"], None),
        (["runs/a", "--prompt", "'q'", "--prompt", '"q', "--prompt", "null", "--prompt", "007", "--prompt", "-"], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_prompts_are_taken_as_typed(args: list[str], prompts: list[str] | None, multirun: list[str]) -> None:
    expected = prompts or [arg for arg in args if arg not in ("runs/a", "--prompt")]
    parsed = OverridesParser.create().parse_overrides(list(parse_arguments(["generate", *multirun, *args]).overrides))
    found = {override.key_or_group: override.value() for override in parsed}
    assert list(OmegaConf.create({"prompts": found["generation.prompts"]}).prompts) == expected
    path = found.get("generation.checkpoint_path") or found["generation.ckpt_path"]
    assert str(path).strip("'") == "runs/a"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "runs/a", "-5"], "Unknown option '-5'. To use it as a prompt: --prompt '-5'"),
        (["generate", "runs/a", "--x=1"], "Overrides are written without dashes: x=1"),
        (["generate", "runs/a", "--prompt"], "--prompt needs a text"),
        (["eval", "runs/a", "--prompt", "x"], "--prompt is for these jobs: generate, trace."),
        (["generate", "The cat"], "There is no model 'The cat'. The first word names the model"),
        (["generate", "runs/a", "b", "generation.prompts=c"], "The prompt 'b' is a word, and generation.prompts or"),
        (["eval", "a", "eval.checkpoint_path=b"], "takes one checkpoint, but was given a and b"),
        (["generate", "checkpoint=a", "checkpoint=b"], "takes one checkpoint, but was given a and b"),
    ],
)
def test_prompts_that_are_refused(args: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(args, JOBS)
    assert message in str(caught.value)


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


@pytest.mark.parametrize("name", ["lr/seed=1", "neu 名", "sweep 1/optimizer.lr=0.1,seed=1"])
def test_runs_are_named_without_their_folder(name: str, work_dir: Path) -> None:
    (work_dir / "runs" / name).mkdir(parents=True)
    for job, key in (("eval", "eval"), ("generate", "generation")):
        assert f"++{key}.checkpoint_path='{name}'" in parse_arguments([job, name]).overrides


def test_sections_that_a_config_may_lack_need_no_plus() -> None:
    parsed = parse_arguments(["eval", "eval.split=val", "+generation.num_examples=2", "evaluate.x=1"])
    assert parsed.overrides == ("job_type=eval", "++eval.split=val", "+generation.num_examples=2", "evaluate.x=1")
