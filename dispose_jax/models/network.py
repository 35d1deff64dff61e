"""A network: its module, and the call that makes its parameters of some small inputs.

Shapes come from tracing that call, so that weights can be checked, counted and converted without
being made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dispose_jax.types import Array, Params

Like = jax.ShapeDtypeStruct  # an input of a network that is initialised


class Network(NamedTuple):
    """A module and its initialisation: init(key) -> variables, for some small input."""

    module: nn.Module
    init: Callable[[Array], Mapping]
    dtype: DTypeLike  # of the computation; weights are best cast to it once

    @classmethod
    def of(cls, module: nn.Module, *inputs, **named) -> Network:
        """inputs, named: of the module's call; arrays as `like` gives them, the rest as it is."""
        dtype = module.flavour.dtype if hasattr(module, "flavour") else module.dtype
        return cls(module, _init(module, inputs, tuple(named.items())), dtype)

    def part(self, choose: Callable[[Params], Params]) -> Network:
        """The same module with those of its parameters alone that `choose` takes."""
        return self._replace(init=_part(self.init, choose))

    @property
    def shapes(self) -> Params:
        """Parameter tree of jax.ShapeDtypeStruct, float32; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))["params"]


def like(*shape: int, dtype: DTypeLike = jnp.float32) -> Like:
    """An input of zeros, which nobody makes before the network is initialised."""
    return Like(shape, dtype)


@cache  # JAX traces one function once, and many builds have equal networks
def _init(module: nn.Module, inputs: tuple, named: tuple) -> Callable[[Array], Mapping]:
    def init(key: Array) -> Mapping:
        zeros = lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, Like) else x
        given = {name: zeros(x) for name, x in named}
        return module.init(key, *map(zeros, inputs), **given)

    return init


@cache
def _part(init: Callable[[Array], Mapping], choose: Callable[[Params], Params]):
    return lambda key: {"params": choose(init(key)["params"])}
