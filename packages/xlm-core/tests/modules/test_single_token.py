"""Steps of one token a row give what the layers' modules give, and run where the modules do nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xlm.modules.attention import KVCache
from xlm.modules.rotary_transformer import RotaryEmbedding, RotaryTransformerLayer, RotaryTransformerLayerList
from xlm.modules.single_token import SingleTokenStack, single_token_stack

D_MODEL, NHEAD, CAPACITY = 16, 2, 40


def made(activation: str = "gelu", **options: bool) -> RotaryTransformerLayerList:
    torch.manual_seed(0)
    layer = RotaryTransformerLayer(D_MODEL, NHEAD, dropout=0.5, activation=activation, **options)
    rotary = RotaryEmbedding(D_MODEL // NHEAD, cache_size=3)
    layers = RotaryTransformerLayerList.from_layer(layer, 2, rotary).eval()
    for norm in (part for part in layers.modules() if isinstance(part, nn.LayerNorm)):
        nn.init.normal_(norm.bias)
    return layers


def x(num_rows: int, length: int, layers: nn.Module) -> Tensor:
    return torch.randn(num_rows, length, D_MODEL).to(next(layers.parameters()).dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@torch.no_grad()
def test_steps_equal_those_of_the_modules(dtype: torch.dtype, is_padded: bool, activation: str) -> None:
    layers = made(activation).to(dtype)
    caches = [KVCache(2, CAPACITY) for _ in range(2)]
    mask = torch.tensor([[False, False, True], [True, True, True], [False, True, True]]) if is_padded else None
    prompt = x(3, 3, layers)
    for cache in caches:
        positions, keys = cache.advance(torch.zeros(3, 3), mask)
        layers(prompt, keys, positions, is_causal=True, cache=cache)
    num_rows = 3
    for number in range(6):
        if number == 2:
            num_rows = 2
            for cache in caches:
                cache.select(torch.tensor([2, 0]))
        new = x(num_rows, 1, layers)
        # A token may itself be padding, as in a batch of which one row has ended.
        real = torch.tensor([[True], [number != 4]]) if number > 2 and is_padded else None
        positions, keys = caches[0].advance(torch.zeros(num_rows, 1), real)
        expected = layers(new, keys, positions, is_causal=True, cache=caches[0])
        stack = single_token_stack(layers, caches[1])
        assert stack is not None
        assert stack is single_token_stack(layers, caches[1])
        positions, keys = caches[1].advance(torch.zeros(num_rows, 1), real)
        found = stack(new, keys, positions, caches[1])
        assert found.dtype == dtype
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, **({"atol": 0.1, "rtol": 0.1} if dtype.itemsize == 2 else {}))


def test_maps_are_reordered_for_long_texts_only() -> None:
    layers = made()
    one = layers[0].attn_qkv.weight

    def strides(num_tokens: int) -> tuple[int, ...]:
        stack = SingleTokenStack.of(layers, num_tokens)
        assert stack is not None
        assert torch.equal(stack._layers[0].qkv, one)
        return stack._layers[0].qkv.stride()

    assert strides(CAPACITY) == (1, len(one))
    assert strides(10) == one.stride()


class _Adapted(nn.Linear):
    """As adapters and quantization put in the place of a map."""


def _with_an_adapter(layers: RotaryTransformerLayerList) -> None:
    layers[1].mlp[0].__class__ = _Adapted


def _with_a_hook(layers: RotaryTransformerLayerList) -> None:
    layers[1].o_proj.register_forward_hook(lambda module, args, output: output)


def _with_a_hook_before(layers: RotaryTransformerLayerList) -> None:
    layers[0].register_forward_pre_hook(lambda module, args: None)


def _with_a_method_of_its_own(layers: RotaryTransformerLayerList) -> None:
    layers[0].norm2.forward = layers[0].norm2.forward  # type: ignore[method-assign]


def _compiled(layers: RotaryTransformerLayerList) -> None:
    layers[1].compile()


def _with_a_bias(layers: RotaryTransformerLayerList) -> None:
    layers[1].o_proj = nn.Linear(D_MODEL, D_MODEL)


def _with_another_feed_forward(layers: RotaryTransformerLayerList) -> None:
    layers[0].mlp = nn.Sequential(*layers[0].mlp, nn.Tanh())


@pytest.mark.parametrize(
    "change",
    [_with_an_adapter, _with_a_hook, _with_a_hook_before, _with_a_method_of_its_own, _compiled, _with_a_bias,
     _with_another_feed_forward],
)  # fmt: skip
def test_modules_that_do_more_are_called(change: Callable[[RotaryTransformerLayerList], None]) -> None:
    layers = copy.deepcopy(made())
    assert SingleTokenStack.of(layers, CAPACITY) is not None
    change(layers)
    assert SingleTokenStack.of(layers, CAPACITY) is None
    cache = KVCache(2, CAPACITY)
    assert single_token_stack(layers, cache) is None is single_token_stack(layers, cache)


@pytest.mark.parametrize("options", [{"short_conv": True}, {"force_flash_attn": True}])
def test_layers_with_more_parts_are_called(options: dict[str, bool]) -> None:
    assert SingleTokenStack.of(made(**options), CAPACITY) is None


def test_hooks_on_all_modules_are_called() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, args, output: output)
    try:
        assert SingleTokenStack.of(made(), CAPACITY) is None
    finally:
        handle.remove()
