import jax
import numpy as np
import pytest

from dispose_jax.pose import draw, people
from tests.pose.poses import standing, without


def body_alone(pose):
    """Without hands and face."""
    return pose.replace(
        hands_score=np.zeros_like(pose.hands_score), face_score=np.zeros_like(pose.face_score)
    )


def test_moving_all_keypoints_moves_the_picture():
    pose = standing(seed=3)
    height, width = 128, 96
    # Whole output pixels that are also whole canvas pixels: 22.5 per pixel, so steps of two.
    columns, rows = 4, 6
    step = np.array([columns / width, rows / height])
    moved = pose.replace(body=pose.body + step, hands=pose.hands + step, face=pose.face + step)
    before, after = draw.draw(pose, height, width)[0], draw.draw(moved, height, width)[0]
    assert before.max() > 100
    # A coordinate may truncate to the neighbouring canvas pixel.
    shifted = np.roll(before, (rows, columns), (0, 1)).astype(int)
    assert (np.abs(shifted - after) > 40).mean() < 0.002


def test_the_limb_from_neck_to_right_shoulder_is_blue_for_the_network():
    pose = body_alone(standing())
    joints = [i for i in range(18) if i not in (1, 2)]
    pose = without(pose, joints).replace(
        body_score=np.where(np.arange(18) < 3, 1.0, 0.0)[None, None]
    )
    pose = without(pose, [0])
    picture = draw.draw(pose, 2160, 2160)[0]
    middle = pose.body[0, 0, [1, 2]].mean(0) * 2160
    x, y = middle.astype(int)
    assert picture[y, x].tolist() == [0, 0, 153]  # 0.6 * 255, truncated


def test_joints_are_as_bright_as_their_score():
    pose = without(body_alone(standing()), [i for i in range(18) if i != 8])
    for score in (0.31, 0.5, 0.999, 1.3):
        scored = pose.replace(body_score=np.where(pose.body_score > 0, score, 0.0))
        x, y = (pose.body[0, 0, 8] * 2160).astype(int)
        colour = draw.draw(scored, 2160, 2160)[0, y, x]
        canvas = np.minimum((draw.COLORS[8] * score).astype(int), 255)
        assert colour.tolist() == canvas[::-1].tolist()


def test_nobody_gives_a_black_picture():
    pose = jax.tree.map(np.zeros_like, standing(num_frames=2, num_people=2))
    assert not draw.draw(pose, 64, 128).any()


def test_absent_points_are_not_drawn_over_others():
    pose = standing()
    # As after a fit, absent points may lie on points that are there and are drawn before them.
    face, hands = pose.face.copy(), pose.hands.copy()
    face[:, :, 34:], hands[..., 11:, :] = face[:, :, :34], hands[..., :10, :]
    pose = pose.replace(
        face=face,
        face_score=np.where(np.arange(68) < 34, pose.face_score, 0.0),
        hands=hands,
        hands_score=np.where(np.arange(21) < 11, pose.hands_score, 0.0),
    )
    face, hands = face.copy(), hands.copy()
    face[:, :, 34:], hands[..., 11:, :] = -5.0, -5.0
    elsewhere = pose.replace(face=face, hands=hands)
    np.testing.assert_array_equal(draw.draw(pose, 256, 256), draw.draw(elsewhere, 256, 256))


def test_an_absent_hand_point_takes_its_lines_with_it():
    pose = without(standing(), range(18))
    pose = pose.replace(face_score=np.zeros_like(pose.face_score))
    score = np.zeros_like(pose.hands_score)
    score[..., [0, 2, 4, 6]] = 1.0  # no two of them are neighbours along a finger
    picture = draw.draw(pose.replace(hands_score=score), 2160, 2160)[0]
    # Points are blue on the canvas, so red here; every line has another colour.
    assert picture[..., 0].any()
    assert not picture[..., 1:].any()


def test_everybody_is_drawn():
    one, two = standing(seed=1), standing(seed=2)
    pair = people.stack(
        [tuple(np.concatenate(parts, 1)[0] for parts in zip(*map(people.flatten, (one, two))))]
    )
    both = draw.draw(pair, 256, 192)[0]
    alone = [draw.draw(pose, 256, 192)[0] for pose in (one, two)]
    lit = [picture.max(-1) > 60 for picture in alone]
    assert (both.max(-1) > 0)[lit[0] | lit[1]].mean() > 0.98


def test_frames_are_drawn_independently_and_in_order():
    pose = standing(num_frames=5, num_people=2, seed=4)
    together = draw.draw(pose, 96, 64)
    for i in range(5):
        np.testing.assert_array_equal(together[i], draw.draw(pose.at([i]), 96, 64)[0])
    assert len({picture.tobytes() for picture in together}) == 5


def test_points_far_outside_do_not_break_the_drawing():
    pose = standing()
    wild = pose.replace(body=pose.body * 1e12, hands=pose.hands * -1e12, face=pose.face + 3.0)
    picture = draw.draw(wild, 64, 64)
    assert picture.shape == (1, 64, 64, 3)
    assert not picture[0, -8:, :8].any()


def test_a_preview_shows_skeleton_and_picture():
    pose = standing()
    reference = np.full((256, 192, 3), 90, np.uint8)
    shown = draw.preview(reference, pose)
    skeleton = draw.draw(pose, 256, 192)[0].max(-1) > 0
    assert (shown[~skeleton] == 45).all()
    assert (shown[skeleton].max(-1) == 255).all()
    assert skeleton.any()
    assert (reference == 90).all()


def test_a_preview_of_several_frames_is_refused():
    with pytest.raises(ValueError, match="one frame, the pose has 3"):
        draw.preview(np.zeros((64, 64, 3), np.uint8), standing(num_frames=3))
