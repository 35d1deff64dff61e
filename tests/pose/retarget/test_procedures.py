import jax
import numpy as np
import pytest

from dispose_jax import limits
from dispose_jax.pose import retarget
from tests.pose.poses import standing, without

SIZES = {"video_size": (540, 960), "target_size": (576, 1024)}


def test_the_procedures_are_those_that_a_config_may_name():
    assert set(limits.CHOICES["skeleton.fit"]) == set(retarget.PROCEDURES)


@pytest.mark.parametrize("procedure", retarget.PROCEDURES)
def test_frame_0_is_the_reference_and_the_first_drivers_scores_follow(procedure):
    reference, driving = standing(seed=1), standing(num_frames=4, num_people=2, seed=2)
    pose = retarget.to_reference(procedure, reference, driving, **SIZES).pose
    assert pose.num_frames == 5
    np.testing.assert_array_equal(pose.body[0, 0], reference.body[0, 0])
    np.testing.assert_array_equal(pose.body_score[1:, 0], driving.body_score[:, 0])
    np.testing.assert_array_equal(pose.hands_score[1:, 0], driving.hands_score[:, 0])


@pytest.mark.parametrize("procedure", retarget.PROCEDURES)
def test_absent_points_stay_absent_and_in_place(procedure):
    driving = without(standing(num_frames=2, seed=3), [3, 4, 9], frames=[1])
    pose = retarget.to_reference(procedure, standing(), driving, **SIZES).pose
    assert not pose.body[2, 0, [3, 4, 9]].any() and not pose.body_score[2, 0, [3, 4, 9]].any()


@pytest.mark.parametrize("procedure", retarget.PROCEDURES)
@pytest.mark.parametrize("counts", [(2, 2), (1, 0)])
def test_a_wrong_number_of_frames_is_refused(procedure, counts):
    reference, driving = standing(counts[0]), standing(1).at(slice(0, counts[1]))
    with pytest.raises(ValueError, match="expected"):
        retarget.to_reference(procedure, reference, driving, **SIZES)


def test_moores_poses_are_the_driving_ones():
    driving = standing(num_frames=3, num_people=2, seed=2)
    fitted = retarget.to_reference("moore", standing(), driving, **SIZES)
    jax.tree.map(np.testing.assert_array_equal, fitted.pose.at(slice(1, None)), driving)
    assert fitted.warnings == []
    wide = retarget.to_reference(
        "moore", standing(), driving, **{**SIZES, "target_size": (512, 512)}
    )
    assert any("stretched by 1.78" in line for line in wide.warnings)


@pytest.mark.parametrize("procedure", ["mimicmotion", "musepose"])
def test_a_neck_that_nobody_is_sure_of_is_where_the_shoulders_are(procedure):
    """DWPose gives it no score where a shoulder is doubtful, and a place nevertheless."""
    reference, driving = standing(), standing(4, seed=1)
    driving.body[:, 0, 1] = driving.body[:, 0, [2, 5]].mean(1)
    fitted = lambda pose: retarget.to_reference(procedure, reference, pose, **SIZES).pose
    sure = fitted(driving)
    unsure = driving.replace(body=driving.body.copy(), body_score=driving.body_score.copy())
    unsure.body[2, 0, 1], unsure.body_score[2, 0, 1] = -1.0, 0.0
    found = fitted(unsure)
    others = [joint for joint in range(18) if joint != 1]
    np.testing.assert_allclose(found.body[:, 0, others], sure.body[:, 0, others], atol=1e-12)
    assert found.body_score[3, 0, 1] == 0 and not found.visible[3, 0, 1]
