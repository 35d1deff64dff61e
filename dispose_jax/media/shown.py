"""From a decoded frame to the picture that a player shows (host code, PyAV and NumPy).

Whole where two moments were stored in alternate rows, mirrored and turned as the display matrix
says, with square pixels, in the colours of BT.709: high dynamic range and wide gamuts are brought
into it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np

MOST_STRETCH = 16  # sample aspect ratios beyond it are damage
DEINTERLACE = "mode=send_frame:deint=interlaced"  # one frame for each, of those that say so
STRIP = 32  # rows that are converted at a time, which the processor's cache can hold

# ISO 23091-2's numbers of transfer functions and primaries.
PQ, HLG = 16, 18
HDR_NAMES = {PQ: "PQ", HLG: "HLG"}
BT2020, P3_DCI, P3 = 9, 11, 12
WHITE = 203.0  # nits of a white page in high dynamic range, ITU-R BT.2408
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # ITU-R BT.2100: nits of the display, its system gamma
GAMMA = 2.4  # of a BT.709 display, ITU-R BT.1886
LUMINANCE = 0.2627, 0.6780, 0.0593  # shares of BT.2020's colours in it
KNEE = 0.6  # light above this share of white gives way to highlights
# Linear light to that of BT.709's primaries; each row sums to one, so white stays white.
TO_BT709 = {
    BT2020: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    P3: ((1.2249, -0.2247, -0.0002), (-0.0420, 1.0419, 0.0001), (-0.0197, -0.0786, 1.0983)),
}
TO_BT709[P3_DCI] = TO_BT709[P3]


class Turn(NamedTuple):
    """How a stored picture is shown: transposed first, then mirrored."""

    transpose: bool = False
    flip_rows: bool = False  # top and bottom change places
    flip_columns: bool = False


class View(NamedTuple):
    """What a video's first frame says of how all of them are shown."""

    turn: Turn
    aspect: Fraction  # width of a stored pixel over its height
    opaque: bool  # whatever its alpha says


def view(frame: av.VideoFrame, aspect: Fraction | None, *, opaque: bool = False) -> View:
    """The view of a video by its first frame and the stream's sample aspect ratio, None or absurd
    for square pixels.

    Not asked of every frame: looking at side data keeps a frame in memory until the garbage
    collector runs.
    """
    if not aspect or not 1 / MOST_STRETCH <= aspect <= MOST_STRETCH:
        aspect = Fraction(1)
    return View(_turn(frame), aspect, opaque)


def _turn(frame: av.VideoFrame) -> Turn:
    """What a frame's display matrix asks for: the nearest of the eight turns and mirrors.

    Stored (x, y) are shown at (a x + c y, b x + d y) and a shift; a scale in it is part of the
    aspect ratio.
    """
    a, b, c, d = _display_matrix(frame)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Turn(False, d < 0, a < 0)
    return Turn(True, b < 0, c < 0)


def _display_matrix(frame: av.VideoFrame) -> tuple[float, float, float, float]:
    """a, b, c and d of `_turn`."""
    try:
        beside = list(frame.side_data)
    except ValueError:  # among it is what PyAV has no name for, such as EXIF
        angle = math.radians(frame.rotation)  # against the clock; mirrors are lost
        return math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    for data in beside:
        if data.type.name == "DISPLAYMATRIX" and len(bytes(data)) >= 36:
            a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
            return a, b, c, d
    return 1, 0, 0, 1


