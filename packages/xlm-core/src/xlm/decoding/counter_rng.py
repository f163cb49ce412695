"""Random numbers by address (seed, stream, counter), so that what a row draws never depends on its neighbours."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from xlm.data.hashing import UInts, splitmix64
from xlm.sampling import LogitsSampler, sampling_dtype

# Constants of SplitMix64 (Steele, Lea, Flood 2014) as signed 64-bit integers, whose products wrap as unsigned ones do.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTOR_1 = 0xBF58476D1CE4E5B9 - 2**64
_FACTOR_2 = 0x94D049BB133111EB - 2**64
_LOGITS_AT_ONCE = 2**22
# Sizes of the sets of likeliest tokens among which a nucleus is looked for, before a vocabulary is sorted.
_NUCLEUS = (128, 2048)
# The upper bits of a float64 in [1, 2); its other 52 are the mantissa. Arrays, since numpy converts numbers every time.
_EXPONENT_OF_1 = np.array(1023 << 52, dtype=np.uint64)
_NUM_EXPONENT_BITS = np.array(12, dtype=np.uint64)


class Stream(IntEnum):
    """What a number is for: draws for different purposes are independent."""

    TIME = 1
    MASK = 2
    ORDER = 3
    TOKEN = 4
    REMASK = 5
    LENGTH = 6


def mix(x: Integer[Tensor, "*shape"]) -> Integer[Tensor, "*shape"]:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of x, int64 to int64."""
    x = x + _GOLDEN
    # >> keeps the sign, so the bits that it moves in are cleared.
    x ^= (x >> 30) & (2**34 - 1)
    x *= _FACTOR_1
    x ^= (x >> 27) & (2**37 - 1)
    x *= _FACTOR_2
    return x.bitwise_xor_((x >> 31) & (2**33 - 1))


def derive(seeds: Integer[Tensor, "*#shape"], number: Integer[Tensor, "*#shape"] | int) -> Integer[Tensor, "*shape"]:
    """The seed of a numbered part of each row's stream; parts of one row and of different rows are independent.

    Mixed before and after: seeds and numbers that are both small would else name each other's parts.
    """
    if seeds.device.type == "cpu" and not torch.compiler.is_compiling():
        return torch.from_numpy(_keys_on_cpu(seeds, number).view(np.int64))
    return mix(mix(seeds) ^ number)


def uniform(
    seeds: Integer[Tensor, "*#shape"], stream: Stream, counters: Integer[Tensor, "*#shape"] | int = 0
) -> Float[Tensor, "*shape"]:
    """U(0, 1), open at both ends, float64 where the device has it; seeds and counters broadcast."""
    if seeds.device.type == "cpu" and not torch.compiler.is_compiling():
        return _uniform_on_cpu(_keys_on_cpu(seeds, int(stream)), torch.as_tensor(counters))
    return uniform_of(derive(seeds, int(stream)), counters)


def uniform_of(keys: Integer[Tensor, "*#shape"], counters: Integer[Tensor, "*#shape"] | int) -> Float[Tensor, "*shape"]:
    """`uniform` from keys that were derived before: `derive(seeds, int(stream))`, or `token_keys`."""
    if keys.device.type == "cpu" and not torch.compiler.is_compiling():
        return _uniform_on_cpu(_unsigned(keys), torch.as_tensor(counters))
    dtype = sampling_dtype(keys.device)
    # One bit fewer than the mantissa holds, so that adding a half cannot round up to 1.
    bits = 52 if dtype == torch.float64 else 23
    whole = (mix(keys + counters) >> (64 - bits)) & (2**bits - 1)
    return whole.to(dtype).add_(0.5).mul_(2.0**-bits)


def _uniform_on_cpu(keys: UInts, counters: Tensor) -> Tensor:
    """The same numbers from numpy, which takes a third of torch's time: it has unsigned shifts and vector products."""
    bits = splitmix64(keys + _unsigned(counters))
    bits >>= _NUM_EXPONENT_BITS
    bits |= _EXPONENT_OF_1
    # Numbers of [1, 2) with steps of 2^-52; what is subtracted leaves them half a step above 0.
    u = bits.view(np.float64)
    u -= 1 - 2.0**-53
    return torch.from_numpy(u)


def _keys_on_cpu(seeds: Tensor, number: Tensor | int) -> UInts:
    """`derive` in numpy."""
    return splitmix64(splitmix64(_unsigned(seeds)) ^ _unsigned(torch.as_tensor(number)))


def _unsigned(x: Tensor) -> UInts:
    return x.long().numpy().view(np.uint64)


def gumbel(
    seeds: Integer[Tensor, "*#shape"], stream: Stream, counters: Integer[Tensor, "*#shape"] | int = 0
) -> Float[Tensor, "*shape"]:
    """Gumbel(0, 1): its sum with logits has a draw from their softmax as argmax."""
    return _as_gumbel(uniform(seeds, stream, counters))


