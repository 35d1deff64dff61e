"""What a job keeps when it fails, and what the same command resumes."""

import errno
import json
import resource
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dispose_jax import decoding, job, memory, provenance, sampling
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, output
from tests.job.given import DEMO, config, names, prepared, refuse


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


def test_a_disk_without_room_for_the_latents_is_told_before_sampling(tmp_path, monkeypatch):
    usage = SimpleNamespace(total=2000, free=1000)
    monkeypatch.setattr(output.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(sampling, "sample", refuse)
    work, _ = prepared(tmp_path)
    with pytest.raises(OSError, match="a.latents.safetensors: needs 0 MiB, and the disk has 0 MiB"):
        job.run(work)


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
