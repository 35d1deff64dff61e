"""Videos: choosing and reading frames by the released frame-rate rule, H.264 encoding (host code).

Frames are uint8 RGB, (h, w, 3), as a player shows them (shown.py). Decoding is streamed: a frame
that the stride skips is never converted or kept.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from dispose_jax.counting import counted
from dispose_jax.media import output, reading, scanning, timeline
from dispose_jax.media.sound import Sound, beside

FILM_RATE = 24  # frames per second; the stride grows with every whole multiple of it
SMALLEST_COUNT = 2  # driving frames; one is a picture
# What cameras, browsers and broadcasters write.
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".webm", ".mkv", ".avi", ".divx", ".wmv", ".asf", ".flv"),
    *(".f4v", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts", ".3gp", ".3g2", ".ogv"),
    *(".mxf", ".rm", ".rmvb", ".dv", ".gif"),
)
CRF = 17  # x264's constant quality: no visible loss


class Info(NamedTuple):
    """A video as its frames tell; sizes are those of the picture as it is shown."""

    fps: Fraction  # average, from the times of the frames
    num_frames: int  # that decode
    height: int
    width: int
    warnings: tuple[str, ...] = ()  # sentences on what is damaged, cut away or converted
    damage: tuple[str, ...] = ()  # those of them by which frames are missing
    pixel_aspect: Fraction = Fraction(1)  # of those stored, which many tools take for square


class Chosen(NamedTuple):
    """The frames of a video that sampling uses, and what they belong to."""

    numbers: np.ndarray  # (n,) ascending; one may stand twice where the rate drops
    stride: int
    fps: Fraction  # of the source, before the stride
    height: int
    width: int
    span: tuple[float, float]  # seconds of the file's clock from the first to after the last
    leaps: tuple[float, ...]  # of that clock, in order, seconds that are closed up
    warnings: tuple[str, ...]


class Video(NamedTuple):
    """The frames of a video that are used."""

    frames: np.ndarray  # (n, h, w, 3) uint8
    stride: int
    info: Info  # of the source, before the stride


def stride_for(fps: float | Fraction, sample_stride: int) -> int:
    """Every how-many-th frame is used: sample_stride times the whole part of fps / 24, at least 1.

    sample_stride >= 1 is chosen for some 30 fps, where 2 gives the 15 fps of the released models.
    """
    if sample_stride < 1:
        raise ValueError(f"stride {sample_stride}: must be 1 (every frame) or more")
    return sample_stride * max(1, int(fps / FILM_RATE))


def count_used(path: str | os.PathLike, num_frames: int, stride: int) -> int:
    """How many of num_frames a stride leaves. Raises ValueError if that is no motion: under two."""
    used = -(-num_frames // stride)
    if num_frames < SMALLEST_COUNT:
        raise ValueError(
            f"{path}: holds {counted(num_frames, 'frame')},"
            f" expected a moving picture of {SMALLEST_COUNT} or more"
        )
    if used < SMALLEST_COUNT:
        raise ValueError(
            f"{path}: of its {num_frames} frames a stride of {stride} leaves {used}, expected"
            f" {SMALLEST_COUNT} or more; lower the stride"
        )
    return used


def probe(path: str | os.PathLike) -> Info:
    """Frame rate, number of frames and size, from decoding all frames without converting any.

    Remembered while the file stays as it is. Raises ValueError if the file is missing, damaged
    beyond use, no video or without frames, and where the picture size changes.
    """
    found = scanning.scan(path)
    fps = _fps(found)
    warnings = found.warnings
    if timeline.varies(found.times, fps):
        steps = np.diff(found.times)
        fastest, slowest = 1 / np.maximum(np.percentile(steps, [5, 100]), 1e-3)
        warnings += (
            f"{path}: its frame rate varies between some {slowest:.3g} and {fastest:.3g} frames per"
            " second; frames are taken evenly in time",
        )
    size, aspect = (found.height, found.width), found.pixel_aspect
    return Info(fps, len(found.times), *size, warnings, found.damage, aspect)


def times(path: str | os.PathLike) -> np.ndarray:
    """When each frame is shown, (n,) float64 seconds in the file's clock; errors as of `probe`."""
    return scanning.scan(path).times


