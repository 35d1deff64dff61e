"""A model small enough to compile in seconds: configs/svd.py:size=tiny with one level.

Its weights are random and nothing in them starts at zero, so every signal shows in the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import sd15, svd
from dispose_jax.models import networks, registry
from dispose_jax.types import Conditioning, ControlSignals, Pose
from tests import blockwise

SIZE = (64, 128)  # height, width of pictures
LATENTS = (8, 16, 4)  # height, width, channels
_WIDTHS = (4, 4, 8, 8)

_MODEL = {
    "unet": {"channels": (8,), "heads": (2,), "layers": 1, "groups": 4},
    "pose_encoder": {"widths": _WIDTHS},
    "motion_encoder": {"widths": _WIDTHS},
    "point_encoder": {"width": 8},
    "vae": {"widths": _WIDTHS, "latent_channels": 4, "layers": 1, "groups": 4, "scale": 0.5},
    "image_encoder": {
        "width": 8,
        "layers": 1,
        "heads": 2,
        "hidden": 16,
        "projection": 8,
        "patch": 16,
        "image_size": 32,
    },
    "dift": {
        "channels": (8, 8),
        "heads": (2, 2),
        "layers": 1,
        "groups": 4,
        "vae_widths": _WIDTHS,
        "vae_layers": 1,
        "text_width": 8,
        "text_layers": 1,
        "text_heads": 2,
        "text_hidden": 16,
    },
    "cmp": {"image_features": 8, "bins": 9, "base_width": 4, "decoder_width": 4},
}


def config(
    variant: str = "full", guidance: float = 2.0, base: str = "svd", **quirks: str
) -> ConfigDict:
    """The small configuration of a variant of the paper; on SVD with released quirks unless
    named."""
    config = {"svd": svd, "sd15": sd15}[base].get_config(f"size=tiny,variant={variant}")
    for name, fields in _MODEL.items():
        config.model[name].update(fields)
    if base == "svd":
        config.model.unet.added_width = 4
        config.quirks.update(svd.RELEASED)
    else:
        config.model.motion_modules.update(heads=2, groups=4)
    config.quirks.update(quirks)
    config.sample.guidance_scale = guidance
    return config


@dataclass(frozen=True)
class Blockwise:
    """A network that compiles its blocks, each kind once, rather than single operations."""

    module: object

    def apply(self, *args, **named):
        return blockwise.apply(self.module, *args, **named)

    def __getattr__(self, name: str):
        return getattr(self.module, name)


def eager(model):
    """The model for calls outside jit."""
    wrap = lambda module: None if module is None else Blockwise(module)
    control = replace(model.control, controlnet=wrap(model.control.controlnet))
    return replace(model, unet=wrap(model.unet), control=control)


def key(seed: int) -> jax.Array:
    """A key of the generator that compiles fastest; the default one takes seconds per network."""
    return jax.random.key(seed, impl="unsafe_rbg")


@cache
def build(
    variant: str = "full", guidance: float = 2.0, base: str = "svd", **quirks: str
) -> SimpleNamespace:
    """config, networks and model of a variant, random params of what conditions and denoises."""
    made = config(variant, guidance, base, **quirks)
    parts = networks.build(made)
    used = {name: part for name, part in parts.items() if not name.startswith(("cmp", "dift"))}
    return SimpleNamespace(
        config=made,
        networks=parts,
        model=registry.build(made, parts),
        params=networks.random(used, seed=3),
    )


def pose(num_frames: int, seed: int = 0) -> Pose:
    """One person who drifts about; elbow 3 is hidden in the reference, wrist 4 in the last
    frame."""
    rng = np.random.default_rng(seed)
    body = rng.uniform(0.2, 0.8, (1, 1, 18, 2)) + rng.normal(0, 0.05, (num_frames, 1, 18, 2))
    score = np.full((num_frames, 1, 18), 0.9)
    score[0, 0, 3] = score[-1, 0, 4] = 0.1
    nothing = np.zeros((num_frames, 1))
    return Pose(
        body=body,
        body_score=score,
        hands=np.zeros((num_frames, 1, 2, 21, 2)),
        hands_score=np.broadcast_to(nothing[..., None, None], (num_frames, 1, 2, 21)),
        face=np.zeros((num_frames, 1, 68, 2)),
        face_score=np.broadcast_to(nothing[..., None], (num_frames, 1, 68)),
    )


def pictures(num: int, seed: int = 0) -> np.ndarray:
    """uint8 noise (num, *SIZE, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (num, *SIZE, 3), np.uint8)


def signals(num_frames: int, seed: int = 0) -> ControlSignals:
    """Random signals of one clip, as the recipe gives them: frame 0 does not move."""
    rng = np.random.default_rng(seed)
    flows = rng.normal(0, 3, (2, 1, num_frames, *SIZE, 2)).astype(np.float32)
    flows[:, :, 0] = 0
    grid = np.array([SIZE[1] // 16, SIZE[0] // 16])
    return ControlSignals(
        sparse_flow=flows[0],
        dense_flow=flows[1],
        cells=rng.integers(0, grid, (1, num_frames, 18, 2)).astype(np.int32),
        visible=rng.uniform(size=(1, num_frames, 18)) > 0.2,
        point_features=rng.normal(size=(1, 18, 8)).astype(np.float32),
    )


def conditioning(made: SimpleNamespace, num_frames: int, seed: int = 0) -> Conditioning:
    """Conditioning of one clip whose control signals passed the model's own encoders.

    What the frozen encoders of pictures give is random.
    """
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    model = made.model
    channels = made.config.model.unet.channels[0]
    return Conditioning(
        context=normal(1, 1, 8),
        pose_features=normal(1, num_frames, *LATENTS[:2], channels),
        image_latents=normal(1, *LATENTS),
        added_time=np.array([[6, 127, 0]], np.float32),
        **encode(model.control, made.params, signals(num_frames, seed)),
    )


encode = jax.jit(lambda control, params, signals: control.encode(params, signals), static_argnums=0)
