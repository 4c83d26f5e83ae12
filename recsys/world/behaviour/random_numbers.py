"""Counter-based random numbers for the kernels: the same draws for the same (seed, session) on any number of threads.

Takes a seed and a stream number, gives numbers. It does not know what they are used for.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (splitmix64).
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.hashing import GOLDEN_GAMMA, mix64
from recsys.world.jit import JIT

mix = numba.extending.register_jitable(mix64)
"""The splitmix64 finaliser, a bijection of uint64, callable from kernels."""


@JIT
def restart(state, seed, stream):  # type: ignore[no-untyped-def]
    """Set `state`, an array of one uint64, to the beginning of the stream (seed, stream)."""
    state[0] = mix(mix(np.uint64(seed) + GOLDEN_GAMMA) ^ (np.uint64(stream) * GOLDEN_GAMMA))


def seeded(seed: int, stream: int) -> NDArray[np.uint64]:
    """The state of a new generator for this (seed, stream): an array of one uint64."""
    state = np.empty(1, np.uint64)
    restart(state, seed, stream)
    return state


@JIT
def uniform(state):  # type: ignore[no-untyped-def]
    """Next number in (0, 1)."""
    state[0] += GOLDEN_GAMMA
    return (np.float64(mix(state[0]) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@JIT
def below(state, n):  # type: ignore[no-untyped-def]
    """Next integer in 0 .. n - 1."""
    return min(int(uniform(state) * n), n - 1)


@JIT
def normal(state):  # type: ignore[no-untyped-def]
    """Next standard normal number (Box and Muller 1958; uses one of the pair)."""
    return np.sqrt(-2.0 * np.log(uniform(state))) * np.cos(2.0 * np.pi * uniform(state))


@JIT
def exponential(state):  # type: ignore[no-untyped-def]
    """Next standard exponential number."""
    return -np.log(uniform(state))
