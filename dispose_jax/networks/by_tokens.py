"""Layers that see every token alone, block of tokens by block where that gains (ops/blocks.py).

Flax modules find their parameters in the module that makes them; a loop's body must be a function
of arrays. This is the bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from dispose_jax.ops.blocks import blocks_of, in_blocks

Array = jax.Array

# Channels at once inside of such layers, by those outside: the two halves of a gated feed-forward
# layer, or queries, keys and values in float32 beside what they are made of.
_WIDENING = 8


def by_tokens(
    parent: nn.Module, function: Callable[..., Array], modules: Sequence[nn.Module], x: Array, *more
) -> Array:
    """function(*modules, x, *more) of x (..., s, c), which treats the s tokens alike and alone, in
    x's shape and type.

    parent: the module at whose call the modules are made, which do not write variables; more: trees
    of arrays without an axis of tokens.
    """
    if parent.is_initializing() or not (sizes := blocks_of(x, _WIDENING * x.shape[-1])):
        return function(*modules, x, *more)
    apart = [module.clone(parent=None, name=None) for module in modules]
    held = parent.variables.items()
    own = [{kind: tree[m.name] for kind, tree in held if m.name in tree} for m in modules]

    def some(given: Any, x: Array) -> Array:
        own, more = given
        return function(*(partial(m.apply, v) for m, v in zip(apart, own)), x, *more)

    return in_blocks(some, (own, more), x, sizes)
