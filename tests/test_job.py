"""A job from files to files: what it writes, what it keeps when it fails, what it resumes."""

import errno
import json
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import jax
import numpy as np
import pytest

import sample
from dispose_jax import decoding, inputs, job, memory, provenance, sampling
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, output, video
from dispose_jax.models import networks
from dispose_jax.pose import files
from tests import small
from tests.media import films
from tests.pose.poses import standing

DEMO = Sources(*sample.DEMO)


@pytest.fixture(autouse=True, scope="module")
def built_once():
    """Jobs of equal networks share them: tracing them anew takes longer than all else in a job."""
    build, kept = networks.build, {}

    def once(config, *rest):
        parts = config.base, *map(str, (config.model, config.control, config.quirks))
        key = *parts, networks.context_group(config), *rest
        if key not in kept:
            kept[key] = build(config, *rest)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "build", once)
        yield


def config(variant="base", **values):
    config = small.config(variant, guidance=values.pop("guidance_scale", 1.0))
    config.sample.update(
        {"resolution": 64, "max_frames": 3, "window": 4, "overlap": 2, "steps": 2, **values}
    )
    config.motion.update({"kernel": 9, "sigma": 1.5, "cmp_size": 64, "chunk": 3})
    return config


def prepared(folder, changed=None, explain=False, sources=DEMO):
    said = []
    work = job.Job(
        changed or config(), ("random",), sources, folder / "a.mp4", explain, said.append
    )
    return work, said


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job that went well: its folder."""
    folder = tmp_path_factory.mktemp("whole")
    job.run(prepared(folder)[0])
    return folder


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory, whole):
    """A folder where the same job failed to decode."""
    folder = tmp_path_factory.mktemp("broken_off")
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(decoding, "decode", refuse)
        with pytest.raises(OSError, match="broken"):
            job.run(prepared(folder)[0])
    return folder


@pytest.fixture
def failed(tmp_path, broken_off):
    """Such a folder of a test's own."""
    return shutil.copytree(broken_off, tmp_path, dirs_exist_ok=True)


def refuse(*_, **__):
    raise OSError("broken")


