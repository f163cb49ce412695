"""Default run names: the choices that made the run, one folder for each run of a sweep."""

from __future__ import annotations

import pytest

from xlm.compose.naming import MAX_LENGTH, checked_job_name, default_job_name, named_by, sweep_job_name
from xlm.errors import ConfigError

TRAIN = "datamodule.dataset_managers.train.lm"
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


@pytest.mark.parametrize(
    ("changes", "overrides", "swept", "name"),
    [
        ({}, ["experiment=star_easy_arlm", "seed=1"], ["seed"], "seed=1"),
        (
            {"experiment": "star_easy_mlm"},
            ["experiment=star_easy_mlm", "model=xtiny_mlm", "optimizer.lr=1e-3", "seed=7"],
            ["experiment", "optimizer.lr"],
            "star_easy_mlm,optimizer.lr=0.001",
        ),
        ({}, [f"{TRAIN}.num_examples=9"], [f"{TRAIN}.num_examples"], "train.lm.num_examples=9"),
        ({}, ["trainer.max_steps=5", "++predictor.top_k=5"], ["trainer.max_steps"], "trainer.max_steps=5"),
        ({}, ["model=xtiny_arlm", "per_device_batch_size=8"], ["model", "per_device_batch_size"],
         "tiny_arlm,per_device_batch_size=8"),
    ],
)  # fmt: skip
def test_a_run_among_the_others_of_its_sweep(
    changes: dict[str, str], overrides: list[str], swept: list[str], name: str
) -> None:
    assert sweep_job_name({**STAR, **changes}, overrides, swept) == name


def test_other_jobs_name_the_runs_of_a_sweep_alike() -> None:
    overrides, swept = ["seed=1", "eval.split=val", "optimizer.lr=0.1"], ["seed", "eval.split", "optimizer.lr"]
    assert sweep_job_name(STAR, overrides, swept, trains=False) == "optimizer.lr=0.1,seed=1"
    assert named_by(["eval.split", "trainer.max_steps"], trains=False) == set()


def test_paths_and_texts_in_names() -> None:
    def name(value: str) -> str:
        return default_job_name(STAR, [f"data_files.train={value}"]).partition("data_files.train=")[2]

    assert name("wörter.txt") == "wörter.txt"
    assert name("/home/me/data/wörter.txt").startswith("wörter.txt-")
    assert len(name("/home/me/data/wörter.txt")) == len("wörter.txt-1a2b")
    assert name("/a/x.txt") != name("/b/x.txt")
    assert name("{a: x.txt, b: y.txt}") == "a=x.txt,b=y.txt"
    assert name("[a/x.txt,a/y.txt]").startswith("x.txt,y.txt-")


def test_a_long_name_first_shortens_its_keys() -> None:
    overrides = [
        "experiment=star_easy_arlm", "seed=3", "per_device_batch_size=16", "model.num_attention_heads=4",
        "datamodule.dataset_managers.train.lm.num_examples=400", "data_files.train=x.txt",
    ]  # fmt: skip
    assert default_job_name(STAR, overrides) == (
        "star_easy_arlm,data_files.train=x.txt,num_attention_heads=4,num_examples=400,per_device_batch_size=16,seed=3"
    )
    # Keys with one end keep what tells them apart.
    both = [*overrides, "loss.width=1", "model.width=2", f"optimizer.{'x' * 30}=1"]
    settings = default_job_name(STAR, both).split(",")
    assert {"loss.width=1", "model.width=2", "num_examples=400"} <= set(settings)
    assert settings[-1].startswith("2-more-")


def test_names_are_folder_names_and_stay_different_when_settings_are_left_out() -> None:
    odd = default_job_name(STAR, ["a='x/../y z'", "~b"])
    assert "/" not in odd
    assert " " not in odd
    long = [default_job_name(STAR, [f"a={'x' * 300}{end}", "seed=1"]) for end in "yz"]
    assert long[0] != long[1]
    assert all(name.startswith("star_easy+tiny_arlm,seed=1,1-more-") or "seed=1" in name for name in long)
    many = default_job_name(STAR, [f"section.key{i}={'é' * 9}{i}" for i in range(20)])
    assert "-more-" in many
    experiments = default_job_name({"experiment": "é" * 200}, [])
    for name in (*long, many, experiments):
        assert len(name.encode()) <= MAX_LENGTH
        assert checked_job_name(name) == name


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
