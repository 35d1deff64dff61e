"""Every network of a config by name: its module, and a call that makes all its parameters.

The names are those of `params`, of a bundle's files and of `config.trainable`. Shapes come from
tracing alone, so that weights can be checked, counted and converted without being made.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dispose_jax.networks.clip import TextTransformer, VisionTransformer
from dispose_jax.networks.cmp import CMP
from dispose_jax.networks.controlnet import ControlNet
from dispose_jax.networks.motion_encoder import MotionEncoder
from dispose_jax.networks.point_encoder import PointEncoder
from dispose_jax.networks.pose_encoder import PoseGuider, PoseNet
from dispose_jax.networks.raft import RAFT, SMALLEST
from dispose_jax.networks.temporal import MotionSizes, split_motion
from dispose_jax.networks.unet import Flavour, UNet
from dispose_jax.networks.vae import VAE
from dispose_jax.types import Array, Params

_Like = jax.ShapeDtypeStruct  # an input of a network that is initialised


class Network(NamedTuple):
    """A module and its initialisation: init(key) -> variables, for some small input."""

    module: nn.Module
    init: Callable[[Array], Mapping]
    dtype: DTypeLike  # of the computation; weights are best cast to it once

    @property
    def shapes(self) -> Params:
        """Parameter tree of jax.ShapeDtypeStruct, float32; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))["params"]


def build(config, dtype: DTypeLike = jnp.float32, *, training: bool = False) -> dict[str, Network]:
    """The networks that a config uses, {name: Network}; dtype is that of the computation.

    training: as training runs them. Rows of a batch are then clips, not halves of guidance, and
    `config.train.remat` decides what gradients compute again.

    Autoencoders and CMP compute in float32 whatever it is: they run once per clip, and their
    results are pictures and positions. (How many digits products of float32 keep is up to the
    device, see docs/accelerators.md.)

    config: see configs/; read are base, model, control, quirks and the guidance that decides about
    context groups.
    """
    sizes, control = config.model, config.control
    flavour = Flavour(
        groups=sizes.unet.groups,
        remat=training and config.train.remat == "layer",
        dtype=dtype,
    )
    spatial_only = training and config.train.spatial_only
    if config.base == "svd":
        group = 1 if training else context_group(config)
        flavour = replace(flavour, temporal="mixed", context_group=group)
        networks = _mimicmotion(sizes, flavour, spatial_only)
        inputs = _svd_inputs(sizes)
    else:
        networks = _musepose(sizes, flavour, spatial_only)
        inputs = _picture_inputs(sizes)
    if control.motion or control.points:
        networks |= _control(sizes, control, config.quirks, flavour, inputs)
    if "dense" in control.motion:
        networks["cmp"] = _cmp(sizes.cmp)
    features = _dift(sizes.dift, dtype)
    if control.points:
        networks |= features
    if training and "controlnet" in networks:  # what it may start from
        if config.train.control_start == "dift_unet":
            networks["dift_unet"] = features["dift_unet"]
        elif config.train.control_start in ("auto", "svd_encoder"):
            networks["svd_encoder"] = svd_encoder(config, dtype)
    return networks


def svd_encoder(config, dtype: DTypeLike = jnp.float32) -> Network:
    """The part of Stable Video Diffusion's own U-Net that a ControlNet starts as a copy of (paper
    section 5.1): all but the way back up. Nothing runs it."""
    sizes = config.model
    flavour = Flavour(groups=sizes.unet.groups, temporal="mixed", dtype=dtype)
    whole = _mimicmotion(sizes, flavour)["unet"]
    return whole._replace(init=_part(whole.init, _way_down))


def flow_network(dtype: DTypeLike = jnp.float32) -> Network:
    """RAFT, which gives training data its optical flow: no model holds it, no config sizes it."""
    picture = _like(1, SMALLEST, SMALLEST, 3)
    return _network(RAFT(dtype=dtype), picture, picture, updates=1)


def compute_dtype(name: str) -> DTypeLike:
    """The type of the arithmetic: "auto" is bfloat16 on GPU and TPU, float32 on CPU.

    Raises ValueError for an unknown name.
    """
    choices = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    choices["auto"] = choices["float32" if jax.default_backend() == "cpu" else "bfloat16"]
    if name not in choices:
        raise ValueError(f"dtype is {name!r}: expected one of {', '.join(choices)}")
    return choices[name]


def context_group(config) -> int:
    """Adjacent batch rows that share the released context order: the two halves of guidance."""
    guided = np.any(np.asarray(config.sample.guidance_scale) != 1)
    mixed = config.base == "svd" and config.quirks.time_context_order == "released"
    return 2 if mixed and guided else 1


