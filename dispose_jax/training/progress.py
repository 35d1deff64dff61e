"""What is looked at while a run learns: a loss and a picture of clips that nothing is learnt from.

Both run on the mesh, with the parameters that lie there. If a picture needs more memory than a step
leaves, the run says so once and goes on without pictures.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial

import jax
import numpy as np

from dispose_jax import memory
from dispose_jax.media import image, output
from dispose_jax.training import multihost, previews, sharding, sources
from dispose_jax.training.run import SHOWING, VALIDATING, Run
from dispose_jax.training.state import TrainState
from dispose_jax.types import Params

SAMPLES = "samples"  # folder of the pictures


class Progress:
    """How far a run's networks are; frozen: the other networks, where they lie."""

    def __init__(self, run: Run, frozen: Params):
        self._run, self._frozen = run, frozen
        self._whole = sharding.replicated(run.mesh)
        loss = lambda params, batch, key: run.objective.loss(params, batch, key)[0]
        self._loss = jax.jit(loss, out_shardings=self._whole)
        self._fits = True
        train = run.config.train
        self._clips = train.batch // train.accumulate  # worked on at a time, as in a step
        # Opened once: of a set that is still being prepared other clips would be kept back later.
        rows = sharding.rows(run.mesh, self._clips)
        self._validating = sources.held_out(run.config, self._clips, rows)
        self._showing = sources.held_out(run.config, previews.CLIPS)
        self._starts = self._validating.state(), self._showing.state()

    def validate(self, current: TrainState) -> float:
        """The mean loss of `data.held_out` clips, rounded up to whole parts of a batch, with noise
        and levels that are the same every time."""
        train, clips = self._run.config.train, self._clips
        place = partial(sharding.place_batch, self._run.mesh, clips=clips, num_frames=train.frames)
        params, key = {**self._frozen, **current.result}, self._run.key(VALIDATING)
        found = []
        with closing(self._validating) as source:
            source.restore(self._starts[0])
            for i in range(-(-self._run.config.data.held_out // clips)):
                batch = place(next(source))
                found.append(float(self._loss(params, batch, jax.random.fold_in(key, i))))
        return float(np.mean(found))

    def show(self, current: TrainState) -> None:
        """Write a picture of what the networks can do by now.

        Raises OutOfMemory if it did not fit in some but not all of the run's processes, of which
        the others then wait for ever.
        """
        if not self._fits:
            return
        try:
            picture = self._picture(current)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            if not multihost.all_arrive(f"no room for the picture of step {int(current.step)}"):
                raise memory.OutOfMemory(
                    "out of memory while showing a picture of the progress: leave pictures out "
                    "with --config.train.sample_every=0"
                ) from error
            self._fits = False
            self._run.say(
                "a picture of the progress needs more memory than there is beside the state of the "
                "training; the run goes on without pictures"
            )
            return
        multihost.by_lead(partial(self._write, int(current.step), picture))

    def _picture(self, current: TrainState) -> np.ndarray:
        """(h, w, 3) uint8, in every process."""
        with closing(self._showing) as source:
            source.restore(self._starts[1])
            batch = next(source)
        params = {**self._frozen, **current.result}
        return self._run.objective.show(params, batch, self._run.key(SHOWING), self._whole)

    def _write(self, step: int, picture: np.ndarray) -> None:
        folder = self._run.workdir / SAMPLES
        with output.explained(folder):
            folder.mkdir(exist_ok=True)
            image.write_png(folder / f"{step:07d}.png", picture)
