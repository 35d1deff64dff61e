"""What the library call takes in place of files, and a sentence for all else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dispose_jax.inputs.sources import Sources
from dispose_jax.pose.files import PoseFile
from tests.small import pose as person

REFERENCE = np.zeros((64, 64, 3), np.uint8)
GIVEN = {
    "reference": REFERENCE,
    "reference_pose": person(1),
    "driving": None,
    "poses": PoseFile(person(5), 64, 64),
}
WRONG = {
    "a picture of floats": (
        {"reference": REFERENCE / 255},
        r"the reference given is float64 of shape \(64, 64, 3\); expected uint8 \(h, w, 3\)",
    ),
    "a picture without colours": (
        {"reference": REFERENCE[..., 0]},
        r"the reference given is uint8 of shape \(64, 64\)",
    ),
    "a picture for a video": (
        {"driving": REFERENCE},
        r"the driving video given is uint8 of shape .* expected uint8 \(n, h, w, 3\)",
    ),
    "an impossible rate": ({"fps": -1}, "fps is -1: expected a number from 0.01 to 1000"),
    "a rate that rounds to none": ({"fps": 1e-5}, "fps is 1e-05: expected"),
    "a rate as text": ({"fps": "30"}, "fps is '30': expected a number"),
    "a picture of Pillow's": (
        {"reference": Image.fromarray(REFERENCE)},
        r"the reference given is a PIL.Image.Image; expected a path or an array \(h, w, 3\) uint8",
    ),
    "a picture of a device": ({"reference": jnp.zeros((64, 64, 3))}, "reference given is a jax"),
    "a list of frames": (
        {"driving": [REFERENCE] * 5},
        r"the driving video given is a builtins.list; expected a path or an array \(n, h, w, 3\)",
    ),
    "poses without their canvas": (
        {"poses": person(5)},
        "the poses given is a dispose_jax.types.Pose; expected a path or a dispose_jax.*PoseFile",
    ),
    "a reference's poses with a canvas": (
        {"reference_pose": PoseFile(person(1), 64, 64)},
        "the reference_pose given is a dispose_jax.pose.files.PoseFile; expected a path or",
    ),
    "a canvas of no size": (
        {"poses": PoseFile(person(5), 0, 64)},
        "the poses given: the canvas is 0 x 64; expected the size in pixels",
    ),
    "a canvas of no end": (
        {"poses": PoseFile(person(5), float("inf"), 64)},
        "the poses given: the canvas is inf x 64; expected the size in pixels",
    ),
    "a canvas as text": (
        {"poses": PoseFile(person(5), "64", "64")},
        "the poses given: the canvas is 64 x 64; expected the size in pixels",
    ),
    "poses without people": (
        {"poses": PoseFile(jax.tree.map(lambda leaf: leaf[:, 0], person(5)), 64, 64)},
        r"the poses given: body has the shape \(5, 18, 2\); expected \(frames, people, 18, 2\)",
    ),
    "scores of other frames": (
        {"poses": PoseFile(person(5).replace(body_score=person(4).body_score), 64, 64)},
        r"the poses given: body_score has the shape \(4, 1, 18\); expected \(frames, people, 18\)",
    ),
    "poses on a device": (
        {"poses": PoseFile(jax.tree.map(jnp.asarray, person(5)), 64, 64)},
        r"the poses given: body is ArrayImpl \(float32\); expected a NumPy array of floats",
    ),
    "a joint without a place": (
        {"poses": PoseFile(person(5).replace(body=np.full((5, 1, 18, 2), np.nan)), 64, 64)},
        "the poses given: body holds numbers that are not finite; a point that is absent has",
    ),
}


def test_arrays_and_keypoints_are_taken_as_they_are():
    assert Sources(**GIVEN).reference is REFERENCE


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_picture_keypoints_or_rate_is_told_in_a_sentence(case):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        Sources(**GIVEN | changes)