def _as_gumbel(u: Tensor) -> Tensor:
    return u.log_().neg_().log_().neg_()


def token_keys(
    seeds: Integer[Tensor, "*#shape"], counters: Integer[Tensor, "*#shape"] | int
) -> Integer[Tensor, "*shape"]:
    """What says of each token which draw it is: the numbered one of its row's seed."""
    return derive(derive(seeds, counters), int(Stream.TOKEN))


def gumbel_argmax(
    logits: Float[Tensor, "rows kept"],
    keys: Integer[Tensor, " rows"],
    ids: Integer[Tensor, "rows kept"] | None = None,
) -> Integer[Tensor, " rows"]:
    """One draw from each row's softmax in float64, by chunks of rows; `token_keys` say which draw it is.

    `ids` are the tokens of the columns, None for the whole vocabulary. A token's noise doesn't depend on which others
    there are, so tokens with −inf may be left out.
    """
    tokens = torch.arange(logits.shape[-1], device=logits.device)[None] if ids is None else ids
    rows_at_once = max(1, _LOGITS_AT_ONCE // max(1, logits.shape[-1]))
    parts = [
        noisiest(gumbel_of(part, those), values)
        for values, part, those in zip(
            logits.split(rows_at_once),
            keys.split(rows_at_once),
            tokens.expand(len(logits), -1).split(rows_at_once),
            strict=True,
        )
    ]
    best = parts[0] if len(parts) == 1 else torch.cat(parts)
    return best if ids is None else ids.gather(-1, best[:, None]).squeeze(-1)


def gumbel_of(keys: Integer[Tensor, " rows"], tokens: Integer[Tensor, "*#rows kept"]) -> Float[Tensor, "rows kept"]:
    """The noise that `gumbel_argmax` adds to the logits of these tokens for these `token_keys`."""
    return _as_gumbel(uniform_of(keys.unsqueeze(-1), tokens))


def noisiest(noise: Float[Tensor, "rows kept"], logits: Float[Tensor, "rows kept"]) -> Integer[Tensor, " rows"]:
    """The argmax of the sums, which are written into the noise."""
    return _argmax(noise.add_(logits))


def _argmax(x: Float[Tensor, "rows kept"]) -> Integer[Tensor, " rows"]:
    """The first of each row's largest; numpy finds it several times as fast."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x.argmax(dim=-1)
    return torch.from_numpy(x.detach().numpy().argmax(axis=-1))


def draw_tokens(
    sampler: LogitsSampler, logits: Float[Tensor, "rows vocab"], keys: Integer[Tensor, " rows"]
) -> Integer[Tensor, " rows"]:
    """One token per row through a sampler's filters; a greedy one takes the argmax and draws nothing.

    Args:
        keys: of `token_keys`. They don't depend on the network, so those of a whole text can be computed at once.
    """
    if sampler.greedy:
        return logits.argmax(dim=-1)
    return _drawn(sampler, logits, keys, _NUCLEUS)


def _drawn(sampler: LogitsSampler, logits: Tensor, keys: Tensor, nucleus: tuple[int, ...]) -> Tensor:
    """A draw among the likeliest tokens if the filters leave no others, else among more of them, else among all."""
    found = sampler.candidates(logits, nucleus[0]) if nucleus else None
    if found is None:
        return gumbel_argmax(sampler.filter(logits), keys)
    values, ids, complete = found
    tokens = gumbel_argmax(values, keys, ids)
    if not bool(complete.all()):
        rest = (~complete).nonzero().squeeze(-1)
        tokens[rest] = _drawn(sampler, logits[rest], keys[rest], nucleus[1:])
    return tokens


def row_seeds(
    num_rows: int,
    seed: int | None = None,
    noise_seed: Shaped[Tensor, " rows"] | None = None,
    device: torch.device | str | None = None,
) -> Integer[Tensor, " rows"]:
    """A seed for each row of a batch.

    With `noise_seed` (the examples' own) a row's seed follows from it and `seed` (None: 0), else from `seed` and
    the row's number. With neither, from torch's global generator.
    """
    if noise_seed is not None:
        return derive(noise_seed.to(device=device, dtype=torch.int64), _as_int64(seed or 0))
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    return derive(torch.tensor(_as_int64(seed), device=device), torch.arange(num_rows, device=device))


def prompt_seeds(num_prompts: int, seed: int | None) -> range:
    """What takes the place of examples' own seeds for prompts that come without: their numbers.

    Without a `seed`, from a number of torch's global generator on.
    """
    base = int(torch.randint(2**62, ())) if seed is None else 0
    return range(base, base + num_prompts)


def _as_int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
