"""The command that prepares a folder of videos: what it writes, skips, refuses, and continues."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dispose_jax.correspondence import keypoints
from dispose_jax.correspondence.dift import NETWORKS
from dispose_jax.data import prepare, records
from dispose_jax.media import video
from dispose_jax.models import bundle, networks
from dispose_jax.networks.vae import VAE
from dispose_jax.pose import estimate, files
from tests import small
from tests.data import clipped
from tests.pose.poses import standing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def videos(tmp_path):
    """Three good videos, one in a folder below."""
    for i, name in enumerate(("a.mp4", "b.mp4", "in/c.mp4")):
        clipped.film(tmp_path / "videos", name, 18 + i, seed=i)
    return tmp_path / "videos"


def run(videos, out, config=None, **options):
    options = {"say": lambda _: None, **options}
    return prepare.prepare(config or clipped.config(), videos, out, **options)


def content(folder):
    """{file: bytes} of a set."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reasons(out, name="skipped.jsonl"):
    lines = (out / name).read_text().splitlines()
    return {entry["video"]: entry["reason"] for entry in map(json.loads, lines)}


def test_a_folder_of_videos_becomes_a_set(videos, tmp_path):
    summary = run(videos, tmp_path / "set")
    assert (summary.videos, summary.made, summary.clips, summary.skipped) == (3, 3, 9, {})
    meta = records.check(tmp_path / "set", clipped.config())
    assert meta["guides"]["flow"] == "dis" and meta["weights"] == {}
    clips = records.PreparedClips(tmp_path / "set")
    assert len(clips) == 9
    for i in range(9):
        record = clips[i]
        assert record.frames.shape == (4, 64, 128, 3) and len(record.indices) == 4
        assert record.guides.valid.shape == (4, 256) and not record.guides.valid[0].any()
        assert record.guides.valid[1:].any(1).all()
        assert record.point_features is None and record.posterior is None
        # The pictures are those of the source at these places.
        source = dict(video.pick(videos / record.video, record.indices.tolist()))
        shown = source[record.indices[1]][::2, ::2].mean()
        assert abs(record.frames[1].mean() - shown) < 6
    assert {clips[i].video for i in range(9)} == {"a.mp4", "b.mp4", "in/c.mp4"}


def test_a_log_gets_a_line_for_each_video_and_no_bar(videos, tmp_path, capsys):
    (videos / "b.mp4").write_bytes(b"no video")
    run(videos, tmp_path / "set")
    assert capsys.readouterr().err.splitlines() == [
        "video 1/3: 3 clips, 0 skipped",
        "video 2/3: 3 clips, 1 skipped",
        "video 3/3: 6 clips, 1 skipped",
    ]


