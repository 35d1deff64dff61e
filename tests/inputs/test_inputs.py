"""From the files a user names to a clip."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from configs import svd
from dispose_jax import inputs
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, video
from dispose_jax.pose import draw, estimate, files, people, retarget
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
from tests.media import films
from tests.pose.poses import standing, without


def test_a_clip_has_the_reference_first_and_every_second_driving_frame_after_it(sources):
    clip = prepare(sources)
    assert clip.num_frames == 5
    assert clip.skeletons[:].shape == (6, *clip.reference.shape)
    assert clip.pose.num_frames == 6
    fitted = prepare(sources, stride=1).pose
    np.testing.assert_array_less(np.abs(clip.pose.body[1:] - fitted.body[1::2]), 0.05)
    assert clip.skeletons[:].any(axis=(1, 2, 3)).all()


def test_a_text_is_a_path(sources):
    assert Sources(*map(str, sources.files.values())) == sources


def test_the_reference_pose_moves_with_the_crop_of_the_picture(sources):
    clip = prepare(sources, height=64, width=128)  # landscape: most of the picture is cut off
    (scale, offset) = image.fit_transform(HEIGHT, WIDTH, 64, 128)
    expected = people.move(files.read(sources.reference_pose).pose, scale, offset)
    np.testing.assert_allclose(clip.pose.body[0], expected.body[0])
    picture = image.fit(image.read(sources.reference), 64, 128)
    np.testing.assert_array_equal(clip.reference, picture)


def test_driving_poses_are_fitted_with_the_shape_of_the_video(sources):
    clip = prepare(sources, stride=1)
    reference = clip.pose.at([0])
    driving = files.read(sources.poses).pose
    sizes = {"video_size": (64, 80), "target_size": clip.reference.shape[1::-1]}
    expected = retarget.to_reference("mimicmotion", reference, driving, **sizes)
    np.testing.assert_allclose(clip.pose.body, expected.pose.body)


@pytest.mark.parametrize(
    ("rate", "values", "fps"),
    [
        (30, {}, 15),
        (30, {"stride": 3}, 10),
        (50, {"stride": 1}, 25),  # 50 fps doubles the stride
        (Fraction(30000, 1001), {}, Fraction(15000, 1001)),
        (30, {"fps": 12.5}, 12.5),
    ],
)
def test_the_rate_is_the_sources_over_the_stride_used_unless_given(
    sources, tmp_path, rate, values, fps
):
    path = tmp_path / "other.mp4"
    video.write(path, np.zeros((NUM_FRAMES, 80, 64, 3), np.uint8), rate)
    assert float(prepare(changed(sources, driving=path), **values).fps) == pytest.approx(float(fps))


def test_a_pose_file_alone_drives_at_thirty_frames_per_second_and_says_so(sources):
    said = []
    alone = changed(sources, driving=None)
    clip = inputs.prepare(alone, settings(), SKELETON, Detector(None, said.append))
    assert clip.fps == 15
    assert clip.num_frames == 5
    assert "taking 30 fps" in " ".join(said)


def test_keypoints_of_a_video_are_found_frame_by_frame_and_counted(sources, monkeypatch):
    seen, counted = [], []

    def estimate_one_by_one(models, frames, *, num_frames, progress):
        for i, one in enumerate(frames):
            seen.append(one.shape)
            progress(i + 1, num_frames)
        return standing(num_frames)

    monkeypatch.setattr(estimate, "open_models", lambda folder: None)
    monkeypatch.setattr(estimate, "estimate", estimate_one_by_one)
    clip = inputs.prepare(
        changed(sources, poses=None),
        settings(max_frames=3),
        SKELETON,
        Detector(sources.driving.parent, silent, lambda done, total: counted.append((done, total))),
    )
    assert clip.num_frames == 3
    assert seen == [(80, 64, 3)] * 3 and counted == [(1, 3), (2, 3), (3, 3)]


def test_keypoints_that_were_found_are_not_looked_for_again(sources, monkeypatch, tmp_path):
    kept, said = tmp_path / "a.keypoints.safetensors", []
    monkeypatch.setattr(estimate, "open_models", lambda folder: None)

    def look(*_, num_frames, **__):
        return standing(num_frames)

    def again(max_frames):
        return inputs.prepare(
            changed(sources, poses=None),
            settings(max_frames=max_frames),
            SKELETON,
            Detector(sources.driving.parent, said.append, kept=kept),
        )

    monkeypatch.setattr(estimate, "estimate", look)
    first = again(3)

    def refuse(*_, **__):
        raise AssertionError("looked for again")

    monkeypatch.setattr(estimate, "estimate", refuse)
    second = again(3)
    np.testing.assert_array_equal(second.pose.body, first.pose.body)
    assert any(str(kept) in sentence for sentence in said)
    with pytest.raises(AssertionError, match="looked for again"):
        again(2)  # other frames


def test_keypoints_of_a_dance_are_found_once_for_all_its_figures(sources, monkeypatch, tmp_path):
    looked, said, recent = [], [], {}
    monkeypatch.setattr(estimate, "open_models", lambda folder: None)

    def look(*_, num_frames, **__):
        looked.append(num_frames)
        return standing(num_frames, seed=len(looked))

    monkeypatch.setattr(estimate, "estimate", look)
    without_poses = changed(sources, poses=None)
    places = [tmp_path / f"{i}.keypoints.safetensors" for i in range(2)]
    detector = lambda kept: Detector(sources.driving.parent, said.append, None, kept, recent)
    figure = lambda kept, **values: inputs.prepare(
        without_poses, settings(**values), SKELETON, detector(kept)
    )
    first, second = map(figure, places)
    assert looked == [5] and said[-1].startswith(f"the keypoints of {sources.driving} are known")
    np.testing.assert_array_equal(first.pose.body, second.pose.body)
    assert places[0].read_bytes() == places[1].read_bytes(), "each command has its own"
    figure(None)
    assert looked == [5]
    figure(None, max_frames=3)
    assert looked == [5, 3], "other frames"


def test_fewer_frames_are_taken_from_the_start_if_asked(sources):
    two = prepare(sources, max_frames=2, stride=1)
    assert two.num_frames == 2
    assert prepare(sources, max_frames=100).num_frames == 5


@pytest.mark.parametrize("values", [{}, {"max_frames": 3}, {"height": 64, "width": 128}])
@pytest.mark.parametrize("driving", [True, False])
def test_measuring_tells_the_clips_size_without_preparing_it(sources, values, driving):
    sources = sources if driving else changed(sources, driving=None)
    clip = prepare(sources, **values)
    expected = clip.num_frames, *clip.reference.shape[:2]
    assert inputs.measure(sources, settings(**values)) == expected


def test_several_people_are_a_warning_and_the_first_is_animated(sources, tmp_path):
    path = tmp_path / "two.json"
    files.write(path, standing(1, num_people=2), width=WIDTH, height=HEIGHT)
    clip = prepare(changed(sources, reference_pose=path))
    assert any("2 people" in warning for warning in clip.warnings)
    crowd = tmp_path / "crowd.json"
    files.write(crowd, standing(NUM_FRAMES, num_people=2), width=640, height=800)
    clip = prepare(changed(sources, poses=crowd))
    assert any("exactly one person" in warning for warning in clip.warnings)


def test_warnings_call_frames_by_their_numbers_in_the_source(sources, tmp_path):
    crowd, path = standing(NUM_FRAMES, num_people=2), tmp_path / "crowd.json"
    for score in (crowd.body_score, crowd.hands_score, crowd.face_score):
        score[:4] = 0
    files.write(path, crowd, width=640, height=800)
    clip = prepare(changed(sources, poses=path))  # of frames 0, 2, 4, 6 and 8
    assert any("in frame 4 (sample.person=0 of 2)" in warning for warning in clip.warnings)
    assert any("nobody is seen in frames 0 and 2" in warning for warning in clip.warnings)


def test_the_most_prominent_person_of_a_reference_is_animated_whoever_comes_first(
    sources, tmp_path
):
    one = prepare(sources).pose
    small, person = standing(1, num_people=2, seed=0), vars(standing(1))
    for name, leaf in vars(small).items():
        leaf[:, 1] = person[name][:, 0]
    small.body[:, 0] = 0.1 + 0.1 * small.body[:, 0]
    for score in (small.body_score, small.hands_score, small.face_score):
        score[:, 0] = 0.2  # nobody is sure of that one
    path = tmp_path / "two.json"
    files.write(path, small, width=WIDTH, height=HEIGHT)
    clip = prepare(changed(sources, reference_pose=path))
    np.testing.assert_allclose(clip.pose.body[:, 0], one.body[:, 0], atol=1e-6)


def test_what_the_cut_to_the_models_shape_takes_of_the_person_is_told(sources, tmp_path):
    """Of 120 x 200 a square leaves the middle 120 rows: from 0.2 to 0.8 of the height."""
    square = {"height": 64, "width": 64}
    above, below = [0, 14, 15, 16, 17], [10, 13]  # head; ankles
    told = lambda clip: [line for line in clip.warnings if "only the middle" in line]
    (warning,) = told(prepare(sources, **square))
    assert warning.startswith(f"{sources.reference}: only the middle of its 120 x 200 is used, in")
    for joint, name in enumerate(people.BODY_NAMES):
        assert (name in warning) == (joint in above + below)
    nearly = prepare(sources, height=192, width=128)  # 180 of the 200 rows
    assert not told(nearly)
    stretched = prepare(sources, **square, shown_height=64)
    assert not told(stretched), "nothing is cut"
    path, aside = tmp_path / "aside.json", standing(1)
    files.write(path, people.move(aside, (1.0, 0.2), (0.0, 0.0)), width=WIDTH, height=HEIGHT)
    with pytest.raises(ValueError, match="ref.png: .* without the person; cut the picture"):
        prepare(changed(sources, reference_pose=path), **square)


@pytest.mark.parametrize("style", ["mimicmotion", "musepose"])
@pytest.mark.parametrize("procedure", retarget.PROCEDURES)
def test_fit_and_drawing_are_those_of_the_config(sources, procedure, style):
    skeleton = svd.get_config("size=tiny").skeleton
    skeleton.update({"fit": procedure, "style": style, "canvas": 200, "hidden": (4, 7)})
    sample = settings(height=192, width=128)
    clip = inputs.prepare(sources, sample, skeleton, Detector(None, silent))
    driving = files.read(sources.poses).pose.at(slice(None, None, 2))
    sizes = {"video_size": (64, 80), "target_size": clip.reference.shape[1::-1]}
    fitted = retarget.to_reference(procedure, clip.pose.at([0]), driving, **sizes)
    np.testing.assert_allclose(clip.pose.body, fitted.pose.body)
    assert clip.fit == fitted.fit and clip.warnings == fitted.warnings
    drawn = draw.draw(
        clip.pose,
        *clip.reference.shape[:2],
        canvas=200,
        style=replace(draw.STYLES[style], hidden=(4, 7)),
        video_size=(64, 80),
    )
    np.testing.assert_array_equal(clip.skeletons, drawn)


def test_a_stretched_reference_keeps_its_whole_picture_and_all_its_poses(sources):
    values = {"height": 64, "width": 64, "shown_height": 100}
    skeleton = svd.get_config("size=tiny").skeleton
    skeleton.fit = "musepose"
    clip = inputs.prepare(sources, settings(**values), skeleton, Detector(None, silent))
    picture = image.read(sources.reference)
    np.testing.assert_array_equal(clip.reference, image.stretch(picture, 64, 64))
    reference = files.read(sources.reference_pose).pose
    np.testing.assert_array_equal(clip.pose.body[0], reference.body[0])
    assert clip.shown == (100, 60)  # 200 x 120
    driving = files.read(sources.poses).pose.at(slice(None, None, 2))
    sizes = {"video_size": (64, 80), "target_size": (WIDTH, HEIGHT)}
    fitted = retarget.to_reference("musepose", reference, driving, **sizes)
    np.testing.assert_allclose(clip.pose.body, fitted.pose.body)
    # The skeletons are stretched with it, from the shape that is shown.
    upright = draw.draw(fitted.pose, 100, 60, canvas=skeleton.canvas, video_size=(64, 80))
    expected = np.stack([image.stretch(one, 64, 64) for one in upright])
    np.testing.assert_array_equal(clip.skeletons, expected)


@pytest.mark.parametrize(
    ("matrix", "shown", "stored"),
    [((1, 0, 0, 1), (240, 100), (120, 100)), ((0, 1, -1, 0), (100, 240), (100, 120))],
)
def test_keypoints_may_lie_on_the_pixels_as_they_are_stored(
    sources, tmp_path, matrix, shown, stored
):
    """Most tools that find poses take wide pixels for square ones, and turn what is turned."""
    path = films.write(
        tmp_path / "wide.mp4", films.numbered(NUM_FRAMES, 100, 120), sample_aspect_ratio=2
    )
    films.set_matrix(path, *matrix)
    info = video.probe(path)
    assert (info.width, info.height) == shown
    clips = []
    for width, height in (shown, stored):
        poses = tmp_path / f"{width}.json"
        files.write(poses, standing(NUM_FRAMES, seed=1), width=width, height=height)
        clips.append(prepare(changed(sources, driving=path, poses=poses)))
    np.testing.assert_allclose(clips[0].pose.body, clips[1].pose.body, atol=1e-9)
    files.write(poses, standing(NUM_FRAMES, seed=1), width=stored[1], height=stored[0])
    with pytest.raises(ValueError, match="do not belong together"):
        prepare(changed(sources, driving=path, poses=poses))


def test_hidden_key_joints_are_a_warning(sources, tmp_path):
    path = tmp_path / "hipless.json"
    files.write(path, without(standing(1), [8, 11]), width=WIDTH, height=HEIGHT)
    clip = prepare(changed(sources, reference_pose=path))
    assert any("right hip and left hip" in warning for warning in clip.warnings)
