"""Pose files as tools write them, each with a flaw: what is read of it is what was meant.

The files of cases/ are the first 18 frames of assets/driving.poses.json, 540 x 960; clean is what
each would be without its flaw.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from configs import sd15, svd
from dispose_jax import inputs
from dispose_jax.inputs.sources import Sources
from dispose_jax.pose import checks, draw, files, follow
from dispose_jax.pose.detector import Detector
from tests.pose.poses import without

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cases"
ASPECT = 540 / 960
WRISTS = [4, 7]


def read(name):
    return files.read(CASES / f"{name}.poses.json")


def assert_same(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, expected)


def test_missing_joints_at_the_corner_are_absent_whatever_their_confidence():
    found = read("zero_conf1_wrists")
    assert_same(found.pose, without(read("clean").pose, WRISTS))
    clean = draw.draw(without(read("clean").pose, WRISTS), 96, 54, canvas=216)
    np.testing.assert_array_equal(draw.draw(found.pose, 96, 54, canvas=216), clean)


def test_visibilities_are_no_confidences_and_that_is_said_once():
    found = read("visibility2")
    assert_same(found.pose, read("clean").pose)
    assert found.notes == (
        "its confidences go up to 2, expected 0 to 1; higher ones are taken for 1",
    )


def test_fractions_with_one_point_far_out_are_fractions_and_the_point_is_left_out():
    found = read("fractions_one_outlier")
    assert_same(found.pose, without(read("clean").pose, [4], frames=[7]))
    fractions, stray = found.notes
    assert "are fractions of the picture and are read as such" in fractions
    assert "1 of its points lie where no joint can be and are left out" in stray
    assert "frame 7 at 2.3" in stray


def test_null_people_and_empty_frames_are_nobody():
    assert_same(read("null_person").pose, read("clean").pose)
    empty = read("empty_frame").pose
    assert empty.num_people.tolist() == [1, 1, 1, 0] + 14 * [1]
    rest = np.delete(np.arange(18), 3)
    assert_same(empty.at(rest), read("clean").pose.at(rest))


def test_frames_without_anybody_are_found():
    (finding,) = checks.look(read("half_empty").pose, aspect=ASPECT, times=np.arange(18) / 30)
    assert finding.what == checks.NOBODY
    np.testing.assert_array_equal(finding.frames, np.arange(1, 18, 2))


def test_the_clean_file_and_the_demos_give_no_cause_for_complaint():
    for path in (CASES / "clean.poses.json", ROOT / "assets" / "driving.poses.json"):
        pose, width, height, notes = files.read(path)
        for stride in (1, 2, 4):
            some = pose.at(slice(None, None, stride))
            times = stride / 30 * np.arange(some.num_frames)
            assert not notes and not checks.look(some, aspect=width / height, times=times)
            assert follow.follow(some, aspect=width / height) == follow.Followed(some, ())


def clip(name, base, **sample):
    config = base.get_config("size=tiny")
    config.skeleton.update({"canvas": 128, "style": "musepose" if base is sd15 else "mimicmotion"})
    config.sample.update({"stride": 1, **sample})
    assets = ROOT / "assets"
    sources = Sources(
        assets / "reference.png",
        assets / "reference.poses.json",
        None,
        CASES / f"{name}.poses.json",
    )
    detector = Detector(None, lambda sentence: None)
    return inputs.prepare(sources, config.sample, config.skeleton, detector)


@pytest.mark.parametrize("base", [svd, sd15])
def test_the_dancer_is_followed_whoever_is_listed_first(base):
    found, clean = clip("swapping_sd15", base), clip("clean", base)
    np.testing.assert_allclose(found.pose.body[:, 0], clean.pose.body[:, 0], atol=1e-9)
    assert any("2 people" in warning and "sample.person=1" in warning for warning in found.warnings)
    alone = clip("swapping_sd15", base, draw_others=False)
    np.testing.assert_array_equal(alone.skeletons[:], clean.skeletons[:])
    # As released, MimicMotion draws everybody and MusePose one person.
    assert (found.skeletons[:] == clean.skeletons[:]).all() == (base is sd15)


@pytest.mark.parametrize("base", [svd, sd15])
def test_another_person_can_be_followed(base):
    still = clip("swapping_sd15", base, person=1).pose.body[1:, 0]
    np.testing.assert_allclose(still, np.broadcast_to(still[:1], still.shape), atol=1e-9)
    with pytest.raises(ValueError, match="sample.person is 2, but only 2 people"):
        clip("swapping_sd15", base, person=2)
    with pytest.raises(ValueError, match="clean.*sample.person is 1, but no frame shows a second"):
        clip("clean", base, person=1)


@pytest.mark.parametrize("base", [svd, sd15])
def test_what_is_odd_is_a_warning_with_frame_numbers(base):
    warnings = "\n".join(clip("half_empty", base).warnings)
    assert "half_empty.poses.json: nobody is seen in frames 1, 3, 5, 7, 9, 11, 13, 15" in warnings
    assert "nobody is seen in frame 3" in "\n".join(clip("empty_frame", base).warnings)
    # Every second frame is all that is used here, and in each there is somebody.
    assert not clip("half_empty", base, stride=2).warnings
