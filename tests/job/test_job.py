"""A job from files to files: what it writes and what it says."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import jax
import pytest

import sample
from dispose_jax import bars, inputs, job, provenance, sampling
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, output, video
from dispose_jax.pose import files
from tests.job.given import DEMO, config, names, prepared, refuse
from tests.media import films
from tests.pose.poses import standing


def test_a_run_leaves_the_video_its_record_and_a_preview(whole):
    assert names(whole) == {"a.mp4", "a.json", "a.preview.png"}
    film = video.read(whole / "a.mp4", 1)
    assert film.frames.shape == (3, 64, 64, 3)
    assert film.info.fps == 15  # a pose file's 30 over the stride of 2
    assert film.frames.std() > 1
    assert image.read(whole / "a.preview.png").shape == (64, 64, 3)


def test_the_record_holds_all_that_the_video_depended_on(whole):
    about = json.loads((whole / "a.json").read_text())
    assert about["seed"] == 42
    assert about["config"] == json.loads(config().to_json(), parse_constant=str)
    assert about["weights"] == ["random"]
    assert about["sources"] == DEMO.as_dict()
    reference = DEMO.reference.stat()
    assert about["files"]["reference"] == {
        "bytes": reference.st_size,
        "modified": reference.st_mtime,
    }
    assert (about["frames"], about["size"], about["fps"]) == (3, [64, 64], 15.0)
    assert about["versions"]["jax"] == jax.__version__
    assert about["git"] == provenance.git_revision()
    written = time.mktime(time.strptime(about["time"], "%Y-%m-%d %H:%M:%S %z"))
    assert abs(written - (whole / "a.json").stat().st_mtime) < 60
    assert about["fit"]["all_frames"] == 3
    assert {"conditioning", "sampling", "decoding"} <= about["seconds"].keys()
    assert all(seconds >= 0 for seconds in about["seconds"].values())


def test_the_same_job_gives_the_same_video(tmp_path, whole):
    job.run(prepared(tmp_path)[0])
    assert (tmp_path / "a.mp4").read_bytes() == (whole / "a.mp4").read_bytes()


@pytest.fixture(scope="module")
def dance(tmp_path_factory):
    """A driving video with sound, named as an hour is, and its poses."""
    folder = tmp_path_factory.mktemp("dance")
    source = films.with_sound(folder / "12:30.mp4", films.numbered(8), seconds=0.4)
    files.write(folder / "dance.json", standing(8), width=192, height=96)
    reference, pose = sample.DEMO[:2]
    return Sources(reference, pose, source, folder / "dance.json")


@pytest.mark.parametrize(
    ("values", "heard"), [({}, True), ({"audio": False}, False), ({"fps": 20.0}, False)]
)
def test_the_driving_videos_sound_is_heard_unless_it_is_not_wanted(tmp_path, dance, values, heard):
    work, said = prepared(tmp_path, config(**values), sources=dance)
    job.run(work)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert bool(container.streams.audio) == heard
    assert json.loads((tmp_path / "a.json").read_text())["sound"] == heard
    assert ("sound is left out" in " ".join(said)) == ("fps" in values)


@pytest.mark.parametrize("name", ["run:1.mp4", "caf\udce9.mp4"])
def test_outputs_may_have_any_name(tmp_path, monkeypatch, dance, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r\udce9f.png").write_bytes(dance.reference.read_bytes())
    sources = replace(dance, reference=Path("r\udce9f.png"))
    job.run(job.Job(config(), ("random",), sources, Path(name), say=lambda sentence: None))
    stem = name.removesuffix(".mp4")
    assert names(tmp_path) == {"r\udce9f.png", name, f"{stem}.json", f"{stem}.preview.png"}
    about = json.loads((tmp_path / f"{stem}.json").read_text())
    assert about["sources"]["reference"] == "r\udce9f.png"


def test_a_name_that_no_file_can_have_is_told_before_any_weight_is_looked_for(tmp_path):
    with pytest.raises(OSError, match="cannot write this file: File name too long"):
        job.Job(config(), ("no such folder",), DEMO, tmp_path / f"{'a' * 236}.mp4")
    assert not names(tmp_path)


def test_progress_and_pictures_are_told_where_they_are_wanted(tmp_path, whole, capfd):
    work, _ = prepared(tmp_path)
    stages, steps = [], []
    work.progress = lambda stage, done, total: stages.append((stage, done, total))
    work.preview = lambda step, picture: steps.append(step)
    job.run(work)
    assert {"reading inputs", "conditioning", "sampling"} <= {stage for stage, _, _ in stages}
    assert stages[-1] == ("decoding", 4, 4) and steps == [0, 1]
    assert "frame/s" not in capfd.readouterr().err, "no bars besides"
    assert (tmp_path / "a.mp4").read_bytes() == (whole / "a.mp4").read_bytes()


def test_a_log_gets_stages_and_no_bars(capfd):
    said = []
    stages = job.Stages(SimpleNamespace(say=said.append, progress=None, seconds={}))
    stages("sampling", 1, 2)
    stages("sampling", 2, 2)
    stages.end()
    assert said == ["sampling ..."] and not capfd.readouterr().err


def test_a_log_is_told_how_far_a_long_stage_is(capfd, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0.0)
    stages = job.Stages(SimpleNamespace(say=lambda _: None, progress=None, seconds={}))
    for step in range(1, 4):
        stages("sampling", step, 3)
    stages("reading inputs", 1, 1)
    stages.end()
    told = capfd.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in told] == [
        f"sampling: {step} of 3 steps" for step in range(1, 4)
    ]


def test_another_seed_gives_another_video(tmp_path, whole):
    other = config()
    other.seed = 1
    job.run(prepared(tmp_path, other)[0])
    assert (tmp_path / "a.mp4").read_bytes() != (whole / "a.mp4").read_bytes()


def test_random_weights_are_announced(tmp_path):
    assert "random weights, so the result is noise: unet" in prepared(tmp_path)[1][0]


def test_warnings_name_the_preview(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "condition_reference", refuse)
    prepare = inputs.prepare
    crowd = lambda *given, **named: prepare(*given, **named)._replace(warnings=["two people"])
    monkeypatch.setattr(inputs, "prepare", crowd)
    work, said = prepared(tmp_path)
    with pytest.raises(OSError, match="broken"):
        job.run(work)
    assert f"warning: two people; see {tmp_path / 'a.preview.png'}" in said


def test_results_never_replace_what_is_read(tmp_path):
    for name in ("a.mp4", "a.json", "a.explain.mp4"):
        sources = Sources(**{**vars(DEMO), "poses": tmp_path / name})
        with pytest.raises(ValueError, match=f"--poses .*{name}.*choose another --output"):
            prepared(tmp_path, sources=sources)


def test_a_base_alone_is_explained_without_signals(tmp_path, monkeypatch):
    work, _ = prepared(tmp_path, config("base"), explain=True)
    monkeypatch.setattr(type(work.animator), "fields", None)  # not even computed
    job.run(work)
    sheet = image.read(tmp_path / "a.explain.png")
    assert 3 * 256 < sheet.shape[1] < 4 * 256  # reference, skeleton, result


def test_everything_at_once_over_two_windows_stretched_and_explained(tmp_path):
    settings = config(
        "full", guidance_scale=(1.0, 2.0), max_frames=5, decode_chunk=6, shown_height=50
    )
    settings.skeleton.update({"fit": "musepose", "style": "musepose"})
    work, said = prepared(tmp_path, settings, explain=True)
    job.run(work)
    assert names(tmp_path) == {
        "a.mp4",
        "a.json",
        "a.preview.png",
        "a.explain.png",
        "a.explain.mp4",
    }
    film = video.read(tmp_path / "a.mp4", 1)
    explained = video.read(tmp_path / "a.explain.mp4", 1)
    assert len(film.frames) == len(explained.frames) == 5
    height, width = image.read(DEMO.reference).shape[:2]
    assert film.frames.shape[1:3] == (50, 50 * width // height // 2 * 2)
    assert explained.info.fps == film.info.fps
    sheet = image.read(tmp_path / "a.explain.png")
    assert sheet.shape[0] > 5 * 256  # five rows of six columns
    assert sheet.shape[1] > 6 * 256
    assert "control signals" in json.loads((tmp_path / "a.json").read_text())["seconds"]
    assert not [sentence for sentence in said if "warning" in sentence]


def test_outputs_are_checked_before_weights_are(tmp_path):
    with pytest.raises(ValueError, match="expected .mp4"):
        job.Job(config(), ("absent",), DEMO, tmp_path / "a.gif")
    assert not output.prepare(tmp_path / "a.mp4").exists()
