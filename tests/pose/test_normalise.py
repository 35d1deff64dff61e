"""Any mixture of the ways in which tools write keypoints is read as what was meant."""

from pathlib import Path

import numpy as np
import pytest

from dispose_jax.pose import files, normalise, people
from tests.pose.poses import standing

DRIVING = Path(__file__).parents[2] / "assets" / "driving.poses.json"
SIZE = (540, 960)
FRAMES = np.repeat(np.arange(4), 2)


def written(seed):
    """Two people in four frames as a clean file has them, (8, 128, 3) in pixels, some points
    absent."""
    rng = np.random.default_rng(seed)
    xy, score = people.flatten(standing(4, num_people=2, seed=seed))
    points = np.concatenate([xy * SIZE, score[..., None]], -1).reshape(8, 128, 3)
    points[rng.random((8, 128)) < 0.2] = 0
    return points, rng


def read(points):
    return normalise.normalise(points, FRAMES, SIZE, "f.json")


def expected(points):
    return points / (*SIZE, 1)


@pytest.mark.parametrize("seed", range(20))
def test_every_list_has_a_unit_of_its_own(seed):
    points, rng = written(seed)
    mixed, fractions = points.copy(), rng.random((8, 4)) < rng.random()
    for person, part in np.argwhere(fractions):
        mixed[person, normalise.LISTS[part], :2] /= SIZE
    found, notes = read(mixed)
    np.testing.assert_allclose(found, expected(points), atol=1e-12)
    assert len(notes) == fractions.any()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mark", [(0, 0), (-1, -1), (-0.5, -3)])
def test_absent_points_are_told_by_their_place_or_their_confidence(seed, mark):
    points, rng = written(seed)
    missing = rng.random((8, 128)) < 0.3
    points[missing] = 0
    marked = points.copy()
    marked[missing, :2] = mark
    marked[missing, 2] = rng.choice([0, 0.5, 1], missing.sum())
    np.testing.assert_allclose(read(marked).points, expected(points), atol=1e-12)
    hidden = points.copy()
    hidden[missing] = (77.0, 88.0, 0.0)
    np.testing.assert_allclose(read(hidden).points, expected(points), atol=1e-12)


def test_a_point_outside_on_one_side_stays():
    points, _ = written(0)
    points[0, 4] = (-30.0, 400.0, 1.0)
    np.testing.assert_allclose(read(points).points[0, 4], (-30 / 540, 400 / 960, 1))


@pytest.mark.parametrize("place", [(1e6, 400.0), (270.0, -2000.0)])
def test_a_point_far_outside_is_left_out(place):
    points, _ = written(0)
    points[3, 0] = (*place, 1.0)
    found, notes = read(points)
    assert not found[3, 0].any() and "1 of its points lie where no joint can be" in notes[0]
    points[3, 0] = 0
    np.testing.assert_allclose(found, expected(points), atol=1e-12)


def test_coordinates_from_minus_one_to_one_are_refused():
    points, _ = written(0)
    signed = points.copy()
    signed[..., :2] = np.where(points[..., 2:] > 0, 2 * points[..., :2] / SIZE - 1, 0)
    with pytest.raises(ValueError, match="f.json: .*--keypoint_scale 4; write pixels"):
        read(signed)
    shifted = points / (*SIZE, 1) - (points[..., 2:] > 0) * (0.3, 0, 0)  # partly out of the picture
    read(shifted)


@pytest.mark.parametrize("order", normalise.COCO_ORDERS.tolist())
@pytest.mark.parametrize("unit", [1, SIZE])
@pytest.mark.parametrize("hidden", [[], [9, 10, 12, 13], [16, 17]])
def test_joints_in_cocos_order_are_told(order, unit, hidden):
    points, _ = written(0)
    points[..., :2] /= unit
    points[:, hidden] = 0
    assert not any("COCO" in note for note in read(points).notes)
    points[:, :18] = points[:, np.argsort(order)]
    assert sum("COCO's order" in note for note in read(points).notes) == 1


