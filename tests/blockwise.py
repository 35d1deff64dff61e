"""Running a network block by block, each kind of block compiled once.

Compilation is what parity tests cost. Whole networks compile slowly, single operations are hundreds
of programs; but the blocks of a U-Net repeat, and blocks of equal fields and shapes can share one.
The arithmetic is that of a jitted forward, cut at the borders of the blocks.
"""

from functools import partial

import flax.linen as nn
import jax
import numpy as np

from dispose_jax.networks import resnet, temporal
from dispose_jax.networks.attention import SpatialTransformer

BLOCKS = (
    resnet.ResnetBlock,
    resnet.TemporalResnetBlock,
    resnet.AlphaBlender,
    resnet.Downsample,
    resnet.Upsample,
    SpatialTransformer,
    temporal.SpatioTemporalTransformer,
)


def apply(module, variables, *args, blocks=BLOCKS, **named):
    """module.apply(variables, *args, **named) with every block of these types jitted by itself."""
    inside = []  # not empty while a block is being traced: its own parts are left alone

    def interceptor(call, args, named, context):
        block = context.module
        if inside or context.method_name != "__call__" or not isinstance(block, blocks):
            return call(*args, **named)
        leaves, tree = jax.tree.flatten((args, named))
        is_array = tuple(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
        arrays = [leaf for leaf, yes in zip(leaves, is_array) if yes]
        rest = tuple(None if yes else leaf for leaf, yes in zip(leaves, is_array))
        inside.append(block)
        try:
            plain = block.clone(parent=None, name=None)
            return _run(plain, tree, is_array, rest, block.variables, arrays)
        finally:
            inside.pop()

    with nn.intercept_methods(interceptor):
        return module.apply(variables, *args, **named)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _run(block, tree, is_array, rest, variables, arrays):
    arrays = iter(arrays)
    leaves = [next(arrays) if yes else other for yes, other in zip(is_array, rest)]
    args, named = jax.tree.unflatten(tree, leaves)
    return block.apply(variables, *args, **named)
