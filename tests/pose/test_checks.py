"""What is wrong with poses is found, and nothing is found in what bodies do."""

from pathlib import Path

import numpy as np
import pytest

from dispose_jax.pose import checks, files
from tests.pose.poses import standing, without

DANCE = Path(__file__).parents[2] / "assets" / "driving.poses.json"
RIGHT = [2, 3, 4, 8, 9, 10, 14, 16]
LEFT = [5, 6, 7, 11, 12, 13, 15, 17]


@pytest.fixture(scope="module")
def dance():
    return files.read(DANCE).pose


def look(pose, step=1 / 30):
    times = step * np.arange(pose.num_frames)
    return {w: f.tolist() for w, f in checks.look(pose, aspect=0.5625, times=times)}


def moved(pose, frames, joints, offset):
    body = pose.body.copy()
    body[np.ix_(frames, [0], joints)] += offset
    return pose.replace(body=body)


def exchanged(pose, frames, right=RIGHT, left=LEFT):
    body = pose.body.copy()
    body[np.ix_(frames, [0], right + left)] = pose.body[np.ix_(frames, [0], left + right)]
    return pose.replace(body=body)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_a_dance_is_all_right_at_every_stride(dance, stride):
    assert look(dance.at(slice(None, None, stride)), stride / 30) == {}


def test_frames_without_anybody_and_without_the_person_followed(dance):
    gone = without(dance, slice(None), frames=[4, 5, 9])
    assert look(gone) == {checks.NOBODY: [4, 5, 9]}
    score = np.stack([gone.body_score[:, 0], np.ones((64, 18))], 1)
    score[5, 1] = 0.2
    pair = gone.replace(body=np.repeat(gone.body, 2, 1), body_score=score)
    assert look(pair) == {checks.NOBODY: [5], checks.LOST: [4, 9]}
    unsure = dance.body_score.copy()
    unsure[7] = 0.3
    assert look(dance.replace(body_score=unsure)) == {checks.NOBODY: [7]}


@pytest.mark.parametrize("place", [(1.2, 0.5), (-0.15, 0.5), (0.5, 1.11), (0.5, -0.2)])
def test_joints_out_of_the_picture(dance, place):
    body = dance.body.copy()
    body[20, 0, 4] = place
    found = look(dance.replace(body=body))
    assert found[checks.OUT] == [20] and found.keys() <= {checks.OUT, checks.JUMP}
    away = 2 * np.sign(np.array(place) - 0.5)
    assert look(moved(dance, range(64), range(18), away)) == {checks.OUT: [*range(64)]}


def test_joints_a_little_out_are_those_of_a_person_at_the_edge(dance):
    edge = moved(dance, range(64), range(18), (0, 1.05 - dance.body[..., 1].max()))
    assert look(edge) == {}


@pytest.mark.parametrize("joints", [range(18), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]])
def test_joints_all_in_one_place(dance, joints):
    body = dance.body.copy()
    body[np.ix_([0, 30], [0], list(joints))] = (0.31, 0.52)
    assert look(dance.replace(body=body)) == {checks.PLACE: [0, 30]}


def test_every_frame_in_one_pixel_is_found_too(dance):
    body = np.full_like(dance.body, 0.4) + np.random.default_rng(0).uniform(
        0, 0.001, dance.body.shape
    )
    assert look(dance.replace(body=body)) == {checks.PLACE: [*range(64)]}


@pytest.mark.parametrize("step", [1 / 60, 1 / 30, 1 / 15])
def test_jumps_of_the_body_and_of_a_joint(dance, step):
    still = dance.at(np.repeat(0, 20))
    for frames, joints, offset in (
        (range(9, 20), range(18), (0, -0.3)),  # from there on, as after a cut
        ([9], range(18), (0.15, -0.15)),
        ([9], [4], (0.5, 0.3)),
        ([9, 10], [10, 13], (0.4, -0.45)),
    ):
        found = look(moved(still, list(frames), list(joints), offset), step)
        assert found.keys() == {checks.JUMP} and {9} <= {*found[checks.JUMP]} <= {8, 9, 10, 11}


def test_a_body_may_move_far_while_it_is_not_seen(dance):
    far = moved(dance.at(np.repeat(0, 20)), range(14, 20), range(18), (0, -0.3))
    hidden = without(far, slice(None), frames=slice(8, 14))
    assert look(hidden) == {checks.NOBODY: [*range(8, 14)]}


@pytest.mark.parametrize("frames", [[5], [20, 21, 22], range(40, 64), range(12), [3, 9, 10, 50]])
def test_left_and_right_exchanged(dance, frames):
    assert look(exchanged(dance, list(frames))) == {checks.EXCHANGED: [*frames]}


@pytest.mark.parametrize(("right", "left"), [(RIGHT[:6], LEFT[:6]), ([8, 9, 10], [11, 12, 13])])
def test_exchanged_body_or_legs(dance, right, left):
    still = dance.at(np.repeat(20, 16))
    assert look(exchanged(still, [5, 6], right, left)) == {checks.EXCHANGED: [5, 6]}


def test_a_body_exchanged_under_its_own_face_throughout(dance):
    assert look(exchanged(dance, list(range(64)), RIGHT[:6], LEFT[:6])) == {
        checks.EXCHANGED: [*range(64)]
    }


@pytest.mark.parametrize("turns", [0.5, 1.0, 1.6])
def test_somebody_who_turns_is_not_exchanged(dance, turns):
    """Turns a second, seen from the side at 15 frames a second."""
    still = dance.at(np.repeat(20, 30))
    angle = 2 * np.pi * turns * np.arange(30) / 15 + 0.3
    body = still.body.copy()
    middle = body[..., 1:2, 0]
    body[..., 0] = middle + (body[..., 0] - middle) * np.cos(angle)[:, None, None]
    assert checks.EXCHANGED not in look(still.replace(body=body), 1 / 15)


def test_one_frame_can_be_looked_at():
    assert look(standing(1), 0.0) == {}
    assert look(without(standing(1), slice(None)), 0.0) == {checks.NOBODY: [0]}
    assert look(without(standing(3), slice(1, None))) == {}  # noses alone


def test_sentences_name_frames_and_ranges_of_them():
    findings = [
        checks.Fault(checks.OUT, np.array([3])),
        checks.Fault(checks.JUMP, np.array([0, 4, 5, 6, 9])),
        checks.Fault(checks.NOBODY, np.arange(0, 60, 2)),
    ]
    out, jump, nobody = checks.sentences(findings)
    assert out == "joints are out of the picture in frame 3"
    assert jump == "the body jumps as none can in frames 0, 4 to 6 and 9"
    assert nobody == "nobody is seen in frames 0, 2, 4, 6, 8, 10, 12, 14 and more, 30 in all"
    (named,) = checks.sentences(findings[:1], 2 * np.arange(10))
    assert named.endswith("frame 6")
