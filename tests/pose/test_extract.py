"""The command that finds keypoints once: videos and pictures to pose files."""

import json
import os

import numpy as np
import pytest

from dispose_jax import bars
from dispose_jax.media import image, video
from dispose_jax.pose import estimate, extract, files
from tests.pose.test_estimate import frame_with, write_detector, write_whole_body


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_detector(folder / "detector.onnx")
    write_whole_body(folder / "whole_body.onnx")
    return folder


@pytest.fixture
def dance(tmp_path):
    """A bright dot, whom the detector of these tests takes for a person, on its way."""
    frames = np.stack([frame_with((140 + 4 * i, 110 + i, 255)) for i in range(7)])
    video.write(tmp_path / "dance.mp4", frames, 30)
    return tmp_path / "dance.mp4"


def test_an_address_is_no_local_file(capsys):
    assert extract.main(["gs://b/a.mp4", "--weights", "w"]) == 1
    assert "a source gs:/b/a.mp4: only paths of this machine" in capsys.readouterr().err


def test_a_videos_poses_are_those_of_its_frames(dance, weights, tmp_path, capsys):
    target = tmp_path / "found.poses.json"
    arguments = [str(dance), "--weights", str(weights), "--output", str(target)]
    assert extract.main(arguments) == 0
    assert f"{target}: 7 frames of {dance}" in capsys.readouterr().out
    pose, width, height, notes = files.read(target)
    assert (width, height, notes) == (256, 192, ())
    frames = np.stack([*video.iterate(dance, 1)])
    expected = estimate.estimate(estimate.open_models(weights), frames)
    seen = expected.body_score > 0
    np.testing.assert_array_equal(pose.body_score > 0, seen)
    np.testing.assert_allclose(pose.body[seen], expected.body[seen], atol=1e-9)
    np.testing.assert_allclose(pose.body_score, expected.body_score, atol=1e-9)


def test_several_sources_get_a_file_beside_each(dance, weights, tmp_path):
    image.write_png(tmp_path / "ref.png", frame_with((100, 80, 255)))
    sources = [str(dance), str(tmp_path / "ref.png")]
    assert extract.main([*sources, "--weights", str(weights)]) == 0
    assert files.read(tmp_path / "dance.poses.json").pose.num_frames == 7
    assert files.read(tmp_path / "ref.poses.json").pose.num_frames == 1


def test_poses_that_are_there_stay_unless_they_are_named(
    dance, weights, tmp_path, capsys, monkeypatch
):
    """What was corrected by hand was found anew when the same command was given for a new video."""
    image.write_png(tmp_path / "ref.png", frame_with((100, 80, 255)))
    mended = tmp_path / "dance.poses.json"
    mended.write_text("mended")
    os.utime(mended, (dance.stat().st_mtime + 5,) * 2)
    arguments = [str(dance), str(tmp_path / "ref.png"), "--weights", str(weights)]
    assert extract.main(arguments) == 0
    told = capsys.readouterr()
    assert mended.read_text() == "mended" and "1 frame of" in told.out
    assert f"{mended}: is there already and stays; delete it to find" in told.out
    assert "changed since" not in told.out
    os.utime(dance, (mended.stat().st_mtime + 5,) * 2)
    monkeypatch.setattr(extract, "extract", None)  # nothing is left to do
    assert extract.main(arguments) == 0
    told = capsys.readouterr().out
    assert f"warning: {mended}: is there" in told and f"as {dance} was changed since" in told
    monkeypatch.undo()
    assert extract.main([str(dance), "--weights", str(weights), "--output", str(mended)]) == 0
    assert files.read(mended).pose.num_frames == 7


def test_a_log_is_told_how_far_a_long_video_is(dance, weights, capsys, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.0)
    assert extract.main([str(dance), "--weights", str(weights)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 7 and told[4].startswith("dance.mp4: 5 of 7 frames, ")


def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(dance, weights, tmp_path, capsys):
    other, text = tmp_path / "dance.mov", tmp_path / "text.mp4"
    other.write_bytes(dance.read_bytes())
    text.write_text("hello")
    there = tmp_path / "there.poses.json"
    there.write_text(json.dumps({"kept": True}))
    before = {path.name for path in tmp_path.iterdir()}
    given = ["--weights", str(weights)]
    for arguments, message in (
        ([str(dance), str(text), "--output", "a.poses.json", *given], "one file for 2 sources"),
        ([str(dance), str(other), *given], "as those of another source do"),
        ([str(dance), "--output", str(other) + "ie", *given], "expected .json"),
        ([str(there), "--output", str(there), *given], "is a file to read"),
        ([str(text), "--output", str(there), *given], "text.mp4: not a video"),
        ([str(tmp_path / "no.mp4"), *given], "no.mp4: no such"),
        ([str(dance), "--weights", str(tmp_path)], "no detector.onnx and no whole_body.onnx"),
    ):
        assert extract.main(arguments) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "pass pose files" not in error, "to make them is what was asked"
        assert message in error and error.startswith("extract: ")
    assert {path.name for path in tmp_path.iterdir()} == before
    assert json.loads(there.read_text()) == {"kept": True}


def test_a_source_that_cannot_be_read_does_not_cost_the_others(dance, weights, tmp_path, capsys):
    text, ref = tmp_path / "text.mp4", tmp_path / "ref.png"
    text.write_text("hello")
    image.write_png(ref, frame_with((100, 80, 255)))
    assert extract.main([str(text), str(dance), str(ref), "--weights", str(weights)]) == 1
    told = capsys.readouterr()
    assert told.err.startswith(f"extract: {text}: not a video") and "7 frames" in told.out
    written = sorted(path.name for path in tmp_path.glob("*.poses.json"))
    assert written == ["dance.poses.json", "ref.poses.json"]


def test_a_run_that_is_interrupted_leaves_no_file(dance, weights, tmp_path, monkeypatch):
    find, calls = estimate.detect, []

    def interrupted(models, frame):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(models, frame)

    monkeypatch.setattr(estimate, "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract.main([str(dance), "--weights", str(weights)])
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".*"))
