"""Counts in sentences."""

from dispose_jax.counting import counted


def test_one_is_singular():
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
