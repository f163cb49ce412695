"""Every option of every job with valid and invalid values; `--help` describes exactly the valid ones."""

from __future__ import annotations

import importlib.resources
import math
from typing import Any

import pytest
from omegaconf import OmegaConf

from xlm import schemas
from xlm.commands import BUILT_IN_JOBS
from xlm.compose.checks import SECTIONS_OF_JOBS, check_values, read_section
from xlm.errors import ConfigError
from xlm.schemas import Checkpoint, Eval, GlobalFlags, Names, Prompts, Root, Trace, TrainerSection
from xlm.utils.annotations import Option, checked, describe, options_in

ALL = {schema for job in BUILT_IN_JOBS.values() for schema in job.schemas}
OPTIONS = [
    pytest.param(schema, option, id=f"{schema.__name__}.{option.name}")
    for schema in sorted(ALL, key=lambda each: each.__name__)
    for option in options_in(schema).values()
]
VALUES: list[Any] = [
    None, True, "no", "wrogn", "", -1, -2, 0, 1, 3, 10**40, 0.5, 1.0, -0.5, 1e300, math.nan, math.inf, -math.inf,
    "00:01:00:00", [], ["a"], [1], [None], [math.nan], [{"a": 1}], {}, {"a": 1},
]  # fmt: skip


def may_be(said: str, value: Any) -> bool:
    """Whether a value matches the description of an option, as a person would read it."""
    lists = "list" in said
    if value is None:
        return "null" in said
    if isinstance(value, bool):
        return "true" in said
    if isinstance(value, list):
        if "list of {" in said:
            return all(isinstance(each, dict) for each in value)
        return lists and all(may_be("a text", each) for each in value)
    if isinstance(value, dict):
        return "some of" in said or "by part" in said or ("or a time" in said and not value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, str):
        choices = any(value == word.strip(",") for word in said.split())  # of a time, the example
        return choices or any(text in said for text in ("a text", "bytes"))
    if "a text" in said:  # digits as text
        return True
    lowest = next((low for low in (-1, 0, 1, 2) if f"at least {low}" in said), None)
    if "share" in said:
        least = 0 if "from 0" in said else 1e-9
        return least <= value <= 1 or (isinstance(value, int) and 1 <= value < 2**31)
    if "whole number" in said:
        return isinstance(value, int) and lowest is not None and lowest <= value < 2**31
    if "bytes" in said:
        return isinstance(value, int)
    return (
        "a number" in said
        and value >= (lowest or 0)
        and not ("above 0" in said and value == 0)
        and not ("below 1" in said and value >= 1)
    )


@pytest.mark.parametrize(("schema", "option"), OPTIONS)
def test_a_value_is_taken_or_refused_by_its_name(schema: type, option: Option) -> None:
    assert option.help
    if option.annotation in (Names, Prompts | None):
        return  # read as lists of texts from the words of a command line
    key = f"{getattr(schema, 'section', '')}.{option.name}".lstrip(".")
    said = describe(option.annotation)
    for value in VALUES:
        error = refusal(key, value, option)
        assert (error is None) == may_be(said, value), f"{key}={value!r}, of which is said: {said}"
        assert error is None or (error.key == key and str(error).startswith(f"{key} is "))


def refusal(key: str, value: Any, option: Option) -> ConfigError | None:
    try:
        checked(key, value, option.annotation)
    except ConfigError as error:
        return error
    return None