def turns(path: str | os.PathLike) -> np.ndarray:
    """When each frame is shown, (n,) float64 in frames of the video's rate: 0, 1, 2, ... unless the
    rate varies; errors as of `probe`."""
    found = scanning.scan(path)
    fps = _fps(found)
    if not timeline.varies(found.times, fps):
        return np.arange(len(found.times), dtype=np.float64)
    return (found.times - found.times[0]) * float(fps)


def choose(path: str | os.PathLike, sample_stride: int, max_frames: int = 0) -> Chosen:
    """Which frames sampling uses, at most max_frames (0: all), `stride_for` the video's rate.

    Frames are taken evenly in time; a constant rate gives frames 0, stride, 2 stride, ... Of a
    video whose first frames follow each other as its header says, no more than those are decoded.
    Raises ValueError as `probe` does, and if fewer than two frames are used.
    """
    if max_frames:
        head = scanning.scan(path, _most_needed(path, sample_stride, max_frames))
        if head.stated and timeline.steady(head.times, head.stated) and not head.complete:
            stride = stride_for(head.stated, sample_stride)
            return _chosen(head, np.arange(max_frames) * stride, stride, head.stated, head.warnings)
    found, info = scanning.scan(path), probe(path)
    stride = stride_for(info.fps, sample_stride)
    count_used(path, info.num_frames, stride)
    numbers = timeline.numbers(found.times, info.fps, stride)[: max_frames or None]
    return _chosen(found, numbers, stride, info.fps, info.warnings)


