"""What goes wrong in a run is one sentence, and what was saved before stays sound."""

import errno
import shutil

import numpy as np
import pytest

from dispose_jax.training import loop, progress
from tests.training import toy
from tests.training.conftest import losses, steps_saved, stop_after, trained

pytestmark = pytest.mark.usefixtures("one_device")


def refused(path):
    raise PermissionError(errno.EPERM, "Operation not permitted", "part")


def test_what_keeps_checkpoints_from_being_saved_is_told_before_anything_is_read(
    run, tmp_path, monkeypatch
):
    run(steps=2)
    checkpoints = tmp_path / "run" / "checkpoints"
    left = checkpoints / "3.orbax-checkpoint-tmp-171"
    left.mkdir()
    monkeypatch.setattr(loop.start, "start", lambda *_: pytest.fail("too late"))
    with monkeypatch.context() as patch:
        patch.setattr("dispose_jax.training.checkpoint.shutil.rmtree", refused)
        with pytest.raises(ValueError, match=f"^{left}: was left .*not permitted.; delete it and"):
            run(steps=4)
    shutil.rmtree(checkpoints)
    checkpoints.write_text("a file")
    with pytest.raises(OSError, match=f"^{checkpoints}: cannot write this file: File exists"):
        run(steps=4)


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(toy.Noise, "broken", 4)
    with pytest.raises(ValueError) as error:
        run(log_every=3)
    message = str(error.value)
    assert message.startswith("step 5: gradient_norm nan, loss nan; training stopped")
    assert f"the last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '4'};" in message
    assert steps_saved(tmp_path / "run") == [2, 4]
    checkpoint = tmp_path / "run" / "checkpoints"
    monkeypatch.setattr(toy.Noise, "broken", None)
    run(log_every=3)  # the data has been mended: what was saved is sound
    assert all(np.isfinite(tensor).all() for tensor in trained(tmp_path / "run").values())
    assert checkpoint.is_dir()


def test_nothing_good_to_go_back_to_is_said_too(run, tmp_path, monkeypatch):
    monkeypatch.setattr(toy.Noise, "broken", 0)
    with pytest.raises(ValueError, match="step 1: .*loss nan.*none was saved; a lower"):
        run()
    assert steps_saved(tmp_path / "run") == []


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def refusing(function, name):
    """open, except that writing to files of that name finds no room."""

    def wrapped(file, mode="r", *rest, **named):
        if str(file).endswith(name) and "a" in mode:
            full_disk()
        return function(file, mode, *rest, **named)

    return wrapped


def test_a_full_disk_is_one_sentence(run, tmp_path, monkeypatch):
    """Whichever file meets it first: the checkpoint's, that of measurements, the picture."""
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refusing(open, "metrics.jsonl"))
        with pytest.raises(OSError, match="metrics.jsonl: cannot write this file: No space left"):
            run("metrics")
    with monkeypatch.context() as patch:
        patch.setattr(progress.image, "write_png", full_disk)
        with pytest.raises(OSError, match="samples: cannot write this file: No space left"):
            run("samples", sample_every=2)
    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", full_disk)
        with pytest.raises(ValueError, match="a checkpoint could not be written .*No space left"):
            run("checkpoints")


@pytest.mark.full
def test_files_that_cannot_be_written_to_the_end_are_one_line_of_the_command(start, tmp_path):
    """As of a full disk: the system refuses to let files grow, in orbax's threads too."""
    process = start("run", largest=6)
    out, err = process.communicate(timeout=120)
    lines = [line for line in err.splitlines() if not line.startswith("step ")]
    assert process.returncode == 1 and lines[-1].startswith("toy.py: ")
    assert "a checkpoint could not be written (File too large); the same command" in lines[-1]
    assert "Traceback" not in err and steps_saved(tmp_path / "run") == []


def test_what_goes_wrong_in_the_background_is_told(run, monkeypatch):
    def late(self):
        raise RuntimeError("NOSPC: writing d/1234\nmany\nlines")

    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.wait_until_finished", late)
    with pytest.raises(ValueError, match=r"could not be written \(NOSPC: writing d/1234\); the"):
        run()


def test_a_directory_that_disappears_ends_the_run_with_a_sentence(run, tmp_path, monkeypatch):
    write = loop.Metrics.write

    def removed(self, **more):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return write(self, **more)

    monkeypatch.setattr(loop.Metrics, "write", removed)
    with pytest.raises((ValueError, OSError), match="run/.*: (cannot write|a checkpoint could)"):
        run()


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "noise", "one is cut", "no metadata", "no data"]
)
def test_a_damaged_checkpoint_is_named(run, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        run()
    newest = tmp_path / "run" / "checkpoints" / str(steps_saved(tmp_path / "run")[-1])
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size > 500]
    tensors = [path for path in files if path.parent.name == "d"]
    if damage == "one is cut":
        largest = max(tensors, key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:9000])
    elif damage == "no metadata":
        (newest / "state" / "_METADATA").unlink()
    elif damage == "no data":
        for path in (newest / "data").iterdir():
            path.unlink()
    for path in tensors if damage in ("cut", "empty", "noise") else ():
        content = path.read_bytes()
        half = len(content) // 2
        new = {"cut": content[:half], "empty": b"", "noise": content[:99] + bytes(half)}[damage]
        path.write_bytes(new)
    with pytest.raises(ValueError, match=f"{newest}: cannot be restored .*; remove this") as error:
        run()
    assert "\n" not in str(error.value)
    shutil.rmtree(newest)
    run()
    assert max(losses(tmp_path / "run")) == 6


@pytest.mark.full
@pytest.mark.parametrize("damage", ["every file is empty", "one file is cut"])
def test_a_damaged_checkpoint_is_one_line_of_the_command(start, run, tmp_path, damage):
    assert start(stay=6).wait(120) == 0
    state = tmp_path / "run" / "checkpoints" / "6" / "state"
    if damage == "one file is cut":
        largest = max(state.rglob("d/*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:9000])
    for path in (state / "d").iterdir() if damage == "every file is empty" else ():
        path.write_bytes(b"")
    process = start(stay=9)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.startswith("toy.py: ") and "cannot be restored" in err and err.count("\n") == 1
