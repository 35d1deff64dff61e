"""Clips on disk: what comes back, what is said about damage, and which sets fit a configuration."""

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load, save

from dispose_jax.data import records
from dispose_jax.types import Impulses
from tests.data import clipped
from tests.pose.poses import standing


def record(seed: int = 0, frames: int = 3, **changes) -> records.Record:
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (frames, 8, 16, 3), np.uint8)
    return records.Record(
        frames=ground.repeat(8, 1).repeat(8, 2),
        pose=standing(frames, num_people=2, seed=seed),
        guides=Impulses(
            rng.integers(0, 64, (frames, 5, 2)).astype(np.int32),
            rng.normal(size=(frames, 5, 2)).astype(np.float32),
            rng.uniform(size=(frames, 5)) > 0.5,
        ),
        point_features=rng.normal(size=(18, 6)).astype(np.float16),
        posterior=None,
        video="in/a dance.mp4",
        indices=np.array([9, 2, 4]),
    )._replace(**changes)


def write(folder, *counts):
    """A set with videos of so many clips; the contents are numbered by seed."""
    seeds = iter(range(sum(counts)))
    for i, count in enumerate(counts):
        clips = [records.encode(record(next(seeds))) for _ in range(count)]
        records.write(folder, f"v{i}.mp4", clips)
    return records.PreparedClips(folder)


def meta(config, flow="dis", features=False, latents=False, weights=None):
    options = {"features": features, "latents": latents, "weights": weights or {}}
    return records.describe(config, flow=flow, **options)


def test_everything_but_the_pictures_comes_back_exactly():
    given = record()
    result = records.decode(records.encode(given))
    assert result.pose.body.dtype == np.float64
    for name in ("body", "body_score", "hands", "hands_score", "face", "face_score"):
        np.testing.assert_array_equal(getattr(result.pose, name), getattr(given.pose, name))
    for found, leaf in zip(result.guides, given.guides):
        assert found.dtype == leaf.dtype
        np.testing.assert_array_equal(found, leaf)
    np.testing.assert_array_equal(result.point_features, given.point_features)
    np.testing.assert_array_equal(result.indices, given.indices)
    assert result.video == "in/a dance.mp4" and result.posterior is None


def test_pictures_come_back_nearly_and_with_their_colours_in_place():
    given = record()
    result = records.decode(records.encode(given)).frames
    assert result.shape == given.frames.shape and result.dtype == np.uint8
    difference = np.abs(result.astype(int) - given.frames)
    assert difference.mean() < 2 and difference.max() < 30


def test_a_posterior_stands_for_all_pictures_but_the_reference():
    posterior = np.random.default_rng(1).normal(size=(3, 8, 16, 8)).astype(np.float16)
    given = record(posterior=posterior, frames=3)._replace(guides=None, point_features=None)
    result = records.decode(records.encode(given._replace(frames=given.frames[:1])))
    assert result.frames.shape == (1, 64, 128, 3)
    np.testing.assert_array_equal(result.posterior, posterior)
    assert result.guides is None and result.point_features is None


def test_a_set_is_numbered_through_its_files(tmp_path):
    clips = write(tmp_path, 2, 1, 3)
    assert len(clips) == 6
    for i in (5, 0, 3, 2, 4, 1):
        np.testing.assert_array_equal(clips[i].pose.body, record(i).pose.body)


def test_files_beyond_the_limit_of_open_ones_are_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "OPEN_FILES", 2)
    clips = write(tmp_path, 1, 1, 1, 1)
    for i in (0, 1, 2, 3, 0, 2):
        np.testing.assert_array_equal(clips[i].pose.body, record(i).pose.body)
    assert len(clips._readers) == 2


def test_videos_of_the_same_stem_have_files_of_their_own(tmp_path):
    for i, name in enumerate(("a.mp4", "a.mov", "b/a.mp4", "ä b.mp4")):
        records.write(tmp_path, name, [records.encode(record(i))] * (i + 1))
    assert [records.existing(tmp_path, n) for n in ("a.mp4", "a.mov", "b/a.mp4", "ä b.mp4")] == [
        *(1, 2, 3, 4)
    ]
    assert records.existing(tmp_path, "c.mp4") is None
    assert len(records.PreparedClips(tmp_path)) == 10


def test_what_a_killed_run_left_is_no_part_of_the_set_and_goes(tmp_path):
    left = tmp_path / ("." + records.file_name("v0.mp4", 3).replace(".array", ".99.array"))
    left.write_bytes(b"half")
    assert records.existing(tmp_path, "v0.mp4") is None
    clips = write(tmp_path, 2)
    assert len(clips) == 2 and not left.exists()


def test_an_empty_folder_holds_no_clips(tmp_path):
    with pytest.raises(ValueError, match="holds no clips; make some with python -m"):
        records.PreparedClips(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "fewer"])
