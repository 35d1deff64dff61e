"""What a picture's file says of its levels and Pillow leaves out (host code, Pillow and PyAV).

The numbers of its transfer function and primaries, and a colour that is declared transparent.
"""

from __future__ import annotations

import os

import av
import numpy as np
from PIL import Image

from dispose_jax.media import reading

UNSTATED = 2, 2  # ISO/IEC 23091-2's word for it
HEIC = b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"  # brands, HEIF's B.4
SCALES = {"L;2": 85, "L;4": 17, "I;16B": 1}  # from grey levels of a PNG to those that Pillow gives


def stated(picture: Image.Image, path: str | os.PathLike) -> tuple[int, int]:
    """The numbers that ISO/IEC 23091-2 gives a picture's transfer function and primaries.

    An AVIF has them in its header, a PNG in the chunk cICP (PNG 3rd edition, 11.3.2.6), any other
    at most in its ICC profile's tag cicp (ICC.1:2022, 9.2.17).
    """
    if picture.format == "AVIF":
        return _of_avif(path)
    numbers = b""
    if picture.format == "PNG":
        with open(path, "rb") as file:
            numbers = _after(file.read().partition(b"IDAT")[0], b"\0\0\0\4cICP")
    numbers = numbers or _after(picture.info.get("icc_profile") or b"", b"cicp\0\0\0\0")
    return (numbers[1], numbers[0]) if len(numbers) == 2 else UNSTATED


def with_alpha(picture: Image.Image, path: str | os.PathLike) -> Image.Image:
    """Decode a picture; a PNG's colour that is declared transparent becomes an alpha channel.

    Pillow compares that colour with levels of 8 bits, right for PNGs of 1 and 8: they stay as they
    are. picture: opened, not decoded. Raises what Pillow and `reading.opened` do.
    """
    is_png = picture.format == "PNG" and picture.tile
    key, stored = picture.info.get("transparency"), picture.tile[0].args if is_png else None
    picture.load()
    if key is None or stored not in (*SCALES, "RGB;16B"):
        return picture
    if stored == "RGB;16B":  # of which Pillow has the upper bytes alone
        with reading.opened(path) as (container, stream):
            alpha = next(container.decode(stream)).to_ndarray(format="rgba")[..., 3]
        colours = picture
    else:
        levels = np.asarray(picture)
        alpha = np.where(levels == key * SCALES[stored], 0, 255).astype(np.uint8)
        levels = np.rint(levels / 257).astype(np.uint8) if stored == "I;16B" else levels
        colours = Image.fromarray(levels)
    result = Image.merge(f"{colours.mode}A", [*colours.split(), Image.fromarray(alpha)])
    result.info = {name: value for name, value in picture.info.items() if name != "transparency"}
    return result


def is_heic(path: str | os.PathLike) -> bool:
    """Whether a file that Pillow does not know is a phone's HEIC picture."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in HEIC


def _of_avif(path: str | os.PathLike) -> tuple[int, int]:
    """What FFmpeg reads of an AVIF's header; of one that only Pillow can read, nothing."""
    try:
        with av.open(reading.url(path), metadata_errors="ignore") as container:
            streams = [s.codec_context for s in container.streams.video if s.codec_context]
            coded = [(int(c.color_trc), int(c.color_primaries)) for c in streams]
    except (av.error.FFmpegError, OSError):
        return UNSTATED
    return next((numbers for numbers in coded if numbers != UNSTATED), UNSTATED)


def _after(content: bytes, name: bytes) -> bytes:
    """The two bytes after a name, none without it."""
    return content.partition(name)[2][:2]
