"""What sampling stands for: one window at a time, on one device, nothing hoisted; a toy for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.diffusion import windows
from dispose_jax.diffusion.samplers import Euler
from dispose_jax.networks.temporal import context_of_positions
from dispose_jax.types import Conditioning, Deep

H, W, C = 3, 4, 2  # latents of the toy


@dataclass(frozen=True)
class Toy:
    """A model that compiles at once and reads all that a driver brings.

    Frames of a window see each other and their places; rows of a group see each other's context.
    """

    group: int = 2
    repeats_noise: bool = True
    generates_reference: bool = True
    schedule: Euler = Euler()

    def windows(self, num_frames, window, overlap):
        return windows.anchored(num_frames, window, overlap)

    def unconditional(self, conditioning, drop):
        keep = lambda x: jnp.where(drop.reshape(-1, *[1] * (x.ndim - 1)), 0, x)
        return conditioning.replace(
            context=keep(conditioning.context),
            pose_features=jax.tree.map(keep, conditioning.pose_features),
        )

    def unpaired(self):
        return replace(self, group=1)

    def hoist(self, params, conditioning):
        value = conditioning.context[:, 0] @ params["kernel"]
        return conditioning.replace(cross={"value": value})

    def denoise(self, params, x, t, conditioning, *, deep=None, keep=False):
        if conditioning.cross is None:
            conditioning = self.hoist(params, conditioning)
        b, f = x.shape[:2]
        features = jnp.cos(2 * x) if deep is None else deep.features
        values = context_of_positions(conditioning.cross["value"], H * W, self.group)
        y = x + jnp.broadcast_to(values, (b, 1, H * W, C)).reshape(b, 1, H, W, C)
        y = y + t[:, None, None, None, None] + conditioning.added_time.mean()
        y = y + jnp.arange(f)[:, None, None, None] / f + conditioning.image_latents[:, None]
        y = y + conditioning.pose_features + conditioning.motion + conditioning.points[0]
        y = y + 0.1 * features
        y = jnp.tanh(y) + 0.3 * jnp.sin(3 * y).mean(1, keepdims=True)
        return (y, Deep(features, None)) if keep else y


def toy_clip(num_frames: int, seed: int = 0):
    """params, conditioning and noise."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    conditioning = Conditioning(
        context=normal(1, 1, 5),
        pose_features=normal(1, num_frames, H, W, C),
        image_latents=normal(1, H, W, C),
        added_time=normal(1, 3),
        motion=normal(1, num_frames, H, W, C),
        points=(normal(1, num_frames, H, W, C),),
    )
    return {"kernel": normal(5, C)}, conditioning, normal(1, num_frames, H, W, C)


def plain_loop(model, params, conditioning, noise, sampler, spare=0) -> np.ndarray:
    """Sampling as the paper's base model describes it, in float64 around the network; spare: frames
    at the end that are guided as the one before them."""
    f = noise.shape[1]
    length, overlap = min(sampler.window, f), sampler.overlap
    tiles = [[0, *range(s + 1, s + length)] for s in range(0, f - length + 1, length - overlap)]
    if tiles[-1][-1] < f - 1:
        tiles.append([0, *range(f - length + 1, f)])
    middle = (np.arange(length) + 0.5) * 2 / length
    weights = np.minimum(middle, 2 - middle)[:, None, None, None]

    ramp = np.linspace(0, 1, sampler.steps)
    high, low = model.schedule.sigma_max ** (1 / 7), model.schedule.sigma_min ** (1 / 7)
    sigmas = (high + ramp * (low - high)) ** 7
    scale = np.linspace(*np.broadcast_to(sampler.guidance_scale, 2), f - spare)
    scale = np.append(scale, [scale[-1]] * spare)[:, None, None, None]
    x = noise[0].astype(np.float64) * np.sqrt(sigmas[0] ** 2 + 1)
    for sigma, lower in pairwise([*sigmas, 0.0]):
        fused, total = np.zeros((2, *x.shape)), np.zeros((f, 1, 1, 1))
        for tile in tiles:
            pair = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), conditioning.at(tile))
            pair = model.unconditional(pair, jnp.array([True, False]))
            seen = np.stack([x[tile] / np.sqrt(sigma**2 + 1)] * 2).astype(np.float32)
            t = np.full(2, 0.25 * np.log(sigma), np.float32)
            output = np.asarray(model.denoise(params, seen, t, pair))
            np.add.at(fused, (slice(None), tile), output * weights)
            np.add.at(total, tile, weights)
        unconditional, conditional = fused / total
        v = unconditional + scale * (conditional - unconditional)
        clean = x / (sigma**2 + 1) - v * sigma / np.sqrt(sigma**2 + 1)
        x = x + (x - clean) / sigma * (lower - sigma)
    return x[None]


def assert_same(ours, reference, tolerance=1e-4):
    difference = np.abs(np.asarray(ours) - reference).max() / reference.std()
    assert difference < tolerance
