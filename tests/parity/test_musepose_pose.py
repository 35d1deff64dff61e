"""MusePose's and Moore-AnimateAnyone's skeletons, their fit and their pictures against the
originals."""

from dataclasses import replace

import numpy as np
import pytest

from dispose_jax.media import image
from dispose_jax.networks.clip import clip_pixels
from dispose_jax.pose import draw, retarget
from dispose_jax.pose.retarget import musepose
from dispose_jax.types import Pose
from tests.parity import cases

# A score of the originals' hidden points: there, but not surely. They mark them in two ways.
DOUBTFUL = 0.1


def pose_of(body, subset, hands, faces) -> Pose:
    """One person as in the originals: (f, 18, 2), (f, 18), (f, 2, 21, 2), (f, 1, 68, 2)."""
    score = lambda xy: np.where((xy == -1).all(-1), DOUBTFUL, 1.0)
    return Pose(
        body=body[:, None],
        body_score=np.where(subset == -1, DOUBTFUL, 1.0)[:, None],
        hands=hands[:, None],
        hands_score=score(hands)[:, None],
        face=faces,
        face_score=score(faces),
    )


def variants(case: cases.Case, suffix: str) -> list[str]:
    """Names that a case's inputs begin with."""
    return sorted(name.removesuffix(suffix) for name in case.inputs if name.endswith(suffix))


def aligned(case: cases.Case, name: str):
    """Sizes (width, height), the alignment, and the poses with the reference's in front."""
    prefix = f"{name}."
    given = {k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)}
    reference = [given[f"ref_{part}"] for part in ("body", "subset", "hands", "faces")]
    driving = [given[f"video_{part}"] for part in ("body", "subset", "hands", "faces")]
    reference, driving = pose_of(*(part[None] for part in reference)), pose_of(*driving)
    sizes = {
        "video_size": tuple(given["video_hw"][::-1].tolist()),
        "target_size": tuple(given["ref_hw"][::-1].tolist()),
    }
    return sizes, *retarget.to_reference("musepose", reference, driving, **sizes)[:2]


def test_driving_poses_get_the_references_proportions_as_in_the_original():
    case = cases.load_case("musepose_pose_align")
    tolerance = case.about["tolerance"]
    for name in variants(case, ".ref_body"):
        _, pose, alignment = aligned(case, name)
        order = [PART_OF[scale] for scale in case.config["scale_order"]]
        scales = np.array([alignment.scales[part] for part in order])
        assert set(order) == set(musepose.SEGMENTS)
        cases.assert_close(case, f"{name}.scales", scales, tolerance["scales"], relative=False)
        moved = pose.at(slice(1, None))
        ours = {"body": moved.body[:, 0], "hands": moved.hands[:, 0], "faces": moved.face}
        for part, points in ours.items():
            output = f"{name}.{part}"
            cases.assert_close(case, output, points, tolerance["keypoints"], relative=False)
        subset = np.where(moved.visible[:, 0], np.arange(18), -1)
        np.testing.assert_array_equal(subset, case.outputs[f"{name}.subset"])


PART_OF = {
    "scale_neck": "neck",
    "scale_face": "face",
    "scale_shoulder": "shoulders",
    "scale_arm_upper": "upper arms",
    "scale_arm_lower": "lower arms",
    "scale_hand": "hands",
    "scale_body_len": "trunk",
    "scale_leg_upper": "upper legs",
    "scale_leg_lower": "lower legs",
}


def test_aligned_skeletons_are_drawn_on_the_videos_canvas_in_the_references_shape():
    case = cases.load_case("musepose_pose_align")
    config = case.config
    style = replace(draw.STYLES["musepose"], face=config["draw_face"])
    for name in variants(case, ".ref_body"):
        sizes, pose, _ = aligned(case, name)
        width, height = sizes["target_size"]
        size = image.shown_size(height, width, config["result_height"])
        np.testing.assert_array_equal(size, case.outputs[f"{name}.result_hw"])
        painted = draw.canvas_size(style, size, config["paint_width"], sizes["video_size"])
        np.testing.assert_array_equal(painted, case.outputs[f"{name}.paint_hw"])
        (picture,) = draw.draw(
            pose.at([2]),  # the second driving frame
            *size,
            canvas=config["paint_width"],
            style=style,
            video_size=sizes["video_size"],
        )
        rows, columns = (side // 16 for side in size)
        blocks = picture[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16, 3)
        output, tolerance = (
            f"{name}.result_block_mean",
            case.about["tolerance"]["result_block_mean"],
        )
        assert case.outputs[output].any()
        cases.assert_close(case, output, blocks.mean((1, 3)), tolerance, relative=False)


STYLES = {
    "musepose": draw.STYLES["musepose"],
    "musepose_face": replace(draw.STYLES["musepose"], face=True),
    "moore": draw.STYLES["moore"],
}


@pytest.mark.parametrize("style", STYLES)
def test_skeletons_look_like_the_originals(style):
    case = cases.load_case("musepose_pose_draw")
    for name in variants(case, ".body"):
        parts = [case.inputs[f"{name}.{part}"] for part in ("body", "subset", "hands", "faces")]
        pose = pose_of(*(part[None] for part in parts))
        height, width = case.inputs[f"{name}.hw"].tolist()
        canvas = {"canvas": min(height, width), "style": STYLES[style]}
        (ours,) = draw.draw(pose, height, width, **canvas)
        if STYLES[style].swapped:  # the case's pictures are as drawn
            ours = ours[..., ::-1]
        theirs = case.outputs[f"{name}.{style}"]
        assert ours.shape == theirs.shape and theirs.any()
        differs = (np.abs(ours.astype(int) - theirs.astype(int)) > 8).any(-1)
        cases.record(case.name, f"{name}.{style}", differs.mean(), case.about["tolerance"]["value"])


@pytest.mark.parametrize("output", ["clip_pixels", "clip_pixels_training"])
def test_clip_reads_the_same_pixels(output):
    case = cases.load_case("musepose_preprocess")
    picture = case.inputs["image"].astype(np.float32) / 127.5 - 1
    method = {"clip_pixels": "stretch", "clip_pixels_training": "crop"}[output]
    pixels = np.asarray(clip_pixels(picture[None], method=method))
    sampled = np.moveaxis(pixels, -1, 1)[:, :, ::4, ::4]
    cases.assert_close(case, output, sampled, case.about["tolerance"][output], relative=False)


def test_pictures_are_stretched_to_the_models_size():
    case = cases.load_case("musepose_preprocess")
    stretched = image.stretch(case.inputs["image"], *case.inputs["target_hw"].tolist()) / 255
    outputs = {"pose_pixels": stretched, "reference_pixels": stretched * 2 - 1}
    for output, pixels in outputs.items():
        ours = np.moveaxis(pixels, -1, 0)[None]
        cases.assert_close(case, output, ours, case.about["tolerance"][output], relative=False)
