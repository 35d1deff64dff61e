"""Drawn clips that several tests look at: drawing compiles once."""

import pytest

from dispose_jax.evaluation.ablation import clips
from tests import small

CLIPS, FRAMES = 7, 4


def config(variant="full"):
    """The small configuration with clips of 4 frames, of 64 x 64 pixels."""
    made = small.config(variant)
    made.sample.update(window=FRAMES, steps=1)
    return made


@pytest.fixture(scope="session")
def sets():
    """What is measured on, {"same", "cross"}."""
    return clips.draw(config(), CLIPS, FRAMES)
