import numpy as np
import pytest

from dispose_jax.pose import people, retarget
from dispose_jax.pose.retarget import mimicmotion
from tests.pose.poses import standing, without

SIZES = {"video_size": (540, 960), "target_size": (576, 1024)}


def to_reference(reference, driving, **sizes):
    return retarget.to_reference("mimicmotion", reference, driving, **sizes).pose


def mapped(pose, scale, offset):
    """The pose under (x, y) -> scale * (x, y) + offset, absent points included."""
    move = lambda xy: xy * scale + offset
    return pose.replace(body=move(pose.body), hands=move(pose.hands), face=move(pose.face))


def test_a_driving_person_who_is_the_reference_moved_and_scaled_comes_back_to_it():
    reference = standing()
    driving = mapped(reference, 0.7, (0.1, 0.2))
    fitted = to_reference(reference, driving, **SIZES)
    for part in ("body", "hands", "face"):
        frames = getattr(fitted, part)
        np.testing.assert_allclose(frames[1], frames[0], atol=1e-12)


def test_frame_0_is_the_reference_and_scores_are_untouched():
    reference, driving = standing(seed=1), standing(num_frames=4, num_people=2, seed=2)
    fitted = to_reference(reference, driving, **SIZES)
    np.testing.assert_array_equal(fitted.body[0, 0], reference.body[0, 0])
    np.testing.assert_array_equal(fitted.body_score[1:], driving.body_score)
    np.testing.assert_array_equal(fitted.hands_score[1:], driving.hands_score)
    assert fitted.num_frames == 5
    assert not fitted.body_score[0, 1].any()


def test_shapes_keep_their_aspect_in_pixels():
    reference, driving = standing(seed=1), standing(num_frames=3, seed=2)
    video, target = (1280, 720), (576, 1024)
    fitted = to_reference(reference, driving, video_size=video, target_size=target)
    limb = lambda pose, size: (pose.body[-1, 0, 2] - pose.body[-1, 0, 5]) * size
    before, after = limb(driving, video), limb(fitted, target)
    assert np.arctan2(*before) == pytest.approx(np.arctan2(*after), abs=1e-12)


def test_the_line_is_that_of_least_squares():
    reference, driving = standing(seed=1), standing(num_frames=5, seed=2)
    fit = mimicmotion.fit(reference, driving, **SIZES)
    joints = [0, 1, 2, 5, *range(8, 18)]
    y = driving.body[:, 0, joints, 1].ravel()
    target = np.tile(reference.body[0, 0, joints, 1], 5)
    slope, intercept = np.polyfit(y, target, 1)
    assert (fit.scale[1], fit.offset[1]) == pytest.approx((slope, intercept), abs=1e-12)
    assert fit.scale[0] == pytest.approx(slope * (540 / 960) * (1024 / 576), abs=1e-12)
    rms = np.sqrt(np.mean((slope * y + intercept - target) ** 2))
    assert fit.residual == pytest.approx(rms / target.std())


def test_arms_do_not_take_part():
    reference, driving = standing(), standing(num_frames=3, seed=1)
    before = mimicmotion.fit(reference, driving, **SIZES)
    waving = driving.body.copy()
    waving[:, :, [3, 4, 6, 7]] -= 0.4
    assert mimicmotion.fit(reference, driving.replace(body=waving), **SIZES) == before


def test_absent_points_neither_take_part_nor_move():
    reference, driving = standing(), standing(num_frames=6, seed=1)
    absent = without(driving, [9, 10, 12, 13], frames=slice(0, 4))
    misplaced = absent.body.copy()
    misplaced[absent.body_score == 0] = 7.0
    fit = mimicmotion.fit(reference, absent, **SIZES)
    assert fit == mimicmotion.fit(reference, absent.replace(body=misplaced), **SIZES)
    fitted = to_reference(reference, absent, **SIZES)
    assert (fitted.body[1:][absent.body_score == 0] == 0).all()
    # The four joints still count where they are seen.
    assert fit.joints == tuple(mimicmotion.FIT_JOINTS)
    assert fit != mimicmotion.fit(reference, without(driving, [9, 10, 12, 13]), **SIZES)


