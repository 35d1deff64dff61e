"""From pictures and poses to a training example, against the functions of sampling."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from configs import sd15, svd
from dispose_jax.correspondence import keypoints
from dispose_jax.data import examples
from dispose_jax.data.examples import Layout
from dispose_jax.motion import tracks
from dispose_jax.pose import draw
from dispose_jax.types import Impulses
from tests.pose.poses import standing

SIZE, F = (64, 128), 3  # height, width
LAYOUT = Layout(SIZE, cmp_size=64, missing_joints="drop", canvas=128)
FRAMES = np.random.default_rng(0).integers(0, 256, (F, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def pose():
    return standing(F)


@pytest.fixture(scope="module")
def example(pose):
    return examples.make(LAYOUT, FRAMES, pose)


def test_control_follows_from_the_poses_as_in_sampling(example, pose):
    cells, visible = keypoints.cells(pose, SIZE)
    np.testing.assert_array_equal(example.cells, cells)
    np.testing.assert_array_equal(example.visible, visible)
    jax.tree.map(np.testing.assert_allclose, example.steps, tracks.steps(pose, SIZE, "drop"))
    guides = tracks.from_reference(pose, SIZE, 64, "drop")
    jax.tree.map(np.testing.assert_allclose, example.guides, guides)
    assert example.steps.vectors.dtype == example.guides.vectors.dtype == np.float32
    np.testing.assert_array_equal(example.frames, FRAMES)


def test_features_read_at_the_joints_are_those_of_sampling(example, pose):
    grid = np.random.default_rng(1).normal(size=(*LAYOUT.grid, 5)).astype(np.float32)
    ours = keypoints.read(grid, example.joints, example.seen)
    np.testing.assert_allclose(ours, keypoints.embed(grid, pose.at([0]), SIZE), atol=1e-6)


@pytest.mark.parametrize("missing", ["drop", "released"])
def test_missing_joints_follow_the_layout(pose, missing):
    score = pose.body_score.copy()
    score[0, 0, 3] = score[1, 0, 4] = 0
    layout = replace(LAYOUT, missing_joints=missing)
    made = examples.make(layout, FRAMES, pose.replace(body_score=score))
    assert made.guides.valid[1, 3] == made.guides.valid[1, 4] == (missing == "released")
    assert made.steps.valid[2, 4] == False  # noqa: E712, not seen where it starts
    assert made.steps.valid[1, 4] == (missing == "released")


def test_skeletons_are_painted_on_the_layout_s_canvas(example, pose):
    for canvas in (64, 128):
        made = examples.make(replace(LAYOUT, canvas=canvas), FRAMES, pose).skeletons
        np.testing.assert_array_equal(made, draw.draw(pose, *SIZE, canvas=canvas))
        assert (made == example.skeletons).all() == (canvas == LAYOUT.canvas)


def test_a_style_that_draws_one_person_draws_the_one_whom_control_follows():
    layout = examples.layout(sd15.get_config("size=tiny,release=moore"))
    followed, other = standing(1), standing(1, num_people=2)
    for name, leaf in vars(other).items():
        leaf[:, 0] = vars(followed)[name][:, 0]
    other.body_score[:, 0] = 0.6  # the other one is surer
    expected = followed.replace(body_score=np.full_like(followed.body_score, 0.6))
    drawn = examples.make(layout, None, other).skeletons
    np.testing.assert_array_equal(drawn, examples.make(layout, None, expected).skeletons)


def test_what_is_given_is_kept_and_what_is_not_used_is_absent(pose):
    shape = (F, 5)
    given = Impulses(np.ones((*shape, 2), np.int32), np.ones((*shape, 2)), np.ones(shape, bool))
    features, posterior = np.ones((18, 7), np.float16), np.ones((F, 8, 16, 8), np.float16)
    made = examples.make(
        LAYOUT, FRAMES[:1], pose, guides=given, point_features=features, posterior=posterior
    )
    jax.tree.map(np.testing.assert_array_equal, made.guides, given)
    assert made.point_features is features and made.posterior is posterior
    assert made.frames.shape == (1, *SIZE, 3) and made.skeletons.shape == (F, *SIZE, 3)
    assert examples.make(replace(LAYOUT, cmp_size=0), FRAMES, pose).guides is None
    assert made.region is None and made.flow is None


def test_examples_side_by_side_make_a_batch(pose):
    made = [examples.make(LAYOUT, FRAMES, standing(F, seed=i)) for i in (1, 2)]
    batch = examples.stack(made)
    for i in range(2):
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y), batch, made[i])


def test_the_layout_is_the_config_s():
    config = svd.get_config("size=tiny")
    config.train.update(width=128, height=64, region="face", region_weight=2.0)
    found = examples.layout(config)
    assert found.size == (64, 128) and found.grid == (4, 8)
    assert (found.region, found.region_weight) == ("face", 2.0)
    assert found.cmp_size == config.motion.cmp_size and found.missing_joints == "drop"
    assert examples.layout(svd.get_config("size=tiny,variant=no_cmp")).cmp_size == 0
    config.skeleton.hidden = (4, 7)
    assert examples.layout(config).style == replace(found.style, hidden=(4, 7))


def region(pose, name: str, weight: float = 4.2) -> np.ndarray:
    layout = replace(LAYOUT, region=name, region_weight=weight)
    made = examples.make(layout, FRAMES, pose).region
    assert made.shape == (F, 8, 16) and made.dtype == np.float32
    np.testing.assert_array_equal(made[0], 1)
    return made


def pooled(boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Share of every latent's 8 x 8 pixels that lie in boxes left, top, right, bottom of a frame,
    pixel by pixel."""
    inside = np.zeros(SIZE)
    for row, column in np.ndindex(*SIZE):
        inside[row, column] = any(
            np.floor(left) <= column < np.ceil(right) and np.floor(top) <= row < np.ceil(bottom)
            for left, top, right, bottom in boxes
        )
    return inside.reshape(8, 8, 16, 8).mean((1, 3))