@pytest.mark.parametrize("count", [30, 64])
@pytest.mark.parametrize("name", ["{}.png", "frame_{}_keypoints.json"])
@pytest.mark.parametrize("first", [0, 1])
def test_frames_in_the_order_of_their_names_are_told(first, name, count):
    pose = files.read(DRIVING).pose.at(slice(count))
    assert not normalise.order_of_frames(pose)
    numbers = [i for _, i in sorted((name.format(first + i), i) for i in range(count))]
    (note,) = normalise.order_of_frames(pose.at(numbers))
    start = ", ".join(str(first + i) for i in numbers[:4])
    assert f"names without leading zeros, {start}, ...;" in note


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_frames_of_somebody_who_stands_tells_nothing(seed):
    assert not normalise.order_of_frames(standing(30, seed=seed))
    rng, still = np.random.default_rng(seed), standing(1)
    trembling = still.at(np.zeros(30, int))
    trembling.body[:] += rng.normal(scale=0.01, size=(30, 1, 18, 2))
    assert not normalise.order_of_frames(trembling)
    assert not normalise.order_of_frames(still.at(np.zeros(30, int)))


@pytest.mark.parametrize("count", [30, 64])
def test_one_frame_with_somebody_elses_joints_tells_nothing_of_the_order(count):
    """Where another order ends with that frame, the joints leap once, not there and back."""
    rng, still = np.random.default_rng(0), standing(1).at(np.zeros(count, int))
    still.body[:] += rng.normal(scale=0.001, size=still.body.shape)
    for i in range(count):
        body = still.body.copy()
        body[i] += 0.3
        assert not normalise.order_of_frames(still.replace(body=body))


def test_hands_at_the_other_wrists_are_told():
    points, rng = written(0)
    wrists, (left, right) = points[:, [7, 4]], normalise.LISTS[1:3]
    wrists[...] = [(300.0, 500.0, 0.9), (200.0, 480.0, 0.9)]
    points[:, [7, 4]] = wrists
    for wrist, part in zip((0, 1), (left, right)):
        points[:, part] = (*wrists[0, wrist, :2], 0.8)
        points[:, part, :2] += rng.uniform(-20, 20, (8, 21, 2))
    assert not read(points).notes
    exchanged = points.copy()
    exchanged[:, left], exchanged[:, right] = points[:, right], points[:, left]
    (note,) = read(exchanged).notes
    assert "left hands are at the right wrists" in note and "exchange the two lists" in note
    twice = points.copy()
    twice[:, left] = points[:, right]  # a detector that found the right one twice
    assert not read(twice).notes
    together = exchanged.copy()
    together[:, [7, 4], :2] = 250.0, 490.0  # folded
    assert not read(together).notes


def test_bodies_of_a_file_without_any_neck_get_one_between_the_shoulders():
    points, _ = written(0)
    points[0, [2, 5]], points[1, 2] = [(100, 50, 0.9), (140, 60, 0.7)], 0
    absent = points[4, 1] = 0, 0, 0
    assert not read(points).notes and not read(points).points[4, 1].any()  # as somebody has one
    points[:, 1] = absent
    found, notes = read(points)
    np.testing.assert_allclose(found[0, 1], (120 / 540, 55 / 960, 0.7))
    assert not found[1, 1].any()
    assert notes == ("its bodies have no neck; the middle of the shoulders is taken",)
    points[:, [2, 5]] = absent
    assert not read(points).points[:, 1].any() and not read(points).notes


@pytest.mark.parametrize(
    ("scale", "place", "unit", "told"),
    [
        (0.5, (0, 0), SIZE, True),  # found in a picture of half the size
        (0.3, (0, 0), SIZE, True),
        (0.5, (0, 0.5), SIZE, False),  # somebody small elsewhere in the picture
        (0.5, (0.5, 0), SIZE, False),
        (1.0, (0, 0), SIZE, False),
        (0.5, (0, 0), (1, 1), False),  # fractions belong to any canvas
    ],
)
def test_a_canvas_larger_than_the_picture_of_the_keypoints_is_told(scale, place, unit, told):
    xy, score = people.flatten(standing(4, num_people=2))
    points = np.concatenate([(xy * scale + place) * unit, score[..., None]], -1)
    notes = read(points.reshape(8, 128, 3)).notes
    assert any("upper left quarter of its canvas of 540 x 960" in note for note in notes) == told


def test_a_canvas_much_smaller_than_the_picture_of_the_keypoints_is_told():
    points, _ = written(0)
    points[..., :2] *= 4
    (note,) = read(points).notes
    assert "are left out" in note and note.endswith("its canvas of 540 x 960 seems to be too small")
    points[..., :2] /= 4
    points[3, 5] = 5000, 5000, 1
    (note,) = read(points).notes
    assert note.endswith("at 5000, 5000")


@pytest.mark.parametrize("confidence", [0, -1])
def test_joints_without_any_confidence_are_refused(confidence):
    points, _ = written(0)
    points[..., 2] = confidence
    with pytest.raises(ValueError, match="f.json: no joint has a confidence above 0.*write 1"):
        read(points)
    assert not read(0 * points).points.any()


