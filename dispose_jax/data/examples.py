"""From a clip's pictures and poses to one training example (host code).

The same for drawn people and for prepared videos: everything that a network reads besides the
pictures follows from the poses, by the functions that sampling uses too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from dispose_jax.correspondence import keypoints
from dispose_jax.motion import tracks, watershed
from dispose_jax.ops import resize
from dispose_jax.pose import draw, follow
from dispose_jax.types import Batch, Impulses, Pose

Size = tuple[int, int]  # height, width

REGIONS = ("none", "hands", "face", "joints", "limbs")
_SURE = 0.5  # mean score of a hand's or face's points above which its box counts
_LIMB_REACH = 1.0  # latents from a limb's line within which the loss counts wholly


@dataclass(frozen=True)
class Layout:
    """What an example is made for; see configs/svd.py for the values' meaning.

    size: of the pictures, multiples of 64. cmp_size: side of CMP's square, 0 without a dense field.
    region: one of REGIONS, where the loss weighs `region_weight` instead of 1.
    """

    size: Size
    cmp_size: int
    missing_joints: str
    canvas: int
    style: draw.Style = draw.MIMICMOTION
    region: str = "none"
    region_weight: float = 1.0

    @property
    def grid(self) -> Size:
        """Rows and columns of the feature and correspondence grid."""
        return self.size[0] // keypoints.CELL, self.size[1] // keypoints.CELL


def layout(config) -> Layout:
    """The layout of a config (configs/svd.py)."""
    return Layout(
        size=(config.train.height, config.train.width),
        cmp_size=config.motion.cmp_size if "dense" in config.control.motion else 0,
        missing_joints=config.quirks.missing_joints,
        canvas=config.skeleton.canvas,
        style=draw.style_of(config.skeleton),
        region=config.train.region,
        region_weight=config.train.region_weight,
    )


def make(
    layout: Layout,
    frames: np.ndarray | None,
    pose: Pose,
    guides: Impulses | None = None,
    *,
    point_features: np.ndarray | None = None,
    posterior: np.ndarray | None = None,
) -> Batch:
    """One example: a Batch whose leaves have no b.

    frames (f, h, w, 3) uint8 of layout.size, or frame 0 alone beside a posterior; None if the
    caller adds them. pose of the f frames, fractions of the picture, frame 0 the reference. guides:
    of CMP's square, the joints' displacements if None. The others as in Batch.
    """
    if layout.cmp_size and guides is None:
        guides = tracks.from_reference(pose, layout.size, layout.cmp_size, layout.missing_joints)
    drawn = pose if layout.style.people == "all" else follow.alone(pose)  # as in sampling
    cells, visible = keypoints.cells(pose, layout.size)
    joints, seen = keypoints.places(pose.at([0]), layout.size, layout.grid)
    return Batch(
        frames=frames,
        skeletons=draw.draw(drawn, *layout.size, canvas=layout.canvas, style=layout.style),
        steps=_float32(tracks.steps(pose, layout.size, layout.missing_joints)),
        guides=_float32(guides) if layout.cmp_size else None,
        cells=cells,
        visible=visible,
        joints=joints,
        seen=seen,
        point_features=point_features,
        posterior=posterior,
        region=None if layout.region == "none" else region(layout, pose),
    )


def stack(examples: Sequence[Batch]) -> Batch:
    """Examples side by side: every leaf gets a first axis b."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def watershed_guides(config, flows: np.ndarray, rng: np.random.Generator) -> Impulses:
    """Guidance points of a clip's flows (f, h, w, 2) in CMP's square, as a config wants them."""
    return watershed.guides(
        flows,
        side=config.motion.cmp_size,
        kernel=config.data.guide_kernel,
        bg_ratio=config.data.guide_bg_ratio,
        max_points=config.data.max_guides,
        rng=rng,
    )


def region(layout: Layout, pose: Pose) -> np.ndarray:
    """Weight of the loss at each latent, (f, h/8, w/8) float32; 1 in all of frame 0.

    "hands", "face": boxes around points that are seen surely, pooled by area, as ControlNeXt's
    public training of MimicMotion's idea does, whose 1 + 4 x 0.8 inside a box is our 4.2. "joints":
    the local mask of the point adapter (VideoSwap), which is nearly all of a picture of 128 pixels.
    "limbs": latents near a limb of the skeleton, wholly within one latent, not at all beyond two.
    """
    height, width = layout.size
    if layout.region == "joints":
        share = keypoints.local_mask(pose, layout.size).astype(np.float32)
        share = share.repeat(2, axis=1).repeat(2, axis=2)  # cells of 16 pixels -> of 8
    elif layout.region == "limbs":
        share = _near_limbs(pose, (height // 8, width // 8))
    else:
        inside = _boxes(layout.size, *_parts(layout.region, pose))
        rows = resize.area_matrix(height // 8, height)
        columns = resize.area_matrix(width // 8, width)
        share = np.einsum("yh,fhw,xw->fyx", rows, inside, columns)
    weight = 1 + (layout.region_weight - 1) * share
    weight[0] = 1
    return weight.astype(np.float32)


def _near_limbs(pose: Pose, grid: Size) -> np.ndarray:
    """How near each latent's centre is to a limb of person 0 that is seen, (f, *grid) in 0..1."""
    ends = pose.body[:, 0][:, draw.LIMBS] * grid[::-1]  # f limbs 2 xy, in latents
    seen = (pose.visible[:, 0][:, draw.LIMBS]).all(-1)
    centres = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in grid[::-1])), -1)  # h w xy
    start, along = ends[:, None, None, :, 0], (ends[..., 1, :] - ends[..., 0, :])[:, None, None]
    from_start = centres[:, :, None] - start
    length = np.maximum((along**2).sum(-1), 1e-9)
    share = np.clip((from_start * along).sum(-1) / length, 0, 1)  # of the limb, the nearest place
    distance = np.linalg.norm(from_start - share[..., None] * along, axis=-1)  # f h w limbs
    distance = np.where(seen[:, None, None], distance, np.inf)
    return np.clip(1 + _LIMB_REACH - distance.min(-1), 0, 1)


def _parts(name: str, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Points (f, parts, k, 2) and their scores (f, parts, k) of person 0."""
    if name == "hands":
        return pose.hands[:, 0], pose.hands_score[:, 0]
    return pose.face[:, :1], pose.face_score[:, :1]


def _boxes(size: Size, points: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Pixels inside the bounding box of a sure part, (f, h, w) float32."""
    inside = np.zeros((len(points), *size), np.float32)
    sure = score.mean(-1) > _SURE
    for frame, part in zip(*np.nonzero(sure)):
        found = points[frame, part][score[frame, part] > 0] * (size[1], size[0])
        left, top = np.maximum(np.floor(found.min(0)), 0).astype(int)
        right, bottom = np.maximum(np.ceil(found.max(0)), 0).astype(int)
        inside[frame, top:bottom, left:right] = 1
    return inside


def _float32(impulses: Impulses) -> Impulses:
    return impulses._replace(vectors=np.asarray(impulses.vectors, np.float32))
