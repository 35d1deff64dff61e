"""A whole set of files that a clip is made of, for tests of reading them."""

import numpy as np

from configs import svd
from dispose_jax import inputs
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, video
from dispose_jax.pose import files
from dispose_jax.pose.detector import Detector
from tests.pose.poses import standing

WIDTH, HEIGHT = 120, 200  # of the reference picture
NUM_FRAMES = 9  # of the driving video
SKELETON = svd.get_config("size=tiny").skeleton


def silent(sentence):
    pass


def settings(**values):
    sample = svd.get_config("size=tiny").sample
    sample.resolution = 64
    sample.update(values)
    return sample


def write(folder):
    """A picture of noise, a video of noise, and poses of both."""
    rng = np.random.default_rng(0)
    paths = [folder / name for name in ("ref.png", "ref.json", "dance.mp4", "dance.json")]
    image.write_png(paths[0], rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    files.write(paths[1], standing(1), width=WIDTH, height=HEIGHT)
    video.write(paths[2], rng.integers(0, 256, (NUM_FRAMES, 80, 64, 3), np.uint8), 30)
    files.write(paths[3], standing(NUM_FRAMES, seed=1), width=640, height=800)
    return Sources(*paths)


def changed(sources, **paths):
    return Sources(**{**vars(sources), **paths})


def prepare(sources, **values):
    return inputs.prepare(sources, settings(**values), SKELETON, Detector(None, silent))
