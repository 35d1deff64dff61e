"""Cells, embeddings and the local mask against loops and whole-map computations."""

import numpy as np

from dispose_jax.correspondence import keypoints
from dispose_jax.ops import resize
from tests.motion.test_tracks import pose_of

SIZE = (128, 192)  # 8 x 12 cells


def test_cells_truncate_clip_and_leave_out_negative_or_unsure_joints():
    body = np.full((2, 18, 2), 0.5)
    body[0, :5] = [[0.9999, 0.1249], [1.3, 2.0], [-0.01, 0.5], [0.5, -0.2], [1 / 12, 1 / 8]]
    score = np.ones((2, 18))
    score[1, 7], body[1, 7] = 0.3, np.nan
    cells, visible = keypoints.cells(pose_of(body, score), SIZE)
    assert cells.dtype == np.int32
    assert cells[0, :2].tolist() == [[11, 0], [11, 7]] and cells[0, 4].tolist() == [1, 1]
    assert visible[0, :5].tolist() == [True, True, False, False, True]
    assert not visible[1, 7] and visible[1].sum() == 17
    assert (cells >= 0).all() and (cells < [12, 8]).all()


def test_cells_are_truncated_in_double_precision():
    below = np.nextafter(0.25, 0)  # rounds to 0.25 in float32
    body = np.full((1, 18, 2), below)
    cells, _ = keypoints.cells(pose_of(body), SIZE)
    assert (cells == [2, 1]).all() and int(np.float32(below) * 12) == 3


def test_embeddings_equal_a_lookup_in_the_resized_map():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(8, 12, 5)).astype(np.float32)
    body, score = rng.uniform(-0.1, 1.1, (1, 18, 2)), np.ones((1, 18))
    score[0, [3, 10]] = 0
    reference = pose_of(body, score)
    height, width = SIZE
    large = np.asarray(resize.bilinear(features, (width, height)))  # the original swaps the sides
    ours = keypoints.embed(features, reference, SIZE)
    for joint, (x, y) in enumerate(body[0]):
        column = min(max(int(x * height), 0), height - 1)
        row = min(max(int(y * width), 0), width - 1)
        expected = large[row, column] * score[0, joint]
        np.testing.assert_allclose(ours[joint], expected, atol=1e-5)


def test_local_mask_equals_a_loop_over_joints():
    rng = np.random.default_rng(1)
    body, score = rng.uniform(-0.2, 1.2, (3, 18, 2)), rng.uniform(0, 1, (3, 18))
    score[:, 4:] = 0  # four joints, or the mask is full
    size = (256, 384)
    expected = np.zeros((3, 16, 24), bool)
    for frame in range(3):
        for x, y in body[frame][score[frame] > 0.3]:
            column, row = int(x * 24), int(y * 16)
            top, bottom = np.clip([row - 4, row + 4], 0, 15)
            left, right = np.clip([column - 4, column + 4], 0, 23)
            expected[frame, top:bottom, left:right] = True
    ours = keypoints.local_mask(pose_of(body, score), size)
    np.testing.assert_array_equal(ours, expected)
    assert expected.any() and not ours[:, -1].any() and not ours[:, :, -1].any()
