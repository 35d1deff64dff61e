import jax
import numpy as np
import pytest

from dispose_jax.pose import people, retarget
from dispose_jax.pose.retarget import musepose
from tests.pose.poses import standing, without

SIZES = {"video_size": (540, 960), "target_size": (576, 1024)}  # both 9 : 16


def to_reference(reference, driving, **sizes):
    return retarget.to_reference("musepose", reference, driving, **{**SIZES, **sizes}).pose


def scales(reference, driving, **sizes):
    return musepose.fit(reference, driving, **{**SIZES, **sizes}).scales


def mapped(pose, scale, offset):
    """The pose under (x, y) -> scale * (x, y) + offset, absent points included."""
    move = lambda xy: xy * scale + offset
    return pose.replace(body=move(pose.body), hands=move(pose.hands), face=move(pose.face))


def points(pose):
    """Body and hands of person 0, (f, 60, 2)."""
    return people.flatten(pose)[0][:, 0, : musepose.RIGHT_HAND.stop]


def hidden_hand(pose, side):
    """The pose with a hand absent."""
    score, xy = pose.hands_score.copy(), pose.hands.copy()
    score[:, :, side], xy[:, :, side] = 0.0, 0.0
    return pose.replace(hands_score=score, hands=xy)


def test_a_person_of_the_references_proportions_is_left_alone():
    reference, driving = standing(), standing(num_frames=4, seed=1)
    driving = people.join(reference, driving)  # the first frame is the reference itself
    moved = to_reference(reference, driving)
    np.testing.assert_allclose(points(moved)[1:], points(driving), atol=1e-12)
    assert scales(reference, driving) == pytest.approx(dict.fromkeys(musepose.SEGMENTS, 1.0))


def test_a_driving_person_who_is_the_reference_moved_and_scaled_comes_back_to_it():
    reference = standing()
    moved = to_reference(reference, mapped(reference, 0.7, (0.1, 0.2)))
    np.testing.assert_allclose(points(moved)[1], points(moved)[0], atol=1e-12)


def test_other_frames_move_as_much_larger_as_the_person_becomes():
    reference, driving = standing(), standing(num_frames=3)
    driving = people.join(mapped(reference, 0.5, 0.2), mapped(driving, 0.5, 0.2))
    moved = to_reference(reference, driving)
    shapes = points(moved) - points(moved)[:, [musepose.NECK]]
    before = points(driving) - points(driving)[:, [musepose.NECK]]
    np.testing.assert_allclose(shapes[1:], 2 * before, atol=1e-12)
    # The neck itself moves by what moves the first one, not by twice its path.
    steps = np.diff(points(moved)[1:, musepose.NECK], axis=0)
    np.testing.assert_allclose(
        steps, np.diff(points(driving)[:, musepose.NECK], axis=0), atol=1e-12
    )


def test_only_the_limb_that_differs_changes_and_takes_along_what_hangs_on_it():
    reference, driving = standing(), standing(num_frames=2, seed=4)
    driving = people.join(reference, driving)
    body = reference.body.copy()
    for elbow, wrist, shoulder in ((3, 4, 2), (6, 7, 5)):
        stretched = body[0, 0, shoulder] + 1.5 * (body[0, 0, elbow] - body[0, 0, shoulder])
        body[0, 0, wrist] += stretched - body[0, 0, elbow]
        body[0, 0, elbow] = stretched
    longer = reference.replace(body=body)
    found = scales(longer, driving)
    assert found["upper arms"] == pytest.approx(1.5)
    assert found["hands"] == pytest.approx((1 + 1.5 + 1) / 3)
    same = [part for part in musepose.SEGMENTS if part not in ("upper arms", "hands")]
    assert [found[part] for part in same] == pytest.approx([1.0] * len(same))
    moved = points(to_reference(longer, driving))[1:]
    before = points(driving)
    vector = lambda xy, a, b: xy[:, b] - xy[:, a]
    np.testing.assert_allclose(vector(moved, 2, 3), 1.5 * vector(before, 2, 3), atol=1e-12)
    np.testing.assert_allclose(vector(moved, 3, 4), vector(before, 3, 4), atol=1e-12)
    hand = list(musepose.RIGHT_HAND)
    away = lambda xy: xy[:, hand] - xy[:, [4]]
    np.testing.assert_allclose(away(moved), found["hands"] * away(before), atol=1e-12)
    rest = [0, 1, 2, 5, *range(8, 18)]
    np.testing.assert_allclose(moved[:, rest], before[:, rest], atol=1e-12)


def test_lengths_are_those_seen_whatever_the_pictures_shapes():
    reference, driving = standing(), standing()
    wide = driving.replace(
        body=driving.body * (0.25, 1), hands=driving.hands * (0.25, 1), face=driving.face
    )
    sizes = {"video_size": (1600, 400), "target_size": (600, 600)}
    assert scales(reference, wide, **sizes) == pytest.approx(dict.fromkeys(musepose.SEGMENTS, 1.0))
    moved = to_reference(reference, wide, **sizes)
    np.testing.assert_allclose(points(moved)[1], points(reference)[0], atol=1e-12)


