"""Every network of a config by name, as that config sizes it.

The names are those of `params`, of a bundle's files and of `config.trainable`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dispose_jax.models.network import Like, Network, like
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
from dispose_jax.types import Params


def build(config, dtype: DTypeLike = jnp.float32, *, training: bool = False) -> dict[str, Network]:
    """The networks that a config uses, {name: Network}.

    config: its base, model, control and quirks are read, the guidance that decides about context
    groups, and in training `config.train`. dtype: of the computation. Autoencoders and CMP compute
    in float32 whatever it is: they run once per clip, and their results are pictures and positions.
    (How many digits products of float32 keep is up to the device, see docs/accelerators.md.)

    training: as training runs them. Rows of a batch are then clips, not halves of guidance, and
    `config.train.remat` decides what gradients compute again.
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
    return whole.part(_way_down)


def flow_network(dtype: DTypeLike = jnp.float32) -> Network:
    """RAFT, which gives training data its optical flow: no model holds it, no config sizes it."""
    picture = like(1, SMALLEST, SMALLEST, 3)
    return Network.of(RAFT(dtype=dtype), picture, picture, updates=1)


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
    whole = Network.of(unet, *x, **named)
    seen = unet.clone(flavour=replace(flavour, spatial_only=spatial_only))
    pose = PoseNet(sizes.unet.channels[0], tuple(sizes.pose_encoder.widths), flavour.dtype)
    return {
        "unet": whole._replace(module=seen),
        "pose_encoder": Network.of(pose, like(1, 1, 64, 64, 3)),
        "vae": Network.of(_vae(sizes.vae), like(1, 1, 64, 64, 3)),
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
    whole = Network.of(UNet(flavour=video, **shape), *x)
    pose = PoseGuider(sizes.unet.channels[0], tuple(sizes.pose_encoder.widths), flavour.dtype)
    return {
        "unet": whole.part(_picture_parts),
        **({} if spatial_only else {"motion_modules": whole.part(_motion_parts)}),
        "reference": Network.of(UNet(flavour=flavour, head=False, **shape), *x),
        "pose_encoder": Network.of(pose, like(1, 1, 64, 64, 3)),
        "vae": Network.of(_vae(sizes.vae), like(1, 1, 64, 64, 3)),
        "image_encoder": _image_encoder(sizes.image_encoder, flavour.dtype),
    }


def _vae(sizes) -> VAE:
    fields = {name: sizes[name] for name in ("latent_channels", "layers", "groups", "temporal")}
    return VAE(tuple(sizes.widths), **fields)


def _image_encoder(sizes, dtype: DTypeLike) -> Network:
    fields = {name: value for name, value in sizes.items() if name != "image_size"}
    side = sizes.image_size
    return Network.of(VisionTransformer(**fields, dtype=dtype), like(1, side, side, 3))


def _control(sizes, control, quirks, flavour: Flavour, inputs) -> dict[str, Network]:
    """What of DisPose the ablation leaves; inputs: of the ControlNet, as of the U-Net."""
    networks, places = {}, set()
    if control.motion:
        networks["motion_encoder"] = _motion_encoder(sizes, control, flavour.dtype)
        places.add(control.motion_into)
    if control.points:
        networks["point_encoder"] = _point_encoder(sizes, control, quirks, flavour.dtype)
        places.add(control.points_into)
    if "controlnet" in places:
        x, named = inputs
        module = ControlNet(flavour=flavour, **_unet_sizes(sizes.unet))
        networks["controlnet"] = Network.of(module, *x, **named)
    return networks


def _motion_encoder(sizes, control, dtype: DTypeLike) -> Network:
    """The encoder of the fields that the ablation leaves."""
    module = MotionEncoder(
        sizes.unet.channels[0],
        tuple(control.motion),
        tuple(sizes.motion_encoder.widths),
        zero_start=control.motion_into == "unet",
        dtype=dtype,
    )
    flow = like(1, 1, 64, 64, 2)
    return Network.of(module, flow, flow)


def _point_encoder(sizes, control, quirks, dtype: DTypeLike) -> Network:
    """The encoder of points for each of the U-Net's levels."""
    channels = tuple(sizes.unet.channels)
    finest = quirks.point_levels == "finest"  # before the first level: the latents' grid
    module = PointEncoder(
        channels[:1] * finest + channels,
        sizes.point_encoder.width,
        strides=(8,) * finest + strides(len(channels)),
        levels=quirks.point_levels,
        zero_start=control.points_into == "unet",
        dtype=dtype,
    )
    features = like(1, 18, sizes.dift.channels[-2])  # of up block 1, as the second coarsest level
    cells, visible = like(1, 1, 18, 2, dtype=jnp.int32), like(1, 1, 18, dtype=jnp.bool_)
    return Network.of(module, features, cells, visible, size=(64, 64))


def strides(num_levels: int) -> tuple[int, ...]:
    """Pixels per cell of the grid after each level: 16, 32, ..., the last level does not halve."""
    return tuple(8 * 2 ** min(i + 1, num_levels - 1) for i in range(num_levels))


def _cmp(sizes) -> Network:
    module = CMP(**{**sizes, "layers": tuple(sizes.layers)})
    return Network.of(module, like(1, 64, 64, 3), like(1, 64, 64, 2), like(1, 64, 64))


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
    context = like(1, 77, sizes.text_width)
    x = like(1, 1, 8, 8, sizes.latent_channels)
    return {
        "dift_unet": Network.of(unet, x, like(1), context),
        "dift_vae": Network.of(vae, like(1, 64, 64, 3), method="encode"),
        "dift_text_encoder": Network.of(text, like(1, 77, dtype=jnp.int32)),
    }


def _unet_sizes(sizes) -> dict:
    fields = {
        "channels": tuple(sizes.channels),
        "heads": tuple(sizes.heads),
        "layers": sizes.layers,
    }
    return fields | ({"added_width": sizes.added_width} if "added_width" in sizes else {})


def _svd_inputs(sizes) -> tuple[tuple[Like, ...], dict[str, Like]]:
    """Latents beside the reference's, time, context; added time ids."""
    (x, t, context), _ = _picture_inputs(sizes)
    both = like(*x.shape[:-1], 2 * x.shape[-1])
    return (both, t, context), {"added_time": like(1, 3)}


def _picture_inputs(sizes) -> tuple[tuple[Like, ...], dict[str, Like]]:
    """Latents, time, context; nothing else."""
    x = like(1, 1, 8, 8, sizes.vae.latent_channels)
    return (x, like(1), like(1, 1, sizes.image_encoder.projection)), {}


def _picture_parts(params: Params) -> Params:
    return split_motion(params)[0]


def _motion_parts(params: Params) -> Params:
    return split_motion(params)[1]


def _way_down(params: Params) -> Params:
    back = ("up_blocks_", "conv_norm_out", "conv_out")
    return {name: tree for name, tree in params.items() if not name.startswith(back)}
