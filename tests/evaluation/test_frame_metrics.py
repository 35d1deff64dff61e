"""Frame metrics and VBench's scores: properties that any version of them must have."""

import numpy as np
import pytest

from dispose_jax.evaluation import frame_metrics, vbench


def picture(seed: int, h: int = 40, w: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_equal_frames_are_perfect_and_opposite_ones_do_not_wrap_around():
    a = picture(0)
    assert frame_metrics.l1(a, a) == 0 and frame_metrics.psnr(a, a) == 100
    assert frame_metrics.ssim(a, a) == pytest.approx(1)
    assert frame_metrics.ssim_common(a, a) == pytest.approx(1)
    black, white = np.zeros_like(a), np.full_like(a, 255)
    assert frame_metrics.mean_error(black, white) == 1
    assert frame_metrics.mean_error(white, black) == 1
    assert frame_metrics.psnr(black, white) == pytest.approx(0)


def test_the_papers_l1_depends_on_the_resolution_and_the_plain_one_does_not():
    a, b = np.zeros((8, 6, 3), np.uint8), np.full((8, 6, 3), 51, np.uint8)
    double = lambda x: x.repeat(2, 0).repeat(2, 1)
    assert frame_metrics.mean_error(a, b) == frame_metrics.mean_error(double(a), double(b)) == 0.2
    assert frame_metrics.l1(a, b) == pytest.approx(51 / 48)
    assert frame_metrics.l1(double(a), double(b)) == pytest.approx(51 / 48 / 4)


def test_ssim_equals_a_loop_over_windows():
    a, b = picture(1, 12, 11), picture(2, 12, 11)
    x, y = (frame_metrics.grey(p).astype(np.float64) for p in (a, b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for i in range(12 - 6):
        for j in range(11 - 6):
            p, q = x[i : i + 7, j : j + 7].ravel(), y[i : i + 7, j : j + 7].ravel()
            (vx, vxy), (_, vy) = np.cov(p, q)
            m, n = p.mean(), q.mean()
            found.append(
                (2 * m * n + c1) * (2 * vxy + c2) / ((m * m + n * n + c1) * (vx + vy + c2))
            )
    assert frame_metrics.ssim(a, b) == pytest.approx(np.mean(found), abs=1e-10)


def test_a_still_video_is_perfect_which_is_why_it_proves_nothing():
    still = np.repeat(picture(3)[None], 5, axis=0)
    assert vbench.flickering(still) == 1
    features = np.repeat(np.random.default_rng(0).standard_normal((1, 7)), 5, axis=0)
    np.testing.assert_allclose(vbench.consistency(features), 1)
    assert not vbench.is_moving(np.zeros(4), (256, 256))
    assert not vbench.is_moving(np.zeros(0), (256, 256))  # a video of one sampled frame
    with pytest.raises(ValueError, match="fewer than two frames"):
        vbench.flickering(still[:1])


def test_consistency_looks_at_the_frame_before_and_at_the_first_and_drops_negative_cosines():
    e = np.eye(3)
    features = np.array([e[0], 2 * e[0], e[1], -3 * e[1]])
    np.testing.assert_allclose(vbench.consistency(features), [1, 0, 0])
    np.testing.assert_allclose(vbench.consistency(e[[0, 1, 1]]), [0, 0.5])


def test_a_video_moves_if_a_quarter_of_its_pairs_are_fast_for_its_size():
    assert vbench.flow_interval(24) == 3 and vbench.flow_interval(7) == 1
    fast = np.array([7.0] * 4 + [0.0] * 11)  # 16 frames: four pairs are needed
    assert vbench.is_moving(fast, (256, 300))
    assert not vbench.is_moving(fast, (512, 512))  # the same pixels mean less
    assert not vbench.is_moving(fast[1:], (256, 256)) and vbench.is_moving(fast[1:13], (256, 256))
    flow = np.zeros((10, 10, 2))
    flow[0, :5] = 3, 4
    assert vbench.largest_motion(flow) == 5
