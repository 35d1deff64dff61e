"""Which frames make a clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dispose_jax.data import clip_choice
from dispose_jax.pose import checks
from tests.data import clipped
from tests.pose.poses import standing, without

VIDEO = Path("a.mp4")


def chosen(num_frames, shows=None, seed=0, stride=2, **values):
    config = clipped.config()
    for name, value in values.items():
        (config.train if name == "frames" else config.data)[name] = value
    recipe = clip_choice.recipe(config)
    shows = np.ones(num_frames, bool) if shows is None else shows
    rng = np.random.default_rng(seed)
    return clip_choice.choose(
        replace(recipe, stride=stride), VIDEO, shows, np.arange(num_frames), rng
    )


def test_driving_frames_are_a_stride_apart_and_the_reference_is_near():
    found = chosen(100, clips_per_video=200, stride=3)
    distances = set()
    for reference, *driving in found:
        assert driving == [*range(driving[0], driving[0] + 9, 3)] and len(driving) == 3
        distances.add(max(driving[0] - reference, reference - driving[-1]))
        assert 0 <= reference < 100
    assert max(distances) == 6 and min(distances) < 0  # up to the window, and inside the clip
    starts = [clip[1] for clip in found]
    assert sorted(starts) == [*range(94)]  # each valid start once


def test_a_first_reference_is_the_clips_own_first_frame():
    for clip in chosen(30, reference="first", clips_per_video=30):
        np.testing.assert_array_equal(np.diff(clip), 2)
        assert len(clip) == 4


def test_every_chosen_frame_shows_a_person():
    shows = np.ones(60, bool)
    shows[[7, 20, 21, 40]] = False
    for clip in chosen(60, shows, clips_per_video=60):
        assert shows[clip].all()


def test_no_clip_goes_over_a_frame_that_cannot_be_trusted():
    sound = np.ones(60, bool)
    sound[[10, 31, 32]] = False
    config = clipped.config(clips_per_video=60)
    recipe, rng = replace(clip_choice.recipe(config), stride=2), np.random.default_rng(0)
    turns, every = np.arange(60.0), np.ones(60, bool)
    odd = [checks.Fault(checks.JUMP, np.array([31, 10])), checks.Fault(checks.OUT, np.array([32]))]
    found = clip_choice.choose(recipe, VIDEO, every, turns, rng, odd)
    for reference, *driving in found:
        assert sound[driving[0] : driving[-1] + 1].all()
        # The first of the unsound frames may be a cut, and a reference before it somebody else.
        assert sound[min(reference, driving[0]) : max(reference, driving[-1]) + 1].all()
    assert len(found) == 56 - 5 - 6  # starts, less those from which 4 frames on are not sound
    odd = [checks.Fault(checks.NOBODY, np.arange(1, 60, 2))]
    with pytest.raises(ValueError, match="throughout: nobody is seen in frames 1, 3, 5"):
        clip_choice.choose(recipe, VIDEO, every, turns, rng, odd)


@pytest.mark.parametrize(("fps", "times"), [(12, 1), (25, 1), (50, 2), (120, 5)])
def test_frames_of_faster_videos_are_further_apart(fps, times):
    recipe = clip_choice.recipe(clipped.config(stride=3))
    assert recipe.for_rate(fps) == replace(recipe, stride=3 * times)


def test_choices_follow_the_seed():
    same, again, other = (np.array(chosen(90, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert (same != other).any()


def test_a_short_video_gives_as_many_clips_as_it_has_starts():
    assert len(chosen(6, clips_per_video=8)) == 2
    with pytest.raises(ValueError, match="a.mp4: 4 frames, a clip of 4 at stride 2 needs 5; lower"):
        chosen(4)
    with pytest.raises(ValueError, match="a.mp4: no 4 frames at stride 2 show a person throughout"):
        chosen(9, np.arange(9) % 4 > 1)


@pytest.mark.parametrize("reference", [2, 15, 12, 30])
def test_chained_flow_has_no_gap_wider_than_the_stride(reference):
    indices = np.array([reference, 11, 13, 15, 17])
    paths = clip_choice.flow_paths(indices, 2, chained=True)
    passed = np.concatenate(paths)
    assert {11, 13, 15, 17} <= set(passed)
    for path in paths:
        steps = np.diff(path)
        assert path[0] == reference and abs(steps).max() <= 2 and len(set(np.sign(steps))) == 1


def test_direct_flow_goes_to_the_frames_of_the_clip_alone():
    indices = np.array([30, 11, 13, 15])
    (path,) = clip_choice.flow_paths(indices, 2, chained=False)
    np.testing.assert_array_equal(path, indices)


def test_a_frame_shows_a_person_with_four_joints_inside_the_picture():
    pose = without(standing(3), slice(3, 18), frames=slice(1, 2))
    outside = pose.body.copy()
    outside[2, 0, :15] += 1
    shown = clip_choice.shows_person(pose.replace(body=outside))
    np.testing.assert_array_equal(shown, [True, False, False])
    assert clip_choice.shows_person(without(standing(1), slice(4, 18)))[0]


def test_a_size_off_the_grid_or_a_clip_of_one_frame_is_refused():
    config = clipped.config()
    config.train.height = 100
    with pytest.raises(ValueError, match="sides must be multiples of 16"):
        clip_choice.recipe(config)
    config = clipped.config()
    config.train.frames = 1
    with pytest.raises(ValueError, match="train.frames is 1"):
        clip_choice.recipe(config)
    with pytest.raises(ValueError, match="data.reference is 'last': expected one of"):
        clip_choice.recipe(clipped.config(reference="last"))
