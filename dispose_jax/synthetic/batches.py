"""Training batches of drawn people: endless, exact, and a function of seed and position alone.

Pictures, truth and joints are drawn on the device; what follows from the joints is computed on the
host by the functions that prepared videos use (examples.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from dispose_jax.data import examples
from dispose_jax.ops.levels import to_uint8
from dispose_jax.synthetic import scene
from dispose_jax.types import Batch, Pose

# People who are learnt from; shown while learning goes on; measured on (evaluation/).
TRAINING, HELD_OUT, MEASURED = range(3)


class DrawnBatches:
    """Batches of some of the clips; see `next`, `state` and `restore`.

    rows: which clips of every batch to make, all if None. Clip i of batch n is the same whoever
    makes it.
    """

    def __init__(self, config, rows: Sequence[int] | None = None, people: int = TRAINING):
        self._config, self._layout = config, examples.layout(config)
        self._key = jax.random.fold_in(jax.random.key(config.seed), people)
        self._rows = np.arange(config.train.batch) if rows is None else np.array(rows)
        self._next = 0

    def __next__(self) -> Batch:
        train = self._config.train
        key = jax.random.fold_in(self._key, self._next)
        keys = jax.random.split(key, train.batch)[self._rows]
        clip = scene.draw(keys, train.frames, self._layout.size, **people(self._config))
        self._next += 1
        return self._batch(jax.device_get(clip))

    def state(self) -> dict:
        """The position, plain JSON: what `restore` takes."""
        return {"next": self._next}

    def restore(self, state: dict) -> None:
        """Continue as the source that gave the state would have."""
        self._next = state["next"]

    def close(self) -> None:
        """Nothing is held."""

    def _batch(self, clip: scene.DrawnClip) -> Batch:
        frames = to_uint8(clip.frames)
        poses = [pose_of(*one) for one in zip(clip.keypoints, clip.visible)]
        made = [
            examples.make(self._layout, pictures, pose, guides=guides)
            for pictures, pose, guides in zip(frames, poses, self._guides(clip))
        ]
        batch = examples.stack(made)
        if self._config.train.objective in ("autoencoder", "cmp"):
            batch = batch.replace(figure=clip.mask)
        if self._config.train.objective == "cmp":
            batch = batch.replace(flow=clip.flow)
        return batch

    def _guides(self, clip: scene.DrawnClip) -> list:
        """Of each clip: points of the exact flow, or None for those of the joints."""
        if not self._layout.cmp_size or self._config.train.guides == "joints":
            return [None] * len(clip.flow)
        seeds = [[self._config.seed, self._next, int(i)] for i in self._rows]
        return [
            examples.watershed_guides(self._config, flow, np.random.default_rng(seed))
            for flow, seed in zip(clip.flow, seeds)
        ]


def people(config) -> dict:
    """What `scene.draw` and `scene.driving` are told of the people that a config wants drawn."""
    return {"apart": config.data.apart, "heights": tuple(config.data.heights)}


def pose_of(points: np.ndarray, visible: np.ndarray) -> Pose:
    """The pose of one drawn person: points (f, 18, 2) and visible (f, 18) -> Pose without hands.

    As a detector would, it also finds a joint that is covered by another part, if it is in the
    picture; in the reference only what can be seen counts, since features are read there.
    """
    frames = len(points)
    score = ((points >= 0) & (points <= 1)).all(-1).astype(np.float64)
    score[0] = visible[0]
    empty = lambda *shape: np.zeros((frames, 1, *shape))
    return Pose(
        body=points[:, None].astype(np.float64),
        body_score=score[:, None],
        hands=empty(2, 21, 2),
        hands_score=empty(2, 21),
        face=empty(68, 2),
        face_score=empty(68),
    )
