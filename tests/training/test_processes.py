"""Several processes, and real networks on every kind of mesh: the same numbers everywhere."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from dispose_jax.training import multihost
from tests.training import toy
from tests.training.conftest import ROOT, losses, wait_for

MESHES = ("8,1,1", "2,2,2")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def pair(start):
    """pair(name, *flags) -> two processes of one toy run with four devices each; own: more flags
    of each."""
    mesh = ("--config.train.mesh.fsdp=2", "--config.train.mesh.frames=2")
    shared = (*mesh, "--config.train.mesh.smallest=0", "--num_processes=2")

    def go(name, *flags, stay=10_000, own=((), ())):
        where = f"--coordinator=localhost:{free_port()}"
        one = lambda i: start(
            name, *shared, where, f"--process_id={i}", *flags, *own[i], devices=4, stay=stay
        )
        return one(0), one(1)

    return go


@pytest.mark.full
def test_two_processes_stop_together_and_continue_with_the_numbers_of_one(pair, run, tmp_path):
    first, second = pair("pair", "--config.train.save_every=0")
    wait_for(first, tmp_path / "pair", 2)
    second.send_signal(signal.SIGTERM)  # the second alone is told
    texts = [process.communicate(timeout=200) for process in (first, second)]
    assert first.returncode == second.returncode == 0, texts
    done = max(losses(tmp_path / "pair"))
    assert f"stopped after step {done}, saved" in texts[0][0]
    assert "saved" not in texts[1][0] and "loss" not in texts[1][1]  # the first one speaks
    for process in pair("pair", stay=done + 3):
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    run("whole", steps=done + 3)
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "pair")
    assert whole.keys() == parts.keys()
    np.testing.assert_allclose([*parts.values()], [*whole.values()], rtol=1e-5)
    names = {path.name for path in (tmp_path / "pair").iterdir()}
    assert names - {"tensorboard"} == {
        *("config.json", "run.json", "metrics.jsonl", "checkpoints", "bundle", ".lock")
    }


@pytest.mark.full  # two processes; the one above is in the default suite
def test_what_stops_the_first_process_stops_the_others(pair, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("hello")
    first, second = pair("taken")
    texts = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 1
    assert texts[0].count("holds something that is no run; name another") == 1
    assert "its message says why" in texts[1] and "Traceback" not in texts[0] + texts[1]


@pytest.mark.full
def test_a_directory_that_only_one_process_sees_is_told_instead_of_waited_for(pair, tmp_path):
    first, second = pair("here", own=[(), (f"--workdir={tmp_path / 'there'}",)])
    texts = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert first.returncode == second.returncode == 1
    for text in texts:
        assert f"--workdir {tmp_path / 'there'}: config.json, which the first process" in text
        assert "Traceback" not in text


@pytest.mark.full
@pytest.mark.parametrize("process", [0, 1, toy.ALL])
@pytest.mark.parametrize(
    "trouble, step, sentence",
    [
        ("memory", 4, "out of memory while training: raise --config.train.accumulate (now 1)"),
        ("file", 4, "frames.bin: is damaged"),
        ("file", 0, "frames.bin: is damaged"),
    ],
)
def test_what_processes_meet_ends_all_with_one_sentence(
    pair, monkeypatch, process, trouble, step, sentence
):
    monkeypatch.setenv("TOY_MEETS", f"{trouble},{process},{step}")
    both = pair("full", "--config.train.save_every=2")
    while all(one.poll() is None for one in both):
        time.sleep(0.1)
    start = time.monotonic()  # before that a busy machine may take its time
    texts = [one.communicate(timeout=200)[1] for one in both]
    assert time.monotonic() - start < 25, "nobody waits for a timeout"
    assert [one.returncode for one in both] == [1, 1]
    for index, text in enumerate(texts):
        lines = [line for line in text.splitlines() if not line.startswith("step ")]
        assert len(lines) == 1, text
        other = f"toy.py: process {process} of this run had to stop: {sentence}"
        own = f"toy.py: {sentence}"
        assert lines[0].startswith(own if process in (index, toy.ALL) else other)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("node:1", None, None, False), "belong together: give all three, or --distributed"),
        ((None, 2, None, False), "belong together"),
        (("node:1", 2, 2, False), "--process_id is 2: expected 0 to --num_processes - 1, which is"),
        (("node:1", 2, -1, False), "--process_id is -1"),
        (("node", 2, 0, False), "--coordinator is 'node': expected host:port"),
        (("node:x", 2, 0, False), "--coordinator is 'node:x': expected host:port"),
        (("node:1", 2, 0, True), "--distributed finds the processes itself"),
    ],
)
def test_flags_that_do_not_fit_each_other_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        multihost.start(*flags)


def everywhere(tmp_path, stage, meshes, *flags, devices=8):
    """A process that trains real networks on each mesh."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.training.everywhere", stage, str(tmp_path), *meshes]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, **pipe)


def reported(process) -> dict[str, list]:
    """{mesh: [[loss, gradient norm] of every step]}."""
    out, err = process.communicate(timeout=3000)
    assert process.returncode == 0, err[-3000:]
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {line["mesh"]: line["losses"] for line in lines}


@pytest.mark.full  # compiles the step once for every mesh: minutes each
def test_real_networks_have_the_same_losses_on_every_mesh_and_in_two_processes(tmp_path):
    found = reported(everywhere(tmp_path / "one", "dispose", ("single", *MESHES)))
    where = ("--coordinator", f"localhost:{free_port()}", "2")
    pair = [
        everywhere(tmp_path / "two", "dispose", MESHES[-1:], *where, str(i), devices=4)
        for i in (0, 1)
    ]
    found["processes"] = reported(pair[0])[MESHES[-1]]
    assert reported(pair[1]) == {}
    expected = np.array(found.pop("single"))
    assert expected.shape == (3, 2) and np.isfinite(expected).all()
    for mesh, values in found.items():
        np.testing.assert_allclose(values, expected, rtol=1e-5, err_msg=mesh)
