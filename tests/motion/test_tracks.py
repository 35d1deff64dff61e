"""Steps of keypoints: shifts, missing joints, shared pixels."""

import numpy as np
import pytest

from dispose_jax.motion import tracks
from dispose_jax.types import Pose

SIZE = (96, 160)  # height, width


def pose_of(body, score=None) -> Pose:
    """A Pose of one person from body (f, 18, 2) and score (f, 18), by default all seen."""
    f = len(body)
    return Pose(
        body=np.asarray(body)[:, None],
        body_score=(np.ones((f, 18)) if score is None else np.asarray(score))[:, None],
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )


def _random(frames=4, seed=0):
    """Joints that move a little and never share a pixel."""
    rng = np.random.default_rng(seed)
    start = 0.2 + 0.03 * np.stack([rng.permutation(18), rng.permutation(18)], -1)
    return start + rng.uniform(-0.004, 0.004, (frames, 18, 2))


def test_a_shift_of_all_keypoints_shifts_every_vector():
    body = np.repeat(_random(1), 3, 0)
    body[1:] += [3 / 160, -2 / 96]
    body[2:] += [1.5 / 160, 0.25 / 96]
    for impulses, second in (
        (tracks.steps(pose_of(body), SIZE, "released"), (1.5, 0.25)),
        (tracks.from_reference(pose_of(body), SIZE, 64, "released"), None),
    ):
        assert not impulses.valid[0].any() and impulses.valid[1:].all()
        first = (3, -2) if second else (3 * 64 / 160, -2 * 64 / 96)
        second = second or (4.5 * 64 / 160, -1.75 * 64 / 96)
        np.testing.assert_allclose(impulses.vectors[1], [first] * 18, atol=1e-9)
        np.testing.assert_allclose(impulses.vectors[2], [second] * 18, atol=1e-9)


def test_vectors_sit_at_the_pixel_where_the_step_starts():
    body = _random()
    impulses = tracks.steps(pose_of(body), SIZE, "drop")
    np.testing.assert_array_equal(impulses.pixels[2], np.trunc(body[1] * [160, 96]))
    impulses = tracks.from_reference(pose_of(body), SIZE, 64, "drop")
    np.testing.assert_array_equal(impulses.pixels[3], np.trunc(body[0] * 64))


def test_dropping_writes_nothing_for_a_joint_missing_at_either_end():
    score = np.ones((4, 18))
    score[1, 5] = 0.3  # not above the threshold: missing
    pose = pose_of(_random(), score)
    assert tracks.steps(pose, SIZE, "drop").valid[:, 5].tolist() == [False, False, False, True]
    valid = tracks.from_reference(pose, SIZE, 64, "drop").valid[:, 5]
    assert valid.tolist() == [False, False, True, True]
    others = np.delete(tracks.steps(pose, SIZE, "drop").valid[1:], 5, axis=1)
    assert others.all()


def test_the_released_rule_sends_a_lost_joint_to_the_corner():
    body, score = _random(), np.ones((4, 18))
    score[2, 7] = 0
    body[2, 7] = np.nan  # a missing joint may hold anything
    pose = pose_of(body, score)
    impulses = tracks.steps(pose, SIZE, "released")
    assert impulses.valid[:, 7].tolist() == [False, True, True, False]
    np.testing.assert_allclose(impulses.vectors[2, 7], -body[1, 7] * [160, 96])
    impulses = tracks.from_reference(pose, SIZE, 64, "released")
    assert impulses.valid[1:, 7].all()
    np.testing.assert_allclose(impulses.vectors[2, 7], -body[0, 7] * 64)


def test_the_later_of_two_joints_on_one_pixel_wins_unless_it_is_missing():
    body, score = _random(), np.ones((4, 18))
    body[0, 3] = body[0, 11]
    body[1, 4] = body[1, 12]
    score[1, 12] = 0
    impulses = tracks.steps(pose_of(body, score), SIZE, "released")
    assert not impulses.valid[1, 3] and impulses.valid[1, 11]
    assert impulses.valid[2, 4] and not impulses.valid[2, 12]


def test_positions_stay_inside_the_picture():
    body = _random()
    body[0, :2] = [[-0.4, 1.7], [1.0, 0.5]]
    points = tracks.positions(pose_of(body), SIZE)
    np.testing.assert_allclose(points[0, :2], [[0, 95], [159, 48]])
    assert tracks.steps(pose_of(body), SIZE, "drop").pixels.max((0, 1)).tolist() <= [159, 95]


def test_only_the_first_person_moves_anything():
    alone = pose_of(_random())
    together = Pose(*(np.concatenate([leaf, leaf * 0.5], 1) for leaf in vars(alone).values()))
    for ours, theirs in zip(
        tracks.steps(alone, SIZE, "drop"), tracks.steps(together, SIZE, "drop")
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unknown_quirk_is_refused_by_name():
    with pytest.raises(ValueError, match="missing_joints is 'keep'.*released.*drop"):
        tracks.steps(pose_of(_random()), SIZE, "keep")