def deinterlaced(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """A video's frames, one for one, without combs: where a frame holds two moments, the rows of
    the later one are made from the others and the frames before and after (FFmpeg's bwdif)."""
    graph = kind = None
    for frame in frames:
        if graph is not None and _kind(frame) != kind:  # on which the filter would crash
            yield from _finished(graph)
            graph = None
        if graph is None:
            if not frame.interlaced_frame:
                yield frame
                continue
            graph, kind = av.filter.Graph(), _kind(frame)
            source = graph.add_buffer(template=frame)
            graph.link_nodes(source, graph.add("bwdif", DEINTERLACE), graph.add("buffersink"))
            graph.configure()
        graph.vpush(frame)
        yield from _ready(graph)
    if graph is not None:
        yield from _finished(graph)


def _kind(frame: av.VideoFrame) -> tuple[int, int, str]:
    """What a filter expects to be the same of all frames: width, height and format."""
    return frame.width, frame.height, frame.format.name


def _finished(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    """The frames that a filter has left when no other comes."""
    graph.vpush(None)
    yield from _ready(graph)


def _ready(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    """The frames that a filter has ready."""
    while True:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield frame


def size(frame: av.VideoFrame, view: View) -> tuple[int, int]:
    """Height and width of the picture that `picture` gives."""
    height, width = frame.height, _square_width(frame.width, view.aspect)
    return (width, height) if view.turn.transpose else (height, width)


def picture(frame: av.VideoFrame, view: View) -> np.ndarray:
    """A frame as it is shown, (h, w, 3) uint8 RGB; transparent parts white, as of pictures."""
    size = {"width": _square_width(frame.width, view.aspect), "height": frame.height}
    numbers = int(frame.color_trc), int(frame.color_primaries)
    if _colours(*numbers) is None:
        result = frame.to_ndarray(format="rgb24", **size)
    else:
        # Of 16 bits: 8 would show as bands where the curves of high dynamic range are steep.
        result = in_bt709(frame.to_ndarray(format="rgb48le", **size), *numbers)
    if not view.opaque and any(component.is_alpha for component in frame.format.components):
        share = frame.to_ndarray(format="rgba", **size)[..., 3:] / np.float32(255)
        result = np.rint(255 + share * (result.astype(np.float32) - 255)).astype(np.uint8)
    transpose, flip_rows, flip_columns = view.turn
    if transpose:
        result = result.transpose(1, 0, 2)
    return np.ascontiguousarray(result[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def hdr(frame: av.VideoFrame) -> str | None:
    """The name of the frame's high dynamic range, None without."""
    return HDR_NAMES.get(int(frame.color_trc))


def _square_width(width: int, aspect: Fraction) -> int:
    return max(1, round(width * aspect))


def _colours(transfer: int, primaries: int) -> tuple[int, int] | None:
    """The transfer function and primaries to convert from, None where colours are BT.709's."""
    if transfer in HDR_NAMES:
        # Files that name the curve alone were made for BT.2100, whose primaries these are.
        return transfer, primaries if primaries in TO_BT709 or primaries == 1 else BT2020
    return (0, primaries) if primaries in TO_BT709 else None


def in_bt709(levels: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Levels (h, w, 3), uint8 or uint16 of their whole range, that mean what these numbers of
    ISO 23091-2 say -> uint8 (h, w, 3) of BT.709; as they are where they mean that already.

    PQ (SMPTE ST 2084) and HLG (ITU-R BT.2100) are high dynamic range: light up to a share of white
    stays as it is, what is brighter rolls off towards white in equal parts of the three colours.
    Any other transfer function counts as BT.709's. Colours outside BT.709 are clipped.
    """
    colours = _colours(transfer, primaries)
    if colours is None:
        return levels
    light = _light(colours[0], np.iinfo(levels.dtype).max + 1)
    result = np.empty(levels.shape, np.uint8)
    for top in range(0, len(levels), STRIP):
        strip = slice(top, top + STRIP)
        result[strip] = np.rint(255 * _displayed(light[levels[strip]], *colours))
    return result


@lru_cache(maxsize=4)
def _light(transfer: int, count: int) -> np.ndarray:
    """Light of count levels (count,) float32 where white is 1; for HLG of the scene, 0..1."""
    levels = np.linspace(0, 1, count)
    if transfer == PQ:
        root = levels ** (1 / 78.84375)
        light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        light = 10000 * light ** (1 / 0.1593017578125) / WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - c) / a) + b) / 12)
    else:
        light = levels**GAMMA
    return light.astype(np.float32)


def _displayed(light: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Light (h, w, 3) as of `_light` -> R'G'B' of BT.709 in 0..1."""
    if transfer == HLG:
        luminance = light @ np.array(LUMINANCE, np.float32)
        light = light * (luminance ** (HLG_GAMMA - 1))[..., None] * (HLG_PEAK / WHITE)
    if primaries in TO_BT709:
        light = light @ np.transpose(TO_BT709[primaries]).astype(np.float32)
    if transfer in HDR_NAMES:
        peak = np.maximum(np.maximum(light[..., :1], light[..., 1:2]), light[..., 2:])
        above = (np.maximum(peak, KNEE) - KNEE) / (1 - KNEE)
        light = light * np.where(above > 0, KNEE + (1 - KNEE) * (1 - np.exp(-above)), peak)
        light /= np.maximum(peak, 1e-6)
    return np.clip(light, 0, 1) ** (1 / GAMMA)