def random(networks: Mapping[str, Network], seed: int, dtype: DTypeLike = np.float32) -> Params:
    """Weights for looking at a program without a trained model: {name: tree} of numpy arrays.

    Each tensor depends on seed, network and path alone. Kernels are scaled to keep variances, norms
    are the identity, nothing starts at zero (else no control signal would show).
    """

    def tensor(name: str, path, leaf) -> np.ndarray:
        keys = [entry.key for entry in path]
        if keys[-1] in ("scale", "var"):
            return np.ones(leaf.shape, dtype)
        if keys[-1] in ("bias", "mean", "mix_factor"):
            return np.zeros(leaf.shape, dtype)
        if keys[-1] == "output_scale":
            return np.full(leaf.shape, 2, dtype)
        rng = np.random.default_rng([seed, zlib.crc32("/".join([name, *keys]).encode())])
        fan_in = int(np.prod(leaf.shape[:-1])) if keys[-1] == "kernel" else leaf.shape[-1]
        values = rng.standard_normal(leaf.shape, np.float32)
        return (values / np.sqrt(max(1, fan_in))).astype(dtype)

    return {
        name: jax.tree_util.tree_map_with_path(partial(tensor, name), network.shapes)
        for name, network in networks.items()
    }


def _mimicmotion(sizes, flavour: Flavour, spatial_only: bool = False) -> dict[str, Network]:
    """U-Net, PoseNet, autoencoder, image encoder.

    spatial_only: the U-Net has its temporal parameters, and leaves them out of what it computes.
    """
    unet = UNet(
        flavour=flavour,
        out_channels=sizes.vae.latent_channels,
        **_unet_sizes(sizes.unet),
    )
    x, named = _svd_inputs(sizes)
    whole = _network(unet, *x, **named)
    seen = unet.clone(flavour=replace(flavour, spatial_only=spatial_only))
    pose = PoseNet(sizes.unet.channels[0], tuple(sizes.pose_encoder.widths), flavour.dtype)
    return {
        "unet": whole._replace(module=seen),
        "pose_encoder": _network(pose, _like(1, 1, 64, 64, 3)),
        "vae": _network(_vae(sizes.vae), _like(1, 1, 64, 64, 3)),
        "image_encoder": _image_encoder(sizes.image_encoder, flavour.dtype),
    }


def _musepose(sizes, flavour: Flavour, spatial_only: bool) -> dict[str, Network]:
    """Denoising U-Net, its motion modules, reference U-Net, pose guider, autoencoder, image
    encoder.

    The motion modules are parameters of the denoising U-Net's module, but a network of their own:
    they are released and trained apart. spatial_only: without them.
    """
    motion = MotionSizes(**sizes.motion_modules)
    video = replace(flavour, temporal="motion_module", motion=motion, spatial_only=spatial_only)
    shape = {**_unet_sizes(sizes.unet), "out_channels": sizes.vae.latent_channels}
    x, _ = _picture_inputs(sizes)
    whole = _network(UNet(flavour=video, **shape), *x)

    part = lambda choose: whole._replace(init=_part(whole.init, choose))
    pose = PoseGuider(sizes.unet.channels[0], tuple(sizes.pose_encoder.widths), flavour.dtype)
    return {
        "unet": part(_picture_parts),
        **({} if spatial_only else {"motion_modules": part(_motion_parts)}),
        "reference": _network(UNet(flavour=flavour, head=False, **shape), *x),
        "pose_encoder": _network(pose, _like(1, 1, 64, 64, 3)),
        "vae": _network(_vae(sizes.vae), _like(1, 1, 64, 64, 3)),
        "image_encoder": _image_encoder(sizes.image_encoder, flavour.dtype),
    }


def _vae(sizes) -> VAE:
    fields = {name: sizes[name] for name in ("latent_channels", "layers", "groups", "temporal")}
    return VAE(tuple(sizes.widths), **fields)


def _image_encoder(sizes, dtype: DTypeLike) -> Network:
    fields = {k: v for k, v in sizes.items() if k != "image_size"}
    side = sizes.image_size
    return _network(VisionTransformer(**fields, dtype=dtype), _like(1, side, side, 3))


def _control(sizes, control, quirks, flavour: Flavour, inputs) -> dict[str, Network]:
    """What of DisPose the ablation leaves; inputs: of the ControlNet, as of the U-Net."""
    dtype = flavour.dtype
    networks = {}
    channels = tuple(sizes.unet.channels)
    places = []
    if control.motion:
        places.append(control.motion_into)
        encoder = MotionEncoder(
            channels[0],
            tuple(control.motion),
            tuple(sizes.motion_encoder.widths),
            zero_start=control.motion_into == "unet",
            dtype=dtype,
        )
        flow = _like(1, 1, 64, 64, 2)
        networks["motion_encoder"] = _network(encoder, flow, flow)
    if control.points:
        places.append(control.points_into)
        finest = quirks.point_levels == "finest"  # before the first level: the latents' grid
        encoder = PointEncoder(
            channels[:1] * finest + channels,
            sizes.point_encoder.width,
            strides=(8,) * finest + strides(len(channels)),
            levels=quirks.point_levels,
            zero_start=control.points_into == "unet",
            dtype=dtype,
        )
        width = sizes.dift.channels[-2]  # up block 1 gives the second coarsest level's channels
        cells = _like(1, 1, 18, 2, dtype=jnp.int32)
        networks["point_encoder"] = _network(
            encoder, _like(1, 18, width), cells, _like(1, 1, 18, dtype=jnp.bool_), size=(64, 64)
        )
    if "controlnet" in places:
        x, named = inputs
        net = ControlNet(flavour=flavour, **_unet_sizes(sizes.unet))
        networks["controlnet"] = _network(net, *x, **named)
    return networks


