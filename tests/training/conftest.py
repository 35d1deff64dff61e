"""Toy runs in this process and in others."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from safetensors.numpy import load_file

from dispose_jax.training import loop
from tests.training import toy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where compiled programs are kept: every run of these tests compiles the same few."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, name) for name in names]
    folder = tmp_path_factory.mktemp("compiled")
    for name, value in zip(names, (str(folder), 0.0)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in zip(names, before):
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def one_device(monkeypatch):
    """A mesh of one device among the eight of the tests, unless a test says otherwise."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    make_mesh = jax.make_mesh
    some = lambda shape, *rest, **more: make_mesh(
        shape, *rest, devices=jax.devices()[: int(np.prod(shape))], **more
    )
    monkeypatch.setattr(jax, "make_mesh", some)


@pytest.fixture
def devices(monkeypatch):
    """devices(n): as if the machine had so many."""
    return lambda count: monkeypatch.setattr(jax, "device_count", lambda: count)


@pytest.fixture
def run(monkeypatch, tmp_path, compiled):
    """run(name, **config.train) -> what was said; the run's directory is tmp_path / name.

    One device unless a mesh is given.
    """
    toy.install(monkeypatch.setattr)

    def go(name="run", *, given=(), seed=42, change=lambda config: None, **train):
        config = toy.config(**train)
        config.seed = seed
        change(config)
        said = []
        loop.train(loop.Run(config, given, tmp_path / name, say=said.append))
        return said

    return go


@pytest.fixture
def start(tmp_path, compiled):
    """start(name, *flags, devices=1, stay=steps, largest=KiB of a file) -> the process of a toy
    run; none outlives the test."""
    (tmp_path / "toy.py").write_text(toy.CONFIG)
    started = []

    def go(name="run", *flags, devices=1, stay=10_000, largest=None):
        command = [sys.executable, "-m", "tests.training.toy", f"--config={tmp_path}/toy.py"]
        command += [f"--workdir={tmp_path / name}", f"--config.train.steps={stay}", *flags]
        count = f"--xla_force_host_platform_device_count={devices}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {count}",  # the last one counts
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
        }
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        if largest:
            command = ["bash", "-c", f'ulimit -f {largest}; exec "$@"', "--", *command]
            # Python and JAX keep what they wrote of a file, and other tests would read that half.
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
            environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "cache")
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipe))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def losses(folder: Path) -> dict[int, float]:
    """{step: loss} of a run's metrics.jsonl; a step measured twice is an error."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["loss"] for line in lines}
    assert len(found) == len(lines)
    return found


def wait_for(process, folder: Path, steps: int, seconds: float = 120) -> None:
    """Until a run has measured so many steps."""
    end = time.monotonic() + seconds
    file = folder / "metrics.jsonl"
    while not (file.exists() and file.read_text().count("\n") >= steps):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "the run takes too long"
        time.sleep(0.02)


def stop_after(monkeypatch, step) -> None:
    """Let this process get SIGTERM when a step has been measured."""
    add = loop.Metrics.add

    def measured(self, done, scalars):
        add(self, done, scalars)
        if done == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Metrics, "add", measured)


def steps_saved(folder: Path) -> list[int]:
    """Steps whose checkpoints a run has, in order."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdecimal())


def trained(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of the bundle that a run left."""
    return load_file(folder / "bundle" / "vae.safetensors")
