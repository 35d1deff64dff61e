"""The whole SVD side of a parity case, built by the package from the case's own sizes and weights.

A case's JSON is turned into a configuration (configs/svd.py says what its numbers mean), from which
the package builds networks and model; the keyed weights come through the converters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from ml_collections import ConfigDict

from configs import svd
from converters import checkpoints, releases, rules
from converters.releases import Part
from dispose_jax import control_signals, sampling, windowed
from dispose_jax.correspondence import dift
from dispose_jax.diffusion import guidance
from dispose_jax.models import networks
from dispose_jax.models.network import Network
from dispose_jax.types import Residuals
from tests import blockwise
from tests.parity.cases import Case, load_manifest, weights

# Role of a network in a case -> the release whose keys its manifest has.
RELEASES = {
    "unet": releases.release("svd_unet"),
    "controlnet": releases.release("dispose"),
    "pose_net": replace(
        releases.release("mimicmotion"), parts=(Part("pose_encoder", rules.POSE_NET),)
    ),
    "vae": releases.release("svd_vae"),
    "image_encoder": releases.release("svd_image_encoder"),
    "dift_unet": releases.release("sd15_unet"),
    "dift_vae": releases.release("sd15_vae"),
    "dift_text": releases.release("sd15_text_encoder"),
    "cmp": releases.release("cmp"),
}


def roles(case: Case) -> dict[str, str]:
    """Role -> manifest."""
    default = dict(zip(("unet", "controlnet", "pose_net"), case.about["manifest"]))
    return case.config.get("roles", default)


def config_of(case: Case) -> ConfigDict:
    """The released configuration with the sizes and numbers of a case."""
    about, config = case.config, svd.get_config().to_dict()
    model, sample = config["model"], config["sample"]
    model["unet"] = unet_sizes(about["unet"])
    model["image_encoder"]["projection"] = about["unet"]["cross_attention_dim"]
    model["motion_encoder"]["widths"] = tuple(about["conditioning_embedding_out_channels"])
    points = about["point_adapter"]
    strides = networks.strides(len(points["channels"]))
    assert tuple(points["downsample_rate"]) == strides
    model["point_encoder"]["width"] = points["mid_dim"]
    # The point encoder reads what up block 1 of the feature extractor gives.
    channels = model["dift"]["channels"]
    model["dift"]["channels"] = (*channels[:-2], points["embedding_channels"], channels[-1])
    if "dift" in about:
        model["dift"] = dift_sizes(about["dift"])
    if "vae" in about:
        model["vae"] = vae_sizes(about["vae"]) | {"temporal": True}
    if "image_encoder" in about:
        model["image_encoder"] = vision_sizes(about["image_encoder"])
    if "cmp" in roles(case):
        model["cmp"] |= cmp_sizes(load_manifest(roles(case)["cmp"])["config"])
    sample |= {
        "height": about["height"],
        "width": about["width"],
        "window": about["tile_size"],
        "overlap": about["tile_overlap"],
        "steps": about["num_inference_steps"],
        "guidance_scale": (about["min_guidance_scale"], about["max_guidance_scale"]),
        "noise_aug": about["noise_aug_strength"],
        "conditioning_fps": about.get("conditioning_fps", about.get("fps")),
        "motion_bucket": about["motion_bucket_id"],
        "control_scale": about.get("controlnet_scale", 1.0),
    }
    return ConfigDict(config)


def unet_sizes(about: dict) -> dict:
    return {
        "channels": tuple(about["block_out_channels"]),
        "heads": tuple(about["num_attention_heads"]),
        "layers": about["layers_per_block"],
        "groups": 32,  # of every U-Net here: the original does not configure it
        "added_width": about["addition_time_embed_dim"],
    }


def vae_sizes(about: dict) -> dict:
    return {
        "widths": tuple(about["block_out_channels"]),
        "latent_channels": about["latent_channels"],
        "layers": about["layers_per_block"],
        "groups": about.get("norm_num_groups", 32),
        "scale": about["scaling_factor"],
    }


def vision_sizes(about: dict) -> dict:
    return {
        "width": about["hidden_size"],
        "layers": about["num_hidden_layers"],
        "heads": about["num_attention_heads"],
        "hidden": about["intermediate_size"],
        "projection": about["projection_dim"],
        "patch": about["patch_size"],
        "image_size": about["image_size"],
        "activation": about["hidden_act"],
    }


def dift_sizes(about: dict) -> dict:
    unet, vae, text = about["unet"], vae_sizes(about["vae"]), about["text"]
    return {
        "channels": tuple(unet["block_out_channels"]),
        "heads": (unet["attention_head_dim"],) * len(unet["block_out_channels"]),  # a count
        "layers": unet["layers_per_block"],
        "groups": unet["norm_num_groups"],
        "vae_widths": vae["widths"],
        "vae_layers": vae["layers"],
        "latent_channels": vae["latent_channels"],
        "scale": vae["scale"],
        "vocabulary": text["vocab_size"],
        "text_width": text["hidden_size"],
        "text_layers": text["num_hidden_layers"],
        "text_heads": text["num_attention_heads"],
        "text_hidden": text["intermediate_size"],
    }


def cmp_sizes(about: dict) -> dict:
    return {
        "layers": tuple(about["layers"]),
        "image_features": about["img_enc_dim"],
        "sparse_features": about["sparse_enc_dim"],
        "bins": about["nbins"],
        "fmax": float(about["fmax"]),
    }


def sampling_of(config: ConfigDict) -> sampling.Sampler:
    sample = config.sample
    return sampling.Sampler(sample.steps, sample.window, sample.overlap, sample.guidance_scale)


def recipe_of(case: Case, config: ConfigDict, built: dict[str, Network]):
    """How the case makes its control signals."""
    about = case.config
    features = dift.Dift(
        vae=built["dift_vae"].module,
        unet=built["dift_unet"].module,
        text_encoder=built["dift_text_encoder"].module,
        tokens=tuple(case.inputs["token_ids"][0].tolist()),
        timestep=about["dift_t"],
        up_block=about["dift_up_block"],
        ensemble=about["dift_ensemble"],
        chunk=about["dift_ensemble"],
        latent_scale=config.model.dift.scale,
    )
    return control_signals.Recipe(
        cmp=built["cmp"].module,
        dift=features,
        kernel=about["gaussian"]["size"],
        sigma=about["gaussian"]["sigma"],
        cmp_size=about["cmp_size"],
        missing_joints=config.quirks.missing_joints,
    )


def params_of(case: Case, built: dict[str, Network]) -> dict:
    """Keyed weights of all roles through the converters, strictly: {network: tree}."""
    params = {}
    for role, manifest in roles(case).items():
        row = RELEASES[role]
        shapes = {part.network: built[part.network].shapes for part in row.parts}
        made, _ = checkpoints.to_flax(row, weights(case, manifest, prefix=""), shapes, manifest)
        params |= made
    return jax.tree.map(np.ascontiguousarray, params)


@dataclass(frozen=True)
class Tap:
    """A module that also hands each output to `seen`, in the order of the calls.

    blockwise: outside jit, compile its blocks, each kind once.
    """

    module: Any
    seen: Callable[[Any], None]
    blockwise: bool = False

    def apply(self, *args, **named):
        apply = partial(blockwise.apply, self.module) if self.blockwise else self.module.apply
        output = apply(*args, **named)
        io_callback(self.seen, None, output, ordered=True)
        return output

    def __getattr__(self, name: str):
        return getattr(self.module, name)


@contextmanager
def given_draws(*draws: np.ndarray) -> Iterator[None]:
    """Within it, jax.random.normal gives these arrays where their shape is asked for.

    The original's streams of random numbers cannot be reproduced, so cases state what was drawn.
    """
    by_shape = {draw.shape: draw.astype(np.float32) for draw in draws}
    draw = jax.random.normal

    def normal(key, shape=(), *more, **named):
        found = by_shape.get(tuple(shape))
        return draw(key, shape, *more, **named) if found is None else jnp.asarray(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "normal", normal)
        yield


@contextmanager
def unjitted(module, *names: str) -> Iterator[None]:
    """Within it, these functions of a module run as they are written.

    Compiling a whole step takes longer than running it block by block.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(module, name, getattr(module, name).__wrapped__)
        yield


