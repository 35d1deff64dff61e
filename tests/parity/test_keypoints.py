"""Keypoint embeddings and the local loss mask against the original code."""

import re

import numpy as np

from dispose_jax.correspondence import keypoints
from dispose_jax.types import Pose
from tests.parity.cases import assert_close, load_case, record


def _pose(candidate: np.ndarray, subset: np.ndarray) -> Pose:
    """candidate (f, 18, 2) and subset (f, 18) of one person."""
    f = len(candidate)
    return Pose(
        body=candidate[:, None],
        body_score=np.where(subset == -1, 0.0, 1.0)[:, None],
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )


def test_reference_embeddings_equal_the_original():
    case = load_case("sampling_ref_points")
    tolerance = float(re.fullmatch(r"max abs (\S+)", case.about["tolerance"]).group(1))
    for i, size in enumerate(case.config["image_sizes_hw"]):
        reference = _pose(case.inputs[f"candidate_{i}"][None], case.inputs[f"subset_{i}"])
        features = case.inputs[f"feature_{i}"][0].transpose(1, 2, 0)
        ours = keypoints.embed(features, reference, tuple(size))[None]
        assert_close(case, f"embedding_{i}", ours, tolerance, relative=False)


def test_local_mask_equals_the_original():
    case = load_case("dispose.tiny")
    pose = _pose(case.inputs["candidate"], case.inputs["subset"][:, 0])
    size = case.inputs["flow"].shape[-2:]
    ours = keypoints.local_mask(pose, size)
    reference = case.outputs["loss_mask"]
    assert 0 < ours.mean() < 1
    ours = np.broadcast_to(ours[None, :, None], reference.shape).astype(int)
    record(case.name, "loss_mask", np.abs(ours - reference).max(), 0)
