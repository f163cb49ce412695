"""Mistakes in a configuration give one short message, with the existing and the nearest names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from xlm.compose import load_config
from xlm.compose.messages import keys_ending_in, readable_errors, translate
from xlm.errors import BadTargetError, ConfigError, MissingConfigError

if TYPE_CHECKING:
    from ..conftest import WriteModel

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture(autouse=True)
def toy(work_dir: Path, write_model: WriteModel) -> Path:
    (work_dir / "xlm_models.json").write_text('{"toy": "toy", "lost": "lost"}')
    return write_model(work_dir / "toy")


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(list(overrides))
    text = str(caught.value)
    assert len(text.splitlines()) <= 8
    assert "Traceback" not in text
    return text


def test_missing_config_keeps_hydras_first_line_and_lists_groups_models_and_nearest() -> None:
    text = message("experiment=toy", "model=toi")
    assert text.splitlines()[0] == "Could not find 'model/toi'"
    assert "Did you mean 'toy'?" in text
    assert "In 'model' there are: " in text
    assert "Searched: xlm-core, model 'toy' (xlm_models.json)" in text


def test_missing_config_carries_its_culprits() -> None:
    with pytest.raises(MissingConfigError) as caught:
        load_config(["experiment=ty"])
    assert caught.value.name == "experiment/ty"
    assert "toy" in caught.value.options


def test_missing_config_in_a_list_and_in_a_file(toy: Path) -> None:
    assert message("experiment=[toy,nope]").splitlines()[0] == "Could not find 'experiment/nope'"
    (toy / "configs" / "experiment" / "broken.yaml").write_text("# @package _global_\ndefaults:\n  - tooy\n")
    text = message("experiment=broken")
    assert text.splitlines()[0] == "Could not find 'experiment/tooy', which 'experiment/broken' names"
    assert "Did you mean 'toy'?" in text


@pytest.mark.parametrize("name", ["model=lost", "model_type=lost", "experiment=star_easy_lost", "model=tiny_lost"])
def test_asking_for_a_model_whose_directory_is_missing_repeats_why(name: str) -> None:
    assert "xlm_models.json: model 'lost' is listed with the directory" in message("experiment=toy", name)


def test_a_group_that_does_not_exist(toy: Path) -> None:
    text = message("experiment=toy", "+metrcs@x=y")
    assert text == "There is no group 'metrcs' (override '+metrcs@x=y').\nDid you mean 'metrics'?"
    (toy / "configs" / "experiment" / "broken.yaml").write_text("defaults:\n  - /nogroup: x\n")
    assert "There is no group 'nogroup'." in message("experiment=broken")


def test_a_cell_without_a_file_names_the_choices_that_make_it() -> None:
    text = message("experiment=star_easy_toy")
    assert "It needs no file: experiment=star_easy model_type=toy model=toy" in text


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("trainr.max_steps=3", "trainr", "trainer"),
        ("trainer.max_stps=3", "trainer.max_stps", "trainer.max_steps"),
        ("sed=3", "sed", "seed"),
        ("modle=toy", "modle", "model"),
        ("experimnt=toy", "experimnt", "experiment"),
        ("~trainr", "trainr", "trainer"),
        (
            "~datamodule.dataset_managers.trian",
            "datamodule.dataset_managers.trian",
            "datamodule.dataset_managers.train",
        ),
    ],
)
def test_misspelt_keys(override: str, key: str, nearest: str) -> None:
    text = message("experiment=toy", override)
    assert text.splitlines()[0] == f"Key '{key}' is not in the configuration (override '{override}')."
    assert f"Did you mean '{nearest}'" in text
    assert ("To add a new key, write +" in text) != override.startswith("~")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "'optimizer.lr'"),
        ("max_steps", "'trainer.max_steps'"),
        ("paths.lr", None),
    ],
)
def test_the_end_of_a_key_is_completed(key: str, meant: str | None) -> None:
    text = message("experiment=toy", f"{key}=3")
    assert (f"Did you mean {meant}" in text) == (meant is not None)


def test_keys_ending_in() -> None:
    node = {"a": {"lr": 1, "x": {"lr": 2}}, "lr_of": "${a.lr}", "datamodule": {"lr": "${rate}", "x": {"lr": 5}}}
    assert keys_ending_in(["lr"], node) == ["a.lr", "rate", "a.x.lr"]
    assert keys_ending_in(["x", "lr"], node) == ["a.x.lr"]
    assert keys_ending_in(["of"], node) == []


def test_a_misspelt_key_among_other_mistakes_is_still_answered() -> None:
    assert "Key 'trainr' is not in the configuration" in message("experiment=toy", "trainr.x=3", "sed=1")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "is chosen: give"),
        (["experiment=toy", "a=[b"], "Error parsing override 'a=[b'"),
        (["experiment=toy", "trainer.max_steps"], "missing EQUAL"),
        (["experiment=toy", "seed=1,2"], "To sweep over it, add --multirun"),
        (["experiment=toy", "+seed=1"], "An item is already at 'seed'"),
        (["experiment=toy", "model=null"], "must be a string or a list"),
        (["experiment=toy", "job_name=${nothing}"], "Interpolation key 'nothing' not found"),
        (["experiment=toy", "job_name=???"], "'job_name' has no value yet"),
        (["experiment=toy", "seed.x=1"], "Key 'seed.x' is not in the configuration"),
    ],
)
def test_other_mistakes(overrides: list[str], expected: str) -> None:
    assert expected in message(*overrides)


def test_what_is_not_chosen_lists_what_there_is() -> None:
    text = message("datamodule=star_easy", "model_type=toy")
    assert text.splitlines()[0].startswith("No model is chosen: give model=… or experiment=…")
    assert "model: " in text
    assert "toy" in text


@pytest.mark.parametrize(("text", "expected"), [("a: [", "broken.yaml"), ("a: b: c", "broken.yaml"), ("- x", "broken")])
def test_a_file_that_is_no_yaml_is_named(toy: Path, text: str, expected: str) -> None:
    (toy / "configs" / "experiment" / "broken.yaml").write_text(text)
    assert expected in message("experiment=broken")


def test_a_target_is_located_in_the_chosen_file(toy: Path) -> None:
    from xlm.compose.messages import locate_target

    load_config(["experiment=toy"])
    choices = {"model": "toy", "collator": "x"}
    located = locate_target(BadTargetError("toy.parts.Net", "no", key="model"), choices, ())
    assert located.config_file == toy / "configs" / "model" / "toy.yaml"
    assert f'PYTHONPATH={toy.parent} python -c "from toy.parts import Net"' in str(located)
    assert (located.key, located.reason) == ("model", "no")
    (toy / "configs" / "model" / "same.yaml").write_text("_target_: toy.parts.Net\n")
    again = locate_target(BadTargetError("toy.parts.Net", "no"), choices, ())
    assert again.config_file == toy / "configs" / "model" / "toy.yaml"
    assert locate_target(BadTargetError("toy.parts.Net", "no"), {}, ()).config_file is None
    typed = locate_target(BadTargetError("toy.parts.Net", "no"), choices, ["model._target_=toy.parts.Net"])
    assert typed.config_file is None


def test_causes_that_go_round_end() -> None:
    """OmegaConf's error for an interpolation that is not text inside: `${sizes.${kind}}` with kind=-1."""
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.create({"sizes": {"a": 1}, "kind": -1, "size": "${sizes.${kind}}"}).size  # noqa: B018
    assert "should return a string" in str(translate(caught.value))
    round_trip, cause = OmegaConfBaseException("first"), ValueError("second")
    round_trip.__context__, cause.__cause__ = cause, round_trip
    assert str(translate(round_trip)) == "first"


def test_the_size_of_a_network_that_adds_what_texts_do_not_have(toy: Path) -> None:
    model = toy / "configs" / "model" / "toy.yaml"
    model.write_text("_target_: toy.parts.Net\nwidth: ${eval:64+${oc.select:input_block_size,0}}\n")
    assert load_config(["experiment=toy"]).model.width == 64
    model.write_text("_target_: toy.parts.Net\nwidth: ${eval:64+${input_block_size}}\n")
    with pytest.raises(ConfigError, match=r"^eval: '64\+None' cannot be computed: only numbers"), readable_errors():
        load_config(["experiment=toy"]).model.width  # noqa: B018