@dataclass
class Run:
    """A sampler run and what went on inside it."""

    latents: np.ndarray  # (1, f, h, w, c)
    steps: np.ndarray  # (steps, 1, f, h, w, c) after each step
    fused: np.ndarray  # (steps, halves, f, h, w, c) before guidance
    outputs: np.ndarray  # (steps windows, halves, t, h, w, c) of the U-Net, in order
    residuals: list[Residuals]  # likewise, of the ControlNet before scaling


def sample(model, params: dict, conditioning, noise, sampler: sampling.Sampler) -> Run:
    """Sample on one device, one window at a time, keeping what went on."""
    outputs, residuals, steps, fused = [], [], [], []
    tapped = replace(
        model,
        unet=Tap(model.unet, outputs.append, blockwise=True),
        control=replace(
            model.control,
            controlnet=Tap(model.control.controlnet, residuals.append, blockwise=True),
        ),
    )
    combine = guidance.combine

    def seen_combine(unconditional, conditional, scale):
        halves = jnp.stack([unconditional, conditional])
        io_callback(fused.append, None, halves, ordered=True)
        return combine(unconditional, conditional, scale)

    plainly = (unjitted(windowed, "_predict"), unjitted(sampling, "_finish"))
    with pytest.MonkeyPatch.context() as patch, plainly[0], plainly[1]:
        patch.setattr(guidance, "combine", seen_combine)
        latents = sampling.sample(
            tapped,
            params,
            conditioning,
            noise,
            sampler,
            watch=lambda _, x, clean: steps.append(x),
            devices=jax.devices()[:1],
        )
        jax.effects_barrier()
    stack = lambda kept: np.stack([np.asarray(x) for x in kept])
    # Blocks of frames of every step; the last one repeats its last frame.
    blocks, num_frames = len(fused) // len(steps), noise.shape[1]
    whole = [
        np.concatenate(fused[i : i + blocks], axis=1)[:, :num_frames]
        for i in range(0, len(fused), blocks)
    ]
    return Run(np.asarray(latents), stack(steps), stack(whole), stack(outputs), residuals)