def box(points: np.ndarray) -> tuple[float, float, float, float]:
    xy = points * (SIZE[1], SIZE[0])
    return *xy.min(0), *xy.max(0)


def test_hands_that_are_seen_surely_weigh_more(pose):
    score = np.full(pose.hands_score.shape, 0.9)
    score[1, 0, 0] = 0.45  # on the whole not sure
    score[2, 0, 1, 5] = 0.0  # one finger is missing, and where it is said to be does not count
    points = pose.hands.copy()
    points[2, 0, 1, 5] = 0.99
    found = region(pose.replace(hands=points, hands_score=score), "hands")
    second = [box(points[1, 0, 1])]
    third = [box(points[2, 0, 0]), box(np.delete(points[2, 0, 1], 5, axis=0))]
    for frame, boxes in ((1, second), (2, third)):
        expected = 1 + 3.2 * pooled(boxes)
        np.testing.assert_allclose(found[frame], expected, atol=1e-5)
        assert found[frame].max() > 1.2


@pytest.mark.parametrize("name", ["hands", "face"])
def test_a_part_that_fills_a_latent_weighs_what_the_config_says(pose, name):
    """ControlNeXt: pixels of a sure box hold 0.8, and the loss is multiplied by 1 + 4 x that."""
    corners = np.array([(0.25, 0.25), (0.75, 0.75)])
    spread = lambda points: np.broadcast_to(np.resize(corners, points.shape[-2:]), points.shape)
    pose = pose.replace(
        hands=spread(pose.hands),
        hands_score=np.full(pose.hands_score.shape, 0.9),
        face=spread(pose.face),
        face_score=np.full(pose.face_score.shape, 0.9),
    )
    found = region(pose, name)[1:]
    np.testing.assert_allclose(found[:, 2:6, 4:12], 1 + 4 * 0.8, rtol=1e-6)
    np.testing.assert_array_equal(found[:, :2], 1)


def test_a_face_beyond_the_picture_is_cut_off(pose):
    points = pose.face.copy()
    points[1, 0, :, 1] -= points[1, 0, :, 1].mean()  # half above the upper border
    score = np.full(pose.face_score.shape, 0.9)
    score[2] = 0
    found = region(pose.replace(face=points, face_score=score), "face")
    np.testing.assert_allclose(found[1], 1 + 3.2 * pooled([box(points[1, 0])]), atol=1e-5)
    assert found[1, 0].max() > 1
    np.testing.assert_array_equal(found[2], 1)


def test_joints_weigh_with_the_point_adapter_s_local_mask(pose):
    near = np.kron(keypoints.local_mask(pose, SIZE), np.ones((2, 2)))
    found = region(pose, "joints", weight=2.0)
    np.testing.assert_array_equal(found[1:], 1 + near[1:])


def test_limbs_weigh_as_near_as_a_latent_is_to_one(pose):
    """Against points along each limb, one latent after the other."""
    body, score = pose.body.copy(), pose.body_score.copy()
    score[1, 0, 4] = 0  # no right forearm
    body[2, 0, 7] = (1.2, 0.5)  # the left one ends outside
    pose = pose.replace(body=body, body_score=score)
    found = region(pose, "limbs", weight=3.0)
    steps = np.linspace(0, 1, 2001)[:, None]
    for frame in (1, 2):
        joints, seen = pose.body[frame, 0] * (16, 8), pose.visible[frame, 0]
        lines = np.concatenate(
            [
                joints[a] + steps * (joints[b] - joints[a])
                for a, b in draw.LIMBS
                if seen[a] and seen[b]
            ]
        )
        for row, column in np.ndindex(8, 16):
            distance = np.linalg.norm(lines - (column + 0.5, row + 0.5), axis=-1).min()
            expected = 1 + 2 * np.clip(2 - distance, 0, 1)
            assert found[frame, row, column] == pytest.approx(expected, abs=0.01)
        assert found[frame].min() == 1 and found[frame].max() == 3


def test_a_person_who_is_not_seen_weighs_nothing(pose):
    nobody = pose.replace(body_score=np.zeros_like(pose.body_score))
    np.testing.assert_array_equal(region(nobody, "limbs"), 1)


def test_a_weight_of_one_weighs_nothing(pose):
    for name in ("hands", "face", "joints", "limbs"):
        np.testing.assert_allclose(region(pose, name, weight=1.0), 1, atol=1e-6)
