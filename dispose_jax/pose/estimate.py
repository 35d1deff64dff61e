"""Frames to `Pose` with DWPose: a YOLOX person detector and a SimCC whole-body network (host code).

The two ONNX networks run through onnxruntime, an optional dependency that is imported when models
are opened; all arithmetic around them is here, in NumPy and OpenCV. Frames are RGB throughout. The
detector was trained on BGR, but the released code feeds it RGB, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dispose_jax.pose import people
from dispose_jax.pose.dwpose import DETECTOR, RELEASED_AS, WHOLE_BODY
from dispose_jax.types import VISIBLE_SCORE, Pose

STRIDES = (8, 16, 32)  # of YOLOX's three output levels
LETTERBOX_GREY = 114
PERSON_SCORE = 0.3
PERSON_OVERLAP = 0.45
BOX_MARGIN = 1.25
SPLIT_RATIO = 2.0  # SimCC bins per pixel of the crop
PIXEL_MEAN = np.array([123.675, 116.28, 103.53])
PIXEL_STD = np.array([58.395, 57.12, 57.375])

# OpenPose's 18 body joints within COCO-WholeBody's 133 points; -1 is the neck, which COCO lacks.
NUM_COCO = 133
BODY_OF_COCO = np.array([0, -1, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3])
LEFT_SHOULDER, RIGHT_SHOULDER = 5, 6
# Left hand, right hand, face; the feet (17 to 22) are dropped.
REST_OF_COCO = np.concatenate([np.arange(91, 133), np.arange(23, 91)])


class Models(NamedTuple):
    """The two onnxruntime sessions and their input sizes (width, height)."""

    detector: Any
    whole_body: Any
    detector_size: tuple[int, int]
    crop_size: tuple[int, int]


def open_models(folder: str | Path) -> Models:
    """Open detector.onnx and whole_body.onnx of a folder of weights.

    Raises ValueError if onnxruntime is not installed, the folder or a file is absent, or one is not
    the network it should be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder; expected one with DWPose's {' and '.join(RELEASED_AS)}"
        )
    absent = [name for name in RELEASED_AS if not (folder / name).is_file()]
    if absent:
        places = " and ".join(f"{there} there as {name}" for name, there in RELEASED_AS.items())
        raise ValueError(
            f"{folder}: no {' and no '.join(absent)}; to detect poses put DWPose's {places}"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "detecting poses needs onnxruntime: pip install 'dispose-jax[pose]'; files with poses "
            "from elsewhere need none"
        ) from error
    available = onnxruntime.get_available_providers()
    # Not every provider on offer: TensorRT, for one, would build engines for minutes.
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    sessions = []
    for path in (folder / name for name in RELEASED_AS):
        try:
            sessions.append(onnxruntime.InferenceSession(path, providers=providers))
        except Exception as error:  # onnxruntime's own types share no narrower base
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path}: not a readable ONNX model: {reason}") from error
    detector, whole_body = sessions
    return Models(
        detector=detector,
        whole_body=whole_body,
        detector_size=_input_size(detector, folder / DETECTOR),
        crop_size=_input_size(whole_body, folder / WHOLE_BODY),
    )


