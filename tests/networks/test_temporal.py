"""Motion modules: they start as nothing, know the order of frames, and mix frames only."""

from functools import partial

import jax
import numpy as np
import pytest

from dispose_jax.networks.temporal import MotionModule, position_code, split_motion
from tests import drawn
from tests.drawn import draw

B, F, H, W, C = 2, 5, 2, 3, 8
MODULE = MotionModule(heads=2, groups=4, positions=6)
random_params = partial(drawn.random_params, scale=0.5)


def test_an_untrained_module_changes_nothing():
    x = draw(B, F, H, W, C)
    last = jax.jit(lambda key: MODULE.init(key, x)["params"]["proj_out"])(jax.random.key(0))
    params = random_params(MODULE, x) | {"proj_out": last}
    np.testing.assert_array_equal(MODULE.apply({"params": params}, x), x)


def test_the_module_mixes_the_frames_of_one_position_of_one_clip():
    x = draw(B, F, H, W, C)
    params = random_params(MODULE, x)
    changed = x.copy()
    # Each group's mean and deviation stay as they are: the norm of the frame must not tell.
    changed[0, 1, 1, 2] = x[0, 1, 1, 2].reshape(4, 2)[:, ::-1].ravel()
    difference = np.abs(
        MODULE.apply({"params": params}, changed) - MODULE.apply({"params": params}, x)
    ).max(-1)
    assert (difference[0, :, 1, 2] > 1e-3).all(), "every frame of that position sees it"
    difference[0, :, 1, 2] = 0
    assert difference.max() < 1e-4, "no other position or clip does"


def test_the_module_knows_the_order_of_frames():
    x = draw(B, F, H, W, C)
    params = random_params(MODULE, x)
    ours = MODULE.apply({"params": params}, x)
    backwards = MODULE.apply({"params": params}, x[:, ::-1])[:, ::-1]
    assert np.abs(ours - backwards).max() > 0.1


def test_more_frames_than_positions_are_refused():
    x = draw(1, 7, H, W, C)
    params = random_params(MODULE, x[:, :1])
    with pytest.raises(ValueError, match="7 frames at once, .* know 6 positions"):
        MODULE.apply({"params": params}, x)


def test_position_code_alternates_sines_and_cosines_of_falling_frequency():
    code = position_code(4, 6)
    assert code.shape == (1, 4, 6) and code.dtype == np.float32
    for position in range(4):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            expected = np.sin(angle), np.cos(angle)
            np.testing.assert_allclose(code[0, position, 2 * i : 2 * i + 2], expected, atol=1e-6)


def test_motion_modules_are_told_from_the_picture_model_at_any_depth():
    picture = {"conv": {"kernel": 1}, "up": {"resnets_0": {"bias": 2}}}
    motion = {"up": {"motion_modules_0": {"norm": {"scale": 3}}}, "mid": {"motion_modules_0": {}}}
    whole = {
        "conv": {"kernel": 1},
        "up": {"motion_modules_0": {"norm": {"scale": 3}}, "resnets_0": {"bias": 2}},
        "mid": {"motion_modules_0": {}},
    }
    assert split_motion(whole) == (picture, motion)
