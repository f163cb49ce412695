"""Default run names: the choices that made the run, one folder for each run of a sweep."""

from __future__ import annotations

import pytest

from xlm.compose.naming import MAX_LENGTH, checked_job_name, default_job_name
from xlm.errors import ConfigError

STAR = {"experiment": "star_easy_arlm", "datamodule": "star_easy", "model": "tiny_arlm", "model_type": "arlm"}


@pytest.mark.parametrize(
    ("changes", "overrides", "name"),
    [
        ({}, ["experiment=star_easy_arlm"], "star_easy_arlm"),
        ({}, ["experiment=star_easy_arlm", "debug=overfit"], "star_easy_arlm"),
        ({"experiment": None}, ["experiment=[star_easy_arlm,mine]"], "star_easy_arlm+mine"),
        ({"model": "small_arlm"}, ["experiment=star_easy_arlm", "model=small_arlm"], "star_easy_arlm+small_arlm"),
        ({"datamodule": "star_hard"}, ["experiment=x", "datamodule=star_hard"], "star_easy_arlm+star_hard"),
        (
            {"experiment": "star_hard", "model_type": "mlm", "model": "tiny_mlm"},
            ["experiment=star_hard", "model_type=mlm", "model=tiny_mlm"],
            "star_hard+tiny_mlm",
        ),
        ({"experiment": "star_hard"}, ["experiment=star_hard"], "star_hard+arlm"),
        ({"experiment": None}, [], "star_easy+tiny_arlm"),
        ({"experiment": None, "model": "plain"}, [], "star_easy+plain+arlm"),
        ({"experiment": None, "model": None, "model_type": None, "datamodule": None}, [], "run"),
    ],
)
def test_names(changes: dict[str, str | None], overrides: list[str], name: str) -> None:
    assert default_job_name({**STAR, **changes}, overrides) == name


@pytest.mark.parametrize(
    ("overrides", "settings"),
    [
        (["seed=3"], ",seed=3"),
        (["optimizer.lr=1e-3"], ",optimizer.lr=0.001"),
        (["++optimizer.lr=0.0010"], ",optimizer.lr=0.001"),
        (["optimizer.lr=1e-1"], ",optimizer.lr=0.1"),
        (["optimizer.lr=1", "optimizer.lr=2"], ",optimizer.lr=2"),  # the last one, as in Hydra
        (["seed=3", "optimizer.betas=[0.9, 0.95]"], ",optimizer.betas=0.9,0.95,seed=3"),
        (["optimizer.betas=[0.9,0.95]", "seed='3'"], ",optimizer.betas=0.9,0.95,seed=3"),
        (["optimizer=muon", "lr_scheduler=cosine"], ",lr_scheduler=cosine,optimizer=muon"),
        (["ema_decay=0.9", "trainer.precision=bf16-mixed"], ",ema_decay=0.9,trainer.precision=bf16-mixed"),
        (["datamodule.dataset_managers.train.lm.num_examples=64"], ",train.lm.num_examples=64"),
        (["~model.dropout", "~datamodule.dataset_managers.train.extra"], ",~model.dropout,~train.extra"),
        (["collator@collators.lm=my_lm"], ",collator-collators.lm=my_lm"),
        # A run that is executed, logged or used in another way is the same run.
        (["trainer.max_steps=9", "trainer.max_epochs=1", "trainer.val_check_interval=2", "trainer.devices=2"], ""),
        (["num_dataloader_workers=2", "datamodule.dataset_managers.train.lm.num_workers=1"], ""),
        (["loggers=debug", "loggers.wandb.project=x", "callbacks.checkpoint_monitor.mode=max", "compile=true"], ""),
        (["datamodule.dataset_managers.test.lm.num_examples=5", "~datamodule.dataset_managers.train"], ""),
        (["predictor.temperature=0.5", "predictor=other", "paths.log_dir=/x", "hydra.verbose=true"], ""),
        (["++eval.split=val", "++generation.prompts=[a]", "interactive=true", "++plan.num_steps=3"], ""),
        (["+metrics@reported_metrics.val.lm.x=x", "trace=true", "test_weights=last", "tags.a=b"], ""),
    ],
)
def test_the_name_tells_apart_what_makes_another_run(overrides: list[str], settings: str) -> None:
    assert default_job_name(STAR, ["experiment=star_easy_arlm", *overrides]) == f"star_easy_arlm{settings}"


def test_values_that_look_alike_in_a_name_stay_different() -> None:
    values = ["a/b", "a-b", "a b", "a:b", "é", "è"]
    names = [default_job_name(STAR, ["experiment=star_easy_arlm", f"data_files.train={value}"]) for value in values]
    assert len(set(names)) == len(values)
    assert names[0] == default_job_name(STAR, ["experiment=star_easy_arlm", "data_files.train='a/b'"])
    assert default_job_name(STAR, ["data_files.train=a-b"]) == "star_easy_arlm,data_files.train=a-b"


def test_the_size_of_a_batch_of_one_device_counts_where_no_other_is_said() -> None:
    overrides = ["experiment=star_easy_arlm", "per_device_batch_size=8"]
    assert default_job_name(STAR, overrides) == "star_easy_arlm,per_device_batch_size=8"
    assert default_job_name(STAR, overrides, global_batch_size=64) == "star_easy_arlm"


def test_a_run_of_a_sweep_has_the_name_that_it_has_alone() -> None:
    overrides = ["job_type=train", "experiment=star_easy_arlm", "optimizer.lr=0.001", "++predictor.top_k=5"]
    assert default_job_name(STAR, overrides, swept=["optimizer.lr"]) == default_job_name(STAR, overrides)


def test_what_a_sweep_varies_is_in_the_name_in_any_case() -> None:
    overrides = ["experiment=star_easy_arlm", "trainer.max_steps=5", "++predictor.top_k=5", "loggers=debug"]
    name = default_job_name(STAR, overrides, swept=["trainer.max_steps", "predictor.top_k", "experiment"])
    assert name == "star_easy_arlm,predictor.top_k=5,trainer.max_steps=5"
    both = ["experiment=star_easy_arlm", "per_device_batch_size=8"]
    name = default_job_name(STAR, both, swept=["per_device_batch_size"], global_batch_size=64)
    assert name == "star_easy_arlm,per_device_batch_size=8"


def test_names_are_folder_names_and_stay_different_when_cut() -> None:
    odd = default_job_name(STAR, ["a='x/../y z'", "~b"])
    assert "/" not in odd
    assert " " not in odd
    long = [default_job_name(STAR, [f"a={'x' * 300}{end}"]) for end in "yz"]
    assert long[0] != long[1]
    assert all(len(name) <= MAX_LENGTH for name in long)


@pytest.mark.parametrize("name", ["a", "a/b", "1e-3", "007", "a,b=1", "é [x]", "..a", "中文", 7])
def test_names_of_folders_below_the_runs(name: object) -> None:
    assert checked_job_name(name) == str(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        None,
        "..",
        ".",
        "../x",
        "a/../../x",
        "/tmp/x",
        "~/x",
        "a//b",
        "a/",
        " a",
        "a ",
        "x" * 256,
        "a\0b",
        "<img src=x onerror=alert(1)>",
        "a\x1b[2J",
        "a\nb",
        "a\u202eb",
        "-rf",
        "a/-x",
        "$(id)",
        "`id`",
        "a;b",
        "con",
        "a/NUL.txt",
        "a.",
    ],
)
def test_names_that_lead_elsewhere(name: object) -> None:
    with pytest.raises(ConfigError, match=r"^job_name=") as caught:
        checked_job_name(name)
    assert "\n" not in str(caught.value)
