"""A run: the same numbers however it is interrupted, continued and laid out."""

import errno
import json
import os
import random
import signal
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import memory
from dispose_jax.models import bundle
from dispose_jax.training import loop, multihost, objectives, sharding
from dispose_jax.training.checkpoint import Checkpoints
from tests.training import toy
from tests.training.conftest import losses, steps_saved, stop_after, trained, wait_for

pytestmark = pytest.mark.usefixtures("one_device")


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


def test_a_doubt_about_the_region_is_said_before_the_first_step(run, monkeypatch):
    monkeypatch.setattr(loop, "region_in_doubt", lambda source, config: "nobody has hands")
    said = run(steps=1)
    assert said.index("warning: nobody has hands") < said.index("compiling ...")


def test_no_batch_is_put_on_the_devices_before_the_step_before_the_last_is_done(run, monkeypatch):
    objective, place, add = toy.objective, sharding.place_batch, loop.Metrics.add
    scalars, waiting = [], []

    def slow(*arguments):
        made = objective(*arguments)

        def loss(params, batch, key):
            value, more = made.loss(params, batch, key)
            work = jax.lax.fori_loop(
                0, 40, lambda _, x: jnp.tanh(x @ x), jnp.full((400, 400), value)
            )
            return value + 0 * jax.lax.stop_gradient(work.mean()), more

        return made._replace(loss=loss)

    def placed(*arguments, **options):
        waiting.append(sum(not loss.is_ready() for loss in scalars))
        return place(*arguments, **options)

    def added(self, step, found):
        scalars.append(found["loss"])
        add(self, step, found)

    monkeypatch.setattr(objectives, "build", slow)
    monkeypatch.setattr(sharding, "place_batch", placed)
    monkeypatch.setattr(loop.Metrics, "add", added)
    run(steps=8, log_every=100, save_every=0)
    assert len(waiting) == 8 and max(waiting) == 1  # the devices always have a step to go on with


@pytest.mark.parametrize("step", [1, 2, 4])
def test_sigterm_saves_and_the_same_command_gives_what_one_run_gives(
    run, tmp_path, monkeypatch, step
):
    run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        said = run("parts")
    done = max(losses(tmp_path / "parts"))
    assert said[-1].startswith(f"stopped after step {done}, saved; the same command continues, ")
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


def test_the_last_touch_looks_at_the_next_batches_of_all_processes(run, tmp_path, monkeypatch):
    """Each process makes its own rows alone; here there is one, which made them all, too."""
    seen, opened, objective = [], [], toy.objective

    def touching(*arguments):
        finish = lambda params, batches: seen.extend(batches) or params
        return objective(*arguments)._replace(finish=finish)

    def opening(config, rows=None):
        opened.append(rows)
        return toy.Noise(config, rows)

    run(steps=2)
    monkeypatch.setattr(objectives, "build", touching)
    monkeypatch.setattr(loop, "open_source", opening)
    run(steps=4)  # from a checkpoint
    source = toy.Noise(toy.config())
    source.restore({"next": 4})
    assert len(seen) == loop.FINISH_BATCHES and opened[-1] is None
    for batch in seen:
        np.testing.assert_array_equal(batch.frames, next(source).frames)


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


def test_a_run_that_was_stopped_gives_its_bundle_and_goes_on_as_if_it_had_not(
    run, tmp_path, monkeypatch
):
    run("whole", decay="cosine")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        said = run(decay="cosine")
    done = steps_saved(tmp_path / "run")[-1]
    assert 3 <= done < 6 and "--config.train.steps=1 it writes the bundle" in said[-1]
    assert run(decay="cosine", steps=1)[-1].startswith(f"trained to step {done}; wrote")
    assert max(losses(tmp_path / "run")) == done, "and learns nothing"
    early = trained(tmp_path / "run")
    assert f"continuing after step {done}" in run(decay="cosine")
    same(trained(tmp_path / "run"), trained(tmp_path / "whole"))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    with pytest.raises(AssertionError):
        same(early, trained(tmp_path / "run"))


def test_what_a_killed_save_left_is_removed(run, tmp_path):
    run(steps=2)
    left = tmp_path / "run" / "checkpoints" / "3.orbax-checkpoint-tmp-171"
    left.mkdir()
    (left / "part").write_text("x")
    run(steps=4)
    assert not left.exists() and steps_saved(tmp_path / "run")[-1] == 4


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


# A process each; SIGTERM in this one has a test above.
@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.full), signal.SIGINT, signal.SIGHUP],
)
def test_sigterm_ctrl_c_and_a_closed_terminal_save_and_end_well(start, tmp_path, number):
    process = start("run", "--config.train.save_every=1000000")
    wait_for(process, tmp_path / "run", 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done = max(losses(tmp_path / "run"))
    assert out.splitlines()[-1].startswith(f"stopped after step {done}, saved; the same command")
    assert steps_saved(tmp_path / "run") == [done] and "Traceback" not in err


@pytest.mark.parametrize("part", ["trace", "lower", "compile"])
def test_a_run_that_is_told_to_stop_while_it_compiles_ends_at_once(
    run, tmp_path, monkeypatch, part
):
    over = threading.Event()

    def compile_for_long(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        # The compiler is one long call; the rest has lines, between which signals are heard.
        while not over.wait(60 if part == "compile" else 0.01):
            assert time.monotonic() - start < 30

    def step(*_):
        steps = {"trace": lambda *_: whole, "lower": lambda *_: whole, "compile": lambda *_: None}
        whole = types.SimpleNamespace(jaxpr=jax.make_jaxpr(lambda: 0)())
        vars(whole).update({**steps, part: compile_for_long})
        return whole

    with monkeypatch.context() as patch:
        patch.setattr(loop.step, "jitted", step)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run()
        assert time.monotonic() - start < 30
    over.set()
    assert steps_saved(tmp_path / "run") == []
    run()
    assert [*losses(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_step_follows_what_jax_is_told_around_the_run(run, monkeypatch):
    """As of the precision of products, which it keeps for each thread."""
    seen, objective = [], toy.objective

    def watched(*arguments):
        made = objective(*arguments)

        def loss(*of):
            seen.append(jax.config.jax_default_matmul_precision)
            return made.loss(*of)

        return made._replace(loss=loss)

    monkeypatch.setattr(objectives, "build", watched)
    with jax.default_matmul_precision("float32"):
        run(steps=1)
    assert seen and {*seen} == {"float32"}


def test_a_step_that_fits_no_device_says_what_helps_before_it_is_taken(run, monkeypatch):
    def compiling(*_):
        raise toy.exhausted()

    monkeypatch.setattr(loop.stopping, "heard", compiling)
    with pytest.raises(memory.OutOfMemory, match="raise --config.train.accumulate"):
        run()


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
