"""Reference geometry and frame-rate rule against the released pipeline."""

import re

import numpy as np

from dispose_jax.media import image, video
from tests.parity.cases import load_case, record, requantised


def test_sizes_and_crops_of_references_equal_the_released_ones():
    case = load_case("sampling_geometry")
    expected = [dict(zip(case.about["columns"], row)) for row in case.about["cases"]]
    wrong = 0
    for row in expected:
        target = image.target_size(row["h"], row["w"], row["resolution"])
        resized, crop = image.cover(row["h"], row["w"], *target)
        wrong += target != (row["h_target"], row["w_target"])
        wrong += resized != (row["h_resize"], row["w_resize"])
        wrong += crop != (row["crop_top"], row["crop_left"])
    record(case.name, "mismatches", wrong, 0)


def test_fitted_references_equal_the_released_ones_up_to_a_rounding_tie():
    case = load_case("sampling_image_geometry")
    levels, share = _image_tolerance(case.about["tolerance"])
    for i, (h, w, resolution, shape) in enumerate(case.config["cases"]):
        picture, expected = case.inputs[f"image_{i}"], case.outputs[f"image_{i}"]
        assert picture.shape[:2] == (h, w)
        ours = image.fit(picture, *image.target_size(h, w, resolution))
        assert list(ours.shape) == shape
        difference = np.abs(ours.astype(int) - expected)
        record(case.name, f"image_{i} levels", difference.max(), levels)
        record(case.name, f"image_{i} share", (difference > 0).any(-1).mean(), share)


def test_requantised_levels_equal_the_released_tables():
    case, levels = load_case("sampling_image_geometry"), np.arange(256, dtype=np.uint8)
    for output, dtype in (("requantised_fp16", np.float16), ("requantised_fp32", np.float32)):
        ours = requantised(levels, dtype)
        assert set(levels.astype(int) - ours) == {0, 1}
        record(case.name, output, np.abs(ours.astype(int) - case.outputs[output]).max(), 0)


def test_strides_follow_the_released_frame_rate_rule():
    case = load_case("pose_video_stride")
    wrong = 0
    for rates, expected in case.about["table"].items():
        fps, sample_stride = rates.split("|")
        wrong += video.stride_for(float(fps), int(sample_stride)) != expected
    record(case.name, "mismatches", wrong, 0)


def _image_tolerance(sentence: str) -> tuple[int, float]:
    """Levels and share of pixels out of the case's own sentence, "+-1 level on <0.1% pixels"."""
    levels, percent = re.search(r"\+-(\d+) level.*<([\d.]+)%", sentence).groups()
    return int(levels), float(percent) / 100
