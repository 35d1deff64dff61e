import jax
import numpy as np

from dispose_jax.pose import people
from tests.pose.poses import standing


def test_stacking_and_flattening_are_inverse():
    pose = standing(num_frames=3, num_people=2)
    again = people.stack(list(zip(*people.flatten(pose))))
    jax.tree.map(np.testing.assert_array_equal, pose, again)


def test_frames_with_fewer_people_are_padded_with_absent_ones():
    rng = np.random.default_rng(0)
    frames = [(rng.random((n, 128, 2)), rng.uniform(0.5, 1, (n, 128))) for n in (1, 0, 3)]
    pose = people.stack(frames)
    assert pose.num_people.tolist() == [1, 0, 3]
    np.testing.assert_array_equal(pose.body[2, 1], frames[2][0][1, :18])
    np.testing.assert_array_equal(pose.hands[2, 1, 1], frames[2][0][1, 39:60])
    np.testing.assert_array_equal(pose.face_score[0, 0], frames[0][1][0, 60:])


def test_a_video_of_nobody_has_room_for_one_absent_person():
    pose = people.stack([(np.zeros((0, 128, 2)), np.zeros((0, 128)))] * 2)
    assert pose.body.shape == (2, 1, 18, 2)
    assert pose.num_people.tolist() == [0, 0]


def test_negative_scores_mean_absent():
    score = np.full((1, 128), -0.2)
    assert not people.stack([(np.ones((1, 128, 2)), score)]).hands_score.any()


def test_joined_poses_keep_their_people():
    one, two = standing(num_frames=1), standing(num_frames=2, num_people=2, seed=1)
    both = people.join(one, two)
    assert both.num_people.tolist() == [1, 2, 2]
    np.testing.assert_array_equal(both.face[1:], two.face)
    np.testing.assert_array_equal(both.hands[:1, :1], one.hands)
