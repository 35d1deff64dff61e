"""Training batches from a prepared set, read ahead by grain (host code).

Which clip stands where in which batch follows from the seed and the position alone: it does not
depend on the number of processes, of readers, or on where a run was interrupted.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import grain
import numpy as np
from absl import flags

from dispose_jax import ending
from dispose_jax.counting import counted
from dispose_jax.data import examples, records
from dispose_jax.data.records import PreparedClips, Record
from dispose_jax.types import Batch, Impulses

LOOKED_AT = 64  # videos whose poses `PreparedBatches.shows_region` knows
_KILLED = "was terminated unexpectedly"  # what grain says of a process


@dataclass(frozen=True)
class Share:
    """The rows of every batch of `batch` clips that one process makes."""

    batch: int
    rows: tuple[int, ...]

    def place(self, i: int) -> int:
        """Where this process's i-th clip is in the sequence of all clips."""
        return i // len(self.rows) * self.batch + self.rows[i % len(self.rows)]


def kept_back(clips: PreparedClips, count: int) -> np.ndarray:
    """Which clips of a set nothing is learnt from, (clips,) bool: at least `count`, none for 0.

    All clips of a video are, or none, as they are alike. Which videos follows from the digests of
    their files' names.
    """
    names, ends = clips.names, clips.ends
    numbers = np.arange(len(clips))
    back = np.zeros(len(clips), bool)
    for file in sorted(range(len(names)), key=lambda i: zlib.crc32(names[i].encode())):
        if back.sum() >= count:
            break
        back |= np.searchsorted(ends, numbers, side="right") == file
    return back


@dataclass(frozen=True)
class ExampleMaker:
    """A clip of the set -> an example of a layout; a class, as it is sent to reading processes."""

    layout: examples.Layout
    frames: int
    use_guides: bool
    use_features: bool

    def __call__(self, record: Record) -> Batch:
        first = slice(self.frames)
        guides = features = posterior = None
        if self.use_guides and record.guides is not None:
            guides = Impulses(*(leaf[first] for leaf in record.guides))
        if self.use_features and record.point_features is not None:
            features = record.point_features.astype(np.float32)
        if record.posterior is not None:
            posterior = record.posterior[first]
        return examples.make(
            self.layout,
            record.frames[first],
            record.pose.at(first),
            guides=guides,
            point_features=features,
            posterior=posterior,
        )


class PreparedBatches:
    """Batches of the clips that are learnt from, for ever; every epoch in another order.

    held_out: those that are kept back instead, all if none are, always in the set's order.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config,
        rows: Sequence[int] | None = None,
        *,
        held_out: bool = False,
    ):
        """rows: which clips of every batch to make, all if None. Raises ValueError if the set does
        not fit the config or holds less than a batch to learn from."""
        batch, data = config.train.batch, config.data
        self.meta = records.check(folder, config)
        clips = PreparedClips(folder)
        back = kept_back(clips, data.held_out)
        chosen = np.flatnonzero(back if held_out else ~back)
        if not held_out and len(chosen) < batch:
            left = f"{back.sum()} are kept back (data.held_out) and {len(chosen)} are left"
            kept = f", of which {left}" if back.any() else ""
            lower = "train.batch or data.held_out" if kept else "train.batch"
            raise ValueError(
                f"{folder}: holds {counted(len(clips), 'clip')}{kept}, less than a batch of "
                f"{batch}; prepare more videos, raise data.clips_per_video, or lower {lower}"
            )
        if not len(chosen):
            chosen = np.arange(len(clips))
        self._share = Share(batch, tuple(range(batch)) if rows is None else tuple(rows))
        self._workers, self._ahead = data.workers, data.prefetch
        self._identity = {
            "set": zlib.crc32(" ".join(clips.names).encode()),
            "seed": config.seed,
            "batch": batch,
            "held_out": data.held_out,
        }
        self._clips, self._layout = clips, examples.layout(config)
        maker = ExampleMaker(
            layout=self._layout,
            frames=config.train.frames,
            use_guides=records.has_guides(config),
            use_features=bool(config.control.points),
        )
        order = grain.MapDataset.range(len(chosen))
        order = (order if held_out else order.seed(config.seed).shuffle()).repeat(None)
        place = self._share.place
        made = lambda i: maker(clips[int(chosen[order[place(i)]])])
        endless = grain.MapDataset.range(sys.maxsize // batch)
        self._examples = endless.map(made)
        self._next = 0
        self._iterator: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        """The next batch, leaves (b, ...). Raises ValueError if a clip of it is damaged, or if a
        process that reads was killed."""
        if self._iterator is None:
            self._iterator = self._start()
        try:
            batch = next(self._iterator)
        except RuntimeError as error:
            if _KILLED not in str(error):
                raise
            raise ValueError(
                "a process that reads clips was killed, perhaps for want of memory; lower "
                f"--config.data.workers (now {self._workers}), the same command continues"
            ) from error
        self._next += 1
        return batch

    def shows_region(self) -> bool:
        """Whether the layout's region is anywhere in the first clips of up to LOOKED_AT of the
        set's videos: all clips of one have the keypoints of one pose file or detector."""
        firsts = self._clips.ends - np.diff(self._clips.ends, prepend=0)
        some = np.linspace(0, len(firsts) - 1, min(len(firsts), LOOKED_AT)).astype(int)
        layout = replace(self._layout, region_weight=2.0)  # any but 1 shows it
        poses = (self._clips[int(firsts[i])].pose for i in some)
        return any((examples.region(layout, pose) > 1).any() for pose in poses)

    def state(self) -> dict:
        """The position, plain JSON: what `restore` takes."""
        return {"next": self._next, **self._identity}

    def restore(self, state: dict) -> None:
        """Continue as the source that gave the state would have.

        Raises ValueError if that one had another set, seed or batch: the order would be another.
        """
        wrong = [name for name, value in self._identity.items() if state.get(name) != value]
        if wrong:
            found = ", ".join(f"{name} was {state.get(name)}" for name in wrong)
            now = ", ".join(f"{self._identity[name]}" for name in wrong)
            raise ValueError(
                f"the run cannot continue in the order of its data: {found}, now {now}; give it "
                "the same prepared set, seed and train.batch"
            )
        self.close()
        self._next = int(state["next"])

    def close(self) -> None:
        """Stop reading ahead; the next batch starts it again."""
        if self._iterator is not None and hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = None

    def _start(self) -> Iterator[Batch]:
        """Batches from self._next on, read by threads or by processes."""
        rows = len(self._share.rows)
        rest = self._examples[self._next * rows :]
        threads = grain.ReadOptions(
            num_threads=min(16, os.cpu_count() or 1, self._ahead),
            prefetch_buffer_size=self._ahead,
        )
        if not self._workers:
            return iter(rest.to_iter_dataset(threads).batch(rows, batch_fn=examples.stack))
        # Processes take turns, a whole batch each, so batches are put together inside them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads its flags when it starts a process
        per_worker = max(1, self._ahead // (rows * self._workers))
        batches = rest.batch(rows, batch_fn=examples.stack).to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=per_worker)
        )
        options = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=per_worker)
        return iter(batches.mp_prefetch(options, worker_init_fn=ending.follow_parent))