def test_a_damaged_file_is_named_with_the_clip(tmp_path, damage):
    clips = write(tmp_path, 1, 2)
    path = tmp_path / clips.names[1]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[65_536:] = bytes(255 - x for x in content[65_536:])
    path.write_bytes({"cut": bytes(content[:70_000]), "empty": b""}.get(damage, bytes(content)))
    if damage == "fewer":
        records.write(tmp_path, "v1.mp4", [records.encode(record(1))])
        os.replace(tmp_path / records.file_name("v1.mp4", 1), path)
    clips = records.PreparedClips(tmp_path)
    np.testing.assert_array_equal(clips[0].pose.body, record(0).pose.body)
    with pytest.raises(ValueError, match=f"{path.name}: clip 1 cannot be read .*prepare its video"):
        clips[2]


def test_another_process_has_the_same_clips_though_the_set_has_grown(tmp_path):
    clips = write(tmp_path, 2, 1)
    sent = pickle.dumps(clips)
    records.write(tmp_path, "a.mp4", [records.encode(record(9))])  # comes first in a listing
    assert records.PreparedClips(tmp_path).names[0].startswith("clips-a-")
    received = pickle.loads(sent)
    assert len(received) == 3
    for i in range(3):
        np.testing.assert_array_equal(received[i].pose.body, record(i).pose.body)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: tensors.pop("face"), "it lacks face"),
        (lambda tensors: tensors["jpeg"].__setitem__(slice(0, 40), 0), "no JPEG"),
    ],
)
def test_a_record_with_something_missing_or_spoilt_says_what(spoil, reason):
    tensors = {k: v.copy() for k, v in load(records.encode(record())).items()}
    spoil(tensors)
    with pytest.raises(ValueError, match=reason):
        records.decode(save(tensors))
    with pytest.raises(ValueError, match="no tensors"):
        records.decode(records.encode(record())[:-9])


def test_a_set_is_opened_by_many_machines_with_the_same_settings_only(tmp_path):
    config = clipped.config()
    records.open_set(tmp_path, meta(config))
    written = (tmp_path / "meta.json").read_text()
    records.open_set(tmp_path, meta(config))
    assert (tmp_path / "meta.json").read_text() == written
    assert os.listdir(tmp_path) == ["meta.json"]
    other = meta(clipped.config(stride=3), weights={"raft": {"sha256": "12"}})
    with pytest.raises(
        ValueError, match=r"settings or weights \(stride is 2 there, 3 here; weights.raft is absent"
    ):
        records.open_set(tmp_path, other)


def test_a_file_system_without_hard_links_works_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        records.open_set(tmp_path, meta(clipped.config()))
    assert os.listdir(tmp_path) == ["meta.json"]


def test_a_set_fits_the_configuration_it_was_made_with(tmp_path):
    records.open_set(tmp_path, meta(clipped.config()))
    assert records.check(tmp_path, clipped.config())["guides"]["flow"] == "dis"


def test_a_set_fits_other_seeds_shorter_clips_and_less_use(tmp_path):
    config = clipped.config()
    config.control.points = True
    records.open_set(tmp_path, meta(config, features=True))
    config.seed, config.train.frames, config.data.clips_per_video = 7, 3, 9
    records.check(tmp_path, config)
    config.control.motion, config.control.points = (), False
    config.dift.prompt = ""
    records.check(tmp_path, config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train.frames": 5}, "frames is 4 there, 5 here"),
        ({"train.height": 128, "train.width": 64}, "height is 64 there, 128 here; width is 128"),
        ({"data.stride": 1}, "stride is 2 there, 1 here"),
        ({"data.reference": "first"}, "reference.from is 'near' there, 'first' here"),
        ({"data.flow": "raft"}, "guides.flow is 'dis' there, 'raft' here"),
        ({"data.guide_kernel": 41}, "guides.kernel is 15 there, 41 here"),
        ({"motion.cmp_size": 128}, "guides.side is 64 there, 128 here"),
        ({"dift.prompt": ""}, "point_features.prompt is 'photo of a human' there, '' here"),
    ],
)
def test_a_set_from_other_settings_is_refused_with_the_difference(tmp_path, change, said):
    config = clipped.config()
    config.control.points = True
    records.open_set(tmp_path, meta(config, features=True))
    with config.unlocked():
        config.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=f"prepared with other settings .*{said}"):
        records.check(tmp_path, config)


def test_a_set_without_guides_does_not_serve_a_run_that_reads_them(tmp_path):
    config = clipped.config()
    config.train.guides = "joints"
    records.open_set(tmp_path, meta(config, flow=None))
    records.check(tmp_path, config)
    config.train.guides = "flow"
    with pytest.raises(ValueError, match="guides is absent there"):
        records.check(tmp_path, config)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no meta.json in it, so it is no prepared set"),
        ("{", "meta.json: cannot be read"),
        ("[]", "format None"),
        (json.dumps({"format": 2}), "format 2 of a prepared set, this reads format 1"),
    ],
)
def test_a_folder_that_is_no_prepared_set_is_told_apart(tmp_path, content, said):
    if content is not None:
        (tmp_path / "meta.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        records.check(tmp_path, clipped.config())
