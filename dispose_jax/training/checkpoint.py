"""Checkpoints of a run: state and data position, written in the background, whole or not at all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from dispose_jax import memory
from dispose_jax.media import output
from dispose_jax.training import multihost
from dispose_jax.training.state import TrainState

_KILLED = "*.orbax-checkpoint-tmp*"  # what orbax writes to until a checkpoint is whole
_REASONS = ("No space left on device", "Disk quota exceeded", "File too large")


class Checkpoints:
    """The checkpoints in a folder. Frozen networks are not in them: they come from their bundles.

    keep: how many, the newest. Raises ValueError or OSError with one sentence if the folder cannot
    be used.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = folder
        # Orbax would tell what is wrong with the folder when it saves first, hours from now.
        multihost.by_lead(partial(_prepare, folder))
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)
        _ignore_late_reports()

    @property
    def latest(self) -> int | None:
        """Steps done in the newest whole checkpoint, None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, position: dict) -> None:
        """Begin to write; the state may be changed as soon as this returns."""
        step = int(state.step)
        if step == self.latest:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(position)
        )
        with self._explained():
            self._manager.save(step, args=items, force=True)

    def restore(self, shapes: TrainState, shardings: TrainState) -> tuple[TrainState, dict]:
        """The newest state, laid out like this whatever it was saved from, and the data's position.

        shapes: of the state, from jax.eval_shape.
        """
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(self.latest, args=items)
        except Exception as error:  # orbax and its threads raise any kind
            if memory.is_exhausted(error):
                raise
            raise ValueError(
                f"{self._folder / str(self.latest)}: cannot be restored ({_first_line(error)}); "
                "remove this checkpoint to continue from an earlier one, or choose another "
                "--workdir"
            ) from error
        return restored["state"], restored["data"]

    def wait(self) -> None:
        """Until all that was begun is on the disk. Raises ValueError if it could not be written."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Raises ValueError as `wait` does."""
        with self._explained():
            self._manager.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what went wrong while writing, perhaps in the background, into one sentence."""
        try:
            yield
        except Exception as error:  # orbax and its threads raise any kind
            raise ValueError(
                f"{self._folder}: a checkpoint could not be written ({_first_line(error)}); the "
                "same command continues from the last one that was, once there is room for it"
            ) from error


def _prepare(folder: Path) -> None:
    """Make the folder, and delete what processes left that were killed while they wrote."""
    with output.explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    output.try_out(folder / "checkpoint")
    for left in folder.glob(_KILLED):
        try:
            shutil.rmtree(left)
        except OSError as error:
            raise ValueError(
                f"{left}: was left by a save that was killed, and cannot be deleted "
                f"({error.strerror}); delete it and run the same command again"
            ) from error


@cache
def _ignore_late_reports() -> None:
    """From now on, do not print what follows a failed read or write, which is told itself: others
    still report to orbax's event loop when that has been closed, even after the last one's end,
    and coroutines that nobody waited for tell of their own failure when they are given up."""
    before = sys.unraisablehook

    def tell(unraisable) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        is_orbax = code is not None and "orbax" in code.co_filename
        if not is_orbax and str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = tell


def _first_line(error: Exception) -> str:
    """What went wrong; of a full disk that alone, as orbax hides it behind long paths."""
    text = str(error.__cause__ or error)  # orbax wraps what was wrong in what it tried
    known = next((reason for reason in _REASONS if reason in text), None)
    return known or (text.splitlines() or [type(error).__name__])[0][:200]
