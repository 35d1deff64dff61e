"""Keypoints that were detected come back as they were, and only of what was looked at."""

import jax
import numpy as np
import pytest

from dispose_jax.pose import detected, detector, estimate
from tests import small
from tests.pose.poses import standing


def same(found, pose):
    jax.tree.map(np.testing.assert_array_equal, found, pose)


def test_kept_keypoints_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    one, other = small.pose(3, seed=1), small.pose(5, seed=2)
    assert detected.read(path, "one") is None
    detected.keep(path, "one", one)
    detected.keep(path, "other", other)
    same(detected.read(path, "one"), one)
    same(detected.read(path, "other"), other)
    assert detected.read(path, "third") is None


def test_a_damaged_file_is_written_anew(tmp_path):
    path = tmp_path / "a.safetensors"
    detected.keep(path, "one", small.pose(3))
    path.write_bytes(path.read_bytes()[:100])
    assert detected.read(path, "one") is None
    detected.keep(path, "two", small.pose(2))
    same(detected.read(path, "two"), small.pose(2))


def test_the_digest_is_of_content_and_frames(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"film")
    digest = lambda name, frames: detected.digest(tmp_path / name, frames)
    assert digest("a.mp4", [0, 2]) == digest("b.mp4", [0, 2]) != digest("a.mp4", [0, 3])
    (tmp_path / "b.mp4").write_bytes(b"another")
    assert digest("a.mp4", [0, 2]) != digest("b.mp4", [0, 2])
    picture = small.pictures(1)
    assert detected.digest(picture) == detected.digest(picture.copy()) != detected.digest(~picture)


def test_what_an_earlier_command_found_serves_the_other_figures_of_this_one(tmp_path, monkeypatch):
    dance, kept = standing(3), tmp_path / "a.keypoints.safetensors"
    detected.keep(kept, "dance", dance)
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(estimate, "open_models", lambda folder: pytest.fail("looked for again"))
    recent = {}
    for place in (kept, tmp_path / "b.keypoints.safetensors"):
        finder = detector.Detector(tmp_path, lambda sentence: None, None, place, recent)
        found = finder.find([], "dance.mp4", "--poses", "dance", 3)
        np.testing.assert_array_equal(found.body, dance.body)
        np.testing.assert_array_equal(detected.read(place, "dance").body, dance.body)
    assert kept.stat().st_mtime_ns == before


def test_what_is_asked_for_again_and_again_is_remembered_among_many(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(estimate, "open_models", lambda folder: None)
    monkeypatch.setattr(estimate, "estimate", lambda *_, **__: looked.append(0) or standing(1))
    finder = detector.Detector(tmp_path, lambda sentence: None)
    find = lambda name: finder.find([], name, "--poses", name)
    for i in range(3 * detector.RECENT):
        find("dance")
        find(f"figure {i}")
    assert len(looked) == 1 + 3 * detector.RECENT
    assert len(finder.recent) == detector.RECENT