def test_an_absent_hand_stays_absent_and_is_not_measured():
    reference, driving = mapped(standing(), 1.2, 0.0), standing(num_frames=3, seed=2)
    moved = to_reference(reference, hidden_hand(driving, 0))
    assert not moved.hands_score[1:, :, 0].any() and not moved.hands[1:, :, 0].any()
    assert (moved.hands_score[1:, :, 1] == driving.hands_score[:, :, 1]).all()
    one_hand = [
        scales(hidden_hand(reference, 0), driving),
        scales(reference, hidden_hand(driving, 0)),
    ]
    assert one_hand[0] == one_hand[1]
    neither = scales(hidden_hand(hidden_hand(reference, 0), 1), driving)
    arms = (neither["upper arms"] + neither["lower arms"]) / 2
    assert neither["hands"] == pytest.approx(arms)


def test_points_of_a_hand_that_are_doubtful_count_as_the_release_counts_them():
    reference, driving = standing(), standing(num_frames=2)
    score = driving.hands_score.copy()
    score[:, :, 0, 5] = 0.2
    doubtful = driving.replace(hands_score=score)
    moved = to_reference(reference, doubtful)
    assert (moved.hands[1:, :, 0, 5] < 0).all()  # not drawn, as its pixel is negative
    assert scales(reference, doubtful)["hands"] < scales(reference, driving)["hands"]


def test_what_hangs_on_an_absent_joint_hangs_on_the_one_before():
    reference = standing()
    driving = mapped(people.join(reference, standing(num_frames=1, seed=5)), 0.5, 0.3)
    absent = without(driving, [3], frames=[1])
    moved = to_reference(reference, absent)
    assert not moved.body[2, 0, 3].any() and moved.body_score[2, 0, 3] == 0
    way = lambda pose, frame: pose.body[frame, 0, 4] - pose.body[frame, 0, 2]
    np.testing.assert_allclose(way(moved, 2), 2 * way(driving, 1), atol=1e-12)
    others = [j for j in range(18) if j not in (3, 4)]
    whole = to_reference(reference, driving)
    np.testing.assert_array_equal(moved.body[2, 0, others], whole.body[2, 0, others])


def test_parts_that_cannot_be_measured_keep_their_size():
    reference, driving = mapped(standing(), 2.0, -0.5), standing(num_frames=2)
    legs = [9, 10, 12, 13]
    found = musepose.fit(without(reference, legs), driving, **SIZES)
    assert (found.scales["upper legs"], found.scales["lower legs"]) == (1.0, 1.0)
    assert found.unmeasured == ("upper legs", "lower legs")
    # One leg is enough, and the other one is not looked at.
    one = scales(without(reference, [12, 13]), driving)
    right = lambda pose: np.linalg.norm((pose.body[0, 0, 8] - pose.body[0, 0, 9]) * (9 / 16, 1))
    assert one["upper legs"] == pytest.approx(right(reference) / right(driving))


def test_a_joint_on_its_neighbour_gives_no_endless_limb():
    reference, driving = standing(), standing(num_frames=2)
    body = driving.body.copy()
    body[0, 0, 0] = body[0, 0, 1]
    folded = driving.replace(body=body)
    assert scales(reference, folded)["neck"] == 1.0
    assert np.isfinite(points(to_reference(reference, folded))).all()
    # Nor does nothing over nothing.
    own = reference.body.copy()
    own[0, 0, 0] = own[0, 0, 1]
    assert scales(reference.replace(body=own), folded)["neck"] == 1.0


def test_the_first_person_alone_is_kept_and_scores_are_untouched():
    reference, driving = standing(seed=1), standing(num_frames=3, num_people=2, seed=2)
    moved = to_reference(reference, driving)
    assert moved.body.shape == (4, 1, 18, 2)
    np.testing.assert_array_equal(moved.body[0], reference.body[0])
    np.testing.assert_array_equal(moved.body_score[1:], driving.body_score[:, :1])
    alone = driving.at((slice(None), slice(0, 1)))
    same = to_reference(reference, alone)
    jax.tree.map(np.testing.assert_array_equal, moved, same)


def test_the_first_frame_with_a_neck_is_compared():
    reference, driving = standing(), standing(num_frames=4, seed=3)
    late = without(driving, range(18), frames=[0, 1])
    found = musepose.fit(reference, late, **SIZES)
    assert found.frame == 2
    expected = musepose.fit(reference, driving.at(slice(2, None)), **SIZES)
    assert (found.scales, found.offset) == (expected.scales, expected.offset)
    assert any("do not show the neck" in line for line in musepose.warnings(found))


@pytest.mark.parametrize(
    ("reference", "driving", "warning"),
    [
        (standing(1, 2), standing(2), "the reference shows 2 people"),
        (without(standing(), [9, 12]), standing(2), "show upper legs and lower legs"),
        (standing(), mapped(standing(2), 0.2, 0.1), r"trunk by 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_poor_alignment_is_warned_of(reference, driving, warning):
    lines = musepose.warnings(musepose.fit(reference, driving, **SIZES))
    assert [line for line in lines if warning in line], lines


def test_a_good_alignment_has_no_warning():
    hands = standing()
    unseen = hidden_hand(hidden_hand(hands, 0), 1)
    assert musepose.warnings(musepose.fit(unseen, standing(3), **SIZES)) == []


@pytest.mark.parametrize(
    ("reference", "driving", "message"),
    [
        (without(standing(), [1, 2]), standing(2), "the reference does not show the neck"),
        (standing(), without(standing(2), [1, 5]), "no driving frame shows the neck"),
        (standing(2), standing(2), "reference pose has 2 frames"),
        (standing(), standing(1).at(slice(0, 0)), "has no frames"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alignment_without_a_neck_is_refused(reference, driving, message):
    with pytest.raises(ValueError, match=message):
        to_reference(reference, driving)
