"""Optical flow: DIS against the exact flow of drawn people, RAFT's sizes against direct calls."""

from functools import partial

import cv2
import jax
import numpy as np
import pytest

from dispose_jax.models import networks
from dispose_jax.models.network import Network
from dispose_jax.motion import flow
from dispose_jax.networks.raft import RAFT
from dispose_jax.ops import resize
from dispose_jax.synthetic import scene

CLIPS, FRAMES, SIZE = 4, 8, (192, 128)


@pytest.fixture(scope="module")
def drawn():
    keys = jax.random.split(jax.random.key(1), CLIPS)
    return jax.device_get(scene.draw(keys, FRAMES, SIZE))


def as_bytes(pictures):
    """-1..1 -> uint8."""
    return np.rint((pictures + 1) * 127.5).clip(0, 255).astype(np.uint8)


def test_chained_and_refined_search_is_nearer_the_truth_than_a_direct_one(drawn):
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def direct(frames):
        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        flows = [search.calc(grays[0], gray, None) for gray in grays[1:]]
        return np.stack([np.zeros_like(flows[0]), *flows])

    def errors(estimate):
        """Mean distance in pixels over the visible person, of far frames and of the first step."""
        found = np.stack([estimate(frames) for frames in as_bytes(drawn.frames)])
        distance = np.linalg.norm(found - drawn.flow, axis=-1)
        person = drawn.seen & drawn.mask[:, :1]
        return [distance[:, at][person[:, at]].mean() for at in (slice(4, None), slice(1, 2))]

    still = errors(lambda frames: np.zeros((*frames.shape[:3], 2)))
    directly, refined = map(errors, (direct, flow.dis))
    assert refined[0] < 0.9 * directly[0]
    assert refined[0] < 0.45 * still[0] and refined[1] < 0.3 * still[1]


def test_the_search_has_no_flow_where_nothing_moves(drawn):
    frames = as_bytes(drawn.frames[0])
    found = flow.dis(frames)
    assert found.shape == (FRAMES, *SIZE, 2) and found.dtype == np.float32
    assert not found[0].any()
    assert np.abs(flow.dis(np.repeat(frames[:1], 3, 0))).max() < 0.02
    assert not flow.dis(frames[:1]).any()


def test_a_shift_of_the_whole_picture_is_found_and_adds_up():
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (96, 140, 3), dtype=np.uint8), (0, 0), 2)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX)
    frames = np.stack([wide[8 + n : 72 + n, 30 - 3 * n : 110 - 3 * n] for n in range(6)])
    found = flow.dis(frames)[:, 16:48, 16:48].mean((1, 2))
    np.testing.assert_allclose(found, [[3 * n, -n] for n in range(6)], atol=0.3)


NETWORK = RAFT(widths=(8, 12, 16), features=20, hidden=16)
UPDATES = 2


@pytest.fixture(scope="module")
def params():
    picture = np.zeros((1, 128, 128, 3), np.float32)
    init = lambda key: NETWORK.init(key, picture, picture, updates=1)
    network = Network(NETWORK, init, np.float32)
    return networks.random({"raft": network}, seed=0)["raft"]


def clip_of(frames, height, width, seed=0):
    """Random soft pictures, uint8."""
    noise = np.random.default_rng(seed).uniform(0, 255, (frames, height, width, 3))
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 3) for frame in noise]).astype(np.uint8)


def directly(params, pictures):
    """Flow from the first of pictures (f, h, w, 3) in 0..255 to the others, by calls of pairs."""
    pictures = (pictures / 127.5 - 1).astype(np.float32)
    return np.stack([np.asarray(_pair(params, pictures[:1], p[None]))[0] for p in pictures[1:]])


@jax.jit  # one program compiles sooner than a hundred operations
def _pair(params, first, second):
    return NETWORK.apply({"params": params}, first, second, UPDATES)


def assert_same_flow(found, expected):
    assert not np.asarray(found[0]).any() and np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found[1:], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.full
def test_odd_sizes_are_padded_with_their_edge_and_the_flow_is_cut_out(params):
    frames = clip_of(3, 131, 148)
    found = flow.raft(NETWORK, params, frames, updates=UPDATES)
    padded = np.pad(frames, ((0, 0), (2, 3), (2, 2), (0, 0)), mode="edge")
    assert_same_flow(found, directly(params, padded)[:, 2:-3, 2:-2])


def test_large_frames_are_shrunk_and_their_flow_is_in_pixels_of_the_frames(params):
    frames = clip_of(2, 257, 290)
    assert flow.working_size((257, 290), 132) == (132, 149)  # pixels that are not square
    found = flow.raft(NETWORK, params, frames, short_side=132, updates=UPDATES)
    small = resize.area(frames, (132, 149))
    padded = np.pad(small, ((0, 0), (2, 2), (1, 2), (0, 0)), mode="edge")
    expected = directly(params, padded)[:, 2:-2, 1:-2]
    expected = jax.image.resize(expected, (1, 257, 290, 2), "bilinear")
    assert_same_flow(found, np.asarray(expected) * [290 / 149, 257 / 132])


def test_the_working_size_keeps_the_shape_and_never_falls_below_what_raft_needs():
    assert flow.working_size((768, 576), 384) == (512, 384)
    assert flow.working_size((300, 512), 384) == (300, 512)
    assert flow.working_size((64, 48), 384) == (171, 128)
    assert flow.working_size((1000, 200), 128) == (640, 128)


def test_frames_smaller_than_raft_needs_are_enlarged(params):
    frames = clip_of(2, 64, 80)
    found = flow.raft(NETWORK, params, frames, updates=UPDATES)
    twice = jax.image.resize(frames.astype(np.float32), (2, 128, 160, 3), "bilinear")
    big = directly(params, np.asarray(twice))
    means = big[:, 0::2] + big[:, 1::2]  # the half-pixel rule halves without weights
    expected = (means[:, :, 0::2] + means[:, :, 1::2]) / 4 / 2
    assert_same_flow(found, expected)


def test_a_reference_alone_has_no_flow_to_any_frame(params):
    found = flow.raft(NETWORK, params, clip_of(1, 128, 128), updates=UPDATES)
    assert found.shape == (1, 128, 128, 2) and not np.asarray(found).any()


def test_frames_of_another_kind_are_refused(params):
    estimators = (flow.dis, partial(flow.raft, NETWORK, params))
    for estimate in estimators:
        with pytest.raises(ValueError, match="type float32; expected uint8"):
            estimate(np.zeros((2, 128, 128, 3), np.float32))
        with pytest.raises(ValueError, match=r"shape \(128, 128, 3\)"):
            estimate(np.zeros((128, 128, 3), np.uint8))
    with pytest.raises(ValueError, match="15 x 40 pixels; DIS needs 16"):
        flow.dis(np.zeros((2, 15, 40, 3), np.uint8))
    with pytest.raises(ValueError, match="short_side is 100; RAFT needs 128"):
        flow.raft(NETWORK, params, np.zeros((2, 128, 128, 3), np.uint8), short_side=100)
