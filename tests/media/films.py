"""Small videos made for tests: each frame tells its number, each corner its place."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CASES = Path(__file__).parent / "cases"
CORNERS = {"red": (250, 30, 30), "green": (30, 250, 30), "blue": (30, 30, 250)}
CORNERS["yellow"] = (250, 250, 30)


def numbered(n, h=96, w=192):
    """Frames with a white bar of 2 (i + 1) columns in the top 8 rows, on grey, (n, h, w, 3)."""
    frames = np.full((n, h, w, 3), 60, np.uint8)
    for i in range(n):
        frames[i, :8, : 2 * (i + 1)] = 255
    return frames


def number_of(frame):
    """Which frame of `numbered` this is."""
    return round((frame[2:6, :, 1] > 128).sum(1).mean() / 2) - 1


def cornered(h=96, w=128):
    """Red and green above, blue and yellow below, (h, w, 3)."""
    frame = np.full((h, w, 3), 128, np.uint8)
    frame[:24, :32], frame[:24, -32:] = CORNERS["red"], CORNERS["green"]
    frame[-24:, :32], frame[-24:, -32:] = CORNERS["blue"], CORNERS["yellow"]
    return frame


def corners_of(frame):
    """The colours' names: top left, top right, bottom left, bottom right."""
    places = [frame[r, c].astype(int) for r in (8, -8) for c in (8, -8)]
    return [min(CORNERS, key=lambda n: np.abs(p - CORNERS[n]).sum()) for p in places]


def write(path, frames, *, rate=30, times=None, codec="libx264", options=None, gop=12, **values):
    """Encode frames (n, h, w, 3) uint8; times (n,) in seconds, else a constant rate.

    values: attributes of the encoder, such as sample_aspect_ratio.
    """
    with av.open(str(path), "w") as container:
        add(container, frames, rate, times, codec, options or {}, gop, values)
    return path


def add(container, frames, rate, times, codec, options, gop, values):
    """Encode one more track of frames into an open container."""
    encode(
        container,
        track(container, frames[0], rate, times, codec, options, gop, values),
        frames,
        times,
    )


def track(container, frame, rate, times, codec, options, gop, values):
    """A new track for frames like this one."""
    stream = container.add_stream(codec, rate=rate)
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = values.pop("pix_fmt", "yuv420p")
    stream.codec_context.gop_size = gop
    stream.options = options
    if times is not None:
        stream.codec_context.time_base = Fraction(1, 1000)
    for name, value in values.items():
        setattr(stream.codec_context, name, value)
    return stream


def encode(container, stream, frames, times=None):
    for i, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
        if times is not None:
            picture.time_base = Fraction(1, 1000)
            picture.pts = round(times[i] * 1000)
        container.mux(stream.encode(picture))
    container.mux(stream.encode())


def with_sound(path, frames, *, seconds):
    """Encode frames at 30 a second with a tone beside them."""
    with av.open(str(path.with_name("made.mp4")), "w") as container:
        pictures = track(container, frames[0], 30, None, "libx264", {}, 12, {})
        heard = container.add_stream("aac", rate=44100, layout="mono")
        encode(container, pictures, frames)
        tone = np.sin(np.arange(round(seconds * 44100)) / 16)[None].astype(np.float32) / 2
        frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 0, Fraction(1, 44100)
        container.mux(heard.encode(frame))
        container.mux(heard.encode(None))
    return path.with_name("made.mp4").rename(path)


def set_matrix(path, a, b, c, d):
    """Overwrite an MP4's display matrix: stored (x, y) are shown at (a x + c y, b x + d y)."""
    content = bytearray(path.read_bytes())
    at = content.find(b"tkhd") + 44  # ISO 14496-12, 8.3.2: the matrix of a version 0 header
    a, b, c, d = (v * 0x10000 for v in (a, b, c, d))
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


def set_edit(path, first, count, rate=30):
    """Overwrite the one entry of an MP4's edit list: show count frames from the first on."""
    content = bytearray(path.read_bytes())
    movie = struct.unpack(">I", content[(at := content.find(b"mvhd")) + 16 : at + 20])[0]
    media = struct.unpack(">I", content[(at := content.find(b"mdhd")) + 16 : at + 20])[0]
    at = content.find(b"elst")
    assert struct.unpack(">I", content[at + 8 : at + 12]) == (1,)
    start = struct.unpack(">i", content[at + 16 : at + 20])[0]  # of frame 0, after reordering
    entry = struct.pack(">Ii", round(count * movie / rate), start + round(first * media / rate))
    content[at + 12 : at + 20] = entry
    path.write_bytes(content)
