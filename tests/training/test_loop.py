"""A run: the same numbers however it is interrupted, continued and laid out, or one sentence."""

import errno
import json
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dispose_jax.models import bundle
from dispose_jax.training import loop, multihost, progress
from dispose_jax.training.checkpoint import Checkpoints
from tests.training import toy
from tests.training.conftest import losses, wait_for

pytestmark = pytest.mark.usefixtures("one_device")


def stop_after(monkeypatch, step):
    """Send this process SIGTERM when a step has been measured."""
    add = loop.Metrics.add

    def measured(self, done, scalars):
        add(self, done, scalars)
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Metrics, "add", measured)


def steps_saved(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def trained(folder):
    return load_file(folder / "bundle" / "vae.safetensors")


def same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_run_learns_measures_every_step_and_leaves_a_bundle(run, tmp_path):
    said = run(steps=30, learning_rate=0.02, save_every=0)
    found = losses(tmp_path / "run")
    assert [*found] == [*range(1, 31)]
    assert np.mean([found[i] for i in range(21, 31)]) < 0.8 * np.mean([found[i] for i in (1, 2, 3)])
    assert said[-1] == f"trained to step 30; wrote {tmp_path / 'run' / 'bundle'}"
    assert bundle.describe(tmp_path / "run" / "bundle")["networks"]["vae"]["tensors"] == 4
    assert not [*(tmp_path / "run").glob(".bundle*")]


@pytest.mark.parametrize("step", [1, 2, 4])
def test_sigterm_saves_and_the_same_command_gives_what_one_run_gives(
    run, tmp_path, monkeypatch, step
):
    run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        said = run("parts")
    done = max(losses(tmp_path / "parts"))
    assert said[-1] == f"stopped after step {done}, saved; the same command continues"
    assert step <= done <= step + 1 and steps_saved(tmp_path / "parts")[-1] == done
    said = run("parts")
    assert f"continuing after step {done}" in said
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same(trained(tmp_path / "parts"), trained(tmp_path / "whole"))


def test_the_bundle_and_the_pictures_get_the_average_which_survives_an_interruption(
    run, tmp_path, monkeypatch
):
    shown = []
    show = lambda self, current: shown.append(jax.device_get(current.result))
    settings = {"average": 0.8, "learning_rate": 0.1, "sample_every": 6}
    run("last", learning_rate=0.1)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "show", show)
        run("whole", **settings)
        with monkeypatch.context() as stopping:
            stop_after(stopping, 3)
            run("parts", **settings)
        run("parts", **settings)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") == losses(tmp_path / "last")
    same(trained(tmp_path / "parts"), trained(tmp_path / "whole"))
    last, average = trained(tmp_path / "last"), trained(tmp_path / "whole")
    assert any(np.abs(last[name] - average[name]).max() > 0.01 for name in last)
    kernel = shown[0]["vae"]["inner"]["kernel"]
    np.testing.assert_array_equal(kernel, shown[1]["vae"]["inner"]["kernel"])
    assert any(
        np.array_equal(kernel, tensor) or np.array_equal(kernel, tensor.T)
        for tensor in average.values()
        if tensor.ndim == 2
    )


def test_a_run_that_broke_off_repeats_only_what_no_checkpoint_holds(run, tmp_path, monkeypatch):
    run("whole")
    next_batch = toy.Noise.__next__

    def gone(self):
        if self.next == 5:
            raise ValueError("the disk of the clips is gone")
        return next_batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(toy.Noise, "__next__", gone)
        with pytest.raises(ValueError, match="the disk of the clips is gone"):
            run("parts")
    assert max(losses(tmp_path / "parts")) >= 4 and steps_saved(tmp_path / "parts") == [2, 4]
    said = run("parts")
    assert "continuing after step 4" in said
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_as_many_checkpoints_stay_as_are_asked_for(run, tmp_path):
    run(steps=9, save_every=1, keep=3)
    assert steps_saved(tmp_path / "run") == [7, 8, 9]


def test_a_checkpoint_holds_the_state_of_its_step_though_later_ones_reuse_its_memory(
    run, tmp_path, monkeypatch
):
    """Each state is copied, waiting, when it is saved; the files must say the same."""
    copies = {}
    save = Checkpoints.save

    def copied(self, state, position):
        copies[int(state.step)] = jax.tree.map(np.array, jax.device_get(state))
        save(self, state, position)

    monkeypatch.setattr(Checkpoints, "save", copied)
    run(steps=12, save_every=1, keep=12, learning_rate=0.1)
    assert steps_saved(tmp_path / "run") == [*range(1, 13)]
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for step, state in copies.items():
        checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", 12)
        monkeypatch.setattr(Checkpoints, "latest", step)
        held, position = checkpoints.restore(state, jax.tree.map(lambda _: device, state))
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(held), state)
        assert position == {"next": step}
        checkpoints.close()


