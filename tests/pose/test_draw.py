from dataclasses import replace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dispose_jax.pose import draw, people
from tests.pose.poses import standing, without

MUSEPOSE, MOORE = draw.STYLES["musepose"], draw.STYLES["moore"]


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


def segment(length, joints=(8, 9), score=1.0):
    """One limb, level, of a length in fractions of the picture; nothing else."""
    pose = without(body_alone(standing()), [j for j in range(18) if j not in joints])
    body = pose.body.copy()
    body[0, 0, joints[0]], body[0, 0, joints[1]] = (0.3, 0.5), (0.3 + length, 0.5)
    return pose.replace(body=body, body_score=np.where(pose.body_score > 0, score, 0.0))


def thickness(picture, column):
    return int((picture[:, column].max(-1) > 0).sum())


@pytest.mark.parametrize(("pixels", "half_width"), [(30, 4), (79, 5), (170, 7), (400, 8)])
def test_strokes_of_musepose_are_thicker_the_longer_they_are(pixels, half_width):
    side = 1000
    pose = segment(pixels / side)
    middle = round(0.3 * side + pixels / 2)
    (picture,) = draw.draw(pose, side, side, canvas=side, style=MUSEPOSE)
    assert thickness(picture, middle) == pytest.approx(2 * half_width + 1, abs=1)
    (other,) = draw.draw(pose, side, side, canvas=side, style=MOORE)
    assert thickness(other, middle) == pytest.approx(9, abs=1)


def test_the_length_that_begins_a_class_has_its_width():
    lengths = np.array([0.0, 4.99, 5.0, 9.0, 10.0, 319.9, 320.0, 1e6])
    assert draw._width(lengths, draw.BY_LENGTH).tolist() == [1, 1, 2, 2, 3, 7, 8, 8]


def test_without_shading_what_is_visible_has_full_strength_and_the_rest_is_left_out():
    for style in (MUSEPOSE, MOORE):
        sure, unsure, hidden = (
            draw.draw(segment(0.3, score=score), 256, 256, style=style) for score in (1.0, 0.4, 0.3)
        )
        assert sure.any() and not hidden.any()
        np.testing.assert_array_equal(sure, unsure)
    faint = draw.draw(segment(0.3, score=0.4), 256, 256)
    assert faint.max() < draw.draw(segment(0.3), 256, 256).max()


def test_doubtful_points_of_hands_are_left_out_without_shading():
    pose = without(standing(), range(18))
    doubtful = pose.replace(hands_score=np.full_like(pose.hands_score, 0.29))
    assert draw.draw(pose, 256, 256, style=MUSEPOSE).any()
    assert not draw.draw(doubtful, 256, 256, style=MUSEPOSE).any()


def test_musepose_sees_no_face_unless_asked():
    face = without(standing(), range(18))
    face = face.replace(hands_score=np.zeros_like(face.hands_score))
    assert not draw.draw(face, 256, 256, style=MUSEPOSE).any()
    dots = draw.draw(face, 256, 256, style=replace(MUSEPOSE, face=True))
    assert dots.any() and (dots == dots[..., :1]).all()


def test_moore_keeps_the_order_of_colours():
    swapped = draw.draw(standing(), 256, 256, style=replace(MOORE, swapped=True))
    as_painted = draw.draw(standing(), 256, 256, style=MOORE)
    np.testing.assert_array_equal(as_painted, swapped[..., ::-1])
    assert (as_painted != swapped).any()


def test_the_first_or_the_surest_person_is_drawn_alone():
    crowd = standing(num_frames=2, num_people=3, seed=6)
    score = crowd.body_score.copy()
    score[:] = 0.5
    score[0, 2], score[1, 1] = 0.6, 0.6
    crowd = crowd.replace(body_score=score)
    person = lambda frame, p: crowd.at([frame]).at((slice(None), slice(p, p + 1)))
    for frame, surest in ((0, 2), (1, 1)):
        for style, shown in ((MUSEPOSE, 0), (MOORE, surest)):
            (alone,) = draw.draw(person(frame, shown), 128, 96, style=style)
            np.testing.assert_array_equal(draw.draw(crowd, 128, 96, style=style)[frame], alone)


def test_aligned_poses_are_painted_in_the_videos_shape():
    upright = segment(0.4), segment(0.4)
    body = upright[1].body[..., ::-1].copy()  # the same limb standing instead of lying
    lying, upright = upright[0], upright[1].replace(body=body)
    strokes = lambda pose, **named: (
        draw.draw(pose, 256, 256, canvas=256, style=MUSEPOSE, **named)[0].max(-1) > 0
    )
    square = [strokes(pose).sum() for pose in (lying, upright)]
    assert square[0] == pytest.approx(square[1], rel=0.05)
    # A canvas half as high makes strokes twice as high as wide.
    tall, wide = (strokes(pose, video_size=(200, 100)) for pose in (lying, upright))
    assert tall[:, 128].sum() > 1.5 * wide[128].sum() > 0
    # Only the style that was trained so does it.
    again = draw.draw(lying, 256, 256, canvas=256, style=MOORE, video_size=(200, 100))
    np.testing.assert_array_equal(again, draw.draw(lying, 256, 256, canvas=256, style=MOORE))


@pytest.mark.parametrize("name", draw.STYLES)
def test_hidden_joints_are_left_out_with_their_limbs_as_if_nobody_had_found_them(name):
    skeleton = ConfigDict({"style": name, "hidden": (4, 7, 10, 13)})
    pose, style = body_alone(standing(seed=1)), draw.style_of(skeleton)
    hidden = draw.draw(pose, 96, 96, style=style)
    whole = draw.draw(pose, 96, 96, style=draw.STYLES[name])
    np.testing.assert_array_equal(
        hidden, draw.draw(without(pose, [4, 7, 10, 13]), 96, 96, style=draw.STYLES[name])
    )
    assert (hidden != whole).any()
    assert draw.style_of(ConfigDict({"style": name, "hidden": ()})) == draw.STYLES[name]


def test_points_outside_the_canvas_are_cut_off_in_every_style():
    pose = standing()
    outside = pose.replace(body=pose.body + 2, hands=pose.hands - 2, face=pose.face * 1e9 + 5)
    for style in draw.STYLES.values():
        assert not draw.draw(outside, 64, 96, style=style).any()
    half = pose.replace(body=pose.body - (0.45, 0.0))
    left = draw.draw(half, 64, 96, style=replace(MUSEPOSE, hand_radius=1))
    assert left.any()


def test_a_pictures_own_poses_are_reduced_by_averaging_where_training_data_was():
    thin = draw.draw(segment(0.3), 32, 32, canvas=1024, style=MUSEPOSE)
    assert 0 < thin.max() < 150  # a stroke of half a pixel, spread
    limb = draw.draw(segment(0.3), 1024, 1024, canvas=1024, style=MUSEPOSE)[0].astype(float)
    blocks = limb.reshape(32, 32, 32, 32, 3).mean((1, 3))
    np.testing.assert_allclose(thin[0], blocks, atol=0.51)