def estimate(
    models: Models,
    frames: Iterable[np.ndarray],
    *,
    num_frames: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Pose:
    """Whole-body poses of everybody in every frame, people by descending score of the detector.

    frames: pictures (h, w, 3) uint8 RGB of one size, taken one by one as they come, so that an
    iterator need not hold them all. progress(done, num_frames) is called after each frame;
    num_frames 0: as many as frames has. A frame where nobody is found is taken for one person as
    large as the frame, as released: its scores then tell. Raises ValueError for frames of another
    kind or size, and if there are none.
    """
    total = num_frames or (len(frames) if isinstance(frames, Sized) else 0)
    found, shape = [], None
    for frame in frames:
        if frame.ndim != 3 or frame.shape[-1] != 3 or frame.dtype != np.uint8 or not frame.size:
            raise ValueError(
                f"a frame is {frame.dtype} of shape {frame.shape}, expected uint8 (h, w, 3) with h"
                " and w above 0"
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"a frame of shape {frame.shape} follows one of shape {shape}")
        height, width = frame.shape[:2]
        boxes = detect(models, frame)
        if not len(boxes):
            boxes = np.array([[0.0, 0.0, width, height]])
        keypoints, scores = find_keypoints(models, frame, boxes)
        found.append(to_openpose(keypoints, scores, width=width, height=height))
        if progress is not None:
            progress(len(found), total)
    if not found:
        raise ValueError("no frames to find poses in")
    return people.stack(found)


def detect(models: Models, frame: np.ndarray) -> np.ndarray:
    """Boxes of the people in a frame, surest first.

    frame (h, w, 3) uint8. Returns (people, 4) x1, y1, x2, y2 in pixels.
    """
    picture, ratio = letterbox(frame, models.detector_size)
    raw = _run(models.detector, picture.astype(np.float32))[0]
    boxes, scores = decode_boxes(raw[0], models.detector_size)
    return suppress(boxes / ratio, scores)


def find_keypoints(
    models: Models, frame: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """COCO-WholeBody keypoints of the people in boxes (people, 4) of a frame (h, w, 3) uint8.

    Returns positions (people, 133, 2) in pixels and scores (people, 133).
    """
    size = models.crop_size
    centre, extent = box_to_crop(boxes, size)
    bins = [int(side * SPLIT_RATIO) for side in size]
    responses = []
    for box in zip(centre, extent):  # the released file takes one person per run
        outputs = _run(models.whole_body, crop(frame, *box, size))[:2]
        if [out.shape for out in outputs] != [(1, NUM_COCO, bins[0]), (1, NUM_COCO, bins[1])]:
            raise ValueError(
                f"{WHOLE_BODY}: outputs of shapes {[out.shape for out in outputs]}, expected"
                f" (1, {NUM_COCO}, {bins[0]}) and (1, {NUM_COCO}, {bins[1]}) as DWPose gives"
            )
        responses.append(outputs)
    simcc_x, simcc_y = (np.concatenate(parts) for parts in zip(*responses))
    return decode_simcc(simcc_x, simcc_y, centre, extent, size)


def letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """A frame (h, w, 3) uint8 scaled to fit, at the top left of a grey canvas of size (w, h).

    Returns the canvas (size h, size w, 3) uint8 and the factor by which the frame was scaled.
    """
    (height, width), (canvas_width, canvas_height) = frame.shape[:2], size
    ratio = min(canvas_height / height, canvas_width / width)
    # At least one pixel: a very long frame would otherwise vanish.
    fitted = (max(int(width * ratio), 1), max(int(height * ratio), 1))
    canvas = np.full((canvas_height, canvas_width, 3), LETTERBOX_GREY, np.uint8)
    canvas[: fitted[1], : fitted[0]] = cv2.resize(frame, fitted, interpolation=cv2.INTER_LINEAR)
    return canvas, ratio


def decode_boxes(raw: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX output -> boxes (anchors, 4) x1, y1, x2, y2 and their scores as a person (anchors,).

    raw (anchors, 85): centre and log size relative to the anchor, objectness, 80 classes of which 0
    is a person. Boxes are in pixels of the detector's input, whose size (w, h) gives the anchors.
    Raises ValueError if the number of anchors is another.
    """
    levels = [(size[0] // stride, size[1] // stride, stride) for stride in STRIDES]
    corner = np.concatenate(
        [np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2) for w, h, _ in levels]
    )
    stride = np.concatenate([np.full((w * h, 1), s) for w, h, s in levels])
    if raw.ndim != 2 or raw.shape[0] != len(corner) or raw.shape[1] < 6:
        raise ValueError(
            f"{DETECTOR}: output of shape {raw.shape}, expected ({len(corner)}, 85) as YOLOX"
            f" gives for {size[0]} x {size[1]} pixels"
        )
    raw = raw.astype(np.float64)
    centre = (raw[:, :2] + corner) * stride
    half = np.exp(raw[:, 2:4]) * stride / 2
    return np.concatenate([centre - half, centre + half], 1), raw[:, 4] * raw[:, 5]


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    min_score: float = PERSON_SCORE,
    max_overlap: float = PERSON_OVERLAP,
) -> np.ndarray:
    """Non-maximum suppression: boxes (n, 4) above min_score without their doubles, best first.

    A box that a better one overlaps by more than max_overlap is a double. Boxes are in frame
    pixels, and overlaps count both border pixels, as released. The released code suppresses above
    0.1 and then drops what is below 0.3; only better boxes suppress, so one bound does the same.
    """
    order = np.argsort(scores)[::-1]
    order = order[scores[order] > min_score]
    boxes = boxes[order]
    size = boxes[:, 2:] - boxes[:, :2] + 1
    area = size.prod(1)
    kept: list[int] = []
    remaining = np.arange(len(boxes))
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[remaining, :2])
        high = np.minimum(boxes[best, 2:], boxes[remaining, 2:])
        shared = np.maximum(high - low + 1, 0).prod(1)
        overlap = shared / (area[best] + area[remaining] - shared)
        remaining = remaining[overlap <= max_overlap]
    return boxes[kept]


def box_to_crop(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) -> centres and extents (n, 2), with a margin and the aspect of size (w, h)."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    w, h = np.moveaxis((boxes[:, 2:] - boxes[:, :2]) * BOX_MARGIN, 1, 0)
    aspect = size[0] / size[1]
    wide = w > h * aspect
    extent = np.stack([np.where(wide, w, h * aspect), np.where(wide, w / aspect, h)], 1)
    return centre, extent


def crop_matrix(centre: np.ndarray, extent: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map (2, 3) from frame pixels to those of a crop of size (w, h): a scale and a shift."""
    scale = size[0] / extent[0]
    shift = np.array(size) / 2 - scale * centre
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def crop(
    frame: np.ndarray, centre: np.ndarray, extent: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """A part of a frame (h, w, 3) uint8 -> (size h, size w, 3) float32, normalised.

    centre, extent (2,) in pixels; size (w, h). What lies outside the frame is black.
    """
    matrix = crop_matrix(centre, extent, size)
    picture = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR)
    return ((picture - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)


def decode_simcc(
    simcc_x: np.ndarray,
    simcc_y: np.ndarray,
    centre: np.ndarray,
    extent: np.ndarray,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Per-axis responses -> keypoints (n, k, 2) in frame pixels and scores (n, k).

    simcc_x (n, k, 2 w), simcc_y (n, k, 2 h) for crops of size (w, h); the location is the first
    maximum, the score the lower one of both maxima. Scores are raw responses: they may exceed 1,
    and where they are not positive the keypoint has no meaning.
    """
    where = np.stack([simcc_x.argmax(-1), simcc_y.argmax(-1)], -1).astype(np.float64)
    scores = np.minimum(simcc_x.max(-1), simcc_y.max(-1))
    where[scores <= 0] = -1.0
    fraction = where / SPLIT_RATIO / size
    return fraction * extent[:, None] + (centre - extent / 2)[:, None], scores


def to_openpose(
    keypoints: np.ndarray, scores: np.ndarray, *, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """133 COCO-WholeBody keypoints -> the 128 points of `people.stack`, as fractions of the frame.

    keypoints (p, 133, 2) in pixels, scores (p, 133). Returns xy (p, 128, 2), scores (p, 128). The
    neck is the middle of the shoulders, with score 1 if both are visible and else 0.
    """
    shoulders = [LEFT_SHOULDER, RIGHT_SHOULDER]
    neck = keypoints[:, shoulders].mean(1, keepdims=True)
    neck_score = (scores[:, shoulders] > VISIBLE_SCORE).all(1, keepdims=True)
    keypoints = np.concatenate([keypoints, neck], 1)  # index -1
    scores = np.concatenate([scores, neck_score], 1)
    order = np.concatenate([BODY_OF_COCO, REST_OF_COCO])
    return keypoints[:, order] / (width, height), scores[:, order]


def _input_size(session: Any, path: Path) -> tuple[int, int]:
    """Width and height of a session's one picture input."""
    picture = session.get_inputs()[0]
    sides = picture.shape[2:]
    if len(sides) != 2 or picture.shape[1] != 3 or not all(isinstance(n, int) for n in sides):
        raise ValueError(
            f"{path}: its first input has the shape {picture.shape}, expected (1, 3, height, width)"
            " with fixed height and width"
        )
    return sides[1], sides[0]


def _run(session: Any, picture: np.ndarray) -> list[np.ndarray]:
    """The outputs of a session for a picture (h, w, 3) float32."""
    return session.run(None, {session.get_inputs()[0].name: picture.transpose(2, 0, 1)[None]})
