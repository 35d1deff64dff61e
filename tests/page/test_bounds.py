"""Bounds of uploads are told before anything large is decoded."""

import numpy as np
import pytest

from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, video
from dispose_jax.page import bounds


@pytest.fixture
def folder(tmp_path):
    image.write_png(tmp_path / "a.png", np.zeros((64, 96, 3), np.uint8))
    frames = np.zeros((12, 64, 96, 3), np.uint8)
    video.write(tmp_path / "a.mp4", frames, 30)
    (tmp_path / "a.json").write_text("[]" + " " * 5000)
    return tmp_path


def sources(folder, **names):
    paths = {name: folder / file for name, file in names.items()}
    none = dict.fromkeys(("reference", "reference_pose", "driving", "poses"))
    return Sources(**none | paths)


def test_what_is_within_them_passes(folder):
    bounds.check(
        sources(folder, reference="a.png", driving="a.mp4", poses="a.json", reference_pose="a.json")
    )


def test_what_is_no_picture_or_absent_is_left_to_its_reader(folder):
    bounds.check(sources(folder, reference="a.json", poses="absent.json"))


@pytest.mark.parametrize(
    ("bound", "value", "given", "message"),
    [
        ("MOST_BYTES", 50, {"reference": "a.png"}, "a.png: .*choose a smaller file"),
        ("MOST_POSE_BYTES", 4000, {"poses": "a.json"}, "a.json: .*choose a smaller file"),
        ("MOST_PIXELS", 6000, {"reference": "a.png"}, "a.png: 96 x 64 pixels, .*scale it down"),
        ("MOST_PIXELS", 6000, {"driving": "a.mp4"}, "a.mp4: 96 x 64 pixels, .*scale it down"),
        ("MOST_FRAMES", 11, {"driving": "a.mp4"}, "a.mp4: more than 11 frames; cut out the part"),
    ],
)
def test_what_is_beyond_them_is_one_sentence(folder, monkeypatch, bound, value, given, message):
    monkeypatch.setattr(bounds, bound, value)
    with pytest.raises(ValueError, match=message):
        bounds.check(sources(folder, **given))


def test_the_length_is_told_without_decoding_the_whole_video(folder, monkeypatch):
    asked = []
    scan = bounds.scanning.scan
    monkeypatch.setattr(
        bounds.scanning, "scan", lambda path, most=None: asked.append(most) or scan(path, most)
    )
    monkeypatch.setattr(bounds, "MOST_FRAMES", 5)
    with pytest.raises(ValueError, match="more than 5 frames"):
        bounds.check(sources(folder, driving="a.mp4"))
    assert asked == [1, 6]
