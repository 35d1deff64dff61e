"""One person stays person 0, whatever the order and whoever else is there."""

import jax
import numpy as np
import pytest

from dispose_jax.pose import follow, people
from dispose_jax.types import Pose
from tests.pose.poses import standing

ASPECT = 0.5625
FRAMES = 40


def body(num_frames=FRAMES, *, x=0.5, y=0.5, size=0.8, lively=0.02, seed=0):
    """Somebody at a place: (xy (f, 128, 2), score (f, 128)), joints moving at random."""
    rng = np.random.default_rng(seed)
    one = standing(1, seed=1)
    xy, score = (leaf[0, 0] for leaf in people.flatten(one))
    centre = np.stack(np.broadcast_arrays(x, y), -1)
    centre = np.broadcast_to(centre, (num_frames, 2))[:, None]
    steps = rng.normal(scale=lively, size=(num_frames, people.NUM_POINTS, 2)) * size
    return (xy - 0.5) * size * (1, 1) + centre + steps, np.tile(score, (num_frames, 1))


def together(bodies, order, present=None) -> Pose:
    """A pose of some bodies, listed in each frame in an order (f, p); present (f, p) by body."""
    frames = []
    for i, places in enumerate(order):
        held = [b for b in places if present is None or present[i, b]]
        xy = np.array([bodies[b][0][i] for b in held]).reshape(-1, 128, 2)
        frames.append((xy, np.array([bodies[b][1][i] for b in held]).reshape(-1, 128)))
    return people.stack(frames)


def shuffled(rng, num_people, num_frames=FRAMES):
    return np.array([rng.permutation(num_people) for _ in range(num_frames)])


def assert_is(pose, one, frames=slice(None), place=0):
    np.testing.assert_allclose(pose.body[frames, place], one[0][frames, :18], atol=1e-12)
    np.testing.assert_allclose(pose.hands[frames, place, 0], one[0][frames, 18:39], atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_most_prominent_person_is_followed_in_any_order(seed):
    rng = np.random.default_rng(seed)
    dancer = body(x=0.4 + 0.1 * np.sin(np.arange(FRAMES) / 5), seed=seed)
    others = [body(x=x, size=s, lively=0.003, seed=9) for x, s in ((0.8, 0.4), (0.15, 0.5))]
    pose = together([dancer, *others], shuffled(rng, 3))
    found, warnings = follow.follow(pose, aspect=ASPECT)
    assert_is(found, dancer)
    assert found.body.shape == pose.body.shape
    np.testing.assert_array_equal(found.num_people, 3)
    (warning,) = warnings
    assert "up to 3 people are in a frame" in warning and "sample.person=1 follows" in warning
    second, _ = follow.follow(pose, aspect=ASPECT, person=1)
    assert_is(second, others[1])


def test_a_dancer_is_followed_before_somebody_of_the_same_size_who_stands():
    dancer, still = body(x=0.3), body(x=0.7, lively=0.001, seed=2)
    found, _ = follow.follow(together([still, dancer], [[0, 1]] * FRAMES), aspect=ASPECT)
    assert_is(found, dancer)


def test_two_who_cross_are_not_taken_for_each_other():
    way = np.linspace(0.2, 0.8, FRAMES)
    one, two = body(x=way, seed=1, lively=0.004), body(x=1 - way, size=0.65, seed=2, lively=0.004)
    pose = together([one, two], shuffled(np.random.default_rng(0), 2))
    assert_is(follow.follow(pose, aspect=ASPECT).pose, one)


def test_who_is_not_found_in_some_frames_is_absent_there_and_nobody_takes_the_place():
    dancer, other = body(x=0.4), body(x=0.8, size=0.5, lively=0.003)
    present = np.ones((FRAMES, 2), bool)
    gone = [3, 10, 11, 12, 13, 14, 30]
    present[gone, 0] = False
    pose = together([dancer, other], shuffled(np.random.default_rng(1), 2), present)
    found, _ = follow.follow(pose, aspect=ASPECT)
    rest = np.delete(np.arange(FRAMES), gone)
    assert_is(found, dancer, rest)
    assert not found.body_score[gone, 0].any() and not found.face_score[gone, 0].any()
    assert_is(found, other, gone, place=1)


def test_a_person_who_comes_back_elsewhere_after_a_cut_is_followed_on():
    before, after = body(x=0.2), body(x=0.75, y=0.4, size=0.5)
    passer = body(x=0.9, size=0.3, lively=0.002, seed=4)
    present = np.ones((FRAMES, 3), bool)
    present[20:, 0] = present[:20, 1] = False
    present[[5, 6, 7], 2] = False
    pose = together([before, after, passer], shuffled(np.random.default_rng(2), 3), present)
    found, _ = follow.follow(pose, aspect=ASPECT)
    assert_is(found, before, slice(0, 20))
    assert_is(found, after, slice(20, None))


def test_a_clip_of_one_person_is_left_as_it_is_even_where_it_jumps():
    pose = standing(6)
    far = pose.body.copy()
    far[3] += 0.4
    pose = pose.replace(body=far)
    found, warnings = follow.follow(pose, aspect=ASPECT)
    assert found is pose and not warnings
    with pytest.raises(ValueError, match="a.json: sample.person is 1, but no frame shows a second"):
        follow.follow(pose, aspect=ASPECT, person=1, source="a.json")


def test_a_person_beyond_those_there_are_is_refused():
    pose = together([body(x=0.3), body(x=0.8, size=0.4)], [[0, 1]] * FRAMES)
    with pytest.raises(ValueError, match="sample.person is 7, but only 2 people can be told apart"):
        follow.follow(pose, aspect=ASPECT, person=7)


def test_bodies_seen_in_parts_and_in_one_place_are_no_trouble():
    dancer, other = body(x=0.3), body(x=0.8, size=0.5)
    dancer[1][::2, 1:18] = 0  # a nose alone
    dancer[1][1::2, :1] = 0
    other[0][5:9, :18] = 0.7
    pose = together([dancer, other], [[0, 1]] * FRAMES)
    found, _ = follow.follow(pose, aspect=ASPECT)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_alone_keeps_person_0_only():
    pose = standing(3, num_people=3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:, :1]), follow.alone(pose), pose)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("num_frames", [FRAMES, 14])
def test_after_a_cut_the_person_of_the_same_size_is_followed_whoever_is_listed_first(
    order, num_frames
):
    after = np.arange(num_frames) >= num_frames // 2
    dancer = body(num_frames, x=np.where(after, 0.75, 0.3), size=0.8)
    other = body(num_frames, x=np.where(after, 0.2, 0.8), size=0.4, lively=0.002, seed=3)
    listed = np.where(after[:, None], order, (0, 1))
    found = follow.follow(together([dancer, other], listed), aspect=ASPECT)
    assert_is(found.pose, dancer)
