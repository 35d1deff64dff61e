"""Running a network block by block, each kind of block compiled once.

Compilation is what parity tests cost. Whole networks compile slowly, single operations are hundreds
of programs; but the blocks of a U-Net repeat, and blocks of equal fields and shapes can share one.
The arithmetic is that of a jitted forward, cut at the borders of the blocks.
"""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

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
    temporal.MotionModule,
)


def apply(module, variables, *args, blocks=BLOCKS, writes="", **named):
    """module.apply(variables, *args, **named) with every block of these types jitted by itself.

    writes: name of a collection that transformers write; then (result, {name: what they wrote}).
    """
    inside = []  # not empty while a block is being traced: its own parts are left alone
    written = {}

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
            own = writes if isinstance(block, SpatialTransformer) else ""
            out, new = _run(plain, tree, is_array, rest, own, block.variables, arrays)
            written.update({(*block.path, *path): v for path, v in flatten_dict(new).items()})
            return out
        finally:
            inside.pop()

    with nn.intercept_methods(interceptor):
        out = module.apply(variables, *args, **named)
    return (out, {writes: unflatten_dict(written)}) if writes else out


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _run(block, tree, is_array, rest, writes, variables, arrays):
    arrays = iter(arrays)
    leaves = [next(arrays) if yes else other for yes, other in zip(is_array, rest)]
    args, named = jax.tree.unflatten(tree, leaves)
    out = block.apply(variables, *args, mutable=writes or False, **named)
    return (out[0], dict(out[1]).get(writes, {})) if writes else (out, {})
