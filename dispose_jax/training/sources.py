"""Where batches come from: drawn people or a prepared set, made before a step needs them."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dispose_jax.data.loader import PreparedBatches
from dispose_jax.synthetic.batches import HELD_OUT, DrawnBatches
from dispose_jax.types import Batch

AHEAD = 2  # batches


class Source(Protocol):
    """Endless batches of this process's clips, whose position can be saved."""

    def __next__(self) -> Batch: ...

    def state(self) -> dict:
        """The position, plain JSON."""
        ...

    def restore(self, state: dict) -> None:
        """Continue as the source that gave the state would have."""
        ...

    def close(self) -> None: ...


def open_source(config, rows: Sequence[int] | None = None) -> Source:
    """The source that `config.data.source` names; rows: which clips of every batch it is to make.

    Raises ValueError if there is none, or if it does not fit the config.
    """
    if config.data.source == "synthetic":
        return DrawnBatches(config, rows)
    if not config.data.source:
        raise ValueError(
            "--config.data.source is empty: name a set made by python -m dispose_jax.data.prepare, "
            "or 'synthetic' for drawn people"
        )
    if not Path(config.data.source).is_dir():
        raise ValueError(
            f"--config.data.source {config.data.source}: no such folder; name a set made by "
            "python -m dispose_jax.data.prepare, or 'synthetic' for drawn people"
        )
    return PreparedBatches(config.data.source, config, rows)


def check_weights(source: Source, config, digests: Mapping[str, str]) -> None:
    """Raise ValueError if a prepared set stores results of other networks than the run's.

    digests: {network: SHA-256} of the run's weights.
    """
    if not isinstance(source, PreparedBatches):
        return
    made_with = source.meta["weights"]
    extractor = [name for name in made_with if name.startswith("dift_") and config.control.points]
    for stored, names in {"posterior": ["vae"], "point_features": extractor}.items():
        for name in names:
            known = made_with.get(name, {}).get("sha256")
            if source.meta[stored] is not None and known != digests.get(name):
                raise ValueError(
                    f"{config.data.source}: its stored {stored} come from another {name} "
                    f"than --weights gives; give that one, or "
                    "prepare the set again with this one"
                )


def region_in_doubt(source: Source, config) -> str | None:
    """A sentence if the loss is to weigh more in a region that a prepared set seems to have
    nowhere, as of hands where pose files have the body alone."""
    region = config.train.region
    if region == "none" or not isinstance(source, PreparedBatches) or source.shows_region():
        return None
    return (
        f"train.region is {region!r}, but no clip of {config.data.source} that was looked at shows "
        "it surely, and where there is none, the loss weighs all places alike; do the pose files "
        "have these points?"
    )


def held_out(config, clips: int, rows: Sequence[int] | None = None) -> Source:
    """Batches of so many clips that nothing is learnt from, always the same ones in one order.

    Drawn people whom training never shows, or the clips that a prepared set keeps back
    (`data.held_out`), over and over; all of the set's if it keeps none. rows: as in open_source.
    """
    config = copy.deepcopy(config)
    config.train.batch = clips
    config.data.workers = 0  # a few clips are ready before processes have started
    if config.data.source == "synthetic":
        return DrawnBatches(config, rows, people=HELD_OUT)
    return PreparedBatches(config.data.source, config, rows, held_out=True)


class Prefetcher:
    """The batches of a source, made by a thread while the device works.

    `position` is that of the source after the batch last taken, whatever was made ahead of it.
    """

    def __init__(self, source: Source):
        self._source, self.position = source, source.state()
        self._made: queue.Queue = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def __next__(self) -> Batch:
        made = self._made.get()
        if isinstance(made, BaseException):
            self._made.put(made)  # whoever asks again must not wait for ever
            raise made
        batch, self.position = made
        return batch

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():  # it may wait for room
            try:
                self._made.get(timeout=0.05)
            except queue.Empty:
                pass
        self._source.close()

    def _make(self) -> None:
        try:
            while not self._closed.is_set():
                self._put((next(self._source), self._source.state()))
        except BaseException as error:  # shown where the batch is missed
            self._put(error)

    def _put(self, item) -> None:
        while not self._closed.is_set():
            try:
                return self._made.put(item, timeout=0.2)
            except queue.Full:
                pass
