"""From a reference and poses to ControlSignals: what DisPose adds, before any network that learns.

The recipe of sampling (paper section 4): joint displacements become the sparse field directly and,
completed by CMP on the reference, the dense field; diffusion features of the reference at its
joints follow the joints. In training the dense field may start from real optical flow instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.correspondence import dift, keypoints
from dispose_jax.diffusion import windows
from dispose_jax.motion import field, tracks
from dispose_jax.networks.cmp import CMP, ImageFeatures
from dispose_jax.ops.levels import to_float
from dispose_jax.types import Array, Batch, ControlSignals, Impulses, Params, Pose


@dataclass(frozen=True)
class Recipe:
    """How signals are made; a network that is None leaves its signal out.

    kernel, sigma: the sparse field's Gaussian in pixels. cmp_size: side of CMP's square.
    missing_joints: "released" or "drop" (motion/tracks.py). chunk: frames through CMP at a time.
    """

    cmp: CMP | None
    dift: dift.Dift | None
    kernel: int
    sigma: float
    cmp_size: int
    missing_joints: str
    chunk: int = 8

    @property
    def dift_networks(self) -> tuple[str, ...]:
        """Names of the networks that diffusion features need: once for each clip."""
        return dift.NETWORKS if self.dift else ()

    @property
    def cmp_networks(self) -> tuple[str, ...]:
        """Names of the networks that the fields of every frame need."""
        return ("cmp",) if self.cmp is not None else ()

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of all networks whose weights are needed."""
        return self.cmp_networks + self.dift_networks


def build(config, networks: Mapping[str, Any]) -> Recipe:
    """How a config's control signals are made, from its networks: {name: what has a `.module`}."""
    module = lambda name: networks[name].module if name in networks else None
    features = None
    if config.control.points:
        features = dift.Dift(
            vae=module("dift_vae"),
            unet=module("dift_unet"),
            text_encoder=module("dift_text_encoder"),
            tokens=dift.token_ids(config.dift.prompt, config.dift.tokenizer or None),
            timestep=config.dift.timestep,
            up_block=config.dift.up_block,
            ensemble=config.dift.ensemble,
            chunk=config.dift.chunk,
            latent_scale=config.model.dift.scale,
        )
        read = config.model.dift.channels[-2]
        if features.features != read:
            raise ValueError(
                f"dift.up_block is {config.dift.up_block}: that block has {features.features} "
                f"channels, and the point encoder reads {read}; expected 1"
            )
    return Recipe(
        cmp=module("cmp"),
        dift=features,
        kernel=config.motion.kernel,
        sigma=config.motion.sigma,
        cmp_size=config.motion.cmp_size,
        missing_joints=config.quirks.missing_joints,
        chunk=config.motion.chunk,
    )


class Trajectories(NamedTuple):
    """What poses say of every frame before any network runs (host code); frame 0 the reference."""

    steps: Impulses  # (f, 18, ..) from frame n - 1 to n, pixels of the picture (P_s)
    guides: Impulses  # (f, 18, ..) from the reference to n, pixels of CMP's square (P_d)
    cells: np.ndarray  # (f, 18, 2) int32 column, row on the 1/16 grid
    visible: np.ndarray  # (f, 18) bool
    moves: np.ndarray  # (f,) bool: false for the reference, whose flow is zero

    def at(self, frames) -> Trajectories:
        """Those of some frames: an index array or a slice."""
        return jax.tree.map(lambda x: x[frames], self)


def trajectories(recipe: Recipe, pose: Pose, size: tuple[int, int]) -> Trajectories:
    """Of poses on the reference's body, for pictures of size (height, width)."""
    cells, visible = keypoints.cells(pose, size)
    return Trajectories(
        steps=tracks.steps(pose, size, recipe.missing_joints),
        guides=tracks.from_reference(pose, size, recipe.cmp_size, recipe.missing_joints),
        cells=cells,
        visible=visible,
        moves=np.arange(len(cells)) > 0,
    )


def point_features(
    recipe: Recipe, params: Params, reference: np.ndarray, pose: Pose, key: Array
) -> Array | None:
    """Diffusion features of the reference's joints, (1, 18, d) float32; None without DIFT.

    reference (h, w, 3) uint8; pose: of the clip, frame 0 the reference's; params: of the recipe's
    dift_networks. The key draws their noise. DisPose section 4.2.
    """
    if recipe.dift is None:
        return None
    grid = _features(recipe.dift, params, to_float(reference), key)
    return keypoints.embed(grid, pose.at([0]), reference.shape[:2])[None]


def picture_features(recipe: Recipe, params: Params, reference: np.ndarray) -> ImageFeatures | None:
    """What CMP knows of the reference (h, w, 3) uint8; None without CMP."""
    if recipe.cmp is None:
        return None
    return field.encode_picture(recipe.cmp, params["cmp"], to_float(reference), recipe.cmp_size)


