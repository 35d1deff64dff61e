"""Levels of pictures and what networks see."""

import jax.numpy as jnp
import numpy as np

from dispose_jax.ops import levels


def test_every_level_survives_the_way_to_networks_and_back():
    every = np.arange(256, dtype=np.uint8).reshape(2, 8, 16)
    for host in (True, False):
        seen = levels.to_float(every if host else jnp.asarray(every))
        assert seen.dtype == np.float32 and seen.min() == -1 and seen.max() == 1
        np.testing.assert_array_equal(levels.to_uint8(seen), every)


def test_what_lies_outside_becomes_the_darkest_or_brightest_level():
    outside = np.array([-7.0, -1.001, 1.001, 3.0], np.float32)
    assert levels.to_uint8(outside).tolist() == [0, 0, 255, 255]
