"""What a step changes, and what training starts from.

Parameters are one dict keyed by network; those named in `config.train.trainable` learn, in float32,
the others are frozen in the type that they compute in.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct, traverse_util

from dispose_jax.models.network import Network
from dispose_jax.types import Array, Params

QUIET = -6.0  # logarithm of the variance that a shallow autoencoder's latents begin with


@struct.dataclass
class TrainState:
    """What is saved and restored."""

    step: Array  # () int32: steps done
    params: Params  # of the trainable networks, float32
    opt_state: optax.OptState
    average: Params | None = None  # of the parameters so far, float32; None: not kept

    @property
    def result(self) -> Params:
        """The parameters that the run is for: their average where one is kept."""
        return self.params if self.average is None else self.average


def create(
    params: Params, optimizer: optax.GradientTransformation, *, averaged: bool = False
) -> TrainState:
    """The state before the first step; averaged: whether it keeps an average of the parameters."""
    # A copy: the step gives up the memory of both.
    average = jax.tree.map(jnp.copy, params) if averaged else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def averaged(average: Params, params: Params, step: Array, decay: float) -> Params:
    """The exponential moving average after the step of a number () int32, the first is 0, gave
    new params.

    The decay is lower in the first steps, (1 + step) / (10 + step), as in diffusers' EMAModel, so
    that the start does not weigh for long.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: new + decay * (old - new), average, params)


def initial(
    networks: Mapping[str, Network],
    trainable: tuple[str, ...],
    given: Params,
    seed: int,
    *,
    copy_add_embedding: bool,
    control_start: str = "unet",
    start: str = "released",
) -> Params:
    """Parameters that training starts from, on the host: given ones as they are, others initialised
    in float32 from the seed and their network's name.

    given: {network: tree}, frozen networks included; its arrays are passed on. A ControlNet that is
    not given starts as a copy of the encoder of the U-Net control_start; copy_add_embedding: the
    part that embeds fps and the like too, which the released initialisation leaves random. start:
    how fresh networks begin, as PyTorch's would ("released") or as `shallow` ones.
    """
    params = {}
    for name in trainable:
        if name in given:
            params[name] = given[name]
            continue
        # This kind of key compiles several times faster, and here only the distribution matters.
        key = jax.random.key(np.uint32(seed), impl="unsafe_rbg")
        key = jax.random.fold_in(key, zlib.crc32(name.encode()))  # whatever else learns
        fresh = jax.jit(networks[name].init)(key)["params"]
        params[name] = jax.device_get(shallow(fresh) if start == "shallow" else fresh)
    unet = {**given, **params}.get(control_start)
    if "controlnet" in trainable and "controlnet" not in given and unet is not None:
        params["controlnet"] = from_unet(params["controlnet"], unet, copy_add_embedding)
    return params


def shallow(params: Params) -> Params:
    """Fresh parameters so changed that the network learns fast from nothing.

    Kernels keep the variance of what passes them, where PyTorch's take two thirds of it away;
    residual blocks and transformers begin as the identity, so that the network begins shallow; and
    an autoencoder's latents begin almost without noise, else it first learns to ignore them.
    """
    flat = dict(traverse_util.flatten_dict(params))
    for path, leaf in flat.items():
        if path[-1] == "kernel":
            is_last = path[-2] in ("conv2", "proj_out")  # of a residual block, of a transformer
            flat[path] = leaf * (0.0 if is_last else math.sqrt(3))
    if ("quant_conv", "kernel") in flat:
        kernel, bias = flat["quant_conv", "kernel"], flat["quant_conv", "bias"]
        is_variance = jnp.arange(len(bias)) >= len(bias) // 2  # of its logarithm, after the means
        flat["quant_conv", "kernel"] = jnp.where(is_variance, 0.0, kernel)
        flat["quant_conv", "bias"] = jnp.where(is_variance, QUIET, bias)
    return traverse_util.unflatten_dict(flat)


def from_unet(controlnet: Params, unet: Params, copy_add_embedding: bool) -> Params:
    """A ControlNet whose leaves are the U-Net's wherever both trees have the path."""
    flat, source = traverse_util.flatten_dict(controlnet), traverse_util.flatten_dict(unet)
    skipped = () if copy_add_embedding else ("add_embedding",)
    shared = {path for path in flat if path in source and path[0] not in skipped}
    return traverse_util.unflatten_dict({p: (source if p in shared else flat)[p] for p in flat})
