"""Videos: decoding with the released frame-rate rule, H.264 encoding (host code, PyAV).

Frames are uint8 RGB, (h, w, 3), upright as the file's rotation says. Decoding is streamed: a frame
that the stride skips is never converted or kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from dispose_jax.media import output

FILM_RATE = 24  # frames per second; the stride grows with every whole multiple of it
SMALLEST_COUNT = 2  # driving frames; one is a picture
CRF = 17  # x264's constant quality: no visible loss


class Info(NamedTuple):
    """A video as it will be decoded; sizes are those of the upright picture."""

    fps: Fraction  # the container's average
    num_frames: int
    height: int
    width: int


class Video(NamedTuple):
    """The frames of a video that are used."""

    frames: np.ndarray  # (n, h, w, 3) uint8: frames 0, stride, 2 stride, ...
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
            f"{path}: holds {_frames(num_frames)},"
            f" expected a moving picture of {SMALLEST_COUNT} or more"
        )
    if used < SMALLEST_COUNT:
        raise ValueError(
            f"{path}: of its {num_frames} frames a stride of {stride} leaves {used}, expected"
            f" {SMALLEST_COUNT} or more; lower the stride"
        )
    return used


def probe(path: str | os.PathLike) -> Info:
    """Frame rate, number of frames and size, from all packets but only one decoded frame.

    Raises ValueError if the file is missing, damaged, no video or without frames.
    """
    with _opened(path) as (container, stream):
        num_packets = num_shown = 0
        for packet in container.demux(stream):
            num_packets += packet.pts is not None or packet.size > 0
            num_shown += packet.size > 0 and not packet.is_discard
        if num_packets < stream.frames:
            raise ValueError(
                f"{path}: holds {num_packets} of the {stream.frames} frames that it announces;"
                " the file is truncated or corrupt"
            )
        fps = stream.average_rate or stream.guessed_rate
    first = next(_decoded(path, lambda i: i == 0), None)
    if first is None or not num_shown:
        raise ValueError(f"{path}: the video holds no frames that can be decoded")
    if not fps:
        raise ValueError(f"{path}: the file does not say its frame rate; convert it to MP4 first")
    return Info(fps, num_shown, *first.shape[:2])


def read(path: str | os.PathLike, sample_stride: int) -> Video:
    """Read the frames that sampling uses, `stride_for` the video's average rate.

    Raises ValueError as `probe` does, and if fewer than two frames are used.
    """
    info = probe(path)
    stride = stride_for(info.fps, sample_stride)
    used = count_used(path, info.num_frames, stride)
    frames = np.empty((used, info.height, info.width, 3), np.uint8)
    count = 0
    for frame in iterate(path, stride):
        if count < used:
            frames[count] = frame
        count += 1
    if count != used:
        raise ValueError(
            f"{path}: {count} frames could be decoded at stride {stride} where the file"
            f" announces {used}; it is truncated or corrupt"
        )
    return Video(frames, stride, info)


def iterate(path: str | os.PathLike, stride: int) -> Iterator[np.ndarray]:
    """Frames 0, stride, 2 stride, ... one by one, (h, w, 3) uint8: a video need not fit memory."""
    return _of_one_size(path, _decoded(path, lambda i: i % stride == 0))


def pick(path: str | os.PathLike, wanted: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of some numbers, (number, (h, w, 3) uint8) in order, each once.

    Decoding stops after the last one. Raises ValueError as `iterate`, and if the video ends early.
    """
    numbers = sorted(set(wanted))
    frames = _of_one_size(path, _decoded(path, set(numbers).__contains__))
    for number in numbers:
        frame = next(frames, None)
        if frame is None:
            raise ValueError(
                f"{path}: ends before frame {number}, which the file announces; it is truncated or"
                " corrupt"
            )
        yield number, frame