def frames(path: str | os.PathLike, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames of ascending numbers one by one, (h, w, 3) uint8: a video need not fit memory.

    Errors as of `pick`.
    """
    count = Counter(int(number) for number in numbers)
    for number, frame in pick(path, count):
        yield from itertools.repeat(frame, count[number])


def read(path: str | os.PathLike, sample_stride: int, max_frames: int = 0) -> Video:
    """The frames that sampling uses as one array, errors as of `choose`."""
    chosen = choose(path, sample_stride, max_frames)
    content = np.empty((len(chosen.numbers), chosen.height, chosen.width, 3), np.uint8)
    for place, frame in zip(content, frames(path, chosen.numbers), strict=True):
        place[:] = frame
    return Video(content, chosen.stride, probe(path))


def iterate(path: str | os.PathLike, stride: int) -> Iterator[np.ndarray]:
    """Frames 0, stride, 2 stride, ... by number, one by one, (h, w, 3) uint8."""
    return reading.frames(path, lambda i: i % stride == 0)


def pick(path: str | os.PathLike, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of some numbers, (number, (h, w, 3) uint8) in order, each once.

    Decoding stops after the last one. Raises ValueError as `probe`, and if the video ends early.
    """
    numbers = sorted(set(wanted))
    found = reading.frames(path, set(numbers).__contains__)
    with closing(found):
        for number in numbers:
            frame = next(found, None)
            if frame is None:
                raise ValueError(
                    f"{path}: ends before frame {number}; it is truncated or corrupt, or holds "
                    "fewer frames than that"
                )
            yield number, frame


@contextmanager
def writer(
    path: str | os.PathLike, fps: float | Fraction, *, sound: Sound | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends frames (n, h, w, 3) uint8 to an H.264 MP4.

        with video.writer("out.mp4", 15) as write:
            for chunk in chunks:
                write(chunk)

    The file appears when the block ends well. An odd height or width grows by one repeated row or
    column, as 4:2:0 colour needs even ones. sound: what is to be heard from the first frame on.
    Raises ValueError for a wrong name, rate or shape and if no frame was written, OSError with one
    sentence on a full disk; then nothing is left behind.
    """
    path = output.prepare(path, ".mp4")
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 1000:
        raise ValueError(
            f"{path}: {float(fps):g} frames per second, expected more than 0, at most 1000"
        )
    with output.replacing(path) as temporary:
        movie = _Movie(path, temporary, rate, sound)
        try:
            yield movie.append
            movie.finish()
        except BaseException:
            # The first error is the one to tell; closing a broken file may raise another.
            with suppress(OSError, av.error.FFmpegError):
                movie.container.close()
            raise
        with output.explained(path):
            movie.container.close()


class _Movie:
    """A video that is being written under a temporary name; errors name the one it will have."""

    def __init__(self, path: Path, temporary: Path, rate: Fraction, sound: Sound | None):
        self.path, self.rate, self.sound = path, rate, sound
        with output.explained(path):
            self.container = _create(temporary)
        self.stream = None  # opened with the first frames, which tell the size
        self.heard: Iterator[tuple[float, av.Packet]] = iter(())  # packets of sound to come
        self.count = 0  # frames written

    def append(self, frames: np.ndarray) -> None:
        """Write frames (n, h, w, 3) uint8, and the sound that goes with them."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(
                f"{self.path}: frames of shape {frames.shape} and type {frames.dtype},"
                " expected (n, h, w, 3) uint8"
            )
        h, w = frames.shape[1:3]
        even_h, even_w = h + h % 2, w + w % 2
        if self.stream is None:
            self.stream = _add_stream(self.container, self.rate, even_h, even_w)
            self.heard = beside(self.container, self.sound) if self.sound else self.heard
        stream = self.stream
        if (stream.height, stream.width) != (even_h, even_w):
            raise ValueError(
                f"{self.path}: frames of {w} x {h} after frames of {stream.width} x {stream.height}"
            )
        with output.explained(self.path):
            for frame in frames:
                frame = np.pad(frame, [(0, even_h - h), (0, even_w - w), (0, 0)], mode="edge")
                picture = av.VideoFrame.from_ndarray(frame, "rgb24")
                self.container.mux(stream.encode(_to_yuv(picture)))
                self.count += 1
                _mux_until(self.container, self.heard, self.count / float(self.rate))

    def finish(self) -> None:
        """Write what the encoder still holds and the rest of the sound; the file is not closed."""
        if self.stream is None:
            raise ValueError(f"{self.path}: no frames to write")
        with output.explained(self.path):
            self.container.mux(self.stream.encode())
            _mux_until(self.container, self.heard, math.inf)


def try_out(path: str | os.PathLike) -> None:
    """Open and remove a video of that name, before any long work. Raises as `writer` would."""
    path = output.prepare(path, ".mp4")
    temporary = output.temporary(path)
    with output.explained(path):
        try:
            _create(temporary).close()
        finally:
            temporary.unlink(missing_ok=True)


def _create(path: os.PathLike):
    """A container to write a video to."""
    options = {"movflags": "faststart"}  # the index first: browsers start at once
    return av.open(reading.url(path), "w", format="mp4", options=options)


def _mux_until(container, heard: Iterator[tuple[float, av.Packet]], second: float) -> None:
    """Write the packets of sound up to a second and the first after it."""
    for at, packet in heard:
        container.mux(packet)
        if at > second:
            break


def write(
    path: str | os.PathLike, frames: np.ndarray | Iterable[np.ndarray], fps: float | Fraction
) -> None:
    """Write a whole video as `writer`: frames (n, h, w, 3) uint8, or an iterable of such chunks."""
    with writer(path, fps) as append:
        for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
            append(chunk)


def _fps(found: scanning.Scan) -> Fraction:
    """The rate of a video; of a single frame, or where time stands still, the one stated."""
    if len(found.times) > 1 and found.times[-1] > found.times[0]:
        return timeline.rate(found.times, found.stated)
    return found.stated or Fraction(scanning.USUAL_RATE)


def _most_needed(path: str | os.PathLike, sample_stride: int, max_frames: int) -> int:
    """How many frames have to be decoded for max_frames, if the rate is the stated one."""
    stated = scanning.scan(path, 1).stated
    return max(SMALLEST_COUNT, (max_frames - 1) * stride_for(stated or 1, sample_stride) + 1)


def _chosen(
    found: scanning.Scan, numbers: np.ndarray, stride: int, fps: Fraction, warnings: tuple
) -> Chosen:
    start = float(found.times[0])
    stop = start + len(numbers) * stride / float(fps)
    size, span = (found.height, found.width), (start, stop)
    return Chosen(numbers, stride, fps, *size, span, found.leaps, warnings)


def _add_stream(container, rate: Fraction, height: int, width: int):
    """An H.264 stream that says which colours it holds, so that no player guesses by the size."""
    stream = container.add_stream("libx264", rate=rate)
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = {"crf": str(CRF), "preset": "medium"}
    context = stream.codec_context
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries = context.color_trc = 1  # BT.709
    return stream


def _to_yuv(picture: av.VideoFrame) -> av.VideoFrame:
    """RGB -> 4:2:0 in BT.709's limited range."""
    return picture.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
    )
