"""Data sets of the paper's tables as they lie on the disk: what is found, what is missed."""

from types import SimpleNamespace

import pytest

from dispose_jax.evaluation import sequences


def test_unseen_people_are_pairs_of_a_picture_and_frames(tiktok, tmp_path):
    data = tmp_path / "unseen"
    for name in ("00335", "00336"):
        (data / name).mkdir(parents=True)
        for path in (tiktok / name / "images").iterdir():
            (data / name / path.name).symlink_to(path)
        (data / f"{name}.png").symlink_to(tiktok / "00337" / "images" / "0001.png")
    found = sequences.unseen(data)
    assert [one.name for one in found] == ["00335", "00336"] and found[0].reference is not None
    (data / "00335").rename(data / "00335.mov")  # which some programs keep
    assert [one.name for one in sequences.unseen(data)] == ["00335", "00336"]
    (data / "00336.mp4").symlink_to(data / "00336")
    (data / "00335.png").unlink()
    with pytest.raises(ValueError, match="00335.mov: no 00335.png beside it.*00336.mp4: a second"):
        sequences.unseen(data)
    with pytest.raises(ValueError, match="00335: no 00335.png beside it"):
        sequences.unseen(tiktok)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no NAME.png with a video or folder"):
        sequences.unseen(tmp_path / "empty")


def test_the_poses_of_an_unseen_reference_may_come_from_a_file(tiktok, tmp_path):
    (tmp_path / "a").symlink_to(tiktok / "00335" / "images")
    (tmp_path / "a.png").symlink_to(tiktok / "00337" / "images" / "0001.png")
    (one,) = sequences.unseen(tmp_path)
    assert one.unknown == ["a.poses.json", "a.reference.poses.json"]
    animator = SimpleNamespace(prepare=lambda reference, **given: given)
    assert sequences.prepared(animator, one, 0)["reference_pose"] is None
    own = tmp_path / "a.reference.poses.json"
    own.symlink_to(tiktok / "00337.poses.json")
    (one,) = sequences.unseen(tmp_path)
    assert one.unknown == ["a.poses.json"]
    assert sequences.prepared(animator, one, 0)["reference_pose"] == own
    (tmp_path / "a.poses.json").symlink_to(tiktok / "00335.poses.json")
    (one,) = sequences.unseen(tmp_path)
    found = sequences.prepared(animator, one, 3)
    assert not one.unknown and found["reference_pose"] == own
    assert found["poses"].pose.num_frames == 3


def test_all_that_is_missing_of_the_data_is_told_at_once(tmp_path):
    (tmp_path / "00336").mkdir()
    with pytest.raises(ValueError, match="(?s)no sequence 00335.*00336: a folder without.*00340"):
        sequences.tiktok(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        sequences.tiktok(tmp_path / "absent")
