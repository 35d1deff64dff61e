"""What decoding a whole video shows: times, size, damage (host code).

Everything about a video comes from the frames that decode and their times: what a container
announces is only compared with it.
"""

from __future__ import annotations

import os
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np

from dispose_jax.media import reading, shown, timeline

USUAL_RATE = 25  # frames per second where neither times nor the file tell one
MOVING_PICTURES = ("gif", "apng")  # formats whose shortest frames browsers show for longer


class Scan(NamedTuple):
    """What decoding a video, or its first frames, showed."""

    times: np.ndarray  # (n,) seconds in the file's clock, n >= 1
    height: int
    width: int
    pixel_aspect: Fraction  # width over height of a stored pixel, turned as the picture is shown
    stated: Fraction | None  # the container's rate
    damage: tuple[str, ...]  # sentences on frames that are missing
    notes: tuple[str, ...]  # sentences on what is converted or mended
    leaps: tuple[float, ...]  # seconds of the clock, forth or back, that are closed up in times
    complete: bool  # False if decoding stopped before the end, as asked

    @property
    def warnings(self) -> tuple[str, ...]:
        """All that deserves to be told."""
        return self.damage + self.notes


def scan(path: str | os.PathLike, most: int | None = None) -> Scan:
    """Decode a video, or only so many first frames of it, without converting or keeping any.

    What was found is remembered while the file stays as it is. Raises ValueError if the file is
    missing, damaged beyond use, no video or without frames, and where the picture size changes.
    """
    try:
        state = os.stat(path)
    except OSError:
        state = None
    return _scan(os.fspath(path), state and (state.st_size, state.st_mtime_ns, state.st_ino), most)


@lru_cache(maxsize=32)
def _scan(path: str, _state: tuple | None, most: int | None) -> Scan:
    """`scan` of a file in a state, which are what is remembered."""
    with reading.opened(path) as (container, stream):
        guessed = stream.guessed_rate
        stated = stream.average_rate or guessed
        length = stream.duration and stream.duration * stream.time_base
        # Formats of broadcasts and discs are cut and joined without a look at the clock.
        one_clock = not container.format.flags & av.format.Flags.ts_discont.value
        announced, kind = reading.announced(container), container.format.name
        decoded = reading.Decoding(container, stream)
        times, view, size, notes, complete = [], None, None, [], True
        for frame in decoded:
            times.append(_time(frame))
            view = view or reading.view_of(container, stream, frame)
            size = reading.check_size(path, frame, view, size)
            if len(times) == 1 and (name := shown.hdr(frame)):
                notes.append(f"holds high dynamic range ({name}), which is brought into BT.709")
            if len(times) == most:
                complete = False
                break
    if size is None:
        raise _empty(path, kind)
    if np.isnan(times).all():  # a bare stream, whose average rate is FFmpeg's own
        stated = guessed or stated
    interval = 1 / (float(stated) if stated else USUAL_RATE)
    times = np.array(times)
    if kind in MOVING_PICTURES:
        times = timeline.as_browsers(times)
    known = times[np.isfinite(times)]
    # A leap by damage makes a file longer than it says.
    fits = announced is None or not len(known) or np.ptp(known) <= announced + 1
    may_pause = (one_clock and fits) or timeline.go_on(np.array(decoded.beside), known)
    times, leaps = timeline.mended(times, interval, may_pause=may_pause)
    notes += [
        f"its clock leaps by {by:.2f} s at {at:.2f} s; the leap is closed up" for at, by in leaps
    ]
    damage = decoded.damage
    if complete and not damage and not leaps:
        if length and announced is not None:
            length -= times[0]  # by which the track begins later than its file
        damage += _too_few(times, stated, length)
    named = lambda clauses: tuple(f"{path}: {clause}" for clause in clauses)
    closed = tuple(by for _, by in leaps)
    pixel = 1 / view.aspect if view.turn.transpose else view.aspect
    return Scan(times, *size, pixel, stated or None, named(damage), named(notes), closed, complete)


def _time(frame: av.VideoFrame) -> float:
    """A frame's seconds in the file's clock, NaN where it has none."""
    # Without a time of its own the decoding time is as good; AVI has nothing else.
    stamp = frame.pts if frame.pts is not None else frame.dts
    return np.nan if stamp is None else float(stamp * frame.time_base)


def _empty(path: str, kind: str) -> ValueError:
    """The error for a file of FFmpeg's format `kind` of which no frame decodes."""
    reason = "the file is truncated or corrupt"
    if kind == "webp_pipe":
        reason = "a moving WebP picture cannot be read; convert it to MP4 or GIF first"
    return ValueError(f"{path}: the video holds no frames that can be decoded; {reason}")


def _too_few(times: np.ndarray, stated: Fraction | None, length: Fraction | None) -> list[str]:
    """A clause if the frames are fewer than a header with the track's length in seconds and a
    constant rate promises."""
    if not length or not stated or len(times) < 2:
        return []
    if times[-1] <= times[0] or timeline.rate(times, stated) != stated:
        return []
    promised = round(length * stated)
    # The last frame may be announced to stay longer, and reordering to take time.
    if promised <= len(times) + 3:
        return []
    return [
        f"holds {len(times)} of the {promised} frames that it announces; it is truncated or corrupt"
    ]