def without_room(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


def test_decoding_that_does_not_fit_names_its_chunk_and_keeps_the_latents(failed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", without_room)
        with pytest.raises(memory.OutOfMemory) as error:
            job.run(prepared(failed)[0])
    message = str(error.value)
    assert message.startswith(
        "out of memory while decoding: lower --config.sample.decode_chunk (now 8); --dry_run"
    )
    assert f"{failed / 'a.latents.safetensors'} keeps the latents" in message
    monkeypatch.setattr(sampling, "sample", refuse)
    job.run(prepared(failed, config(decode_chunk=2))[0])
    assert "a.mp4" in names(failed) and "a.latents.safetensors" not in names(failed)


def test_sampling_that_does_not_fit_names_its_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sample", without_room)
    with pytest.raises(memory.OutOfMemory, match=r"while sampling: lower .*window_batch \(now 3\)"):
        job.run(prepared(tmp_path, config(window_batch=3))[0])


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


def test_a_disk_without_room_for_the_latents_is_told_before_sampling(tmp_path, monkeypatch):
    usage = SimpleNamespace(total=2000, free=1000)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(sampling, "sample", refuse)
    work, _ = prepared(tmp_path)
    with pytest.raises(OSError, match="a.latents.safetensors: needs 0 MiB, and the disk has 0 MiB"):
        job.run(work)


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


def test_another_seed_gives_another_video(tmp_path, whole):
    other = config()
    other.seed = 1
    job.run(prepared(tmp_path, other)[0])
    assert (tmp_path / "a.mp4").read_bytes() != (whole / "a.mp4").read_bytes()


def test_random_weights_are_announced(tmp_path):
    assert "random weights, so the result is noise: unet" in prepared(tmp_path)[1][0]


def test_a_failed_decode_keeps_the_latents_and_no_half_video(failed):
    assert names(failed) == {"a.latents.safetensors", "a.preview.png"}


def test_after_a_failed_decode_the_same_command_only_decodes(failed, whole, monkeypatch):
    monkeypatch.setattr(sampling, "sample", refuse)
    work, said = prepared(failed)
    job.run(work)
    assert any("only decoding" in sentence for sentence in said)
    assert (failed / "a.mp4").read_bytes() == (whole / "a.mp4").read_bytes()
    assert names(failed) == names(whole), "latents are removed once the video is there"


@pytest.mark.parametrize("change", ["seed", "steps", "reference"])
def test_after_a_failed_decode_another_job_samples_again(failed, monkeypatch, change):
    monkeypatch.setattr(sampling, "sample", refuse)
    other, sources = config(), DEMO
    if change == "seed":
        other.seed = 1
    elif change == "steps":
        other.sample.steps = 3
    else:
        picture = image.read(DEMO.reference)
        image.write_png(failed / "other.png", 255 - picture)
        sources = Sources(**{**vars(DEMO), "reference": failed / "other.png"})
    with pytest.raises(OSError, match="broken"):
        job.run(prepared(failed, other, sources=sources)[0])


def test_damaged_latents_are_not_used(failed, monkeypatch):
    path = failed / "a.latents.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    monkeypatch.setattr(sampling, "sample", refuse)
    with pytest.raises(OSError, match="broken"):
        job.run(prepared(failed)[0])


def test_a_full_disk_while_the_video_is_written_leaves_the_latents_alone(
    failed, whole, monkeypatch
):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    decode = decoding.decode

    def fill_the_disk(*arguments, **options):
        yield from decode(*arguments, **options)
        half = (whole / "a.mp4").stat().st_size // 2  # the log has room, the video has not
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, hard))

    monkeypatch.setattr(decoding, "decode", fill_the_disk)
    monkeypatch.setattr(provenance, "describe", lambda *_: {})  # a record that has room, too
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError, match="a.mp4: cannot write this file") as error:
            job.run(prepared(failed)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(error.value)
    assert names(failed) == {"a.latents.safetensors", "a.preview.png"}


def test_latents_that_cannot_be_kept_are_decoded_all_the_same(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(provenance, "save_latents", refuse)
    work, said = prepared(tmp_path)
    job.run(work)
    assert any("sampling starts over: broken" in sentence for sentence in said)
    assert (tmp_path / "a.mp4").read_bytes() == (whole / "a.mp4").read_bytes()


def test_a_failed_run_keeps_the_older_video_and_its_record(tmp_path, whole, monkeypatch):
    for name in ("a.mp4", "a.json"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    monkeypatch.setattr(decoding, "decode", refuse)
    other = config()
    other.seed = 1
    with pytest.raises(OSError, match="broken"):
        job.run(prepared(tmp_path, other)[0])
    for name in ("a.mp4", "a.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_disk_that_is_full_before_the_record_keeps_the_older_video_too(
    tmp_path, whole, monkeypatch
):
    """Else the record would tell of another video than the one beside it."""
    older = {"a.mp4": (whole / "a.mp4").read_bytes(), "a.json": (whole / "a.json").read_bytes()}
    for name, content in older.items():
        (tmp_path / name).write_bytes(content)
    other, write = config(), Path.write_bytes
    other.seed = 1

    def full(path, content):
        if path.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="a.json: cannot write this file: No space left"):
            job.run(prepared(tmp_path, other)[0])
    assert {name: (tmp_path / name).read_bytes() for name in older} == older
    assert names(tmp_path) == {*older, "a.latents.safetensors", "a.preview.png"}
    monkeypatch.setattr(sampling, "sample", refuse)
    job.run(prepared(tmp_path, other)[0])
    assert json.loads((tmp_path / "a.json").read_text())["seed"] == 1
    assert (tmp_path / "a.mp4").read_bytes() != older["a.mp4"]


def test_what_explained_an_older_video_does_not_stay_beside_another_one(failed):
    for ending in job.EXPLANATION:
        (failed / f"a{ending}").write_bytes(b"of an older video")
    job.run(prepared(failed)[0])
    assert names(failed) == {"a.mp4", "a.json", "a.preview.png"}


def test_numbers_that_are_not_finite_end_the_run_before_decoding(tmp_path, monkeypatch):
    broken = lambda *arguments, **named: np.full((1, 4, 8, 8, 4), np.nan, np.float32)
    monkeypatch.setattr(sampling, "sample", broken)
    with pytest.raises(ValueError, match="not finite; try --config.sample.dtype=float32"):
        job.run(prepared(tmp_path)[0])
    assert names(tmp_path) == {"a.preview.png"}


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
