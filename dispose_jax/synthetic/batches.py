"""Training batches of drawn people: endless, exact, and a function of seed and position alone.

Pictures, truth and joints are drawn on the device; what follows from the joints is computed on the
host by the functions that prepared videos use (examples.py), by processes if `data.workers` says
so: an accelerator learns from pictures faster than one process paints their skeletons.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import jax
import numpy as np

from dispose_jax import ending
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
        self._workers: ProcessPoolExecutor | None = None

    def __next__(self) -> Batch:
        train = self._config.train
        key = jax.random.fold_in(self._key, self._next)
        keys = jax.random.split(key, train.batch)[self._rows]
        clip = scene.draw(keys, train.frames, self._layout.size, **people(self._config))
        self._next += 1
        return self._batch(jax.device_get(self._needed(clip)))

    def state(self) -> dict:
        """The position, plain JSON: what `restore` takes."""
        return {"next": self._next}

    def restore(self, state: dict) -> None:
        """Continue as the source that gave the state would have."""
        self._next = state["next"]

    def close(self) -> None:
        """End the worker processes; the next batch starts them again."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers = None

    def _batch(self, clip: scene.DrawnClip) -> Batch:
        """A drawn clip as training reads it, with what its objective needs."""
        poses = [pose_of(*one) for one in zip(clip.keypoints, clip.visible)]
        batch = self._examples(poses, self._guides(clip)).replace(frames=clip.frames)
        if self._config.train.objective in ("autoencoder", "cmp"):
            batch = batch.replace(figure=clip.mask)
        if self._config.train.objective == "autoencoder":
            batch = batch.replace(face=clip.face)
        if self._config.train.objective == "cmp":
            batch = batch.replace(flow=clip.flow)
        return batch

    def _examples(self, poses: list[Pose], guides: list) -> Batch:
        """All but the pictures, by the worker processes if there are any.

        Raises ValueError if one of these was killed.
        """
        make, count = partial(_without_pictures, self._layout), self._config.data.workers
        if not count:
            return make(poses, guides)
        if self._workers is None:
            self._workers = ending.workers(count)
        shares = [slice(i, None, count) for i in range(min(count, len(poses)))]
        given = [poses[s] for s in shares], [guides[s] for s in shares]
        try:
            parts = list(self._workers.map(make, *given))
        except BrokenProcessPool as error:
            raise ValueError(
                f"a process that paints skeletons was killed, perhaps for want of memory; lower "
                f"--config.data.workers (now {count}), the same command continues"
            ) from error

        def join(*leaves: np.ndarray) -> np.ndarray:
            whole = np.empty((len(poses), *leaves[0].shape[1:]), leaves[0].dtype)
            for share, leaf in zip(shares, leaves):
                whole[share] = leaf
            return whole

        return jax.tree.map(join, *parts)

    def _needed(self, clip: scene.DrawnClip) -> scene.DrawnClip:
        """What a batch is made of, frames as levels: the rest need not leave the device."""
        objective = self._config.train.objective
        flow = objective == "cmp" or self._follows_flow
        return clip.replace(
            frames=_levels(clip.frames),
            flow=clip.flow if flow else None,
            seen=None,
            mask=clip.mask if objective in ("autoencoder", "cmp") else None,
            face=clip.face if objective == "autoencoder" else None,
        )

    @property
    def _follows_flow(self) -> bool:
        """Whether guides are points of the exact flow, not the joints."""
        return bool(self._layout.cmp_size) and self._config.train.guides != "joints"

    def _guides(self, clip: scene.DrawnClip) -> list:
        """Of each clip: points of the exact flow, or None for those of the joints."""
        if not self._follows_flow:
            return [None] * len(self._rows)
        seeds = [[self._config.seed, self._next, int(i)] for i in self._rows]
        return [
            examples.watershed_guides(self._config, flow, np.random.default_rng(seed))
            for flow, seed in zip(clip.flow, seeds)
        ]


_levels = jax.jit(to_uint8)


def _without_pictures(layout: examples.Layout, poses: list[Pose], guides: list) -> Batch:
    """Examples of some clips side by side, without their frames."""
    made = [examples.make(layout, None, *one) for one in zip(poses, guides)]
    return examples.stack(made)


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