def test_what_a_killed_save_left_is_removed(run, tmp_path):
    run(steps=2)
    left = tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp-171"
    left.mkdir()
    (left / "part").write_text("x")
    run(steps=4)
    assert not left.exists() and steps_saved(tmp_path / "run")[-1] == 4


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


def test_a_finished_run_can_be_prolonged_and_its_bundle_is_replaced_when_the_new_one_is_whole(
    run, tmp_path, monkeypatch
):
    run("whole", steps=6)
    run(steps=4)
    before = trained(tmp_path / "run")

    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(loop.bundle.tensor_file, "write", full)
        with pytest.raises(OSError, match="bundle: cannot write this file: No space left"):
            run(steps=6)
    same(before, trained(tmp_path / "run"))
    assert run(steps=6)[-1].startswith("trained to step 6; wrote")
    same(trained(tmp_path / "run"), trained(tmp_path / "whole"))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert not [*(tmp_path / "run").glob(".bundle*")]
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert held["train"]["steps"] == 6


@pytest.mark.parametrize(
    "after",
    [*(pytest.param(m, marks=pytest.mark.full) for m in [(8, 1, 1), (2, 4, 1)]), (2, 2, 2)],
)
def test_a_run_continues_on_other_devices(run, tmp_path, monkeypatch, devices, after):
    run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        run("parts")
    devices(8)
    mesh = dict(zip(("data", "fsdp", "frames"), after))
    said = run("parts", change=lambda c: c.train.mesh.update(mesh | {"smallest": 0.0}))
    assert any(line.startswith("continuing after step") for line in said)
    whole, parts = (losses(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    np.testing.assert_allclose([*parts.values()], [*whole.values()], rtol=2e-6)
    devices(1)
    assert run("parts", steps=8)[-1].startswith("trained to step 8")


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


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


def refusing(function, name):
    """open, except that writing to files of that name finds no room."""

    def wrapped(file, mode="r", *rest, **named):
        if str(file).endswith(name) and "a" in mode:
            full_disk()
        return function(file, mode, *rest, **named)

    return wrapped


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


# A process each; SIGTERM in this one has a test above.
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGINT]
)
def test_sigterm_and_ctrl_c_save_and_end_well(start, tmp_path, number):
    process = start("run", "--config.train.save_every=1000000")
    wait_for(process, tmp_path / "run", 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done = max(losses(tmp_path / "run"))
    assert out.splitlines()[-1] == f"stopped after step {done}, saved; the same command continues"
    assert steps_saved(tmp_path / "run") == [done] and "Traceback" not in err


def killed(start, run, tmp_path, moments, seed):
    """Kill a run at random moments, then let it finish; its losses are those of a whole run."""
    dice = random.Random(seed)
    flags = ("--config.train.save_every=3",)
    for _ in range(moments):
        process = start("parts", *flags)
        folder = tmp_path / "parts"
        before = len(losses(folder)) if (folder / "metrics.jsonl").exists() else 0
        if dice.random() < 0.7 or not before:
            wait_for(process, folder, before + dice.randrange(1, 12))
        else:
            time.sleep(dice.uniform(0.5, 6))
        process.kill()
        process.communicate()
    end = max(losses(tmp_path / "parts")) + 5
    process = start("parts", *flags, stay=end)
    assert process.wait(300) == 0, process.communicate()[1]
    run("whole", steps=end, save_every=0)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same(trained(tmp_path / "parts"), trained(tmp_path / "whole"))


def test_a_killed_run_continues_with_the_same_numbers(start, run, tmp_path):
    killed(start, run, tmp_path, 1, seed=1)


@pytest.mark.full  # a process for every kill
def test_a_run_killed_often_continues_with_the_same_numbers(start, run, tmp_path):
    killed(start, run, tmp_path, 12, seed=2)


def test_only_the_first_process_speaks(monkeypatch, tmp_path):
    monkeypatch.setattr(multihost, "is_lead", lambda: False)
    toy.install(monkeypatch.setattr)
    said = []
    loop.Run(toy.config(), (), tmp_path, say=said.append).say("hello")
    assert said == []
