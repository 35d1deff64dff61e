"""Flow colours: directions, lengths, unknown vectors."""

import ml_dtypes
import numpy as np
import pytest

from dispose_jax.motion import color


def test_zero_flow_is_white_and_longer_flow_is_more_saturated():
    flow = np.zeros((1, 4, 2), np.float32)
    flow[0, :, 0] = [0, 1, 2, 4]
    picture = color.picture(flow)
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert (np.diff(picture.min(-1).astype(int)) < 0).all()
    assert picture[0, 3].min() == 0  # the longest vector has the pure hue


def test_opposite_directions_have_different_hues_and_equal_ones_the_same():
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False) + 0.1
    flow = np.stack([np.cos(angle), np.sin(angle)], -1)[None]
    hues = color.picture(np.concatenate([flow, 3 * flow], 1)).astype(int)[0]
    assert (np.abs(hues[:6] - hues[6:12]).max(-1) > 50).all()
    short = color.picture(np.concatenate([flow, flow], 1)).astype(int)[0]
    np.testing.assert_array_equal(short[:12], short[12:])


def test_each_picture_of_a_clip_has_its_own_scale_unless_a_least_length_is_longer():
    flow = np.random.default_rng(0).normal(size=(3, 5, 6, 2)).astype(np.float32)
    flow[1] *= 0.01
    together = color.picture(flow)
    for frame in range(3):
        np.testing.assert_array_equal(together[frame], color.picture(flow[frame]))
    np.testing.assert_array_equal(color.picture(flow[0] * 0.25), together[0])  # scale-free
    pale = color.picture(flow, least=50.0)
    assert pale.min() > 200


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("longest", [4, 400])
def test_whole_numbers_and_half_precision_have_the_colours_of_their_values(kind, longest):
    flow = np.random.default_rng(2).integers(-longest, longest + 1, (6, 7, 2)).astype(kind)
    flow[0, 0] = 0
    picture = color.picture(flow)
    assert picture[0, 0].tolist() == [255, 255, 255]
    exact = color.picture(flow.astype(np.float64)).astype(int)
    inside = np.linalg.norm(flow.astype(np.float64), axis=-1)
    inside = inside < inside.max()  # at the rim the formula changes with the last digit
    assert np.abs(picture - exact)[inside].max() <= 1


def test_unknown_vectors_are_black_and_do_not_set_the_scale():
    flow = np.random.default_rng(1).normal(size=(4, 5, 2)).astype(np.float32)
    flow[2, 3] = 0
    clean = color.picture(flow)
    for value in (2e7, -np.inf, np.nan):
        flow[2, 3, 1] = value
        picture = color.picture(flow)
        assert not picture[2, 3].any()
        clean[2, 3] = 0
        np.testing.assert_array_equal(picture, clean)