@pytest.mark.parametrize("scale", [2.0, 3.7, 10.0, 255.0])
def test_confidences_of_another_scale_are_clipped_and_it_is_said_once(scale):
    points, _ = written(3)
    points[..., 2] = np.where(points[..., 2] > 0, scale, 0)
    found, notes = read(points)
    assert set(np.unique(found[..., 2])) == {0.0, 1.0}
    assert notes == (
        f"its confidences go up to {scale:g}, expected 0 to 1; higher ones are taken for 1",
    )


@pytest.mark.parametrize(
    "surest", [[1, 1, 1, 1], [1, 0.5, 0.7, 1], [0.4, 0.3, 0.3, 0.3], [0.9, 0.1, 0.15, 1]]
)
def test_percent_are_hundredths(surest):
    points, _ = written(3)
    for part, greatest in zip(normalise.LISTS, surest):
        points[:, part, 2] *= greatest / points[:, part, 2].max()
    points[:, ::5, 2] *= 0.01  # some that are hardly there at all
    percent = points.copy()
    percent[..., 2] *= 100
    found, notes = read(percent)
    np.testing.assert_allclose(found, expected(points), atol=1e-12)
    assert notes == (
        f"its confidences go up to {percent[..., 2].max():g} and are taken for percent",
    )


def test_faces_in_percent_beside_bodies_of_another_scale():
    points, _ = written(3)
    mixed = points.copy()
    mixed[:, 60:, 2] *= 100
    found, notes = read(mixed)
    np.testing.assert_allclose(found, expected(points), atol=1e-12)
    assert len(notes) == 1
    mixed[:, :18, 2] *= 3
    assert len(read(mixed).notes) == 2


def test_a_detectors_answers_a_little_above_one_are_left_alone():
    points, _ = written(3)
    points[0, :10, 2] *= 1.2 / points[0, :10, 2].max()
    found, notes = read(points)
    np.testing.assert_allclose(found, expected(points), atol=1e-12)
    assert not notes


@pytest.mark.parametrize("seed", range(40))
def test_a_list_in_two_units_is_refused_or_its_strays_are_left_out_and_none_is_misplaced(seed):
    points, rng = written(seed)
    person, part = rng.integers(8), rng.integers(4)
    one = points[person, normalise.LISTS[part]]
    present = np.flatnonzero(one[:, 2] > 0)
    changed = rng.choice(present, rng.integers(1, len(present)), replace=False)
    mixed = points if rng.random() < 0.5 else expected(points)
    mixed = mixed.copy()
    to_fractions = mixed.max() > 2
    for i in changed:
        mixed[person, normalise.LISTS[part].start + i, :2] *= SIZE if not to_fractions else 1
        mixed[person, normalise.LISTS[part].start + i, :2] /= SIZE if to_fractions else 1
    try:
        found, notes = read(mixed)
    except ValueError as error:
        assert f"f.json: frame {FRAMES[person]}: of the {normalise.LIST_NAMES[part]}'s" in str(
            error
        )
        return
    kept = found[..., 2] > 0
    np.testing.assert_allclose(found[kept], expected(points)[kept], atol=1e-12)
    lost = (expected(points)[..., 2] > 0) & ~kept
    assert lost.sum() <= max(2, len(present) / 4) and any("left out" in note for note in notes)
    assert lost[person].sum() == lost.sum()


def test_a_hand_of_two_points_has_the_unit_of_its_body():
    points, _ = written(5)
    points[:, 18:] = 0
    points[2, 20] = points[2, 21] = (300.0, 500.0, 1.0)
    points[1, 20] = (0.5, 0.4, 1.0)  # in the corner of a picture in pixels, where no hand is
    found, notes = read(points)
    np.testing.assert_allclose(found[2, 20], (300 / 540, 500 / 960, 1))
    assert not found[1, 20].any() and "1 of its points" in notes[0]


def test_a_canvas_of_a_pixel_holds_fractions_as_pixels():
    points, _ = written(0)
    points[..., :2] /= SIZE
    found, notes = normalise.normalise(points, FRAMES, (1, 1), "f.json")
    np.testing.assert_array_equal(found, points)
    assert not notes


def test_nobody_at_all_is_nothing_to_normalise():
    found, notes = normalise.normalise(np.zeros((0, 128, 3)), np.zeros(0, int), SIZE, "f.json")
    assert found.shape == (0, 128, 3) and not notes
