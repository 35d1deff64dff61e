"""From a reference and poses to ControlSignals: what DisPose adds, before any network that learns.

The recipe of sampling (paper section 4): joint displacements become the sparse field directly and,
completed by CMP on the reference, the dense field; diffusion features of the reference at its
joints follow the joints. In training the dense field may start from real optical flow instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.correspondence import dift, keypoints
from dispose_jax.motion import field, tracks
from dispose_jax.networks.cmp import CMP
from dispose_jax.types import Array, Batch, ControlSignals, Params, Pose


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
    def networks(self) -> tuple[str, ...]:
        """Names of the networks whose weights are needed."""
        names = ("cmp",) if self.cmp is not None else ()
        return names + (("dift_vae", "dift_unet", "dift_text_encoder") if self.dift else ())


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
    return Recipe(
        cmp=module("cmp"),
        dift=features,
        kernel=config.motion.kernel,
        sigma=config.motion.sigma,
        cmp_size=config.motion.cmp_size,
        missing_joints=config.quirks.missing_joints,
        chunk=config.motion.chunk,
    )


def for_sampling(
    recipe: Recipe, params: Params, reference: np.ndarray, pose: Pose, key: Array
) -> ControlSignals:
    """Signals of one clip (b = 1): reference (h, w, 3) uint8 and its size's poses, frame 0 the
    reference's.

    params: of recipe.networks. The key draws the noise of the diffusion features.
    """
    size = reference.shape[:2]
    picture = jnp.asarray(reference, jnp.float32) / 127.5 - 1
    steps = tracks.steps(pose, size, recipe.missing_joints)
    sparse = field.sparse(steps, size, kernel=recipe.kernel, sigma=recipe.sigma)
    dense = features = None
    if recipe.cmp is not None:
        guides = tracks.from_reference(pose, size, recipe.cmp_size, recipe.missing_joints)
        dense = field.dense(
            recipe.cmp, params["cmp"], picture, guides, recipe.cmp_size, chunk=recipe.chunk
        )[None]
    if recipe.dift is not None:
        grid = _features(recipe.dift, params, picture, key)
        features = keypoints.embed(grid, pose.at([0]), size)[None]
    cells, visible = keypoints.cells(pose, size)
    return ControlSignals(
        sparse_flow=sparse[None],
        dense_flow=dense,
        cells=jnp.asarray(cells)[None],
        visible=jnp.asarray(visible)[None],
        point_features=features,
    )


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
