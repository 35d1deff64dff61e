"""MusePose: Stable Diffusion 1.5 driven by skeleton pictures, with or without DisPose.

The reference enters as one CLIP token and through a U-Net of its own, whose normed tokens the
denoiser's self-attention reads beside its own. Motion modules make the frames a video. Only the
driving frames are generated. Moore-AnimateAnyone is the same model with other numbers; how DisPose
joins it is our decision where the paper is silent (docs/musepose.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from dispose_jax.diffusion import windows
from dispose_jax.diffusion.samplers import Ddim, Schedule
from dispose_jax.models import autoencoder, control_path
from dispose_jax.models.control_path import ControlPath, frames_at_once, map_frames
from dispose_jax.networks.attention import reference_tokens, reference_variables
from dispose_jax.networks.clip import VisionTransformer, clip_pixels
from dispose_jax.networks.pose_encoder import PoseGuider
from dispose_jax.networks.unet import UNet
from dispose_jax.networks.vae import VAE
from dispose_jax.types import Array, Conditioning, ControlSignals, Deep, Params


@dataclass(frozen=True)
class MusePose:
    """The SD1.5 base; see models/protocol.py for what its methods mean.

    latent_scale: diffused latents are this times the autoencoder's. clip_method: how the image
    encoder sees the reference (networks/clip.py). draws_reference: the reference's latents are a
    draw instead of the mean. window_stride, closed: see diffusion/windows.uniform.
    """

    unet: UNet
    reference: UNet
    pose_encoder: PoseGuider
    vae: VAE
    image_encoder: VisionTransformer
    control: ControlPath
    image_size: int
    latent_scale: float
    clip_method: str
    draws_reference: bool
    window_stride: int
    closed: bool
    schedule: Schedule = field(default_factory=Ddim)
    chunk: int = 8  # small frames through the pose encoder at a time

    stages = {
        "reference": ("image_encoder", "vae", "reference"),
        "frames": ("pose_encoder", *control_path.ENCODERS),
        "sampling": ("unet", "motion_modules", "controlnet"),
        "decoding": ("vae",),
    }
    generates_reference = False
    repeats_noise = False

    latent_shape = autoencoder.latent_shape
    encode = autoencoder.encode
    latents = autoencoder.latents
    decode = autoencoder.decode
    hoist = control_path.hoist

    def windows(self, num_frames: int, window: int, overlap: int) -> windows.Windows:
        plan = windows.uniform(
            num_frames, window, overlap, stride=self.window_stride, closed=self.closed
        )
        positions = self.unet.flavour.motion.positions
        if plan.frames.shape[1] > positions:
            raise ValueError(
                f"sample.window is {window}: the motion modules know {positions} frames at most; "
                "choose a smaller one"
            )
        return plan

    def condition_reference(self, params: Params, reference: Array, key: Array) -> Conditioning:
        pixels = clip_pixels(reference, self.image_size, self.clip_method)
        context = self.image_encoder.apply({"params": params["image_encoder"]}, pixels)[:, None]
        latents = self.encode(params, reference[:, None])
        if self.draws_reference:
            latents = self.latents(latents, key)
        else:
            latents = self.latent_scale * jnp.split(latents, 2, axis=-1)[0]
        _, written = self.reference.apply(
            {"params": params["reference"]},
            latents,
            jnp.zeros(len(latents)),
            context,
            mutable=["reference"],
        )
        return Conditioning(
            context=context,
            reference=reference_tokens(written["reference"]),
            read_reference=jnp.ones(len(context), bool),
        )

    def condition_frames(
        self, params: Params, skeletons: Array, signals: ControlSignals | None
    ) -> dict[str, object]:
        encode = partial(self.pose_encoder.apply, {"params": params["pose_encoder"]})
        chunk = frames_at_once(skeletons, self.chunk)
        pose = map_frames(lambda x: encode((x + 1) / 2), skeletons, chunk)
        encoded = {} if signals is None else self.control.encode(params, signals)
        return {"pose_features": pose, **encoded}

    def unconditional(self, conditioning: Conditioning, drop: Array) -> Conditioning:
        # Pose, motion and points stay in both halves.
        return conditioning.replace(
            context=jnp.where(drop[:, None, None], 0, conditioning.context),
            read_reference=conditioning.read_reference & ~drop,
        )

    def unpaired(self) -> MusePose:
        return self

    def denoise(
        self,
        params: Params,
        x: Array,
        t: Array,
        conditioning: Conditioning,
        *,
        deep: Deep | None = None,
        keep: bool = False,
    ) -> Array | tuple[Array, Deep]:
        joining = self.control.apply(params, x, t, conditioning, deep)
        variables = {"params": merged(params["unet"], params.get("motion_modules", {}))}
        variables["reference"] = reference_variables(
            conditioning.reference, conditioning.read_reference
        )
        if conditioning.cross is not None:
            variables["cross"] = conditioning.cross["unet"]
        return self.unet.apply(
            variables,
            x,
            t,
            conditioning.context,
            joining=joining,
            deep=deep,
            keep=keep,
        )


def merged(tree: Params, other: Params) -> Params:
    """Two nested dicts as one; they share branches, not leaves."""
    both = {k: merged(tree[k], other[k]) for k in tree.keys() & other.keys()}
    return {**tree, **other, **both}


def build(config, modules: Mapping[str, nn.Module], *, training: bool = False) -> MusePose:
    """The model of a config from its modules, {network: module}.

    training: with the reference and the betas of training, which are Stable Diffusion's whatever
    Moore-AnimateAnyone samples with.
    """
    sample = config.sample
    return MusePose(
        unet=modules.get("unet"),
        reference=modules.get("reference"),
        pose_encoder=modules.get("pose_encoder"),
        vae=modules.get("vae"),
        image_encoder=modules.get("image_encoder"),
        control=control_path.build(config, modules),
        image_size=config.model.image_encoder.image_size,
        latent_scale=config.model.vae.scale,
        clip_method="crop" if training else "stretch",
        draws_reference=training,
        window_stride=sample.window_stride,
        closed=sample.window_loop,
        schedule=Ddim(
            betas="scaled_linear" if training else sample.betas,
            spacing={"uniform": "trailing", "ays": "ays"}[sample.timesteps],
        ),
    )
