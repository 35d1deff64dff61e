"""What other tools write is read as meant, or refused with the way to convert it."""

import json
import pickle
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from dispose_jax.pose import files
from tests.pose.test_files import HEIGHT, WIDTH, entry, read

INPUTS = Path(__file__).parents[2] / "docs" / "inputs.md"
CLEAN = Path(__file__).parent / "cases" / "clean.poses.json"


def test_the_18_joints_of_body_25_are_read(tmp_path):
    joints = np.random.default_rng(0).uniform(10, 500, (25, 3)).round(2)
    joints[:, 2] = np.linspace(0.5, 1, 25)
    pose = read(tmp_path, [entry(person={"pose_keypoints_2d": joints.ravel().tolist()})]).pose
    names = "nose neck rsho relb rwri lsho lelb lwri hips rhip rkne rank lhip lkne lank".split()
    expected = [joints[names.index(name)] for name in names if name != "hips"]
    expected = np.array([*expected, *joints[15:19]])  # eyes and ears, the right one first
    np.testing.assert_allclose(pose.body[0, 0], expected[:, :2] / (WIDTH, HEIGHT))
    np.testing.assert_allclose(pose.body_score[0, 0], expected[:, 2])


def test_keys_of_old_versions_of_openpose_are_read(tmp_path):
    content, old = entry(), entry()
    (person,) = old["people"]
    old["people"] = [{key.removesuffix("_2d"): numbers for key, numbers in person.items()}]
    new, old = read(tmp_path, content).pose, read(tmp_path, old).pose
    assert old.num_people.tolist() == [1]
    jax.tree.map(np.testing.assert_array_equal, new, old)


CANVAS = {"canvas_width": WIDTH, "canvas_height": HEIGHT}
COCO = {"keypoints": [5.0] * 51, "score": 2.8}
# What other tools write: without people they would be frames without anybody.
OTHERS = {
    "AlphaPose": ([{"image_id": "0.jpg", **COCO}], "has 'image_id', 'keypoints' and 'score'"),
    "AlphaPose's OpenPose": ([{"bodies": [{"joints": [5.0] * 54}], **CANVAS}], "has 'bodies'"),
    "COCO annotations": ({"images": [], "annotations": [COCO]}, "has 'annotations' and 'images'"),
    "MMPose, a video": (
        {"meta_info": {}, "instance_info": []},
        "has 'instance_info' and 'meta_inf",
    ),
    "MMPose, a frame": ([{"instances": [COCO], **CANVAS}], "has 'instances', expected 'people'"),
    "MediaPipe": ([[{"x": 0.5, "y": 0.5, "visibility": 1.0}] * 33], "frame 0 is a JSON array"),
    "frames by name": ({f"{i}.png": entry() for i in range(9)}, "has '0.png', .* and '5.png', exp"),
    "people of COCO": ([entry(people=[COCO])], "has 'keypoints' and 'score', expected 'pose_k"),
    "a line for each frame": (f"{json.dumps(entry())}\n" * 2, "not JSON: Extra data: line 2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_other_tools_write_is_refused_with_what_it_holds_and_how_to_convert_it(tmp_path, name):
    content, message = OTHERS[name]
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, content)
    assert str(error.value).endswith(files.CONVERT) and len(str(error.value)) < 400


def test_a_frame_or_person_that_says_other_things_among_others_is_nobody(tmp_path):
    frames = [entry(), {"animals": [], **CANVAS}, entry(people=[{"person_id": [-1]}])]
    assert read(tmp_path, frames).pose.num_people.tolist() == [1, 0, 0]


FOLDER, ORDERED = re.findall(r"```python\n(.*?)```", INPUTS.read_text(), re.S)
ORDERS = re.findall(r"\[0, -1[^]]*\]", INPUTS.read_text())


@pytest.mark.parametrize(
    ("name", "missing"), [("2nd_dance_{:012}_keypoints.json", ()), ("{}_keypoints.json", (3, 4))]
)
def test_a_folder_of_openpose_is_converted_as_the_page_on_inputs_says(
    tmp_path, monkeypatch, name, missing
):
    """Of a video, and of pictures that count from 1 without leading zeros and lack some."""
    monkeypatch.chdir(tmp_path)
    Path("dance").mkdir()
    expected = json.loads(CLEAN.read_text())
    for i in missing:
        expected[i]["people"] = []
    for i, frame in enumerate(expected):
        if i in missing:
            continue
        joints = frame["people"][0]["pose_keypoints_2d"]
        joints = joints[:24] + [1, 2, 1] + joints[24:] + [3, 4, 1] * 6  # hips' middle, feet
        content = {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": joints}]}
        Path("dance", name.format(i + bool(missing))).write_text(json.dumps(content))
    exec(FOLDER.replace("1080", str(WIDTH)).replace("1920", str(HEIGHT)), {})
    found = files.read("dance.poses.json").pose
    jax.tree.map(np.testing.assert_array_equal, found, read(tmp_path, expected).pose)


@pytest.mark.parametrize(("order", "count"), [(ORDERS[0], 133), (ORDERS[1], 33)])
def test_other_orders_are_converted_as_the_page_on_inputs_says(tmp_path, monkeypatch, order, count):
    monkeypatch.chdir(tmp_path)
    pose = files.read(CLEAN).pose
    joints = np.concatenate([pose.body[:, 0], pose.body_score[:, 0, :, None]], -1)
    joints[:, 1] = joints[:, [2, 5]].mean(1)
    joints[3, [2, 1]] = 0  # without a shoulder there is no neck
    others = np.full((len(joints), count, 3), 0.5)
    for joint, place in enumerate(json.loads(order)):
        if place >= 0:
            others[:, place] = joints[:, joint]
    exec(
        ORDERED.replace(ORDERS[0], order),
        {"frames": [[one * (1080, 1920, 1)] for one in others] + [[]]},
    )
    found = files.read("dance.poses.json").pose
    np.testing.assert_allclose(found.body[:-1, 0], joints[..., :2] * (joints[..., 2:] > 0))
    np.testing.assert_allclose(found.body_score[:-1, 0], joints[..., 2])
    assert found.num_people[-1] == 0


def test_body_25b_in_place_of_body_25_is_told(tmp_path):
    content = json.loads(CLEAN.read_text())
    for person in (frame["people"][0] for frame in content):
        joints = np.reshape(person["pose_keypoints_2d"], (18, 3))
        ours = np.zeros((25, 3))
        for joint, place in enumerate(json.loads(ORDERS[0])):
            ours[place] = joints[joint]
        person["pose_keypoints_2d"] = ours.ravel().tolist()
    assert any("seem to be in COCO's order" in note for note in read(tmp_path, content).notes)


def test_pickles_are_refused_and_never_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "poses.pkl").write_bytes(pickle.dumps(Harm(), protocol))
        with pytest.raises(ValueError, match="poses.pkl: not a pose file.*From other tools"):
            files.read(tmp_path / "poses.pkl")
    assert not (tmp_path / "harm").exists()
