"""What a run was told and what came of it, side by side: a contact sheet and a video (host code).

Columns: reference, skeleton, sparse field, dense field, keypoint correspondence, result. The fields
are drawn with one scale for the whole clip, so that frames can be compared; the sparse one is a
blur of single pixels and so thousands of times weaker than the dense one, hence two scales.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np

from dispose_jax.correspondence.keypoints import CELL
from dispose_jax.media import image, montage, output, video
from dispose_jax.motion import color
from dispose_jax.pose.draw import COLORS, LIMBS

SHEET_SIDE, VIDEO_SIDE = 256, 384  # pixels of the longer side of a picture
SHEET_FRAMES = 8
GAP, MARGIN, TITLE, LABEL = 6, 12, 34, 44  # pixels between, around, above and left of pictures
LEGEND, LINE = 88, 18  # pixels: height of the foot, of a line in it
LEAST_WIDTH = 480  # pixels, of what lies between the margins: the legend's lines
JOINT_COLORS = COLORS[:, ::-1]  # as the skeleton column shows them
SMALLEST_MARK = 7  # pixels of a cell, as a large picture's own would hardly show its colour
POINTS = ("cells", "visible", "joints", "seen")  # what is known of keypoints, all or nothing
SCALE_QUANTILE = 0.9  # of the frames' longest vectors: a single wild frame does not pale the others


class Strip:
    """Pictures or flows of a clip on disk, reduced to what is shown: appended in order, read by
    frame, closed in the end.

    size: height and width of the clip's reference.
    """

    def __init__(self, size: tuple[int, int]):
        self.size, self._frame = _reduced(size, VIDEO_SIDE), None
        self._file, self._count = tempfile.TemporaryFile(), 0

    def append(self, pictures: np.ndarray) -> None:
        """Add (n, h, w, c) uint8 or float32, of any size in the shape of the reference. Raises
        OSError with one sentence on a full disk."""
        for picture in pictures:
            reduced = np.ascontiguousarray(_resize(picture, *self.size))
            self._frame = reduced.shape, reduced.dtype
            with output.explained(f"a file in {tempfile.gettempdir()}"):
                self._file.seek(self._count * reduced.nbytes)
                self._file.write(reduced)
                self._file.flush()
            self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, frame: int) -> np.ndarray:
        """The picture (h, w, c) of a number."""
        shape, dtype = self._frame
        nbytes = math.prod(shape) * dtype.itemsize
        self._file.seek(frame * nbytes)
        return np.frombuffer(self._file.read(nbytes), dtype).reshape(shape)

    def close(self) -> None:
        """Give the room on the disk back."""
        with suppress(OSError):  # on a full disk it cannot write what it still holds
            self._file.close()

    def __enter__(self) -> Strip:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Explained(NamedTuple):
    """What is shown of a run; frame 0 is the reference. A part that is None has no column.

    Pictures and flows of frames are arrays, or sequences that give them frame by frame: a `Strip`,
    or skeletons that are drawn when they are asked for.
    """

    reference: np.ndarray  # (h, w, 3) uint8
    skeletons: np.ndarray  # (f, h, w, 3) uint8
    sparse_flow: np.ndarray | None  # (f, h, w, 2) pixels, frame n-1 -> n
    dense_flow: np.ndarray | None  # (f, h, w, 2) pixels, reference -> n
    cells: np.ndarray | None  # (f, 18, 2) column, row on the 1/16 grid
    visible: np.ndarray | None  # (f, 18) bool
    joints: np.ndarray | None  # (18, 2) column, row on that grid where a feature is read
    seen: np.ndarray | None  # (18,) bool: the joints that have a feature
    result: np.ndarray | None = None  # (f - 1, h, w, 3) uint8, frames 1..

    def only(self, control) -> Explained:
        """Without the columns of what does not control: a `config.control` says what does."""
        sparse, dense = "sparse" in control.motion, "dense" in control.motion
        shown = self._replace(
            sparse_flow=self.sparse_flow if sparse else None,
            dense_flow=self.dense_flow if dense else None,
        )
        return shown if control.points else shown._replace(**dict.fromkeys(POINTS))


def contact_sheet(run: Explained, *, num_frames: int = SHEET_FRAMES, note: str = "") -> np.ndarray:
    """One row for each of num_frames frames spread evenly over the clip.

    Returns (rows, columns, 3) uint8. note: a sentence for the foot of the sheet, such as where the
    weights are from. Raises ValueError if the parts of the run do not fit together.
    """
    panels = _Panels(run, SHEET_SIDE)
    last = len(run.skeletons) - 1
    shown = np.unique(np.rint(np.linspace(1, last, min(num_frames, last))).astype(int))
    return _page(panels, shown, _legend(panels, note))


def frames(run: Explained, *, note: str = "") -> Iterator[np.ndarray]:
    """The same columns in motion: frames 1.. one by one, (rows, columns, 3) uint8."""
    panels = _Panels(run, VIDEO_SIDE)
    legend = _legend(panels, note)
    for frame in range(1, len(run.skeletons)):
        yield _page(panels, [frame], legend)


def write(
    sheet: str | os.PathLike,
    movie: str | os.PathLike,
    run: Explained,
    fps: float | Fraction,
    *,
    note: str = "",
) -> None:
    """Write the contact sheet (PNG) and the video (MP4), each whole or not at all."""
    image.write_png(sheet, contact_sheet(run, note=note))
    video.write(movie, (frame[None] for frame in frames(run, note=note)), fps)


class _Panels:
    """The columns of one run at the size they are shown at: titles, and the pictures of a frame."""

    def __init__(self, run: Explained, side: int):
        _check(run)
        h, w = run.reference.shape[:2]
        self.height, self.width = size = _reduced((h, w), side)
        reference = _resize(run.reference, *size)
        self.columns: dict[str, Callable[[int], np.ndarray]] = {
            "reference": lambda frame: reference,
            "skeleton": lambda frame: _bold(run.skeletons[frame], *size),
        }
        self.legend = []
        for title, flows in (("sparse field", run.sparse_flow), ("dense field", run.dense_flow)):
            if flows is not None:
                self._add_flow(title, flows, len(run.skeletons))
        if run.cells is not None:
            self.columns["keypoints"] = lambda frame: correspondence(run, frame, *size)
            self.legend.append("keypoints: ring in the reference, filled cell in the frame")
        if run.result is not None:
            self.columns["result"] = lambda frame: _resize(run.result[frame - 1], *size)

    def _add_flow(self, title: str, flows: np.ndarray | Strip, count: int) -> None:
        """A column of flows (f, h, w, 2), all with the colour scale of the clip."""
        shown = lambda frame: _resize(flows[frame], self.height, self.width)
        scale = clip_scale(shown(frame) for frame in range(1, count))
        self.columns[title] = lambda frame: flow_picture(shown(frame), scale)
        # Two digits, and not as 1.3e+02.
        length = f"full colour is {float(f'{scale:.2g}'):g} px" if scale else "no motion"
        self.legend.append(f"{title}: hue is direction, {length}")

    def at(self, frame: int) -> list[np.ndarray]:
        """The pictures of one frame, in the order of the columns, (height, width, 3) uint8 each."""
        return [picture(frame) for picture in self.columns.values()]


def clip_scale(flows: Iterable[np.ndarray]) -> float:
    """The length in pixels that gets full colour; 0 if nothing moves. flows: (h, w, 2) each."""
    longest = [float(np.hypot(flow[..., 0], flow[..., 1]).max()) for flow in flows]
    moving = [length for length in longest if length > 0]
    return float(np.quantile(moving, SCALE_QUANTILE, method="lower")) if moving else 0.0


def flow_picture(flow: np.ndarray, scale: float) -> np.ndarray:
    """A flow (h, w, 2) with full colour from scale pixels on -> (h, w, 3) uint8; zero is white."""
    if scale <= 0:
        return np.full((*flow.shape[:2], 3), 255, np.uint8)
    length = np.hypot(flow[..., 0], flow[..., 1])[..., None]
    # In units of the scale, as the wheel's own guard against zero is not made for 1e-3 pixels.
    return color.picture(flow / np.maximum(length, scale), least=1.0)


def correspondence(run: Explained, frame: int, height: int, width: int) -> np.ndarray:
    """Where the features of the reference's joints go in a frame -> (height, width, 3) uint8.

    Over the faded reference every joint that has a feature and that the frame shows has its colour:
    a ring where the feature is read, a line, and the filled cell of the frame. Joints that only the
    frame shows are hollow there, as they carry no feature.
    """
    grey = cv2.cvtColor(_resize(run.reference, height, width), cv2.COLOR_RGB2GRAY)
    canvas = cv2.cvtColor((96 + grey * 0.35).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    cell = np.array([width, height]) * CELL / run.reference.shape[1::-1]  # one cell, as shown
    # A joint that the reference's crop cuts off has no cell in it, but the feature at its border.
    source, target = (run.joints + 0.5) * cell, (run.cells[frame] + 0.5) * cell  # (18, 2) each
    both = run.seen & run.visible[frame]
    for a, b in LIMBS:
        if run.visible[frame][[a, b]].all():
            _line(canvas, target[a], target[b], (235, 235, 235), 1)
    for joint in np.flatnonzero(both):
        _line(canvas, source[joint], target[joint], JOINT_COLORS[joint], 1)
    for joint in np.flatnonzero(run.seen):
        centre = np.rint(source[joint] * 8).astype(int).tolist()
        radius = round(8 * max(2.5, min(cell) * 0.32))
        cv2.circle(canvas, centre, radius, JOINT_COLORS[joint].tolist(), 1, cv2.LINE_AA, shift=3)
    for joint in np.flatnonzero(run.visible[frame]):
        half = np.maximum(cell, SMALLEST_MARK) / 2
        low = np.rint(target[joint] - half).astype(int)
        high = np.rint(target[joint] + half).astype(int) - 1
        thickness = -1 if both[joint] else 1
        cv2.rectangle(canvas, low.tolist(), high.tolist(), JOINT_COLORS[joint].tolist(), thickness)
        cv2.rectangle(canvas, low.tolist(), high.tolist(), (20, 20, 20), 1)
    return canvas


def _reduced(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of a picture whose longer side is to be `side`."""
    return tuple(round(length * side / max(size)) for length in size)


