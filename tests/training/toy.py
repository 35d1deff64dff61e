"""A run that costs next to nothing: a linear network on noise, in the place of the autoencoder.

All else is the real thing: loop, step, optimizer, checkpoints, directory, mesh, command. As a
command it is train.py with this network:

    python -m tests.training.toy --config FILE --workdir DIR
"""

from __future__ import annotations

import copy
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import train
from configs import svd
from dispose_jax import cli
from dispose_jax.models import networks
from dispose_jax.models.network import Network
from dispose_jax.training import loop, objectives, sources
from dispose_jax.training.objectives import Objective
from dispose_jax.types import Batch

SIDE = 8  # of the pictures
CONFIG = """
from tests.training import toy

def get_config(argument):
    return toy.config()
"""


def config(**train):
    """A run of six steps that writes every measurement and a checkpoint after every second."""
    made = svd.get_config("size=tiny,stage=vae")
    made.bundled = ()
    small = {"steps": 6, "batch": 8, "frames": 4, "log_every": 1, "save_every": 2, "warmup": 2}
    made.train.update(
        {**small, "sample_every": 0, "validate_every": 0, "decay": "constant", **train}
    )
    return made


class Linear(nn.Module):
    """Each frame's pixels to eight numbers, and the mean over frames from there."""

    dtype = jnp.float32

    @nn.compact
    def __call__(self, frames):
        x = frames.reshape(*frames.shape[:2], -1).astype(jnp.float32) / 255  # b f pixels
        x = nn.Dense(16, name="inner")(x)
        return nn.Dense(8, name="outer")(jnp.tanh(x).mean(1))


def build(*_, **__):
    module = Linear()
    frames = jnp.zeros((1, 1, SIDE, SIDE, 3))
    return {"vae": Network(module, lambda key: module.init(key, frames), jnp.float32)}


def objective(_, networks, *share):
    """Regress on the region's mean; noise that depends on the key makes every step its own."""

    def loss(params, batch, key):
        found = networks["vae"].module.apply({"params": params["vae"]}, batch.frames)
        noise = 0.1 * jax.random.normal(key, found.shape)
        target = batch.region.mean((1, 2, 3))[:, None]
        return jnp.square(found + noise - target).mean(), {"largest": jnp.abs(found).max()}

    picture = lambda params, batch, key, whole: np.asarray(batch.frames[0, 0])
    return Objective(("vae",), loss, picture)


class Noise:
    """Clips that follow from seed, position and row; `broken` is the batch that holds a NaN."""

    broken: int | None = None

    def __init__(self, config, rows=None):
        self.seed, self.frames = config.seed, config.train.frames
        self.rows = range(config.train.batch) if rows is None else rows
        self.next = 0

    def __next__(self) -> Batch:
        dice = [np.random.default_rng([self.seed, self.next, row]) for row in self.rows]
        frames = [d.integers(0, 256, (self.frames, SIDE, SIDE, 3), np.uint8) for d in dice]
        region = np.stack([d.normal(size=(self.frames, 1, 1)).astype(np.float32) for d in dice])
        if self.next == self.broken:
            region[-1, 0, 0, 0] = np.nan
        self.next += 1
        fields = dict.fromkeys(Batch.__dataclass_fields__)
        return Batch(**{**fields, "frames": np.stack(frames), "region": region})

    def state(self) -> dict:
        return {"next": self.next}

    def restore(self, state: dict) -> None:
        self.next = state["next"]

    def close(self) -> None:
        """Nothing is held."""


def held_out(config, clips, rows=None):
    """Clips of another seed."""
    config = copy.deepcopy(config)
    config.seed, config.train.batch = config.seed + 1, clips
    return Noise(config, rows)


def install(patch=setattr) -> None:
    """Put the toy in the place of the real networks, objective and data; patch as setattr."""
    patch(networks, "build", build)
    patch(objectives, "build", objective)
    patch(loop, "open_source", Noise)
    patch(sources, "held_out", held_out)


def exhausted() -> jax.errors.JaxRuntimeError:
    """What a device says that has no memory left."""
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


ALL = -1  # processes
TROUBLES = {"memory": exhausted, "file": lambda: OSError("frames.bin: is damaged")}


def meet(trouble: str, process: int, step: int) -> None:
    """Let one process of several, or ALL, meet an error after a step, before the first for 0."""
    add, open_source = loop.Metrics.add, loop.open_source

    def meeting(done: int) -> None:
        if done == step and process in (ALL, jax.process_index()):
            raise TROUBLES[trouble]()

    def measured(self, done, scalars):
        meeting(done)
        add(self, done, scalars)

    def opened(*arguments):
        meeting(0)
        return open_source(*arguments)

    loop.Metrics.add, loop.open_source = measured, opened


if __name__ == "__main__":
    install()
    if "TOY_MEETS" in os.environ:
        trouble, *where = os.environ["TOY_MEETS"].split(",")
        meet(trouble, *map(int, where))
    cli.program(train.main)
