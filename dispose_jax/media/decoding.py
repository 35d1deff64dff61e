"""Opening videos and decoding them frame by frame, as far as they go (host code, PyAV).

Everything about a video comes from the frames that decode and their times: what a container
announces is only compared with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from dispose_jax.media import shown, timeline

MOST_PIXELS = 2**26  # of a frame, stored or shown: twice 8K
ANNOUNCING = ("mov", "matroska", "avi", "asf", "flv")  # whose headers tell the length
USUAL_RATE = 25  # frames per second where neither times nor the file tell one
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave out WebM's alpha
MOVING_PICTURES = ("gif", "apng")  # formats whose shortest frames browsers show for longer
PLAYLISTS = ("hls", "concat")  # formats whose files name others in place of holding pictures


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


def url(path: str | os.PathLike) -> str:
    """The name by which FFmpeg opens a file: without the protocol it would take "12:30.mp4" for
    one of a protocol named 12."""
    return f"file:{os.fspath(path)}"


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple]:
    """The container and its default video stream; errors of reading become one sentence."""
    if not Path(path).exists():
        raise ValueError(f"{path}: no such video; check the path")
    try:
        # Tags may be in any encoding; nothing here reads them.
        with av.open(url(path), metadata_errors="ignore") as container:
            yield container, _default(path, container)
    except (av.error.InvalidDataError, av.error.EOFError, av.error.DecoderNotFoundError) as error:
        raise ValueError(
            f"{path}: not a video that can be read, or it is truncated or corrupt"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot read this video: {error.strerror}") from error


def packets(container, *streams) -> Iterator[av.Packet]:
    """The packets of some tracks, of all by default, and those that end them."""
    try:
        yield from container.demux(*streams)
    except IndexError:  # PyAV's, of a track that appeared midway; all known ones have ended by then
        return


def frames(path: str | os.PathLike, wanted: Callable[[int], bool]) -> Iterator[np.ndarray]:
    """The frames of wanted numbers as they are shown, (h, w, 3) uint8 RGB.

    The others are decoded but never converted. Raises ValueError where the size changes, and for
    colours that FFmpeg does not convert.
    """
    with opened(path) as (container, stream):
        view = first = None
        for i, frame in enumerate(shown.deinterlaced(_decoded(container, stream, [], []))):
            view = view or _view(container, stream, frame)
            first = _check_size(path, frame, view, first)
            if wanted(i):
                try:
                    picture = shown.picture(frame, view)
                except av.error.FFmpegError as error:
                    raise ValueError(
                        f"{path}: colours ({frame.format.name}, matrix {int(frame.colorspace)} of "
                        "ISO 23091-2) that FFmpeg cannot bring into RGB; convert it to BT.709 first"
                    ) from error
                yield picture


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
    with opened(path) as (container, stream):
        guessed = stream.guessed_rate
        stated = stream.average_rate or guessed
        length = stream.duration and stream.duration * stream.time_base
        # Formats of broadcasts and discs are cut and joined without a look at the clock.
        one_clock = not container.format.flags & av.format.Flags.ts_discont.value
        announced, kind = _announced(container), container.format.name
        times, view, first, damage, notes, beside = [], None, None, [], [], []
        for frame in _decoded(container, stream, damage, beside):
            # Without a time of its own the decoding time is as good; AVI has nothing else.
            stamp = frame.pts if frame.pts is not None else frame.dts
            times.append(np.nan if stamp is None else float(stamp * frame.time_base))
            view = view or _view(container, stream, frame)
            first = _check_size(path, frame, view, first)
            if len(times) == 1 and (name := shown.hdr(frame)):
                notes.append(f"holds high dynamic range ({name}), which is brought into BT.709")
            if len(times) == most:
                break
        else:
            most = None
    if first is None:
        reason = "the file is truncated or corrupt"
        if kind == "webp_pipe":
            reason = "a moving WebP picture cannot be read; convert it to MP4 or GIF first"
        raise ValueError(f"{path}: the video holds no frames that can be decoded; {reason}")
    if np.isnan(times).all():  # a bare stream, whose average rate is FFmpeg's own
        stated = guessed or stated
    interval = 1 / (float(stated) if stated else USUAL_RATE)
    times = np.array(times)
    if kind in MOVING_PICTURES:
        times = timeline.as_browsers(times)
    known = times[np.isfinite(times)]
    # A leap by damage makes a file longer than it says.
    fits = announced is None or not len(known) or np.ptp(known) <= announced + 1
    may_pause = (one_clock and fits) or timeline.go_on(np.array(beside), known)
    times, leaps = timeline.mended(times, interval, may_pause=may_pause)
    notes += [
        f"its clock leaps by {by:.2f} s at {at:.2f} s; the leap is closed up" for at, by in leaps
    ]
    counted = most is None and not damage and not leaps
    if length and announced is not None:
        length -= times[0]  # by which the track begins later than its file
    promised = _promised(times, stated, length) if counted else 0
    # The last frame may be announced to stay longer, and reordering to take time.
    if promised > len(times) + 3:
        damage.append(
            f"holds {len(times)} of the {promised} frames that it announces; it is truncated or "
            "corrupt"
        )
    named = lambda clauses: tuple(f"{path}: {clause}" for clause in clauses)
    closed, complete = tuple(by for _, by in leaps), most is None
    pixel = 1 / view.aspect if view.turn.transpose else view.aspect
    return Scan(times, *first, pixel, stated or None, named(damage), named(notes), closed, complete)


def _default(path: str | os.PathLike, container):
    """The video stream that a player shows: the default one, else the first; covers are none, nor
    single pictures beside others, such as the first one of a moving AVIF."""
    if container.format.name in PLAYLISTS:
        raise ValueError(
            f"{path}: a playlist, which only names videos; join them into one file first"
        )
    streams = list(container.streams.video)
    if not streams:
        raise ValueError(f"{path}: holds no video stream, expected a video")
    is_default = av.stream.Disposition.default
    is_cover = av.stream.Disposition.attached_pic
    streams = [s for s in streams if not s.disposition & is_cover] or streams
    streams = [s for s in streams if s.frames != 1] or streams
    stream = next((s for s in streams if s.disposition & is_default), streams[0])
    if stream.codec_context is None:
        raise ValueError(
            f"{path}: the file is truncated or corrupt, or in a format without a decoder here"
        )
    if stream.codec_context.width * stream.codec_context.height > MOST_PIXELS:
        raise ValueError(
            f"{path}: pictures of {stream.codec_context.width} x {stream.codec_context.height}"
            " pixels are too large; scale the video down first"
        )
    stream.thread_type = "AUTO"
    return stream


def _decoded(container, stream, damage: list[str], beside: list[float]) -> Iterator[av.VideoFrame]:
    """The frames that decode, in order; clauses on what does not go to damage, and when packets of
    other tracks end, in seconds, to beside.

    Decoding goes on after damage, and ends where the file does.
    """
    decode = _decoder(stream)
    broken = lost = 0
    earliest = end = None  # of the packets so far, seconds
    started, whole = False, None  # whole: a key frame has come, which needs no other
    last, durations = 0.0, set()  # durations of packets, in their own units
    try:
        for packet in packets(container):
            packet_end = _end(packet)
            if packet_end is not None:
                end = packet_end if end is None else max(end, packet_end)
                durations.add(packet.duration or 0)
            if packet.stream.index != stream.index:
                if packet_end is not None:
                    beside.append(packet_end)
                continue
            if whole is None and packet.size:
                whole = packet.is_keyframe
            shows = packet.size and packet.pts is not None and not packet.is_discard
            if shows and not started:
                start = float(packet.pts * packet.time_base)
                earliest = start if earliest is None else min(earliest, start)
            try:
                decoded = decode(packet)
            except av.error.FFmpegError:
                broken += started and bool(packet.size)
                continue
            for frame in decoded:
                whole = whole or frame.key_frame
                if frame.is_corrupt or not whole:
                    lost += started
                    continue
                if not started and frame.pts is not None and earliest is not None:
                    missing = float(frame.pts * frame.time_base) - earliest
                    if missing > 1 / 100:
                        damage.append(
                            f"its first {missing:.2f} s need a picture that was cut away; it is "
                            "used from where it can be decoded"
                        )
                started = True
                if frame.pts is not None:
                    last = float(frame.pts * frame.time_base)
                yield frame
    except (av.error.FFmpegError, OSError):
        damage.append(f"cannot be read on after {last:.2f} s; it is used as far as it goes")
        return
    if broken or lost:
        damage.append(
            f"damaged frames are left out, {broken + lost} in all; it is truncated or corrupt"
        )
    announced = _announced(container)
    # The end is known to a frame unless some last for no time that the file tells.
    tolerance = 0.04 if durations - {0, 1} and 0 not in durations else 0.25
    if announced and end is not None and announced - end > tolerance:
        damage.append(
            f"ends at {end:.2f} s of the {announced:.2f} s that it announces; it is truncated, and "
            "used as far as it goes"
        )


def _decoder(stream) -> Callable[[av.Packet], list[av.VideoFrame]]:
    """What makes frames of a stream's packets, with its alpha if it has one."""
    name = WITH_ALPHA.get(stream.codec_context.name)
    tags = {tag.lower(): value for tag, value in stream.metadata.items()}  # as FFmpeg takes them
    if tags.get("alpha_mode") != "1" or name not in av.codecs_available:
        return stream.decode
    context = av.CodecContext.create(name, "r")

    def decode(packet: av.Packet) -> list[av.VideoFrame]:
        found = context.decode(packet if packet.size else None)
        for frame in found:
            frame.key_frame = packet.is_keyframe  # which libvpx does not say
        return found

    return decode


