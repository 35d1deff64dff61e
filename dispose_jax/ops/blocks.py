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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dispose_jax.ops.devices import mesh_of, target

Array = jax.Array

# Bytes that the widest activations may fill. Of a TPU's fast memory (128 MiB on v5e, v5p, v6e) the
# rest is for weights and for what the compiler fetches ahead. On a GPU blocks are copied in and
# out, so only what would be most of a step's memory goes by them; a gradient holds some six arrays
# of that width at once.
_MOST = {"tpu": 48 * 2**20, "gpu": 2**30}
_MOST_BACKWARD = {"tpu": 48 * 2**20, "gpu": 2**28}
BACKWARD = "gradient_by_blocks"  # what profiles and counts of FLOPs call it
# Of tiles in a TPU's memory: its lanes, so that tokens may be an array's minor axis, else its rows.
_STEPS = (128, 16)


class Blocks(NamedTuple):
    """Tokens of a block, and of one of the gradient."""

    forward: int
    backward: int


def blocks_of(x: Array, width: int) -> Blocks | None:
    """How tokens of x (..., s, c) whose activations become `width` channels wide go by blocks; None
    where all of them fit at once, and on a CPU."""
    if target(x)[0] not in _MOST:
        return None
    found = Blocks(_block_of(x, width, _MOST), _block_of(x, width, _MOST_BACKWARD))
    return None if set(found) == {x.shape[-2]} else found


def _block_of(x: Array, width: int, most: dict[str, int]) -> int:
    """Tokens of a block of x (..., s, c) that fits: all, or the most that divide them."""
    *leading, tokens, _ = x.shape
    rows = -(-prod(leading) // max(1, mesh_of(x).size))  # on one device
    fit = most[target(x)[0]] // (rows * width * x.dtype.itemsize)
    if tokens <= fit:
        return tokens
    sizes = (n for step in _STEPS for n in range(fit // step * step, 0, -step))
    return next((n for n in sizes if tokens % n == 0), tokens)


@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def in_blocks(
    function: Callable[[Any, Array], Array], params: Any, x: Array, sizes: Blocks
) -> Array:
    """function(params, x) for x (..., s, c), some of the s tokens at a time, each computed alone.

    Sizes divide s. The gradient computes each of its blocks again. Gradients of params are summed
    over blocks in float32, of those that learn alone.
    """
    size = sizes.forward
    if size == x.shape[-2]:
        return function(params, x)

    def some(i: Array, x: Array) -> Array:  # what comes out takes the place of what went in
        return _put(x, function(params, _take(x, i, size)), i, size)

    # All of x is written over. A new array would be a constant, and a GPU's compiler makes those of
    # all loops of a program at once, long before they are used.
    return jax.lax.fori_loop(0, x.shape[-2] // size, some, x)


def _take(x: Array, i: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=-2)


def _put(x: Array, part: Array, i: Array, size: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(x, part, i * size, axis=-2)


def _forward(function, params, x, sizes):
    values = jax.tree.map(lambda p: p.value, params)
    # None is what a tree does not have.
    learnt = jax.tree.map(lambda p: p.value if p.perturbed else None, params)
    fixed = jax.tree.map(lambda p: None if p.perturbed else p.value, params)
    return in_blocks(function, values, x.value, sizes), (learnt, fixed, x.value)


def _backward(function, sizes, kept, gradient):
    """Gradients of the parameters, summed over blocks, and of x, block by block."""
    (learnt, fixed, x), size = kept, sizes.backward
    both = lambda learnt: jax.tree.map(
        lambda a, b: b if a is None else a, learnt, fixed, is_leaf=lambda p: p is None
    )

    def some(i: Array, sums: tuple[Any, Array]) -> tuple[Any, Array]:
        total, gradient = sums
        part = lambda learnt, x: function(both(learnt), x)
        _, pull = jax.vjp(part, learnt, _take(x, i, size))
        of_params, of_part = pull(_take(gradient, i, size))
        total = jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, of_params)
        return total, _put(gradient, of_part, i, size)

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), learnt)
    with jax.named_scope(BACKWARD):
        total, gradient = jax.lax.fori_loop(0, x.shape[-2] // size, some, (zeros, gradient))
    return jax.tree.map(lambda a, p: a.astype(p.dtype), total, learnt), gradient


in_blocks.defvjp(_forward, _backward, symbolic_zeros=True)
