"""Keypoints, fit and skeleton pictures against the original's."""

import cv2
import numpy as np
import pytest

from dispose_jax.pose import draw, estimate, people, retarget
from dispose_jax.types import VISIBLE_SCORE, Pose
from tests.parity import cases


def one_frame(body, body_score, hands, faces, hands_score=None, faces_score=None) -> Pose:
    """A frame from the original's layout: (18 p, 2), (p, 18), left then right hands, (p, 68, 2)."""
    p = len(faces)
    hands_score = np.ones(hands.shape[:-1]) if hands_score is None else hands_score
    faces_score = np.ones(faces.shape[:-1]) if faces_score is None else faces_score
    return Pose(
        body=body.reshape(1, p, 18, 2),
        body_score=body_score[None],
        hands=hands.reshape(2, p, 21, 2).swapaxes(0, 1)[None],
        hands_score=hands_score.reshape(2, p, 21).swapaxes(0, 1)[None],
        face=faces[None],
        face_score=faces_score[None],
    )


def scored(scores: np.ndarray, subset: np.ndarray) -> np.ndarray:
    """Scores of a case, which must tell the same joints visible as its subset."""
    assert ((scores > VISIBLE_SCORE) == (subset >= 0)).all()
    return scores


def drawn_pose(tensors: dict, k: int) -> Pose:
    return one_frame(
        tensors[f"candidate_{k}"],
        scored(tensors[f"score_{k}"], tensors[f"subset_{k}"]),
        tensors[f"hands_{k}"],
        tensors[f"faces_{k}"],
        tensors[f"hands_score_{k}"],
        tensors[f"faces_score_{k}"],
    )


