"""The detector's path with two small ONNX models that see a bright figure as a person.

The released networks cannot be bundled. These have their inputs and outputs and a known answer: the
detector answers with a box around every bright cell of the grid, the whole-body model points at the
brightest row and column of the crop.
"""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dispose_jax.pose import estimate

DETECTOR_SIDE = 64
CROP_WIDTH, CROP_HEIGHT = 48, 64
CELL, BOX = 32, (24.0, 40.0)  # the detector's coarsest cells; width and height of its boxes


def graph(path, nodes, outputs, constants, input_shape):
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, input_shape)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in outputs.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "model", [picture], outputs, values),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_detector(path):
    """Coarse cells see a person in red brighter than the padding's grey; finer ones see nothing."""
    fine = (DETECTOR_SIDE // 8) ** 2 + (DETECTOR_SIDE // 16) ** 2
    coarse = (DETECTOR_SIDE // CELL) ** 2
    box = np.zeros((1, coarse, 4), np.float32)
    box[..., :2] = 0.5  # the middle of the cell
    box[..., 2:] = np.log(np.array(BOX) / CELL)
    classes = np.zeros((1, coarse, 80), np.float32)
    classes[..., 0] = 1.0
    constants = {
        "start": np.array([0]),
        "end": np.array([1]),
        "axis": np.array([1]),
        "grey": np.float32(128),
        "half": np.float32(127),
        "column": np.array([1, coarse, 1]),
        "box": box,
        "classes": classes,
        "nothing": np.zeros((1, fine, 85), np.float32),
    }
    nodes = [
        helper.make_node("Slice", ["picture", "start", "end", "axis"], ["red"]),
        helper.make_node(
            "MaxPool", ["red"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]
        ),
        helper.make_node("Sub", ["cells", "grey"], ["brightness"]),
        helper.make_node("Div", ["brightness", "half"], ["fraction"]),
        helper.make_node("Reshape", ["fraction", "column"], ["objectness"]),
        helper.make_node("Concat", ["box", "objectness", "classes"], ["coarse"], axis=2),
        helper.make_node("Concat", ["nothing", "coarse"], ["output"], axis=1),
    ]
    side = DETECTOR_SIDE
    graph(path, nodes, {"output": [1, fine + coarse, 85]}, constants, [1, 3, side, side])


def write_whole_body(path, num_keypoints=133):
    """Responses are the green channel's maxima per row and column, each stretched to two bins."""
    constants = {
        "start": np.array([1]),
        "end": np.array([2]),
        "axis": np.array([1]),
        "half": np.float32(0.5),
        "x_shape": np.array([1, num_keypoints, 2 * CROP_WIDTH]),
        "y_shape": np.array([1, num_keypoints, 2 * CROP_HEIGHT]),
    }
    nodes = [helper.make_node("Slice", ["picture", "start", "end", "axis"], ["green"])]
    for name, axis, size in (("x", 2, CROP_WIDTH), ("y", 3, CROP_HEIGHT)):
        constants[f"{name}_row"] = np.array([1, 1, size, 1])
        constants[f"{name}_flat"] = np.array([1, 1, 2 * size])
        constants[f"{name}_twice"] = np.array([1, 1, size, 2])
        nodes += [
            helper.make_node("ReduceMax", ["green"], [f"{name}_max"], axes=[axis], keepdims=1),
            helper.make_node("Mul", [f"{name}_max", "half"], [f"{name}_low"]),
            helper.make_node("Reshape", [f"{name}_low", f"{name}_row"], [f"{name}_column"]),
            helper.make_node("Expand", [f"{name}_column", f"{name}_twice"], [f"{name}_pair"]),
            helper.make_node("Reshape", [f"{name}_pair", f"{name}_flat"], [f"{name}_line"]),
            helper.make_node("Expand", [f"{name}_line", f"{name}_shape"], [f"simcc_{name}"]),
        ]
    outputs = {
        "simcc_x": [1, num_keypoints, 2 * CROP_WIDTH],
        "simcc_y": [1, num_keypoints, 2 * CROP_HEIGHT],
    }
    graph(path, nodes, outputs, constants, [1, 3, CROP_HEIGHT, CROP_WIDTH])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_detector(folder / "detector.onnx")
    write_whole_body(folder / "whole_body.onnx")
    return folder


@pytest.fixture(scope="module")
def models(folder):
    return estimate.open_models(folder)


def frame_with(*dots, width=256, height=192):
    """A black frame with a soft bright dot per (x, y, red): red says how sure, green where."""
    y, x = np.mgrid[:height, :width]
    frame = np.zeros((height, width, 3), np.uint8)
    for dot_x, dot_y, red in dots:
        distance = np.hypot(x - dot_x, y - dot_y)
        frame[distance < 8, 0] = red
        frame[..., 1] = np.maximum(frame[..., 1], np.clip(255 - 12 * distance, 0, 255))
    return frame


def test_model_sizes_are_read_from_the_files(models):
    assert models.detector_size == (DETECTOR_SIDE, DETECTOR_SIDE)
    assert models.crop_size == (CROP_WIDTH, CROP_HEIGHT)


def test_a_person_is_found_where_the_frame_is_bright(models):
    pose = estimate.estimate(models, frame_with((150, 90, 255))[None])
    assert pose.num_people.tolist() == [1]
    # The whole-body model points every keypoint at the dot; the crop's pixels are about 4 wide.
    for points in (pose.body, pose.hands, pose.face):
        assert np.abs(points * (256, 192) - (150, 90)).max() < 4
    assert (pose.body_score > 0.3).all()


def test_keypoints_follow_the_person(models):
    frames = np.stack([frame_with((140 + 5 * i, 80 + 3 * i, 255)) for i in range(5)])
    pose = estimate.estimate(models, frames)
    steps = np.diff(pose.body[:, 0, 0] * (256, 192), axis=0)
    np.testing.assert_allclose(steps.mean(0), (5, 3), atol=0.8)


def test_people_come_by_descending_score_of_the_detector(models):
    left, right = (60, 90), (190, 90)
    frames = np.stack(
        [
            frame_with((*left, 200), (*right, 255)),
            frame_with((*left, 255), (*right, 200)),
            frame_with((*left, 255)),
        ]
    )
    pose = estimate.estimate(models, frames)
    assert pose.num_people.tolist() == [2, 2, 1]
    first = pose.body[:, 0].mean(1) * (256, 192)
    np.testing.assert_allclose(first, [right, left, left], atol=4)
    np.testing.assert_allclose(pose.body[0, 1].mean(0) * (256, 192), left, atol=4)


def test_a_frame_without_people_is_taken_for_one_person_without_visible_joints(models):
    frames = np.stack([np.zeros((192, 256, 3), np.uint8), frame_with((150, 90, 255))])
    pose = estimate.estimate(models, frames)
    assert not pose.visible[0].any()
    assert pose.visible[1, 0].any()
    unsure = estimate.estimate(models, frame_with((150, 90, 160))[None])  # 32 / 127 < 0.3
    np.testing.assert_allclose(unsure.body[0, 0, 0] * (256, 192), (150, 90), atol=8)


def test_progress_counts_frames(models):
    seen = []
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    estimate.estimate(models, frames, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_frames_that_are_no_pictures_are_refused(models):
    for frames in (np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            estimate.estimate(models, frames)
    with pytest.raises(ValueError, match="no frames"):
        estimate.estimate(models, [])
    with pytest.raises(ValueError, match=r"\(9, 8, 3\) follows one of shape \(8, 8, 3\)"):
        estimate.estimate(models, (np.zeros((8 + i, 8, 3), np.uint8) for i in range(2)))


def test_frames_are_taken_one_by_one_as_they_come(models):
    order = []

    def film():
        for i in range(3):
            order.append(f"frame {i}")
            yield frame_with((140 + 5 * i, 80, 255))

    pose = estimate.estimate(
        models, film(), num_frames=3, progress=lambda done, of: order.append(f"{done} of {of}")
    )
    assert order == ["frame 0", "1 of 3", "frame 1", "2 of 3", "frame 2", "3 of 3"]
    every = estimate.estimate(models, np.stack([*film()]))
    np.testing.assert_array_equal(pose.body, every.body)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder; .*detector.onnx and whole_body"):
        estimate.open_models(tmp_path / "absent")
    with pytest.raises(ValueError, match="no detector.onnx and no whole_body.onnx.*yolox_l.onnx"):
        estimate.open_models(tmp_path)
    write_detector(tmp_path / "detector.onnx")
    with pytest.raises(ValueError, match=": no whole_body.onnx"):
        estimate.open_models(tmp_path)


def test_a_missing_onnxruntime_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"dispose-jax\[pose\]"):
        estimate.open_models(folder)


def test_a_damaged_file_is_named(tmp_path):
    write_detector(tmp_path / "detector.onnx")
    whole = (tmp_path / "detector.onnx").read_bytes()
    (tmp_path / "whole_body.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="whole_body.onnx: not a readable ONNX model") as error:
        estimate.open_models(tmp_path)
    assert "\n" not in str(error.value)


def test_models_of_another_kind_are_refused(tmp_path):
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    write_whole_body(tmp_path / "detector.onnx")
    write_whole_body(tmp_path / "whole_body.onnx")
    with pytest.raises(ValueError, match="detector.onnx: output of shape"):
        estimate.estimate(estimate.open_models(tmp_path), frames)
    write_detector(tmp_path / "detector.onnx")
    write_whole_body(tmp_path / "whole_body.onnx", num_keypoints=17)
    with pytest.raises(ValueError, match="whole_body.onnx: outputs of shapes"):
        estimate.estimate(estimate.open_models(tmp_path), frames)


def test_doubles_are_suppressed_and_neighbours_are_not():
    boxes = np.array([[0, 0, 99, 99], [5, 5, 104, 104], [60, 0, 159, 99.0], [0, 0, 9, 9]])
    kept = estimate.suppress(boxes, np.array([0.8, 0.9, 0.7, 0.2]))
    np.testing.assert_array_equal(kept, boxes[[1, 2]])


def test_overlaps_count_the_border_pixels():
    # With the border pixels 63 / 137 = 0.46, without them 47.7 / 114.3 = 0.42.
    boxes = np.array([[0, 0, 9, 9], [3.7, 0, 12.7, 9]])
    assert len(estimate.suppress(boxes, np.array([0.9, 0.8]))) == 1
    boxes = np.array([[0, 0, 9, 9], [4, 0, 13, 9.0]])  # 60 / 140 = 0.43
    assert len(estimate.suppress(boxes, np.array([0.9, 0.8]))) == 2


@pytest.mark.parametrize("shape", [(50, 200), (200, 50), (64, 64)])
def test_a_letterboxed_frame_keeps_its_shape_and_is_padded_with_grey(shape):
    frame = np.full((*shape, 3), 200, np.uint8)
    canvas, ratio = estimate.letterbox(frame, (64, 96))
    height, width = int(shape[0] * ratio), int(shape[1] * ratio)
    assert (canvas[:height, :width] == 200).all()
    assert (canvas[height:] == 114).all() and (canvas[:, width:] == 114).all()
    assert height == 96 or width == 64


def test_the_neck_is_visible_only_between_visible_shoulders():
    keypoints = np.random.default_rng(0).uniform(0, 100, (2, 133, 2))
    scores = np.full((2, 133), 0.9)
    scores[1, 5] = 0.3
    xy, score = estimate.to_openpose(keypoints, scores, width=200, height=400)
    np.testing.assert_allclose(xy[:, 1], (keypoints[:, 5] + keypoints[:, 6]) / 2 / (200, 400))
    assert score[:, 1].tolist() == [1.0, 0.0]
