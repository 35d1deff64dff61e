"""The pytrees that cross module boundaries, with their shapes.

Letters: b clips, f frames, p people, h w pixels, c d channels. Frame 0 is always the reference
image; a driving video of n frames gives f = n + 1. Latents, flows, images and parameters are plain
arrays, not types.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from flax import struct

Array = jax.Array
Params = dict  # nested dict of arrays, keyed by network name at the top

VISIBLE_SCORE = 0.3  # DWPose: a joint whose score is not above this counts as missing


@struct.dataclass
class Pose:
    """Keypoints of every person in every frame, OpenPose layout (host arrays, float64).

    Coordinates are x, y as fractions of the picture's width and height; they may lie outside 0..1.
    A score of 0 means absent: such a point has no position. Frames with fewer people are padded
    with score 0. Person 0 is the surest one: all control signals follow it, the skeleton picture
    shows everybody.
    """

    body: np.ndarray  # (f, p, 18, 2)
    body_score: np.ndarray  # (f, p, 18)
    hands: np.ndarray  # (f, p, 2, 21, 2), left then right
    hands_score: np.ndarray  # (f, p, 2, 21)
    face: np.ndarray  # (f, p, 68, 2)
    face_score: np.ndarray  # (f, p, 68)

    @property
    def num_frames(self) -> int:
        return self.body.shape[0]

    @property
    def visible(self) -> np.ndarray:
        """Body joints that count as seen, (f, p, 18) bool."""
        return self.body_score > VISIBLE_SCORE

    @property
    def num_people(self) -> np.ndarray:
        """People with at least one body point in each frame, (f,) int."""
        return (self.body_score > 0).any(-1).sum(-1)

    def at(self, frames) -> Pose:
        """The pose of some frames: an index array or a slice."""
        return jax.tree.map(lambda leaf: leaf[frames], self)


class Impulses(NamedTuple):
    """Motion vectors at pixels, at most one per pixel and frame; the reference has none.

    k is 18 for joints, the number of guidance points otherwise. Host arrays, or device arrays of a
    training batch with a leading b.
    """

    pixels: np.ndarray  # (f, k, 2) int32 column, row, inside the picture
    vectors: np.ndarray  # (f, k, 2) float x, y in pixels of that picture
    valid: np.ndarray  # (f, k) bool: the others are to be ignored


@struct.dataclass
class Batch:
    """Training clips with all that can be known before any network runs; frame 0 the reference.

    Made on the host by data/; what a run does not use is None. `posterior` stands for the frames'
    autoencoder output where a prepared set stores it: then only frame 0 is there as a picture.
    """

    frames: np.ndarray  # (b, f or 1, h, w, 3) uint8
    skeletons: np.ndarray  # (b, f, h, w, 3) uint8
    steps: Impulses  # (b, f, 18, ..) joints from frame n-1 to n, picture pixels (P_s)
    guides: Impulses | None  # (b, f, k, ..) reference -> n, pixels of CMP's square (P_d)
    cells: np.ndarray  # (b, f, 18, 2) int32 column, row on the 1/16 grid
    visible: np.ndarray  # (b, f, 18) bool
    joints: np.ndarray  # (b, 18, 2) float32 column, row: where features are read on their grid
    seen: np.ndarray  # (b, 18) bool: the reference's joints that have features
    point_features: np.ndarray | None = None  # (b, 18, d) float; None: read in the training step
    posterior: np.ndarray | None = None  # (b, f, h/8, w/8, 2 c) float: mean and logvar
    region: np.ndarray | None = None  # (b, f, h/8, w/8) float32 weight of the loss; None: ones
    figure: np.ndarray | None = None  # (b, f, h, w) bool: the person's pixels, of drawn clips
    face: np.ndarray | None = None  # (b, f, h, w) bool: those of the face, of drawn clips
    flow: np.ndarray | None = None  # (b, f, h, w, 2) float32 exact, reference -> n, of drawn clips


@struct.dataclass
class ControlSignals:
    """What DisPose adds to a base model, before any network that learns (paper section 4).

    Both flows are in pixels of the picture, x then y; their frame 0 is stored and zero. Grid cells
    are those of the 1/16 grid and computed on the host in float64, as a float32 product can fall
    into the next cell. What an ablation does not use is None.
    """

    sparse_flow: Array  # (b, f, h, w, 2) frame n-1 -> n, blurred
    dense_flow: Array | None  # (b, f, h, w, 2) reference -> n
    cells: Array  # (b, f, 18, 2) int32 column, row
    visible: Array  # (b, f, 18) bool
    point_features: Array | None  # (b, 18, d) of the reference's keypoints, zero where hidden

    def at(self, frames) -> ControlSignals:
        """The signals of some frames: an index array or a slice."""
        return self.replace(**jax.tree.map(lambda leaf: leaf[:, frames], self.per_frame))

    @property
    def per_frame(self) -> dict:
        """The parts that are (b, f, ..), by name."""
        names = ("sparse_flow", "dense_flow", "cells", "visible")
        return {name: getattr(self, name) for name in names}


@struct.dataclass
class Conditioning:
    """All that the denoiser needs and that no sampling step changes. Absent parts are None.

    f counts the frames that are generated: with the reference on SVD, without it on SD1.5.
    """

    context: Array  # (b, l, d) cross-attention tokens
    pose_features: Array | None = None  # (b, f, h/8, w/8, c) that join after the U-Net's conv_in
    image_latents: Array | None = None  # (b, h/8, w/8, c) of the reference (SVD)
    added_time: Array | None = None  # (b, 3) fps, motion bucket, noise augmentation (SVD)
    reference: dict | None = None  # the reference's tokens by module path, leaves (b, s, c) (SD1.5)
    read_reference: Array | None = None  # (b,) bool: rows that attend to them
    motion: Array | None = None  # (b, f, h/8, w/8, c) encoded motion field
    # Encoded correspondence maps: per level (b, f, h/16.., w/16.., c), and before those one of
    # (b, f, h/8, w/8, c) where quirks.point_levels is "finest".
    points: tuple[Array, ...] | None = None
    cross: dict | None = None  # network name -> constant one-token cross-attentions, leaves (b, c)

    def at(self, frames) -> Conditioning:
        """Conditioning of some frames: per-frame leaves are indexed, the rest stays."""
        take = lambda leaf: leaf[:, frames]
        return self.replace(**jax.tree.map(take, self.per_frame))

    @property
    def per_frame(self) -> dict:
        """The parts whose leaves are (b, f, ..), by name."""
        return {name: getattr(self, name) for name in ("pose_features", "motion", "points")}

    @property
    def shared(self) -> Conditioning:
        """All but the per-frame parts."""
        return self.replace(**dict.fromkeys(self.per_frame))


@struct.dataclass
class Residuals:
    """Output of the ControlNet: r of paper eq. 8."""

    skips: tuple[Array, ...]  # one per encoder skip, (b, f, h, w, c) of that skip
    mid: Array  # (b, f, h, w, c) of the middle block


class Joining(NamedTuple):
    """What joins a U-Net's activations from outside, by where; None: nothing does."""

    added: Array | None = None  # (b, f, h, w, c) after the input convolution
    # One for each level, of the grid after it: joins its output after its skips were taken.
    per_level: tuple[Array, ...] | None = None
    residuals: Residuals | None = None  # join the skips and the middle block


NOTHING = Joining()


@struct.dataclass
class Deep:
    """What a denoising call can leave to the next ones, which then only run the finest level."""

    features: Array  # (b, f, h, w, c) that enter the U-Net's last up block
    residuals: tuple[Array, ...] | None  # the ControlNet's for the finest level's skips
