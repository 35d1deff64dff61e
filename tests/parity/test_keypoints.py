"""Keypoint embeddings and the local loss mask against the original code."""

import re

import numpy as np

from dispose_jax.correspondence import keypoints
from tests.parity.cases import assert_close, body_pose, load_case, record


def test_reference_embeddings_equal_the_original():
    case = load_case("sampling_ref_points")
    tolerance = float(re.fullmatch(r"max abs (\S+)", case.about["tolerance"]).group(1))
    for i, size in enumerate(case.config["image_sizes_hw"]):
        reference = body_pose(case.inputs[f"candidate_{i}"][None], case.inputs[f"subset_{i}"])
        features = case.inputs[f"feature_{i}"][0].transpose(1, 2, 0)
        ours = keypoints.embed(features, reference, tuple(size))[None]
        assert_close(case, f"embedding_{i}", ours, tolerance, relative=False)


def test_local_mask_equals_the_original():
    case = load_case("dispose.tiny")
    pose = body_pose(case.inputs["candidate"], case.inputs["subset"][:, 0])
    size = case.inputs["flow"].shape[-2:]
    ours = keypoints.local_mask(pose, size)
    reference = case.outputs["loss_mask"]
    assert 0 < ours.mean() < 1
    ours = np.broadcast_to(ours[None, :, None], reference.shape).astype(int)
    record(case.name, "loss_mask", np.abs(ours - reference).max(), 0)