def _check(run: Explained) -> None:
    """Raise ValueError unless all parts have the same frames and size."""
    f, (h, w) = len(run.skeletons), run.reference.shape[:2]
    if f < 2:
        raise ValueError("nothing to show: the run has no frame but the reference")
    if len({getattr(run, name) is None for name in POINTS}) > 1:
        raise ValueError(f"{', '.join(POINTS)} belong together: give all of them or none")
    expected = {
        "reference": (h, w, 3),
        "skeletons": (f, h, w, 3),
        "sparse_flow": (f, h, w, 2),
        "dense_flow": (f, h, w, 2),
        "cells": (f, 18, 2),
        "visible": (f, 18),
        "joints": (18, 2),
        "seen": (18,),
        "result": (f - 1, h, w, 3),
    }
    for name, shape in expected.items():
        part = getattr(run, name)
        if isinstance(part, np.ndarray) and part.shape != shape:
            raise ValueError(f"{name} has the shape {part.shape}, expected {shape}")
        if part is not None and len(part) != shape[0]:
            raise ValueError(f"{name} has {len(part)} frames, expected {shape[0]}")


def _page(panels: _Panels, frames: Sequence[int], legend: np.ndarray) -> np.ndarray:
    """Titles, a row of each frame with its number, and the legend; both sides even for video."""
    font = float(np.clip(panels.width / 8.5, 11, 17))
    width = panels.width + GAP
    titled = lambda title: montage.written(title, width, TITLE, font=font, align="middle")
    titles = [montage.empty(LABEL, TITLE), *map(titled, panels.columns)]
    blocks = [np.concatenate(titles, axis=1)]
    for frame in frames:
        number = montage.written(str(frame), LABEL, panels.height + GAP, font=15, align="right")
        blocks.append(montage.row(np.stack(panels.at(frame)), GAP, before=[number]))
    inner = montage.below([*blocks, legend])
    height, width = (length + length % 2 for length in inner.shape[:2])
    whole = montage.empty(width + 2 * MARGIN, height + MARGIN)
    # The legend ends where the page does.
    whole[-len(inner) :, MARGIN : MARGIN + inner.shape[1]] = inner
    return whole


