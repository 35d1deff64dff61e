"""Files and settings that cannot become a clip: a sentence for each."""

import json

import pytest

from dispose_jax import inputs
from dispose_jax.pose import files
from dispose_jax.pose.detector import Detector
from tests.inputs.given import (
    HEIGHT,
    NUM_FRAMES,
    SKELETON,
    WIDTH,
    changed,
    prepare,
    settings,
    silent,
)
from tests.pose.poses import standing, without


def nobody(num_frames):
    entry = {"people": [], "canvas_width": 640, "canvas_height": 800}
    return json.dumps([entry] * num_frames)


def entries(num_frames, width=640, height=800):
    def write(path):
        files.write(path, standing(num_frames), width=width, height=height)

    return write


BAD = {  # role: content of the file, or a function that writes it; what the sentence says
    "no picture": ("reference", None, "no such picture"),
    "text as picture": ("reference", "hello", "not a picture"),
    "no reference pose": ("reference_pose", None, "cannot read this pose file"),
    "two reference poses": ("reference_pose", entries(2, WIDTH, HEIGHT), "2 frames, expected one"),
    "other canvas": ("reference_pose", entries(1, HEIGHT, WIDTH), "200 x 120.*is 120 x 200"),
    "nobody to animate": (
        "reference_pose",
        json.dumps({"people": [], "canvas_width": WIDTH, "canvas_height": HEIGHT}),
        "no person is visible",
    ),
    "no video": ("driving", None, "no such video"),
    "text as video": ("driving", "hello", "not a video"),
    "not JSON": ("poses", "hello", "not JSON"),
    "empty": ("poses", "", "not JSON"),
    "an empty list": ("poses", "[]", "empty list of frames"),
    "too few entries": ("poses", entries(NUM_FRAMES - 1), "8 entries, but .*has 9 frames"),
    "nobody moves": ("poses", nobody(NUM_FRAMES), "no person is visible"),
    "other video": ("poses", entries(NUM_FRAMES, 800, 640), "800 x 640.*is 64 x 80"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_file_is_named_in_one_sentence(sources, tmp_path, mistake):
    role, content, message = BAD[mistake]
    path = tmp_path / "bad.file"
    if callable(content):
        content(path)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"bad.file: .*{message}") as error:
        prepare(changed(sources, **{role: path}))
    assert "\n" not in str(error.value)


def test_one_driving_frame_is_no_motion(sources, tmp_path):
    path = tmp_path / "one.json"
    files.write(path, standing(1), width=640, height=800)
    with pytest.raises(ValueError, match=r"one\.json: holds 1 frame"):
        prepare(changed(sources, driving=None, poses=path))


def test_a_stride_beyond_the_clip_is_refused(sources):
    with pytest.raises(ValueError, match="lower the stride"):
        prepare(sources, stride=9)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ({"reference": None}, "--reference"),
        ({"driving": None, "poses": None}, "--driving video, --poses file, or both"),
        ({"reference_pose": None}, "ref.png: .*detector.onnx.*--reference_pose"),
        ({"poses": None}, "dance.mp4: .*detector.onnx.*--poses"),
    ],
)
def test_what_is_absent_is_asked_for(sources, absent, message):
    with pytest.raises(ValueError, match=message):
        prepare(changed(sources, **absent))


@pytest.mark.parametrize("prepare_or_measure", ["prepare", "measure"])
def test_sizes_off_the_grid_are_refused_with_the_nearest_one(sources, prepare_or_measure):
    sample = settings(height=100, width=64)
    with pytest.raises(ValueError, match="multiples of 16, 64 or more; 64 x 96 is the nearest"):
        if prepare_or_measure == "prepare":
            inputs.prepare(sources, sample, SKELETON, Detector(None, silent))
        else:
            inputs.measure(sources, sample)


def test_a_reference_of_a_floating_head_cannot_be_fitted(sources, tmp_path):
    path = tmp_path / "hands.json"
    arms = without(standing(1), [j for j in range(18) if j not in (3, 4, 6, 7)])
    files.write(path, arms, width=WIDTH, height=HEIGHT)
    with pytest.raises(ValueError, match="shows none of the joints"):
        prepare(changed(sources, reference_pose=path))