def strides(num_levels: int) -> tuple[int, ...]:
    """Pixels per cell of the grid after each level: 16, 32, ..., the last level does not halve."""
    return tuple(8 * 2 ** min(i + 1, num_levels - 1) for i in range(num_levels))


def _cmp(sizes) -> Network:
    fields = {k: tuple(v) if k == "layers" else v for k, v in sizes.items()}
    return _network(CMP(**fields), _like(1, 64, 64, 3), _like(1, 64, 64, 2), _like(1, 64, 64))


def _dift(sizes, dtype: DTypeLike) -> dict[str, Network]:
    """Stable Diffusion as a feature extractor: the autoencoder without its decoder."""
    unet = UNet(
        tuple(sizes.channels),
        tuple(sizes.heads),
        Flavour(groups=sizes.groups, dtype=dtype),
        sizes.layers,
        sizes.latent_channels,
    )
    vae = VAE(
        tuple(sizes.vae_widths),
        sizes.latent_channels,
        sizes.vae_layers,
        sizes.groups,
        temporal=False,
    )
    text = TextTransformer(
        vocabulary=sizes.vocabulary,
        width=sizes.text_width,
        layers=sizes.text_layers,
        heads=sizes.text_heads,
        hidden=sizes.text_hidden,
        positions=77,
        activation="quick_gelu",
        dtype=dtype,
    )
    context = _like(1, 77, sizes.text_width)
    x = _like(1, 1, 8, 8, sizes.latent_channels)
    return {
        "dift_unet": _network(unet, x, _like(1), context),
        "dift_vae": _network(vae, _like(1, 64, 64, 3), method="encode"),
        "dift_text_encoder": _network(text, _like(1, 77, dtype=jnp.int32)),
    }


def _unet_sizes(sizes) -> dict:
    fields = {
        "channels": tuple(sizes.channels),
        "heads": tuple(sizes.heads),
        "layers": sizes.layers,
    }
    return fields | ({"added_width": sizes.added_width} if "added_width" in sizes else {})


def _svd_inputs(sizes) -> tuple[tuple[_Like, ...], dict[str, _Like]]:
    """Latents beside the reference's, time, context; added time ids."""
    (x, t, context), _ = _picture_inputs(sizes)
    both = _like(*x.shape[:-1], 2 * x.shape[-1])
    return (both, t, context), {"added_time": _like(1, 3)}


def _picture_inputs(sizes) -> tuple[tuple[_Like, ...], dict[str, _Like]]:
    """Latents, time, context; nothing else."""
    x = _like(1, 1, 8, 8, sizes.vae.latent_channels)
    return (x, _like(1), _like(1, 1, sizes.image_encoder.projection)), {}


def _network(module: nn.Module, *inputs, **named) -> Network:
    """inputs, named: of its call, arrays as `_like` gives them."""
    dtype = module.flavour.dtype if hasattr(module, "flavour") else module.dtype
    return Network(module, _init(module, inputs, tuple(named.items())), dtype)


@cache  # JAX traces one function once, and many builds have equal networks
def _init(module: nn.Module, inputs: tuple, named: tuple) -> Callable[[Array], Mapping]:
    def init(key: Array) -> Mapping:
        zeros = lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, _Like) else x
        given = {name: zeros(x) for name, x in named}
        return module.init(key, *map(zeros, inputs), **given)

    return init


@cache
def _part(init: Callable[[Array], Mapping], choose: Callable[[Params], Params]):
    """Initialisation of the parameters that `choose` takes of a whole network's."""
    return lambda key: {"params": choose(init(key)["params"])}


def _like(*shape: int, dtype: DTypeLike = jnp.float32) -> _Like:
    """Zeros that nobody has made yet."""
    return _Like(shape, dtype)


def _picture_parts(params: Params) -> Params:
    return split_motion(params)[0]


def _motion_parts(params: Params) -> Params:
    return split_motion(params)[1]


def _way_down(params: Params) -> Params:
    back = ("up_blocks_", "conv_norm_out", "conv_out")
    return {name: tree for name, tree in params.items() if not name.startswith(back)}
