"""What is made of the frames of a clip."""

import numpy as np
import pytest

from dispose_jax.data import clip_choice, clip_extraction
from dispose_jax.data.clip_extraction import Finders
from dispose_jax.media import image, video
from dispose_jax.motion import flow
from dispose_jax.pose import files, people
from dispose_jax.pose.detector import Detector
from dispose_jax.types import Impulses
from tests.data import clipped
from tests.pose.poses import standing, without

NOBODY = Finders(Detector(None, print), None, False, None, None, None)


def test_hidden_files_and_other_kinds_are_no_videos(tmp_path):
    for name in ("b.mp4", "a.MOV", "in/c.webm", ".d.mp4", "in/.e.mkv", "f.txt", "g.poses.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "h.mp4").mkdir()
    assert clip_extraction.find(tmp_path) == ["a.MOV", "b.mp4", "in/c.webm"]


def test_keypoints_move_with_the_crop(tmp_path):
    """A bright dot in the video, its place in the pose file: both end on the same pixel."""
    frames = np.zeros((8, 300, 420, 3), np.uint8)
    frames[:, 155:166, 195:206] = 255
    pose = standing(8)
    body = pose.body.copy()
    body[:, 0, 4] = (200.5 / 420, 160.5 / 300)
    video.write(tmp_path / "a.mp4", frames, 24)
    files.write(tmp_path / "a.poses.json", pose.replace(body=body), width=420, height=300)
    recipe = clip_choice.recipe(clipped.config())
    record = next(clip_extraction.clips(recipe, NOBODY, tmp_path, "a.mp4"))
    assert record.frames.shape == (4, 64, 128, 3)
    rows, columns = np.nonzero(record.frames[0].mean(-1) > 128)
    xy = record.pose.body[0, 0, 4] * (128, 64)
    np.testing.assert_allclose(xy, [columns.mean() + 0.5, rows.mean() + 0.5], atol=0.3)


def clips_with(tmp_path, pose, **values):
    """The clips of a video with these poses, and what was said."""
    said = []
    clipped.film(tmp_path, "a.mp4", pose.num_frames, pose=pose)
    recipe = clip_choice.recipe(clipped.config(**values))
    tools = NOBODY._replace(detector=Detector(None, said.append))
    return list(clip_extraction.clips(recipe, tools, tmp_path, "a.mp4")), said


def test_poses_that_cannot_be_trusted_make_no_clip_and_the_reason_is_given(tmp_path):
    pose = standing(40)
    one_pixel = pose.replace(body=np.full_like(pose.body, 0.5))
    half_empty = without(pose, slice(None), frames=slice(1, None, 2))
    half_empty = half_empty.replace(
        **{n: 0 * getattr(pose, n) for n in ("hands_score", "face_score")}
    )
    for bad, reason in (
        (one_pixel, "joints lie all in one place in frames 0 to 39"),
        (half_empty, "nobody is seen in frames 1, 3, 5, 7, 9, 11, 13, 15 and more, 20 in all"),
    ):
        with pytest.raises(ValueError, match=f"a.mp4: .*{reason}"):
            clips_with(tmp_path, bad)


def test_a_part_that_cannot_be_trusted_is_left_out_and_named(tmp_path):
    pose = standing(40)
    body = pose.body.copy()
    body[20] = 0.5
    records, said = clips_with(tmp_path, pose.replace(body=body), clips_per_video=40)
    for record in records:
        _, *driving = record.indices
        assert driving[-1] < 20 or driving[0] > 20
    (sentence,) = said
    assert "no clip goes over these: joints lie all in one place in frame 20" in sentence


def test_one_person_is_followed_through_a_clip_whoever_is_listed_first(tmp_path):
    dancer = standing(40)
    still = standing(1, seed=3).at(np.repeat(0, 40))
    still = people.move(still, (0.4, 0.4), (0.55, 0.3))
    flat = [people.flatten(pose) for pose in (dancer, still)]
    order = [(0, 1), (1, 0)]
    frames = [
        tuple(np.stack([flat[who][leaf][i, 0] for who in order[i % 3 > 0]]) for leaf in (0, 1))
        for i in range(40)
    ]
    records, _ = clips_with(tmp_path, people.stack(frames))
    for record in records:
        size = (80, 160), (64, 128)
        expected = clip_extraction._crop(dancer.at(record.indices), *size)
        np.testing.assert_allclose(record.pose.body[:, 0], expected.body[:, 0], atol=1e-9)
        assert record.pose.num_people.tolist() == [2] * 4


def test_small_frames_are_fitted_as_the_reference_of_sampling():
    frame = np.random.default_rng(0).integers(0, 256, (100, 140, 3), np.uint8)
    np.testing.assert_array_equal(clip_extraction._fit(frame, (64, 128)), image.fit(frame, 64, 128))


def test_large_frames_are_averaged_not_sampled():
    fine = np.zeros((512, 1024, 3), np.uint8)
    fine[:, ::2] = 255  # stripes of a pixel: their mean is grey, a sample is black or white
    assert abs(clip_extraction._fit(fine, (64, 128)).astype(int) - 127).max() <= 1


def test_the_flow_of_a_record_is_that_of_its_frames(tmp_path):
    """The texture moves 2 pixels a frame to the right: so do the flows that the guides see."""
    clipped.film(tmp_path, "a.mp4", 24)
    recipe = clip_choice.recipe(clipped.config(clips_per_video=6))
    seen = []

    def guides(flows, seed):
        seen.append(flows)
        shape = (len(flows), 1)
        return Impulses(
            np.zeros((*shape, 2), np.int32), flows[:, 64, 120:121], np.ones(shape, bool)
        )

    tools = NOBODY._replace(flow=flow.dis, chained=True, guides=guides)
    for record, flows in zip(clip_extraction.clips(recipe, tools, tmp_path, "a.mp4"), seen):
        assert flows.shape == (4, 128, 256, 2) and not flows[0].any()
        # In the middle of the square, wherever it is in the reference; 80 x 160 becomes 128 x 256.
        column = round((60 + 2 * record.indices[0]) * 1.6)
        expected = 2 * 1.6 * (record.indices - record.indices[0])
        inside = flows[:, 64, min(column, 255)]
        np.testing.assert_allclose(inside[:, 0], expected, atol=1.5)
        np.testing.assert_allclose(inside[:, 1], 0, atol=1)


def test_people_whom_no_frame_shows_take_no_room():
    pose = standing(3, num_people=1)
    padded = people.join(standing(1, num_people=4), pose).at(slice(1, None))
    assert padded.body.shape[1] == 4
    np.testing.assert_array_equal(clip_extraction._trim(padded).body, pose.body)
