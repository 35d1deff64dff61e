"""Classifier-free guidance: its scale over the frames and the extrapolation."""

import numpy as np
import pytest

from dispose_jax.diffusion import guidance


def test_one_number_holds_for_all_frames_and_a_pair_is_a_line():
    np.testing.assert_array_equal(guidance.scales(2.5, 4), np.float32([2.5] * 4))
    np.testing.assert_allclose(guidance.scales((1.0, 3.0), 5), [1, 1.5, 2, 2.5, 3])


@pytest.mark.parametrize("wrong", [(1.0, 2.0, 3.0), ((1.0, 2.0),), ()])
def test_another_number_of_scales_is_refused(wrong):
    with pytest.raises(ValueError, match="sample.guidance_scale"):
        guidance.scales(wrong, 4)


def test_each_frame_moves_by_its_own_scale():
    without, given = np.random.default_rng(0).standard_normal((2, 1, 3, 2, 4, 5), np.float32)
    scale = np.float32([0.0, 1.0, 2.5])
    guided = np.asarray(guidance.combine(without, given, scale))
    for frame, factor in enumerate(scale):
        expected = without[:, frame] + factor * (given[:, frame] - without[:, frame])
        np.testing.assert_allclose(guided[:, frame], expected, rtol=1e-6)
    np.testing.assert_array_equal(guided[:, 0], without[:, 0])
    np.testing.assert_allclose(guided[:, 1], given[:, 1], rtol=1e-5, atol=1e-6)


def test_guidance_is_used_inside_the_interval_alone():
    sigmas = np.array([np.inf, 700.0, 5.0, 1.0, 0.2, 0.0])
    everywhere = [True, True, True, True, True, False]
    assert guidance.inside(sigmas, (0.0, np.inf)).tolist() == everywhere
    assert guidance.inside(sigmas, (0.2, 5.0)).tolist() == [False, False, True, True, False, False]