def test_joints_the_reference_does_not_show_take_no_part():
    reference, driving = standing(), standing(num_frames=3, seed=1)
    hidden = without(reference, [9, 10, 12, 13])
    fit = mimicmotion.fit(hidden, driving, **SIZES)
    assert fit.missing == (9, 10, 12, 13)
    assert fit == mimicmotion.fit(hidden, without(driving, [9, 10, 12, 13]), **SIZES)
    # A score that is not above the bound of visibility is as good as none.
    doubtful = reference.body_score.copy()
    doubtful[0, 0, [9, 10, 12, 13]] = 0.3
    assert mimicmotion.fit(reference.replace(body_score=doubtful), driving, **SIZES) == fit


def test_only_frames_with_one_person_take_part_and_all_people_move():
    reference = standing()
    alone, pair = standing(num_frames=3, seed=1), standing(num_frames=2, num_people=2, seed=2)
    driving = people.join(alone, pair)
    fit = mimicmotion.fit(reference, driving, **SIZES)
    assert (fit.frames, fit.all_frames, fit.single_person) == (3, 5, True)
    assert fit.scale == mimicmotion.fit(reference, alone, **SIZES).scale
    moved = mimicmotion.apply(fit, driving)
    second = pair.body[1, 1] * fit.scale + fit.offset
    np.testing.assert_allclose(moved.body[4, 1], second, atol=1e-15)


def test_without_a_frame_of_one_person_the_first_person_of_every_frame_is_fitted():
    reference, pairs = standing(), standing(num_frames=3, num_people=2, seed=2)
    fit = mimicmotion.fit(reference, pairs, **SIZES)
    first = pairs.replace(body_score=pairs.body_score * np.array([1.0, 0.0])[:, None])
    assert fit.scale == mimicmotion.fit(reference, first, **SIZES).scale
    assert not fit.single_person
    assert any("exactly one person" in line for line in mimicmotion.warnings(fit))


def test_frames_of_somebody_else_alone_are_no_frames_of_one_person():
    reference, pairs = standing(), standing(num_frames=3, num_people=2, seed=2)
    gone = pairs.body_score.copy()
    gone[1:, 0] = 0
    fit = mimicmotion.fit(reference, pairs.replace(body_score=gone), **SIZES)
    assert fit.scale == mimicmotion.fit(reference, pairs.at([0]), **SIZES).scale
    assert (fit.frames, fit.single_person) == (1, False)


def test_a_good_fit_has_no_warning():
    assert mimicmotion.warnings(mimicmotion.fit(standing(), standing(num_frames=3), **SIZES)) == []


@pytest.mark.parametrize(
    ("reference", "driving", "warning"),
    [
        (
            without(standing(), [8, 11, 0]),
            standing(2),
            "does not show nose, right hip and left hip",
        ),
        (standing(), without(standing(2), [5]), "never show left shoulder"),
        (standing(), mapped(standing(2), 0.2, 0.1), "scaled by 5"),
        (standing(), mapped(standing(2), 4.0, 0.1), "scaled by 0.25"),
        (standing(), mapped(standing(2), (1, -1), (0, 1)), "upside down"),
        (standing(1, 2), standing(2), "the reference shows 2 people"),
        (standing(), without(standing(5), range(18), [0, 1, 3]), "only 2 of 5 driving frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_poor_fit_is_warned_of(reference, driving, warning):
    lines = mimicmotion.warnings(mimicmotion.fit(reference, driving, **SIZES))
    assert [line for line in lines if warning in line], lines


def test_a_fit_that_explains_nothing_is_warned_of():
    shuffled = standing(num_frames=2)
    body = shuffled.body[:, :, np.random.default_rng(5).permutation(18)]
    fit = mimicmotion.fit(standing(), shuffled.replace(body=body), **SIZES)
    assert fit.residual > 0.7
    assert any("of their spread" in line for line in mimicmotion.warnings(fit))


@pytest.mark.parametrize(
    ("reference", "driving", "message"),
    [
        (without(standing(), range(18)), standing(2), "the reference shows none of the joints"),
        (without(standing(), [0, 1, 2, 5, *range(8, 18)]), standing(2), "none of the joints"),
        (standing(), without(standing(2), range(18)), "no driving frame shows a joint"),
        (
            without(standing(), [0, 2, 5, *range(8, 18)]),
            standing(1),
            r"one height only \(the reference shows neck\)",
        ),
        (standing(2), standing(2), "reference pose has 2 frames"),
        (standing(), standing(1).at(slice(0, 0)), "has no frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fit_without_joints_is_refused(reference, driving, message):
    with pytest.raises(ValueError, match=message):
        to_reference(reference, driving, **SIZES)