def _legend(panels: _Panels, note: str) -> np.ndarray:
    """The foot of a page: the directions' colours, what the columns show, a note."""
    side = LEGEND - 16
    width = max(LEAST_WIDTH, LABEL + len(panels.columns) * (panels.width + GAP))
    write = lambda text: montage.written(text, width - side, LINE, font=13, ink=montage.FAINT)
    texts = [*panels.legend, note, "", "", "", ""][: side // LINE]
    lines = montage.row(
        montage.below([*map(write, texts)])[None], gap=0, before=[_legend_wheel(side)]
    )
    return montage.below(
        [montage.empty(width, GAP), lines, montage.empty(width, LEGEND - GAP - side)]
    )


def _legend_wheel(side: int) -> np.ndarray:
    """All directions up to full length as a disc on the paper, (side, side, 3) uint8."""
    steps = np.linspace(-1, 1, 4 * side)
    flow = np.stack(np.meshgrid(steps, steps), -1)
    length = np.hypot(flow[..., 0], flow[..., 1])[..., None]
    painted = color.picture(flow / np.maximum(length, 1), least=1.0)
    disc = np.where(length < 1, painted, montage.PAPER)
    return _resize(disc.astype(np.uint8), side, side)


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averaged when it shrinks, interpolated when it grows; a flow keeps its values in pixels."""
    if picture.shape[:2] == (height, width):
        return picture
    method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=method)


def _bold(skeleton: np.ndarray, height: int, width: int) -> np.ndarray:
    """A skeleton picture resized; strokes are widened first where averaging would darken them."""
    shrink = skeleton.shape[0] / height
    if shrink > 1:
        kernel = np.ones((int(np.ceil(shrink)) + 1,) * 2, np.uint8)
        skeleton = cv2.dilate(skeleton, kernel)
    return _resize(skeleton, height, width)


def _line(canvas: np.ndarray, start, end, stroke, width: int) -> None:
    """A smooth line between points in pixels, in place."""
    ends = [np.rint(np.asarray(point) * 8).astype(int).tolist() for point in (start, end)]
    cv2.line(canvas, *ends, [int(c) for c in stroke], width, cv2.LINE_AA, shift=3)
