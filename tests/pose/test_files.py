import json

import jax
import numpy as np
import pytest

from dispose_jax.pose import files
from tests.pose.poses import standing, without

WIDTH, HEIGHT = 540, 960


def entry(**changes):
    """One person whose point i is at (i + 10, i + 20) pixels, as a file has it."""

    def numbers(count):
        return [n for i in range(count) for n in (i + 10.0, i + 20.0, 0.75)]

    person = {
        "pose_keypoints_2d": numbers(18),
        "face_keypoints_2d": numbers(70),
        "hand_left_keypoints_2d": numbers(21),
        "hand_right_keypoints_2d": numbers(21),
    }
    return {
        "people": [person | changes.pop("person", {})],
        "canvas_width": WIDTH,
        "canvas_height": HEIGHT,
    } | changes


def read(tmp_path, content):
    path = tmp_path / "poses.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return files.read(path)


def test_coordinates_become_fractions_of_the_canvas(tmp_path):
    pose, width, height, _ = read(tmp_path, [entry()])
    assert (width, height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(pose.body[0, 0, 7], (17 / WIDTH, 27 / HEIGHT))
    np.testing.assert_allclose(pose.face[0, 0, 67], (77 / WIDTH, 87 / HEIGHT))
    assert (pose.body_score == 0.75).all()


def test_the_first_hand_is_the_left_one(tmp_path):
    far = [500.0, 500.0, 1.0] * 21
    pose = read(tmp_path, [entry(person={"hand_right_keypoints_2d": far})]).pose
    np.testing.assert_allclose(pose.hands[0, 0, 1], np.full((21, 2), 500.0) / (WIDTH, HEIGHT))
    np.testing.assert_allclose(pose.hands[0, 0, 0, 0], (10 / WIDTH, 20 / HEIGHT))


def test_a_bare_entry_is_a_picture(tmp_path):
    bare, listed = read(tmp_path, entry()), read(tmp_path, [entry()])
    jax.tree.map(np.testing.assert_array_equal, bare.pose, listed.pose)


def test_faces_may_lack_the_two_pupils(tmp_path):
    with_pupils = entry()
    without_pupils = entry(
        person={"face_keypoints_2d": with_pupils["people"][0]["face_keypoints_2d"][: 3 * 68]}
    )
    a, b = read(tmp_path, with_pupils).pose, read(tmp_path, without_pupils).pose
    np.testing.assert_array_equal(a.face, b.face)


@pytest.mark.parametrize("absent", ["missing", "null", "empty"])
def test_lists_that_are_missing_null_or_empty_are_absent_points(tmp_path, absent):
    content = entry()
    for key in ("hand_left_keypoints_2d", "face_keypoints_2d"):
        if absent == "missing":
            del content["people"][0][key]
        else:
            content["people"][0][key] = None if absent == "null" else []
    pose = read(tmp_path, content).pose
    assert not pose.face_score.any()
    assert not pose.hands_score[0, 0, 0].any()
    assert (pose.hands_score[0, 0, 1] == 0.75).all()


def test_frames_may_show_nobody_or_several_people(tmp_path):
    two = entry()
    two["people"] = [two["people"][0], {"pose_keypoints_2d": [300.0, 400.0, 0.5] * 18}]
    pose = read(tmp_path, [entry(people=[]), two, entry(people=None), entry()]).pose
    assert pose.num_people.tolist() == [0, 2, 0, 1]
    np.testing.assert_allclose(pose.body[1, 1, 3], (300 / WIDTH, 400 / HEIGHT))


def test_people_without_points_are_left_out_and_those_without_body_come_last(tmp_path):
    content = entry()
    nobody = {"pose_keypoints_2d": [0.0] * 54}
    face_alone = {"face_keypoints_2d": [30.0, 40.0, 1.0] * 70}
    content["people"] = [nobody, face_alone, *content["people"]]
    pose = read(tmp_path, content).pose
    assert pose.body.shape[1] == 2
    assert pose.visible[0, 0].all()
    assert pose.face_score[0, 1].all() and not pose.body_score[0, 1].any()


def test_written_poses_are_read_back(tmp_path):
    pose = without(standing(num_frames=4, num_people=2), [9, 10], frames=[1, 2])
    score = pose.hands_score.copy()
    score[2, 1, 0] = 0  # a missing hand
    hands = np.where(score[..., None] > 0, pose.hands, 0)
    pose = pose.replace(hands=hands, hands_score=score)
    files.write(tmp_path / "out.json", pose, width=704, height=1280)
    again, width, height, _ = files.read(tmp_path / "out.json")
    assert (width, height) == (704, 1280)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), pose, again)