def test_the_same_command_gives_the_same_bytes(videos, tmp_path):
    for name in ("one", "two"):
        run(videos, tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_shards_together_are_the_whole(videos, tmp_path):
    run(videos, tmp_path / "whole")
    for i in (2, 0, 1):
        summary = run(videos, tmp_path / "shards", shard=(i, 3))
        assert summary.videos == summary.made == 1
    assert content(tmp_path / "whole") == content(tmp_path / "shards")
    assert run(videos, tmp_path / "shards", shard=(5, 7)).videos == 0


def test_videos_are_found_in_linked_folders_once_and_by_any_ending(tmp_path):
    path = clipped.film(tmp_path / "elsewhere", "x.mp4", 18)
    path.rename(path.with_suffix(".M4V"))
    clipped.film(tmp_path / "videos", "in/y.mp4", 18, seed=1)
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "again").symlink_to(tmp_path / "videos" / "in")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "videos")
    (tmp_path / "videos" / "broken.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert run(tmp_path / "videos", tmp_path / "set").made == 2
    clips = records.PreparedClips(tmp_path / "set")
    assert {clips[i].video for i in range(len(clips))} == {"in/y.mp4", "linked/x.M4V"}


def test_names_that_are_not_utf8_or_hold_colons_are_prepared_like_others(tmp_path):
    videos = tmp_path / "videos"
    names = [os.fsdecode(name) for name in (b"caf\xe9.mp4", "\u821e.mp4".encode("gbk"))]
    for i, name in enumerate([*names, "12:30:15.mp4"]):
        path = clipped.film(videos, f"{i}.mp4", 18, seed=i)
        path.rename(videos / name)
        path.with_suffix(".poses.json").rename(videos / f"{name[:-4]}.poses.json")
    (videos / os.fsdecode(b"bad\xff.avi")).write_text("hello")
    summary = run(videos, tmp_path / "set")
    assert summary.made == 3 and len(summary.skipped) == 1
    clips = records.PreparedClips(tmp_path / "set")
    assert {clips[i].video for i in range(len(clips))} == {*names, "12:30:15.mp4"}
    assert [*reasons(tmp_path / "set")] == [os.fsdecode(b"bad\xff.avi")]
    assert run(videos, tmp_path / "set").kept == 3


def test_a_second_run_makes_only_what_is_not_there(videos, tmp_path):
    out = tmp_path / "set"
    run(videos, out)
    before = content(out)
    gone = records.file_name("b.mp4", 3)
    (out / gone).unlink()
    times = {path: path.stat().st_mtime_ns for path in out.glob("clips-*")}
    summary = run(videos, out)
    assert (summary.made, summary.kept, summary.clips) == (1, 2, 9)
    assert content(out) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize("changed", ["b.mp4", "b.poses.json"])
def test_clips_of_what_was_changed_since_are_kept_and_that_is_told(videos, tmp_path, changed):
    out, said = tmp_path / "set", []
    run(videos, out)
    before = content(out)
    run(videos, out, say=said.append)
    assert not said
    later = (out / records.file_name("b.mp4", 3)).stat().st_mtime + 1
    os.utime(videos / changed, (later, later))
    run(videos, out, say=said.append)
    (line,) = said
    assert str(videos / changed) in line and f"delete {out / records.file_name('b.mp4', 3)}" in line
    assert content(out) == before


def test_however_many_videos_were_changed_since_that_is_one_line(videos, tmp_path):
    """As of a folder that was copied without its times."""
    out, said = tmp_path / "set", []
    run(videos, out)
    later = max(path.stat().st_mtime for path in out.iterdir()) + 1
    for path in videos.rglob("*.mp4"):
        os.utime(path, (later, later))
    run(videos, out, say=said.append)
    (line,) = said
    assert line.startswith(f"warning: {videos / 'a.mp4'} was changed after")
    assert line.endswith("; the same of 2 more videos: b.mp4, in/c.mp4")


def test_a_run_killed_while_it_writes_leaves_whole_files_and_is_resumed(
    videos, tmp_path, monkeypatch
):
    run(videos, tmp_path / "whole")
    out = tmp_path / "set"
    rename, kept = os.replace, []

    def killed(source, destination):
        if len(kept) == 1:
            raise KeyboardInterrupt
        kept.append(destination)
        rename(source, destination)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(videos, out)
    monkeypatch.undo()
    assert len(records.PreparedClips(out)) == 3
    assert run(videos, out).kept == 1
    assert content(out) == content(tmp_path / "whole")


def test_what_cannot_be_used_is_listed_with_the_reason(videos, tmp_path):
    away = standing(20)
    clipped.film(videos, "away.mp4", 20, pose=away.replace(body=away.body + 1))
    clipped.film(videos, "count.mp4", 20, pose=standing(19))
    whole = (videos / "a.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    video.write(videos / "nofile.mp4", clipped.pictures(20), 24)
    clipped.film(videos, "short.mp4", 4)
    (videos / "text.avi").write_text("hello")
    files.write(videos / "shape.poses.json", standing(20), width=50, height=90)
    video.write(videos / "shape.mp4", clipped.pictures(20), 24)
    summary = run(videos, tmp_path / "set")
    expected = {
        "away.mp4": "joints are out of the picture in frames 0 to 19",
        "count.mp4": "19 entries, but .* has 20 frames",
        "cut.mp4": "the file is truncated or corrupt",
        "nofile.mp4": "keypoints are not given .*; put nofile.poses.json beside it",
        "shape.mp4": "on a canvas of 50 x 90",
        "short.mp4": "4 frames, a clip of 4 at stride 2 needs 5",
        "text.avi": "not a video that can be read",
    }
    found = reasons(tmp_path / "set")
    assert found == summary.skipped and found.keys() == expected.keys()
    for name, said in expected.items():
        pytest.raises(ValueError, _raise, found[name]).match(said)
    assert summary.made == 3 and len(records.PreparedClips(tmp_path / "set")) == 9


def _raise(text):
    raise ValueError(text)


def test_a_mended_video_is_taken_by_the_next_run(videos, tmp_path):
    clipped.film(videos, "short.mp4", 4)
    run(videos, tmp_path / "set", shard=(1, 2))
    name = "skipped-00001-of-00002.jsonl"
    assert reasons(tmp_path / "set", name).keys() == {"short.mp4"}
    clipped.film(videos, "short.mp4", 20)
    assert run(videos, tmp_path / "set", shard=(1, 2)).made == 1
    assert not (tmp_path / "set" / name).exists()


def test_folders_that_hold_nothing_usable_are_errors(tmp_path):
    with pytest.raises(ValueError, match="--videos .*: no such folder"):
        run(tmp_path / "none", tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no videos; expected files that end in .mp4, .m4v"):
        run(tmp_path / "empty", tmp_path / "set")
    clipped.film(tmp_path / "short", "a.mp4", 3)
    with pytest.raises(ValueError, match="none of 1 video could be used; the first: .*3 frames"):
        run(tmp_path / "short", tmp_path / "set")
    clipped.film(tmp_path / "videos", "a.mp4", 20)
    with pytest.raises(ValueError, match="is a folder|cannot make|not a folder"):
        run(tmp_path / "videos", tmp_path / "videos" / "a.mp4" / "set")


def test_a_set_of_other_settings_is_not_added_to(videos, tmp_path):
    run(videos, tmp_path / "set", shard=(0, 3))
    with pytest.raises(ValueError, match="other settings or weights .*stride is 2 there, 1 here"):
        run(videos, tmp_path / "set", clipped.config(stride=1))
    assert len(records.PreparedClips(tmp_path / "set")) == 3


def test_keypoints_come_from_the_detector_where_no_file_is(videos, tmp_path, monkeypatch):
    """The detector sees a person in every frame but the last ones: the clips keep to the others."""
    (videos / "a.poses.json").unlink()
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(prepare, "_tools", _with_detector(tmp_path / "weights"))
    monkeypatch.setattr(estimate, "open_models", lambda folder: "models")
    last = video.read(videos / "a.mp4", 1).frames[-6:]

    def look(models, frames):
        unseen = any((frame == frames[0]).all() for frame in last)
        pose = standing(1)
        return pose.replace(body_score=pose.body_score * (not unseen))

    monkeypatch.setattr(estimate, "estimate", look)
    summary = run(videos, tmp_path / "set", clipped.config(clips_per_video=12), shard=(0, 3))
    assert summary.made == 1 and 0 < summary.clips < 12
    clips = records.PreparedClips(tmp_path / "set")
    used = np.concatenate([clips[i].indices for i in range(len(clips))])
    assert used.max() < 12


def _with_detector(folder):
    make = prepare._tools

    def tools(*arguments):
        found, made_with = make(*arguments)
        found.detector.folder = folder
        return found, made_with

    return tools


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A bundle with the autoencoder and Stable Diffusion, random, and the name of RAFT."""
    config = feature_config()
    built = networks.build(config)
    names = ("vae", *NETWORKS)
    params = networks.random({name: built[name] for name in names}, seed=0)
    params["raft"] = {"kernel": np.zeros(1, np.float32)}
    folder = tmp_path_factory.mktemp("weights") / "bundle"
    described = bundle.ModelDescription("svd", config.model, config.quirks, "tests")
    bundle.write(folder, params, described, dict.fromkeys(params, bundle.Origin("here", "none")))
    return folder


def feature_config():
    """Small networks, and flow without any."""
    config = small.config("full")
    other = clipped.config(clips_per_video=1, flow="dis")
    config.train, config.data = other.train, other.data
    return config


@pytest.fixture
def light_networks(monkeypatch):
    """In place of Stable Diffusion each cell's mean colour, in place of the autoencoder each
    latent's: compiling the networks would take half a minute."""

    def means(picture, side):
        *lead, h, w, _ = picture.shape
        cells = picture.reshape(*lead, h // side, side, w // side, side, 3)
        return cells.mean((-4, -2))

    def features(dift, params, picture, key):
        assert params.keys() == {*NETWORKS}
        return means(picture, 16)

    def encode(vae, variables, pictures, method):
        assert method == "encode" and "encoder" in variables["params"]
        return means(pictures, 8), means(pictures, 8) - 1

    monkeypatch.setattr(prepare.dift, "features", features)
    monkeypatch.setattr(VAE, "apply", encode)


def test_weights_add_point_features_and_latents(tmp_path, weights, light_networks):
    clipped.film(tmp_path / "videos", "a.mp4", 18)
    config, out = feature_config(), tmp_path / "set"
    run(tmp_path / "videos", out, config, weights=(str(weights),), latents=True)
    record = records.PreparedClips(out)[0]
    assert record.frames.shape == (1, 64, 128, 3)
    run(tmp_path / "videos", tmp_path / "pictures", config)
    frames = records.PreparedClips(tmp_path / "pictures")[0].frames.astype(np.float32) / 127.5 - 1
    of_latents = frames.reshape(4, 8, 8, 16, 8, 3).mean((2, 4))
    expected = np.concatenate([of_latents, of_latents - 1], -1)
    assert record.posterior.dtype == np.float16
    np.testing.assert_allclose(record.posterior, expected, atol=0.03)  # of JPEG
    grid = frames[0].reshape(4, 16, 8, 16, 3).mean((1, 3))
    at_joints = keypoints.embed(grid, record.pose.at([0]), (64, 128))
    np.testing.assert_allclose(record.point_features, at_joints, atol=0.03)
    meta = records.check(out, config)
    assert meta["weights"].keys() == {"vae", *NETWORKS}
    digest = bundle.describe(weights)["networks"]["vae"]["sha256"]
    assert meta["weights"]["vae"] == {
        "sha256": digest,
        "source": "here",
        "computed_in": "float32",
    }
    config.model.vae.latent_channels = 8
    with pytest.raises(ValueError, match="posterior.model.latent_channels is 4 there, 8 here"):
        records.check(out, config)


def test_the_weights_decide_where_the_flow_comes_from(weights):
    config = feature_config()
    say = lambda _: None
    for asked, expected in (("dis", "dis"), ("raft", "raft"), ("auto", "raft")):
        config.data.flow = asked
        tools, made_with = prepare._tools(config, (str(weights),), False, say)
        assert made_with["flow"] == expected and tools.chained == (expected == "dis")
        assert ("raft" in made_with) == (expected == "raft")
    config.train.dtype = "bfloat16"  # as on a GPU
    _, made_with = prepare._tools(config, (str(weights),), False, say)
    assert made_with["raft"]["computed_in"] == "float32", "flow is positions"
    assert made_with["dift_unet"]["computed_in"] == "bfloat16"
    config.data.flow = "raft"
    with pytest.raises(ValueError, match="data.flow is 'raft', but --weights holds no raft"):
        prepare._tools(config, (), False, say)
    with pytest.raises(ValueError, match="--latents needs the autoencoder"):
        prepare._tools(clipped.config(), (), True, say)
    with pytest.raises(ValueError, match="prepared data needs trained weights"):
        prepare._tools(config, ("random",), False, say)


def test_the_command_reports_and_fails_in_one_line(tmp_path):
    """One process for both: starting one costs seconds."""
    clipped.film(tmp_path / "videos", "a.mp4", 20)
    clipped.film(tmp_path / "videos", "b.mp4", 3)
    settings = ["train.frames=4", "data.clips_per_video=2", "data.flow_short_side=128"]
    command = [sys.executable, "-m", "dispose_jax.data.prepare", f"--out={tmp_path / 'set'}"]
    command += [f"--config.{setting}" for setting in settings]
    done = subprocess.run(
        [*command, f"--videos={tmp_path / 'videos'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"2 clips of 1 video in {tmp_path / 'set'}, 0 of them from bef")
    assert "  b.mp4: " in done.stdout and "3 frames" in done.stdout
    done = subprocess.run([*command, "--config.data.stride=1"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"prepare.py: give --videos FOLDER\n"
