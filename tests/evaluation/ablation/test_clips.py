"""Clips to measure on: true, the same for everybody, and driven as the two sets say."""

import jax
import numpy as np

from dispose_jax.evaluation.ablation import clips
from dispose_jax.evaluation.ablation.clips import SETS
from dispose_jax.pose import draw
from tests.evaluation.ablation.conftest import CLIPS, FRAMES, config


def test_a_clip_does_not_depend_on_how_many_are_drawn(sets):
    again = clips.draw(config(), 1, FRAMES)
    for name in SETS:
        assert len(sets[name]) == CLIPS and len(again[name]) == 1
        jax.tree.map(np.testing.assert_array_equal, again[name][0], sets[name][0])


def test_hidden_joints_are_not_drawn_but_known(sets):
    told_less = config()
    told_less.skeleton.hidden = (4, 7, 10, 13)
    for clip, whole in zip(clips.draw(told_less, 1, FRAMES)["same"], sets["same"]):
        assert (clip.skeletons > 0).sum() < (whole.skeletons > 0).sum()
        jax.tree.map(np.testing.assert_array_equal, clip.pose, whole.pose)


def test_the_reference_is_frame_0_and_is_not_scored(sets):
    for same, cross in zip(*sets.values()):
        assert len(same.skeletons) == FRAMES == len(same.truth.frames) + 1
        np.testing.assert_array_equal(same.reference, cross.reference)
        np.testing.assert_array_equal(same.pose.body[0], cross.pose.body[0])
        jax.tree.map(np.testing.assert_array_equal, same.truth, cross.truth)
        assert not (same.truth.frames == same.reference).all((1, 2, 3)).any()


def test_the_truth_shows_the_joints_where_they_are(sets):
    for clip in sets["same"]:
        column, row = np.floor(clip.truth.points[clip.truth.visible]).astype(int).T
        frame = np.nonzero(clip.truth.visible)[0]
        assert clip.truth.mask[frame, row, column].all()
        given = clip.pose.body[1:, 0] * 64
        np.testing.assert_allclose(given, clip.truth.points, atol=1e-3)


def test_another_bodys_poses_come_near_the_truth_but_have_other_limbs(sets):
    for same, cross in zip(*sets.values()):
        own, other = same.pose.body[1:, 0] * 64, cross.pose.body[1:, 0] * 64
        distance = np.linalg.norm(own - other, axis=-1).mean()
        assert 0.3 < distance < 8  # pixels of 64
        long = [
            np.linalg.norm(p[:, draw.LIMBS[:, 1]] - p[:, draw.LIMBS[:, 0]], axis=-1)
            for p in (own, other)
        ]
        arms = [x[:, [2, 4]].mean() / x[:, [6, 9]].mean() for x in long]  # upper arms to torso
        assert abs(arms[0] / arms[1] - 1) > 0.02
        assert (cross.skeletons[1:] != same.skeletons[1:]).any()