def test_written_files_have_the_layout_others_read(tmp_path):
    pose = without(standing(num_frames=2), [10])
    files.write(tmp_path / "out.json", pose, width=100, height=200)
    first = json.loads((tmp_path / "out.json").read_text())[0]
    assert (first["canvas_width"], first["canvas_height"]) == (100, 200)
    (person,) = first["people"]
    lengths = {key: len(numbers) for key, numbers in person.items()}
    assert lengths == {
        "pose_keypoints_2d": 54,
        "face_keypoints_2d": 210,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }
    assert person["face_keypoints_2d"][204:] == [0.0] * 6
    assert person["pose_keypoints_2d"][30:33] == [0.0] * 3
    x, y = pose.body[0, 0, 0] * (100, 200)
    np.testing.assert_allclose(person["pose_keypoints_2d"][:2], (x, y))


def test_a_failed_write_leaves_neither_file_nor_remains(tmp_path, monkeypatch):
    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", disk_full)
    with pytest.raises(OSError, match="out.json: cannot write .*No space left on device"):
        files.write(tmp_path / "out.json", standing(), width=64, height=64)
    assert not list(tmp_path.iterdir())


def test_writing_replaces_a_file_only_when_it_is_whole(tmp_path):
    path = tmp_path / "out.json"
    files.write(path, standing(num_frames=2), width=64, height=64)
    before = path.read_text()
    broken = standing()
    with pytest.raises(ValueError, match="not finite"):
        files.write(path, broken.replace(body=broken.body * np.nan), width=64, height=64)
    assert path.read_text() == before
    with pytest.raises(OSError, match="out.json: cannot write this file"):
        files.write(tmp_path / "nowhere" / "out.json", standing(), width=64, height=64)


def body(numbers):
    return {"person": {"pose_keypoints_2d": numbers}}


BAD = {
    "truncated": (json.dumps([entry()])[:-20], "not JSON"),
    "deep": ("[" * 200_000, "not JSON"),
    "no frames": ("[]", "empty list of frames"),
    "string": ('"people"', "JSON string, expected a list of frames"),
    "frame that is no object": ([entry(), 3], "frame 1 is a JSON number"),
    "null frame": ([None], "frame 0: canvas_width is missing"),
    "empty frame": ([{}, {"people": []}], "frame 0: canvas_width is missing"),
    "135 joints": (
        [entry(**body([5.0] * 405))],
        r"has 405 numbers, expected 54 \(18 points\) or 75 \(25 points\) .*From other tools",
    ),
    "no confidences": ([entry(**body([5.0] * 36))], "has 36 numbers, expected 54"),
    "broken triple": ([entry(**body([5.0] * 55))], "has 55 numbers, expected 54"),
    "69 face points": (
        [entry(person={"face_keypoints_2d": [5.0] * 207})],
        r"face_keypoints_2d has 207 numbers, expected 204 \(68 points\) or 210 \(70 points\)",
    ),
    "words": ([entry(**body(["a"] * 54))], "holds a JSON string, expected numbers"),
    "booleans": ([entry(**body([True] * 54))], "holds a JSON boolean, expected numbers"),
    "triples": ([entry(**body([[1, 2, 1]] * 18))], "holds a JSON array, expected numbers"),
    "object of points": ([entry(**body({"x": 1}))], "pose_keypoints_2d is a JSON object"),
    "not finite": (
        json.dumps([entry(**body([float("nan")] * 54))]),
        "frame 0, person 0: pose_keypoints_2d holds a number that is not finite",
    ),
    "huge": ([entry(**body([10**400] * 54))], "too large"),
    "people that are no list": ([entry(people={"a": 1})], "'people' is a JSON object"),
    "person that is no object": ([entry(people=[[1, 2]])], "person 0 is a JSON array"),
    "no canvas": ([{"people": []}], "canvas_width is missing"),
    "canvas of size 0": ([entry(canvas_height=0)], "canvas_height is 0"),
    "negative canvas": ([entry(canvas_width=-5)], "canvas_width is -5"),
    "canvas in words": ([entry(canvas_width="540")], "canvas_width is '540'"),
    "two canvases": ([entry(), entry(canvas_width=600)], "different canvas sizes"),
    "half a body in fractions": (
        [entry(**body([5.0, 6.0, 1.0] * 9 + [0.5, 0.4, 1.0] * 9))],
        "frame 0: of the body's points 9 seem to be fractions of the picture and 9 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_a_pose_file_is_refused_in_one_sentence(tmp_path, name):
    content, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert "poses.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent.json: cannot read this pose file: No such file"):
        files.read(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="a folder, expected one file with a list.*other tools"):
        files.read(tmp_path)
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(ValueError, match="picture.json: not a pose file"):
        files.read(tmp_path / "picture.json")
