"""Sparse and dense fields against direct computations."""

import cv2
import jax
import numpy as np
import pytest

from dispose_jax.motion import field, tracks
from dispose_jax.networks.cmp import CMP
from dispose_jax.ops import resize
from tests.motion.test_tracks import pose_of

SIZE = (40, 56)
NETWORK = CMP(
    layers=(1, 1, 1, 1),
    image_features=8,
    sparse_features=4,
    bins=7,
    fmax=10,
    base_width=4,
    decoder_width=8,
)


@pytest.fixture(scope="module")
def pose():
    rng = np.random.default_rng(0)
    body = rng.uniform(-0.1, 1.1, (4, 18, 2))
    body[:, 9] = body[:, 2]  # always on one pixel
    return pose_of(body, rng.uniform(0.1, 1, (4, 18)))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    x = np.zeros((1, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), x, x[..., :2], x[..., 0])["params"]

    def draw(path, x):
        if path[-1].key == "kernel":
            return rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("kernel, sigma", [(31, 4.0), (199, 20.0)])
def test_sparse_field_equals_opencv_on_the_drawn_steps(pose, kernel, sigma):
    """The second kernel reaches over several mirrored pictures."""
    impulses = tracks.steps(pose, SIZE, "released")
    drawn = np.zeros((4, *SIZE, 2))
    points = tracks.positions(pose, SIZE)
    for frame in range(3):  # in the original's words: joints in order, the last one stays
        for joint in range(18):
            if pose.visible[frame, 0, joint]:
                x, y = points[frame, joint].astype(int)
                drawn[frame + 1, y, x] = points[frame + 1, joint] - points[frame, joint]
    offsets = np.arange(kernel) - kernel // 2
    weights = np.exp(-(offsets**2 + offsets[:, None] ** 2) / (2 * sigma**2))
    theirs = [cv2.filter2D(frame, -1, weights / weights.sum()) for frame in drawn]
    ours = field.sparse(impulses, SIZE, kernel=kernel, sigma=sigma)
    np.testing.assert_allclose(ours, theirs, atol=3e-7)
    assert not ours[0].any() and ours[1:].any((1, 2, 3)).all()


def test_rasterised_impulses_hold_the_vectors_and_their_mask(pose):
    impulses = tracks.steps(pose, SIZE, "drop")
    drawn, mask = field.rasterise(impulses, SIZE)
    assert mask.sum() == impulses.valid.sum() > 0
    for frame, joint in zip(*np.nonzero(impulses.valid)):
        x, y = impulses.pixels[frame, joint]
        np.testing.assert_allclose(drawn[frame, y, x], impulses.vectors[frame, joint], rtol=1e-6)
    assert not np.asarray(drawn)[~np.asarray(mask)].any()


def test_dense_field_is_the_network_frame_by_frame_whatever_the_chunk(pose, params):
    reference = np.random.default_rng(2).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)
    impulses = tracks.from_reference(pose, SIZE, 64, "released")
    ours = field.dense(NETWORK, params, reference, impulses, 64, chunk=2)  # 3 frames: one is left
    assert ours.shape == (4, *SIZE, 2) and not ours[0].any() and ours.std() > 0.01
    drawn, mask = field.rasterise(impulses, (64, 64))
    small = resize.nearest(reference, (64, 64))
    flow = jax.jit(NETWORK.apply)({"params": params}, np.stack([small] * 4), drawn, mask)
    flow = resize.nearest(flow, SIZE) * np.array([56 / 64, 40 / 64], np.float32)
    np.testing.assert_allclose(ours[1:], flow[1:], atol=1e-5)
    assert np.abs(ours[1] - ours[2]).max() > 1e-3  # the guidance matters


def test_impossible_sizes_of_the_dense_field_are_refused(pose, params):
    impulses = tracks.from_reference(pose, SIZE, 72, "released")
    reference = np.zeros((*SIZE, 3), np.float32)
    with pytest.raises(ValueError, match="cmp_size is 72.*multiple of 64"):
        field.dense(NETWORK, params, reference, impulses, 72)
    alone = jax.tree.map(lambda x: x[:1], impulses)
    with pytest.raises(ValueError, match="driving frame"):
        field.dense(NETWORK, params, reference, alone, 64)