@partial(jax.jit, static_argnums=(0, 1))
def of_frames(
    recipe: Recipe,
    size: tuple[int, int],
    params: Params,
    picture: ImageFeatures | None,
    points: Array | None,
    paths: Trajectories,
) -> ControlSignals:
    """Signals of the frames whose trajectories, leaves (b, n, ..), are given (device code).

    picture, points: what `picture_features` and `point_features` give of the one reference. size:
    (height, width) of the picture.
    """
    sparse = field.sparse(paths.steps, size, kernel=recipe.kernel, sigma=recipe.sigma)
    dense = None
    if recipe.cmp is not None:
        one_row = lambda guides: field.complete(
            recipe.cmp, params["cmp"], picture, guides, size, recipe.cmp_size, chunk=recipe.chunk
        )
        flows = jax.vmap(one_row)(paths.guides)
        dense = jnp.where(paths.moves[..., None, None, None], flows, 0)
    if points is not None:
        points = jnp.broadcast_to(points, (len(paths.moves), *points.shape[1:]))
    return ControlSignals(sparse, dense, paths.cells, paths.visible, points)


def maker(
    recipe: Recipe,
    params: Params,
    reference: np.ndarray,
    pose: Pose,
    points: Array | None,
    whole: jax.sharding.Sharding | None = None,
    spread: jax.sharding.Sharding | None = None,
) -> Callable[[np.ndarray], ControlSignals]:
    """A function from numbers (rows, n) of a clip's frames to their signals on the devices.

    reference (h, w, 3) uint8; pose: of the clip, frame 0 the reference's; params: of the recipe's
    cmp_networks. points (1, 18, d) float32: what `point_features` gives, None for signals whose
    points nobody sees. whole, spread: where the reference's arrays and those of rows are, the first
    device by default.
    """
    size = reference.shape[:2]
    picture = picture_features(recipe, params, reference)
    if points is None and recipe.dift is not None:  # for the same program as with them
        points = np.zeros((1, 18, recipe.dift.features), np.float32)
    picture, points = jax.device_put((picture, points), whole)
    paths = trajectories(recipe, pose, size)

    def make(numbers: np.ndarray) -> ControlSignals:
        rows = jax.device_put(paths.at(numbers), spread)
        return of_frames(recipe, size, params, picture, points, rows)

    return make


def for_sampling(
    recipe: Recipe, params: Params, reference: np.ndarray, pose: Pose, key: Array
) -> ControlSignals:
    """Signals of one whole clip on the host (b = 1): for short clips whose signals are looked at.

    reference (h, w, 3) uint8 and its size's poses, frame 0 the reference's; params: of
    recipe.networks. The key draws the noise of the diffusion features. Raises ValueError if there
    is no frame but the reference.
    """
    if pose.num_frames < 2:
        raise ValueError("control signals need the reference and at least one driving frame")
    points = point_features(recipe, params, reference, pose, key)
    make = maker(recipe, params, reference, pose, points)
    parts = []
    for frames, count in windows.blocks(range(pose.num_frames), 1, recipe.chunk):
        parts.append(jax.device_get(make(frames).at(slice(count))))
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)
    return joined.replace(point_features=points)


def for_training(
    recipe: Recipe,
    params: Params,
    batch: Batch,
    references: Array,
    key: Array,
    *,
    point_drop_rate: float = 0.0,
) -> ControlSignals:
    """Signals of a batch of clips (device code, part of the training step); nothing here learns.

    references (b, h, w, 3) in -1..1. The dense field is CMP's completion of the batch's guides:
    flow at watershed points (paper appendix D), or the joints as in sampling. point_drop_rate: how
    likely a joint is left out of a whole clip's correspondence map (VideoSwap).
    """
    size = references.shape[1:3]
    feature_key, drop_key = jax.random.split(key)
    sparse = field.sparse(batch.steps, size, kernel=recipe.kernel, sigma=recipe.sigma)
    dense = features = None
    if recipe.cmp is not None:
        complete = partial(field.dense, recipe.cmp, params["cmp"], side=recipe.cmp_size)
        dense = jax.vmap(partial(complete, chunk=recipe.chunk))(references, batch.guides)
    if recipe.dift is not None:
        features = batch.point_features
        if features is None:
            keys = jax.random.split(feature_key, len(references))
            grids = jax.vmap(partial(dift.features, recipe.dift, params))(references, keys)
            features = jax.vmap(keypoints.read)(grids, batch.joints, batch.seen)
    visible = batch.visible
    if point_drop_rate:
        shape = (len(visible), 1, visible.shape[2])
        visible = visible & jax.random.bernoulli(drop_key, 1 - point_drop_rate, shape)
    return jax.lax.stop_gradient(ControlSignals(sparse, dense, batch.cells, visible, features))


_features = jax.jit(dift.features, static_argnums=0)