def _view(container, stream, frame: av.VideoFrame) -> shown.View:
    """How the frames of a stream are shown, by the first of them."""
    # The fourth byte of an uncompressed AVI's pixels means nothing, and is mostly 0.
    opaque = container.format.name == "avi" and stream.codec_context.name == "rawvideo"
    return shown.view(frame, stream.sample_aspect_ratio, opaque=opaque)


def _end(packet) -> float | None:
    """When a packet ends, in seconds."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None or not packet.size or not packet.time_base:
        return None
    return float((stamp + (packet.duration or 0)) * packet.time_base)


def _announced(container) -> float | None:
    """Seconds that the file's header promises."""
    if container.duration and container.format.name.startswith(ANNOUNCING):
        return container.duration / av.time_base
    return None


def _promised(times: np.ndarray, stated: Fraction | None, length: Fraction | None) -> int:
    """How many frames a header with the track's length in seconds and a constant rate promises."""
    if not length or not stated or len(times) < 2:
        return 0
    if times[-1] <= times[0] or timeline.rate(times, stated) != stated:
        return 0
    return round(length * stated)


def _check_size(
    path: str | os.PathLike,
    frame: av.VideoFrame,
    view: shown.View,
    first: tuple[int, int] | None,
) -> tuple[int, int]:
    """The frame's shown size; a ValueError where it is another than the first one's."""
    found = shown.size(frame, view)
    if found[0] * found[1] > MOST_PIXELS:
        raise ValueError(
            f"{path}: pictures of {found[1]} x {found[0]} pixels are too large; scale the video "
            "down first"
        )
    if first is not None and found != first:
        raise ValueError(
            f"{path}: the picture size changes from {first[1]} x {first[0]} to"
            f" {found[1]} x {found[0]}; convert the video to one size first"
        )
    return found
