"""All resolvers of the interface, called from YAML."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from xlm.compose import late_values_as_text, register_resolvers, to_yaml
from xlm.compose.devices import num_cpus
from xlm.errors import ConfigError
from xlm.utils.instantiate import set_component

pytestmark = pytest.mark.usefixtures("fresh_process")


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_resolvers()


def value(text: str, **more: Any) -> Any:
    return OmegaConf.create({"x": text, **more}).x


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${div_up:7,2}", 4),
        ("${div_up:8,2}", 4),
        ("${replace_str:a-b-c,-,_}", "a_b_c"),
        ("${if_else:true,1,2}", 1),
        ("${if_else:${flag},1,2}", 2),
        ("${if_else:'false',1,2}", 2),
        ("${min:3,1.5}", 1.5),
        ("${max:3,4,2}", 4),
        ("${min_int:3.7,9}", 3),
        ("${max_int:3,4.2}", 4),
        ("${eval:${width}*4}", 256),
        ("${eval:'(${width} + 1) * 2'}", 130),
        ("${eval:'max(${width}, 100)'}", 100),
        ("${find_grad_accum:128,32,2,1}", 2),
        ("${default_precision:cpu}", "32-true"),
        ("${num_cpus:}", num_cpus()),
        ("${oc.select:width,1}", 64),
        ("${oc.select:nowhere,1}", 1),
        ("${oc.select:nowhere}", None),
        ("${oc.select:prompt_mode,1}", None),
        # Published models add the length of a prompt, which texts don't have.
        ("${eval:${width}+${oc.select:input_block_size,0}}", 64),
        ("${oc.select:input_block_size}", None),
        ("${cwd:}", os.getcwd()),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert value(text, width=64, flag=False, prompt_mode=None, input_block_size=None) == expected


def test_eval_reads_the_text_after_interpolation_of_its_neighbours() -> None:
    cfg = OmegaConf.create({"model": {"d_model": 64, "dim_feedforward": "${eval:${.d_model}*4}"}})
    assert cfg.model.dim_feedforward == 256


def test_dict_to_list_keeps_order_and_drops_null() -> None:
    cfg = OmegaConf.create(
        {"callbacks": {"a": {"v": 1}, "b": None, "c": {"v": 2}}, "l": "${dict_to_list:${callbacks}}"}
    )
    assert [item.v for item in cfg.l] == [1, 2]
    assert value("${dict_to_list:${nothing}}", nothing=None) == []


def test_device_count_is_at_least_one() -> None:
    assert value("${device_count:}") >= 1


def test_find_grad_accum_looks_at_the_accelerator_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlm.compose.devices.num_accelerators", lambda: 8)
    trainer = {"accelerator": "cpu", "devices": "auto", "n": "${find_grad_accum:16,8,${.devices},1}"}
    assert OmegaConf.create({"trainer": trainer}).trainer.n == 2
    trainer["accelerator"] = "auto"
    with pytest.raises(InterpolationResolutionError, match="8 × 8 devices"):
        _ = OmegaConf.create({"trainer": trainer}).trainer.n


def test_late_ones_read_the_live_objects() -> None:
    tokenizer = SimpleNamespace(vocab_size=27, inner=SimpleNamespace(pad_token_id=0))
    set_component("tokenizer", tokenizer)
    set_component("datamodule", SimpleNamespace(num_labels=3))
    set_component("lightning_module", SimpleNamespace(global_step=7))
    assert value("${tokenizer:vocab_size}") == 27
    assert [value(f"${{tokenizer:vocab_size,{multiple}}}") for multiple in (1, 9, 64)] == [27, 27, 64]
    assert value("${tokenizer:inner.pad_token_id}") == 0
    assert value("${datamodule:num_labels}") == 3
    assert value("${lightning_module:global_step}") == 7
    cfg = OmegaConf.create({"x": "${global_components:tokenizer}"}, flags={"allow_objects": True})
    assert cfg.x is tokenizer


@pytest.mark.parametrize("text", ["${tokenizer:vocab_size}", "${global_components:tokenizer}"])
def test_too_early_is_an_error_that_names_the_component(text: str) -> None:
    with pytest.raises(InterpolationResolutionError, match="The component 'tokenizer' does not exist"):
        value(text)


def test_an_unknown_attribute_is_named() -> None:
    set_component("tokenizer", SimpleNamespace(vocab_size=27))
    with pytest.raises(InterpolationResolutionError, match="the tokenizer has no attribute 'vocab'"):
        value("${tokenizer:vocab}")
    with pytest.raises(InterpolationResolutionError, match="only whole numbers are rounded up"):
        value("${tokenizer:vocab_size,0}")


def test_shown_configurations_keep_late_values_as_text() -> None:
    cfg = OmegaConf.create(
        {
            "a": "${tokenizer:vocab_size}",
            "b": "${eval:${a}+1}",
            "c": "${global_components:tokenizer}",
            "d": "${min:1,2}",
        }
    )
    shown = OmegaConf.create(to_yaml(cfg, resolve=True))
    assert OmegaConf.to_container(shown) == {
        "a": "${tokenizer:vocab_size}",
        "b": "${eval:${tokenizer:vocab_size}+1}",
        "c": "${global_components:tokenizer}",
        "d": 1,
    }
    with late_values_as_text():
        set_component("tokenizer", SimpleNamespace(vocab_size=27))
        assert cfg.a == 27


def test_registering_again_changes_nothing() -> None:
    register_resolvers()
    assert value("${min:1,2}") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${div_up:1,0}", "cannot be divided by 0"),
        ("${eval:os}", "eval: 'os'"),
    ],
)
def test_mistakes_reach_the_user_as_ours(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_yaml(OmegaConf.create({"x": text}), resolve=True)
