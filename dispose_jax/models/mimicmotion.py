"""MimicMotion: Stable Video Diffusion driven by skeleton pictures, with or without DisPose.

The reference enters as one CLIP token, as latents beside those of every frame, and as frame 0 of
the clip, which is denoised with the others and dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from dispose_jax.diffusion import windows
from dispose_jax.diffusion.samplers import Euler, Schedule
from dispose_jax.models import autoencoder, control_path
from dispose_jax.models.control_path import ControlPath, frames_at_once, map_frames
from dispose_jax.networks.clip import VisionTransformer, clip_pixels
from dispose_jax.networks.pose_encoder import PoseNet
from dispose_jax.networks.unet import UNet
from dispose_jax.networks.vae import VAE
from dispose_jax.types import Array, Conditioning, ControlSignals, Deep, Params


@dataclass(frozen=True)
class MimicMotion:
    """The SVD base; see models/protocol.py for what its methods mean.

    fps, motion_bucket, noise_aug: the numbers the network is told (the fps one less, as Stability
    trained it); noise_aug is also the deviation of the noise on the reference: a number, or the
    mean and deviation of its logarithm, drawn for each clip. latent_scale: diffused latents are
    this times the autoencoder's; those of the reference are not scaled.
    """

    unet: UNet
    pose_encoder: PoseNet
    vae: VAE
    image_encoder: VisionTransformer
    control: ControlPath
    image_size: int
    latent_scale: float
    fps: float
    motion_bucket: float
    noise_aug: float | tuple[float, float]
    schedule: Schedule = field(default_factory=Euler)
    chunk: int = 8  # small skeletons encoded at a time
    generates_reference: bool = True

    stages = {
        "reference": ("image_encoder", "vae"),
        "frames": ("pose_encoder", *control_path.ENCODERS),
        "sampling": ("unet", "controlnet"),
        "decoding": ("vae",),
    }
    repeats_noise = True

    latent_shape = autoencoder.latent_shape
    encode = autoencoder.encode
    latents = autoencoder.latents
    decode = autoencoder.decode
    hoist = control_path.hoist

    def windows(self, num_frames: int, window: int, overlap: int) -> windows.Windows:
        return windows.anchored(num_frames, window, overlap)

    def condition_reference(self, params: Params, reference: Array, key: Array) -> Conditioning:
        b = len(reference)
        pixels = clip_pixels(reference, self.image_size)
        context = self.image_encoder.apply({"params": params["image_encoder"]}, pixels)
        noise_key, level_key = jax.random.split(key)
        if isinstance(self.noise_aug, tuple):
            mean, deviation = self.noise_aug
            level = jnp.exp(mean + deviation * jax.random.normal(level_key, (b,)))
        else:
            level = jnp.full((b,), self.noise_aug, jnp.float32)
        noise = level[:, None, None, None] * jax.random.normal(noise_key, reference.shape)
        mean, _ = self.vae.apply({"params": params["vae"]}, reference + noise, method="encode")
        told = jnp.array([self.fps - 1, self.motion_bucket], jnp.float32)
        ids = jnp.concatenate([jnp.tile(told, (b, 1)), level[:, None]], axis=1)
        return Conditioning(context=context[:, None], image_latents=mean, added_time=ids)

    def condition_frames(
        self, params: Params, skeletons: Array, signals: ControlSignals | None
    ) -> dict[str, object]:
        encode = partial(self.pose_encoder.apply, {"params": params["pose_encoder"]})
        encoded = {} if signals is None else self.control.encode(params, signals)
        chunk = frames_at_once(skeletons, self.chunk)
        return {"pose_features": map_frames(encode, skeletons, chunk), **encoded}

    def unconditional(self, conditioning: Conditioning, drop: Array) -> Conditioning:
        # Motion, points and time ids stay in both halves, as released.
        keep = lambda x: jnp.where(drop.reshape(-1, *[1] * (x.ndim - 1)), 0, x)
        return conditioning.replace(
            context=keep(conditioning.context),
            image_latents=keep(conditioning.image_latents),
            pose_features=jax.tree.map(keep, conditioning.pose_features),
        )

    def unpaired(self) -> MimicMotion:
        if self.unet.flavour.context_group == 1:
            return self
        flavour = replace(self.unet.flavour, context_group=1)
        control = self.control
        if control.controlnet is not None:
            control = replace(control, controlnet=control.controlnet.clone(flavour=flavour))
        return replace(self, unet=self.unet.clone(flavour=flavour), control=control)

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
        b, f, h, w, _ = x.shape
        image = conditioning.image_latents[:, None].astype(x.dtype)
        x = jnp.concatenate([x, jnp.broadcast_to(image, (b, f, *image.shape[2:]))], axis=-1)
        joining = self.control.apply(params, x, t, conditioning, deep)
        variables = {"params": params["unet"]}
        if conditioning.cross is not None:
            variables["cross"] = conditioning.cross["unet"]
        return self.unet.apply(
            variables,
            x,
            t,
            conditioning.context,
            added_time=conditioning.added_time,
            joining=joining,
            deep=deep,
            keep=keep,
        )


def build(config, modules: Mapping[str, nn.Module], *, training: bool = False) -> MimicMotion:
    """The model of a config from its modules, {network: module}.

    training: with the noise on the reference that training uses. A U-Net that learns from single
    pictures does not generate the reference: it would see nothing there but a copy.
    """
    noise_aug = config.train.noise_aug if training else config.sample.noise_aug
    return MimicMotion(
        unet=modules.get("unet"),
        pose_encoder=modules.get("pose_encoder"),
        vae=modules.get("vae"),
        image_encoder=modules.get("image_encoder"),
        control=control_path.build(config, modules),
        image_size=config.model.image_encoder.image_size,
        latent_scale=config.model.vae.scale,
        fps=config.sample.conditioning_fps,
        motion_bucket=config.sample.motion_bucket,
        noise_aug=noise_aug,
        schedule=Euler(
            config.sample.sigma_min, config.sample.sigma_max, spacing=config.sample.sigmas
        ),
        generates_reference=not (training and config.train.spatial_only),
    )