@pytest.mark.parametrize("job", SECTIONS_OF_JOBS)
def test_a_section_is_checked_before_its_job(job: str) -> None:
    schema: Any = SECTIONS_OF_JOBS[job]
    for option in options_in(schema).values():
        with pytest.raises(ConfigError, match=rf"^{schema.section}\.{option.name} is \[\[\]\]") as caught:
            check_values(OmegaConf.create({"job_type": job, schema.section: {option.name: [[]]}}))
        assert caught.value.key == f"{schema.section}.{option.name}"
    with pytest.raises(ConfigError, match=f"{schema.section} is 3, and must be a mapping"):
        check_values(OmegaConf.create({"job_type": job, schema.section: 3}))
    # Another job's section is not read.
    check_values(OmegaConf.create({"job_type": "train", schema.section: {"mine": 1}}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"test_weights": "bset"}, "test_weights is 'bset', and must be best or last. Did you mean 'best'?"),
        ({"seed": None}, "seed is null, and must be a whole number, at least 0."),
        ({"seed": 2**40}, "seed is 1099511627776, and must be at least 0 and at most 4294967295."),
        ({"ema_decay": 1}, "ema_decay is 1, and must be at least 0 and below 1."),
        ({"num_dataloader_workers": -1}, "num_dataloader_workers is -1, and must be at least 0."),
        ({"trainer": {"max_steps": 1e3}}, "trainer.max_steps is 1000.0, and must be a whole number, at least -1."),
        ({"global_flags": {"DEBUG": "no", "MINE": 3}}, "global_flags.DEBUG is 'no', and must be true or false."),
        ({"trace": "yes"}, "trace is 'yes', and must be true, false, null or some of num_samples, gif, png."),
        ({"trace": {"gif": 1}}, "trace.gif is 1, and must be true or false."),
        (
            {"job_type": "eval", "eval": {"aply_ema": True}},
            "Unknown option 'eval.aply_ema'. Options: eval.judge, eval.judge_window, eval.judge_protocol, "
            "eval.train_examples, eval.checkpoint_path, eval.ckpt_path, eval.revision, eval.apply_ema, "
            "eval.trust, eval.trust_remote_code, eval.split, eval.data, eval.data_file, eval.num_samples. "
            "Did you mean 'eval.apply_ema'?",
        ),
        ({"job_type": "eval", "eval": {"apply_ema": "no"}}, "eval.apply_ema is 'no', and must be true or false."),
        (
            {"job_type": "generate", "generation": {"prompts": ["a", None]}},
            'generation.prompts is ["a", null], and must be a text or a list of texts or null.',
        ),
    ],
)
def test_a_refusal_says_what_is_allowed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_values(OmegaConf.create(config))
    assert str(caught.value) == message


def test_what_is_not_read_and_what_comes_late_is_passed_over() -> None:
    check_values(OmegaConf.create({"job_type": "train", "mine": "x", "trainer": {"max_steps": "${later}", "own": []}}))


def test_digits_are_text_where_text_is_taken() -> None:
    cfg = OmegaConf.create({"resume_checkpoint_path": 7, "job_name": "7", "trainer": {"max_steps": 7}})
    check_values(cfg)
    assert cfg == {"resume_checkpoint_path": "7", "job_name": "7", "trainer": {"max_steps": 7}}
    options = read_section(OmegaConf.create({"eval": {"revision": 1234567, "ckpt_path": 7}}), Eval)
    assert (options.revision, options.ckpt_path, options.split) == ("1234567", "7", "test")


@pytest.mark.parametrize(("schema", "file"), [(Root, "config"), (TrainerSection, "trainer/default")])
def test_defaults_are_those_of_the_configuration(schema: type, file: str) -> None:
    text = (importlib.resources.files("xlm.configs.lightning_train") / f"{file}.yaml").read_text()
    node = OmegaConf.create(text)
    for option in options_in(schema).values():
        assert option.name in node
        if not OmegaConf.is_interpolation(node, option.name):
            assert node[option.name] == option.default
    flags = OmegaConf.create((importlib.resources.files("xlm.configs.lightning_train") / "config.yaml").read_text())
    assert flags.global_flags == {name: option.default for name, option in options_in(GlobalFlags).items()}


def test_every_job_has_its_options() -> None:
    own = {each for each in vars(schemas).values() if isinstance(each, type) and each.__module__ == schemas.__name__}
    assert own - {Checkpoint, schemas.Options, schemas.ScorerOptions} == ALL
    assert Trace in ALL
