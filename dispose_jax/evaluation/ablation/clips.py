"""Drawn people to measure on, whom no training sees, and what they are driven by (host code).

Two sets of the same true frames. *same*: the person's own poses drive. *cross*: the poses of a body
with other limbs in the same motion, brought to the reference as for any driving video; the truth
stays the reference's person in that motion, which only drawn people have.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dispose_jax.evaluation.ablation.metrics import Truth
from dispose_jax.ops import levels
from dispose_jax.pose import draw as skeletons
from dispose_jax.pose import retarget
from dispose_jax.synthetic import batches, scene
from dispose_jax.synthetic.bodies import LIMBS
from dispose_jax.types import Pose

SETS = ("same", "cross")
LIMB_FACTORS = (0.7, 1.4)  # of the other body's limbs
_AT_ONCE = 16  # clips drawn together
_PEOPLE, _LIMBS = range(2)  # purposes of the key


class TrialClip(NamedTuple):
    """What a model is given, and what it should make of it; f frames, frame 0 the reference."""

    reference: np.ndarray  # (h, w, 3) uint8
    pose: Pose  # f frames
    skeletons: np.ndarray  # (f, h, w, 3) uint8
    truth: Truth  # frames 1..


def draw(config, count: int, num_frames: int) -> dict[str, list[TrialClip]]:
    """{"same", "cross"}: clips of so many frames of sample.height x sample.width.

    Clip i is the same however many are drawn; `data.apart` of them have a reference with a stance
    of its own, as in training.
    """
    size = config.sample.height, config.sample.width
    made: dict[str, list[TrialClip]] = {name: [] for name in SETS}
    for start in range(0, count, _AT_ONCE):
        numbers = jnp.arange(start, start + _AT_ONCE)
        truth, other = _draw(config, numbers, num_frames, size)
        for i in range(min(_AT_ONCE, count - start)):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], truth)
            poses = _poses(one, other[i], size, config.skeleton.fit)
            for name, pose in zip(SETS, poses):
                made[name].append(_clip(one, pose, config.skeleton))
    return made


def _draw(config, numbers, num_frames: int, size) -> tuple[scene.DrawnClip, np.ndarray]:
    """The true clips of some numbers, and keypoints (b, f, 18, 2) of the bodies that drive them."""
    key = jax.random.fold_in(jax.random.key(config.seed), batches.MEASURED)
    keys = lambda purpose: jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, purpose)))
    people = keys(_PEOPLE)(numbers)
    named = batches.people(config)
    truth = scene.draw(people, num_frames, size, **named)
    low, high = LIMB_FACTORS
    factor = lambda key: jax.random.uniform(key, (len(LIMBS),), minval=low, maxval=high)
    limbs = jax.vmap(factor)(keys(_LIMBS)(numbers))
    other = scene.driving(people, num_frames, size[1] / size[0], limbs, **named)
    return jax.device_get((truth, other))


def _poses(truth: scene.DrawnClip, other: np.ndarray, size, procedure: str) -> tuple[Pose, Pose]:
    """The driving poses of SETS, frame 0 the reference's; procedure: of pose/retarget."""
    own = batches.pose_of(truth.keypoints, truth.visible)
    driving = batches.pose_of(other, truth.visible).at(slice(1, None))
    wide = size[::-1]  # width, height
    sizes = {"video_size": wide, "target_size": wide}
    return own, retarget.to_reference(procedure, own.at([0]), driving, **sizes).pose


def _clip(truth: scene.DrawnClip, pose: Pose, skeleton) -> TrialClip:
    """A drawn clip driven by a pose, frame 0 the reference."""
    frames = levels.to_uint8(truth.frames)
    height, width = frames.shape[1:3]
    return TrialClip(
        reference=frames[0],
        pose=pose,
        skeletons=skeletons.draw(
            pose,
            height,
            width,
            canvas=skeleton.canvas,
            style=skeletons.style_of(skeleton),
        ),
        truth=Truth(
            frames=frames[1:],
            mask=truth.mask[1:],
            points=(truth.keypoints[1:] * [width, height]).astype(np.float32),
            visible=truth.visible[1:],
        ),
    )
