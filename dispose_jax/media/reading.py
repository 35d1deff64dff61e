"""Opening videos and decoding them frame by frame, as far as they go (host code, PyAV)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from dispose_jax.media import shown

MOST_PIXELS = 2**26  # of a frame, stored or shown: twice 8K
ANNOUNCING = ("mov", "matroska", "avi", "asf", "flv")  # whose headers tell the length
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave out WebM's alpha
PLAYLISTS = ("hls", "concat")  # formats whose files name others in place of holding pictures


def url(path: str | os.PathLike) -> str:
    """The name by which FFmpeg opens a file: without the protocol it would take "12:30.mp4" for
    one of a protocol named 12."""
    return f"file:{os.fspath(path)}"


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple]:
    """The container and its default video stream; errors of reading become one sentence."""
    if not Path(path).exists():
        raise ValueError(f"{path}: no such video; check the path")
    if Path(path).is_dir():
        raise ValueError(
            f"{path}: is a folder, expected a video; join its frames into one first, as with "
            "ffmpeg -framerate 30 -i FOLDER/%05d.png -c:v ffv1 dance.mkv"
        )
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


class Decoding:
    """The frames of a stream that decode, in order; to be iterated once.

    It goes on after damage and ends where the file does. By then `damage` has clauses on what does
    not decode, and `beside` the seconds at which packets of other tracks end.
    """

    def __init__(self, container, stream):
        self.damage: list[str] = []
        self.beside: list[float] = []
        self._container, self._stream, self._decode = container, stream, _decoder(stream)
        self._begin = self._end = None  # of the packets so far, seconds
        self._durations = set()  # of packets, in their own units
        self._started = False  # a frame has come out
        self._whole = None  # whether a key frame has come, which needs no other; None: no packet
        self._last = 0.0  # seconds of the latest frame
        self._lost = 0  # packets and frames

    def __iter__(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._packets():
                yield from self._frames(packet)
        except (av.error.FFmpegError, OSError):
            self.damage.append(
                f"cannot be read on after {self._last:.2f} s; it is used as far as it goes"
            )
            return
        if self._lost:
            self.damage.append(
                f"damaged frames are left out, {self._lost} in all; it is truncated or corrupt"
            )
        self._compare_end()

    def _packets(self) -> Iterator[av.Packet]:
        """The stream's own packets; those of all tracks tell where the file ends."""
        for packet in packets(self._container):
            end = _end(packet)
            if end is not None:
                self._end = end if self._end is None else max(self._end, end)
                self._durations.add(packet.duration or 0)
            if packet.stream.index == self._stream.index:
                yield packet
            elif end is not None:
                self.beside.append(end)

    def _frames(self, packet: av.Packet) -> Iterator[av.VideoFrame]:
        """The frames that a packet completes."""
        if self._whole is None and packet.size:
            self._whole = packet.is_keyframe
        shows = packet.size and packet.pts is not None and not packet.is_discard
        if shows and not self._started:
            begin = float(packet.pts * packet.time_base)
            self._begin = begin if self._begin is None else min(self._begin, begin)
        try:
            decoded = self._decode(packet)
        except av.error.FFmpegError:
            self._lost += self._started and bool(packet.size)
            return
        for frame in decoded:
            self._whole = self._whole or frame.key_frame
            if frame.is_corrupt or not self._whole:
                self._lost += self._started
                continue
            time = None if frame.pts is None else float(frame.pts * frame.time_base)
            if not self._started:
                self._compare_begin(time)
            self._started = True
            self._last = self._last if time is None else time
            yield frame

    def _compare_begin(self, time: float | None) -> None:
        """Note what is missing before the first frame, which is shown at `time` seconds."""
        if time is not None and self._begin is not None and time - self._begin > 1 / 100:
            self.damage.append(
                f"its first {time - self._begin:.2f} s need a picture that was cut away; it is "
                "used from where it can be decoded"
            )

    def _compare_end(self) -> None:
        """Note what is missing at the end of what the file announces."""
        length = announced(self._container)
        # The end is known to a frame unless some last for no time that the file tells.
        known = self._durations - {0, 1} and 0 not in self._durations
        if length and self._end is not None and length - self._end > (0.04 if known else 0.25):
            self.damage.append(
                f"ends at {self._end:.2f} s of the {length:.2f} s that it announces; it is "
                "truncated, and used as far as it goes"
            )


def announced(container) -> float | None:
    """Seconds that the file's header promises."""
    if container.duration and container.format.name.startswith(ANNOUNCING):
        return container.duration / av.time_base
    return None


def frames(path: str | os.PathLike, wanted: Callable[[int], bool]) -> Iterator[np.ndarray]:
    """The frames of wanted numbers as they are shown, (h, w, 3) uint8 RGB.

    The others are decoded but never converted. Raises ValueError where the size changes, and for
    colours that FFmpeg does not convert.
    """
    with opened(path) as (container, stream):
        view = first = None
        for i, frame in enumerate(shown.deinterlaced(Decoding(container, stream))):
            view = view or view_of(container, stream, frame)
            first = check_size(path, frame, view, first)
            if wanted(i):
                yield _picture(path, frame, view)


def _picture(path: str | os.PathLike, frame: av.VideoFrame, view: shown.View) -> np.ndarray:
    """A frame as it is shown, (h, w, 3) uint8 RGB; errors name the file."""
    try:
        return shown.picture(frame, view)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: colours ({frame.format.name}, matrix {int(frame.colorspace)} of "
            "ISO 23091-2) that FFmpeg cannot bring into RGB; convert it to BT.709 first"
        ) from error


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


def _end(packet) -> float | None:
    """When a packet ends, in seconds."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    if stamp is None or not packet.size or not packet.time_base:
        return None
    return float((stamp + (packet.duration or 0)) * packet.time_base)


def view_of(container, stream, frame: av.VideoFrame) -> shown.View:
    """How the frames of a stream are shown, by the first of them."""
    # The fourth byte of an uncompressed AVI's pixels means nothing, and is mostly 0.
    opaque = container.format.name == "avi" and stream.codec_context.name == "rawvideo"
    return shown.view(frame, stream.sample_aspect_ratio, opaque=opaque)


def check_size(
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
