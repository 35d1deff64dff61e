"""From a reference and poses to ControlSignals: what DisPose adds, before any network that learns.

The inference recipe (paper section 4): joint displacements become the sparse field directly and,
completed by CMP on the reference, the dense field; diffusion features of the reference at its
joints follow the joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.correspondence import dift, keypoints
from dispose_jax.motion import field, tracks
from dispose_jax.networks.cmp import CMP
from dispose_jax.types import Array, ControlSignals, Params, Pose


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


_features = jax.jit(dift.features, static_argnums=0)
