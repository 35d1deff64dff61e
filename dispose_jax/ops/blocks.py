"""Work on tokens, some at a time, so that wide activations stay in a TPU's fast memory, and do not
fill a GPU's.

A feed-forward layer of a picture's or clip's tokens is eight times as wide inside as outside.
Computed whole, that is written to memory and read again, which is most of the layer's time on a
TPU; computed by blocks it never leaves the chip. On a GPU it does, and what blocks save is the most
that a denoising step holds at a time. Results are equal, token by token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax

from dispose_jax.ops.devices import mesh_of, target

Array = jax.Array

# Bytes that the widest activations may fill. Of a TPU's fast memory (128 MiB on v5e, v5p, v6e) the
# rest is for weights and for what the compiler fetches ahead. On a GPU blocks are copied in and
# out, so only what would be most of a step's memory goes by them.
_MOST = {"tpu": 48 * 2**20, "gpu": 2**30}
# Of tiles in a TPU's memory: its lanes, so that tokens may be an array's minor axis, else its rows.
_STEPS = (128, 16)


def block_of(x: Array, width: int) -> int:
    """Tokens of a block of x (..., s, c) whose activations become `width` channels wide; 0: all at
    once, as on a CPU or where all of it fits."""
    if target(x)[0] not in _MOST:
        return 0
    *leading, tokens, _ = x.shape
    rows = -(-prod(leading) // max(1, mesh_of(x).size))  # on one device
    most = _MOST[target(x)[0]] // (rows * width * x.dtype.itemsize)
    if tokens <= most:
        return 0
    fitting = (
        n for step in _STEPS for n in range(most // step * step, 0, -step) if tokens % n == 0
    )
    return next(fitting, 0)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def in_blocks(function: Callable[[Any, Array], Array], params: Any, x: Array, size: int) -> Array:
    """function(params, x) for x (..., s, c), `size` of the s tokens at a time, each computed alone.

    size divides s. The gradient is that of the whole, which computes it again.
    """

    def some(i: Array, x: Array) -> Array:  # what comes out takes the place of what went in
        part = jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=-2)
        return jax.lax.dynamic_update_slice_in_dim(x, function(params, part), i * size, axis=-2)

    # All of x is written over. A new array would be a constant, and a GPU's compiler makes those of
    # all loops of a program at once, long before they are used.
    return jax.lax.fori_loop(0, x.shape[-2] // size, some, x)


def _forward(function, params, x, size):
    return in_blocks(function, params, x, size), (params, x)


def _backward(function, size, kept, gradient):
    return jax.vjp(function, *kept)[1](gradient)


in_blocks.defvjp(_forward, _backward)