def assert_same_picture(case, output, ours, theirs):
    """Equal with the OpenCV that made the golden; others may differ by 2 on 0.5 % of the pixels."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    cases.record(case.name, output, difference.max(), 2)
    share = (difference.max(-1) > 0).mean()
    cases.record(case.name, f"{output}, share that differs", share, 0.005)


def test_pictures_of_skeletons_equal_the_originals():
    case = cases.load_case("pose_drawing")
    for k, about in enumerate(case.config["cases"]):
        pose = drawn_pose(case.inputs, k)
        assert pose.body.shape[1] == about["persons"]
        (ours,) = draw.draw(pose, *about["size_hw"])
        theirs = case.outputs[f"pose_{k}"].transpose(1, 2, 0)
        assert_same_picture(case, f"pose_{k}", ours, theirs)


def test_canvases_of_skeletons_equal_the_originals_before_and_after_hands_and_faces():
    case = cases.load_case("pose_drawing")

    def compare(output, ours):
        theirs = case.outputs[output].astype(float)
        assert ours.shape == theirs.shape
        assert theirs.any()
        cases.record(case.name, output, np.abs(ours - theirs).max() / theirs.max(), 0.005)

    for k, about in enumerate(case.config["cases"]):
        everybody = drawn_pose(case.inputs, k).at(0)
        canvas = np.zeros(about["canvas"], np.uint8)
        draw.paint_bodies(canvas, everybody)
        compare(f"body_rowsum_{k}", canvas[::4].astype(int).sum(1))
        draw.paint_hands(canvas, everybody)
        draw.paint_faces(canvas, everybody)
        compare(f"canvas_rowsum_{k}", canvas[::4].astype(int).sum(1))
        compare(f"canvas_colsum_{k}", canvas[:, ::4].astype(int).sum(0))


def test_a_skeleton_at_the_released_size_equals_the_originals():
    case = cases.load_case("pose_drawing_576")
    (ours,) = draw.draw(drawn_pose(case.inputs, 0), *case.config["size_hw"])
    picture = cases.GOLDENS / "pose_drawing_576.png"
    if picture.exists():
        assert_same_picture(case, "picture", ours, cv2.imread(str(picture))[..., ::-1])
    sums = ours.astype(int).sum((0, 1))
    theirs = case.outputs["channel_sum"]
    cases.record(case.name, "channel_sum", np.abs(sums / theirs - 1).max(), 0.001)


def test_driving_poses_are_fitted_to_the_reference_as_in_the_original():
    case = cases.load_case("pose_rescale")
    tensors = case.inputs
    for k, about in enumerate(case.config["cases"]):
        reference = one_frame(
            tensors[f"ref_candidate_{k}"],
            scored(tensors[f"ref_score_{k}"], tensors[f"ref_subset_{k}"]),
            tensors[f"ref_hands_{k}"],
            tensors[f"ref_faces_{k}"],
        )
        frames = [
            one_frame(
                tensors[f"f{i}_candidate_{k}"],
                scored(tensors[f"f{i}_score_{k}"], tensors[f"f{i}_subset_{k}"]),
                tensors[f"f{i}_hands_{k}"],
                tensors[f"f{i}_faces_{k}"],
            )
            for i in range(about["selected"])
        ]
        fitted = retarget.to_reference(
            "mimicmotion",
            reference,
            joined(frames),
            video_size=tuple(about["video_hw"][::-1]),
            target_size=tuple(about["ref_hw"][::-1]),
        ).pose
        assert fitted.num_frames == about["selected"] + 1
        np.testing.assert_array_equal(fitted.body[0, 0], reference.body[0, 0])
        worst = dict.fromkeys(("candidate", "hands", "faces"), 0.0)
        for i, frame in enumerate(frames):
            p = frame.body.shape[1]
            ours = {
                "candidate": fitted.body[i + 1, :p].reshape(-1, 2),
                "hands": fitted.hands[i + 1, :p].swapaxes(0, 1).reshape(-1, 21, 2),
                "faces": fitted.face[i + 1, :p],
            }
            for name, points in ours.items():
                theirs = case.outputs[f"f{i}_{name}_{k}"]
                worst[name] = max(worst[name], np.abs(points - theirs).max())
        for name, difference in worst.items():
            cases.record(case.name, f"{name}_{k}", difference, 1e-9)


def joined(frames: list[Pose]) -> Pose:
    pose = frames[0]
    for frame in frames[1:]:
        pose = people.join(pose, frame)
    return pose


def test_whole_body_keypoints_come_into_openpose_order_as_in_the_original():
    case = cases.load_case("pose_layout")
    for k in range(sum(name.startswith("keypoints_") for name in case.inputs)):
        height, width = case.inputs[f"size_hw_{k}"].tolist()
        keypoints, scores = case.inputs[f"keypoints_{k}"], case.inputs[f"scores_{k}"]
        xy, score = estimate.to_openpose(keypoints, scores, width=width, height=height)
        p = len(keypoints)
        subset = np.where(score[:, :18] > VISIBLE_SCORE, np.arange(18 * p).reshape(p, 18), -1)
        hands = slice(18, 18 + 42)
        ours = {
            "candidate": xy[:, :18].reshape(-1, 2),
            "score": score[:, :18],
            "subset": subset,
            "hands": xy[:, hands].reshape(p, 2, 21, 2).swapaxes(0, 1).reshape(-1, 21, 2),
            "hands_score": score[:, hands].reshape(p, 2, 21).swapaxes(0, 1).reshape(-1, 21),
            "faces": xy[:, -68:],
            "faces_score": score[:, -68:],
        }
        for name, value in ours.items():
            cases.assert_close(case, f"{name}_{k}", value, 1e-9, relative=False)


def test_simcc_responses_decode_to_the_originals_keypoints():
    case = cases.load_case("pose_simcc_decode")
    assert case.config["split_ratio"] == estimate.SPLIT_RATIO
    for k, size in enumerate(case.config["model_wh"]):
        keypoints, scores = estimate.decode_simcc(
            case.inputs[f"simcc_x_{k}"],
            case.inputs[f"simcc_y_{k}"],
            case.inputs[f"center_{k}"],
            case.inputs[f"scale_{k}"],
            tuple(size),
        )
        cases.assert_close(case, f"keypoints_{k}", keypoints, 1e-4, relative=False)
        cases.assert_close(case, f"scores_{k}", scores, 1e-6, relative=False)


def test_crops_around_boxes_equal_the_originals():
    case = cases.load_case("pose_box_affine")
    size = tuple(case.config["model_wh"])
    assert case.config["padding"] == estimate.BOX_MARGIN
    image = case.inputs["image"]
    centre, extent = estimate.box_to_crop(case.inputs["boxes"], size)
    cases.assert_close(case, "center", centre, 1e-9, relative=False)
    cases.assert_close(case, "scale", extent, 1e-9, relative=False)
    matrices = np.stack([estimate.crop_matrix(*box, size) for box in zip(centre, extent)])
    cases.assert_close(case, "warp", matrices, 1e-3, relative=False)
    inverse = np.stack([cv2.invertAffineTransform(matrix) for matrix in matrices])
    cases.assert_close(case, "inverse_warp", inverse, 1e-3, relative=False)

    whole = np.array([[0.0, 0.0, image.shape[1], image.shape[0]]])
    empty_centre, empty_extent = estimate.box_to_crop(whole, size)
    cases.assert_close(case, "empty_center", empty_centre[0], 1e-9, relative=False)
    cases.assert_close(case, "empty_scale", empty_extent[0], 1e-9, relative=False)

    crops = np.stack([estimate.crop(image, *box, size) for box in zip(centre, extent)])
    empty = estimate.crop(image, empty_centre[0], empty_extent[0], size)
    for output, ours in (("crops", crops[:, ::16, ::16]), ("empty_crop", empty[::16, ::16])):
        theirs = case.outputs[output]
        assert ours.shape == theirs.shape
        share = (np.abs(ours - theirs) > 0.02).mean()
        cases.record(case.name, f"{output}, share above 0.02", share, 0.005)


@pytest.mark.parametrize("output", ["network_input", "boxes"])
def test_the_person_detector_sees_and_finds_what_the_originals_does(output):
    case = cases.load_case("pose_yolox_decode")
    assert tuple(case.config["strides"]) == estimate.STRIDES
    for k, about in enumerate(case.config["cases"]):
        size = tuple(about["input_hw"][::-1])
        image = case.inputs[f"image_{k}"]
        assert list(image.shape[:2]) == about["image_hw"]
        picture, ratio = estimate.letterbox(image, size)
        if output == "network_input":
            ours = picture.transpose(2, 0, 1)[None].astype(int)
            cases.assert_close(case, f"network_input_{k}", ours, 1, relative=False)
            continue
        boxes, scores = estimate.decode_boxes(case.inputs[f"raw_{k}"][0], size)
        decoded = case.outputs[f"decoded_{k}"][0].astype(np.float64)
        centre, extent = decoded[:, :2], decoded[:, 2:4]
        corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)
        cases.assert_close(case, f"decoded_{k}", boxes, 1e-3, reference=corners, relative=False)
        kept = estimate.suppress(
            boxes / ratio,
            scores,
            min_score=max(case.config["score"], case.config["final_score"]),
            max_overlap=case.config["nms"],
        )
        assert len(kept) == about["boxes"]
        cases.assert_close(case, f"boxes_{k}", kept, 1e-3, relative=False)