def _of_one_size(path: str | os.PathLike, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames; a ValueError where their size changes."""
    shape = None
    for frame in frames:
        if shape is not None and frame.shape != shape:
            raise ValueError(
                f"{path}: the picture size changes from {shape[1]} x {shape[0]} to"
                f" {frame.shape[1]} x {frame.shape[0]}; convert the video to one size first"
            )
        shape = frame.shape
        yield frame


@contextmanager
def writer(
    path: str | os.PathLike, fps: float | Fraction
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends frames (n, h, w, 3) uint8 to an H.264 MP4.

        with video.writer("out.mp4", 15) as write:
            for chunk in chunks:
                write(chunk)

    The file appears when the block ends well. An odd height or width grows by one repeated row or
    column, as 4:2:0 colour needs even ones. Raises ValueError for a wrong name, rate or shape and
    if no frame was written, OSError with one sentence on a full disk; then nothing is left behind.
    """
    path = output.prepare(path, ".mp4")
    rate = Fraction(fps).limit_denominator(1001)
    if not 0 < rate <= 1000:
        raise ValueError(
            f"{path}: {float(fps):g} frames per second, expected more than 0, at most 1000"
        )
    with output.replacing(path) as temporary:
        with output.explained(path):
            options = {"movflags": "faststart"}  # the index first: browsers start at once
            container = av.open(str(temporary), "w", format="mp4", options=options)
        stream = None

        def write(frames: np.ndarray) -> None:
            nonlocal stream
            if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                raise ValueError(
                    f"{path}: frames of shape {frames.shape} and type {frames.dtype},"
                    " expected (n, h, w, 3) uint8"
                )
            h, w = frames.shape[1:3]
            even_h, even_w = h + h % 2, w + w % 2
            if stream is None:
                stream = _add_stream(container, rate, even_h, even_w)
            if (stream.height, stream.width) != (even_h, even_w):
                raise ValueError(
                    f"{path}: frames of {w} x {h} after frames of {stream.width} x {stream.height}"
                )
            with output.explained(path):
                for frame in frames:
                    frame = np.pad(frame, [(0, even_h - h), (0, even_w - w), (0, 0)], mode="edge")
                    picture = av.VideoFrame.from_ndarray(frame, "rgb24")
                    container.mux(stream.encode(_to_yuv(picture)))

        try:
            yield write
            if stream is None:
                raise ValueError(f"{path}: no frames to write")
            with output.explained(path):
                container.mux(stream.encode())
        except BaseException:
            # The first error is the one to tell; closing a broken file may raise another.
            with suppress(OSError, av.error.FFmpegError):
                container.close()
            raise
        with output.explained(path):
            container.close()


def write(
    path: str | os.PathLike, frames: np.ndarray | Iterable[np.ndarray], fps: float | Fraction
) -> None:
    """Write a whole video as `writer`: frames (n, h, w, 3) uint8, or an iterable of such chunks."""
    with writer(path, fps) as append:
        for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
            append(chunk)


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[tuple]:
    """The container and its first video stream; errors of reading become one sentence."""
    if not Path(path).exists():
        raise ValueError(f"{path}: no such video; check the path")
    try:
        # Tags may be in any encoding; nothing here reads them.
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.video:
                raise ValueError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.InvalidDataError, av.error.DecoderNotFoundError) as error:
        raise ValueError(
            f"{path}: not a video that can be read, or it is truncated or corrupt"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot read this video: {error.strerror}") from error


def _decoded(path: str | os.PathLike, wanted: Callable[[int], bool]) -> Iterator[np.ndarray]:
    """The frames of wanted numbers, upright uint8 RGB."""
    with _opened(path) as (container, stream):
        for i, frame in enumerate(container.decode(stream)):
            if wanted(i):
                picture = frame.to_ndarray(format="rgb24")
                # Degrees against the clock, in quarters; other angles do not occur in cameras.
                yield np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))


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


def _frames(count: int) -> str:
    """1 frame, 2 frames."""
    return f"{count} frame{'s' if count != 1 else ''}"
