"""Default run names: the choices that made the run, one folder for each run of a sweep."""

from __future__ import annotations

import pytest

from xlm.compose.naming import MAX_LENGTH, default_job_name

STAR = {"experiment": "star_easy_arlm", "datamodule": "star_easy", "model": "tiny_arlm", "model_type": "arlm"}


@pytest.mark.parametrize(
    ("changes", "overrides", "name"),
    [
        ({}, ["experiment=star_easy_arlm"], "star_easy_arlm"),
        ({}, ["experiment=star_easy_arlm", "seed=3", "debug=overfit"], "star_easy_arlm"),
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


def test_a_sweep_names_its_runs_by_their_overrides() -> None:
    overrides = ["job_type=train", "experiment=star_easy_arlm", "optimizer.lr=0.001", "++predictor.top_k=5"]
    name = default_job_name(STAR, overrides, is_sweep=True)
    assert name == "star_easy_arlm,optimizer.lr=0.001,++predictor.top_k=5"


def test_names_are_folder_names_and_stay_different_when_cut() -> None:
    odd = default_job_name(STAR, ["a='x/../y z'", "~b"], is_sweep=True)
    assert "/" not in odd
    assert " " not in odd
    long = [default_job_name(STAR, [f"a={'x' * 300}{end}"], is_sweep=True) for end in "yz"]
    assert long[0] != long[1]
    assert all(len(name) <= MAX_LENGTH for name in long)
