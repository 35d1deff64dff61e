"""Data that several tests of evaluation look at and none changes."""

import jax
import pytest

from dispose_jax.evaluation import sequences
from dispose_jax.media import image
from dispose_jax.ops import levels
from dispose_jax.pose import files
from dispose_jax.synthetic import batches, scene
from tests import small

SIZE = small.SIZE
FRAMES = 5


@pytest.fixture(scope="session")
def tiktok(tmp_path_factory):
    """Drawn people in the layout of TikTok's data set, with their poses."""
    folder = tmp_path_factory.mktemp("TikTok")
    keys = jax.random.split(jax.random.key(3), len(sequences.TIKTOK))
    drawn = jax.device_get(scene.draw(keys, FRAMES, SIZE))
    for i, number in enumerate(sequences.TIKTOK):
        frames = folder / f"{number:05d}" / "images"
        frames.mkdir(parents=True)
        for j, frame in enumerate(levels.to_uint8(drawn.frames[i])):
            image.write_png(frames / f"{j + 1:04d}.png", frame)
        pose = batches.pose_of(drawn.keypoints[i], drawn.visible[i])
        files.write(folder / f"{number:05d}.poses.json", pose, width=SIZE[1], height=SIZE[0])
    return folder
