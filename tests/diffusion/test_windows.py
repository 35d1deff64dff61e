"""Windows: they cover the clip, begin with the reference, and blending keeps what they agree on."""

import numpy as np
import pytest

from dispose_jax.diffusion import windows

LONG = [(20, 16, 6), (33, 16, 1), (100, 16, 15), (7, 3, 1), (9, 2, 1)]


@pytest.mark.parametrize(("num_frames", "window", "overlap"), LONG)
def test_every_frame_is_in_a_window_and_every_window_begins_with_the_reference(
    num_frames, window, overlap
):
    plan = windows.anchored(num_frames, window, overlap)
    assert plan.frames.shape[1] == window
    assert (plan.frames[:, 0] == 0).all()
    assert set(plan.frames.ravel().tolist()) == set(range(num_frames))
    assert (np.diff(plan.frames[:, 1:], axis=1) == 1).all(), "the other frames follow each other"


@pytest.mark.parametrize(("num_frames", "window", "overlap"), LONG)
def test_blending_keeps_a_prediction_that_all_windows_agree_on(num_frames, window, overlap):
    plan = windows.anchored(num_frames, window, overlap)
    truth = np.random.default_rng(0).standard_normal(num_frames)
    blend = np.zeros(num_frames)
    for row in plan.frames:
        np.add.at(blend, row, plan.weights * truth[row])
    blended = blend / windows.total_weight(plan, num_frames)
    np.testing.assert_allclose(blended, truth, rtol=1e-6)


def test_weights_rise_and_fall_linearly():
    weights = windows.anchored(10, 4, 1).weights
    np.testing.assert_allclose(weights, [0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(windows.anchored(9, 3, 1).weights, [1 / 3, 1, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("num_frames", [2, 5, 16])
def test_a_clip_no_longer_than_a_window_is_one_window(num_frames):
    plan = windows.anchored(num_frames, 16, 6)
    assert plan.frames.tolist() == [list(range(num_frames))]
    assert len(plan.weights) == num_frames


def test_overlap_0_is_fine_as_long_as_no_frame_is_left_out():
    assert windows.anchored(16, 16, 0).frames.tolist() == [list(range(16))]
    covered = windows.anchored(20, 16, 0)
    assert set(covered.frames.ravel().tolist()) == set(range(20))
    with pytest.raises(ValueError, match="sample.overlap is 0: frame 16 of 33 is in no window"):
        windows.anchored(33, 16, 0)


@pytest.mark.parametrize("overlap", [-1, 16, 20])
def test_impossible_overlaps_are_refused(overlap):
    with pytest.raises(ValueError, match=f"sample.overlap is {overlap} and sample.window 16"):
        windows.anchored(40, 16, overlap)


def test_a_reference_alone_is_no_clip():
    with pytest.raises(ValueError, match="at least one driving frame"):
        windows.anchored(1, 16, 6)
