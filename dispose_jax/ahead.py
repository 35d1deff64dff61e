"""Programs of later stages compiled from shapes while earlier stages run.

Compiling takes most of a first clip's time, and one core compiles one program at a time. jit keeps
what is compiled here, so that the stage's own call finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import jax
import jax.numpy as jnp

from dispose_jax import decoding, traces, windowed
from dispose_jax.models.network import Network
from dispose_jax.models.protocol import Model, generated

NAME = "programs compiled ahead"  # of the threads


def is_compiling() -> bool:
    """Whether a thread of ours is at work: Python waits for it when a program ends."""
    return any(thread.name == NAME for thread in threading.enumerate())


def start(
    model: Model,
    networks: Mapping[str, Network],
    config,
    num_frames: int,
    size: tuple[int, int],
    devices: Sequence[jax.Device] | None = None,
) -> threading.Thread | None:
    """Begin to compile denoising and decoding of a clip on a thread; None where it is of no use.

    num_frames: of the clip, the reference included; size: (height, width) in pixels. What goes
    wrong here is told by the stage itself, so nothing is raised. Several processes compile in one
    order, and features that are kept between steps make other programs: then all waits its turn.
    """
    if jax.process_count() > 1 or config.sample.cache_interval > 1:
        return None

    def work() -> None:
        with suppress(Exception):
            _compile(model, networks, config, num_frames, size, devices)

    # No daemon: Python ends those inside the compiler, which aborts the process.
    thread = threading.Thread(target=work, name=NAME)
    thread.start()
    return thread


def _compile(model: Model, networks, config, num_frames: int, size, devices) -> None:
    """The work of the thread: the stages' own calls, from shapes; arguments as of `start`."""
    place, sample = windowed.placement(devices), config.sample

    def shapes(names: Sequence[str]):
        whole = lambda dtype: lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place.whole)
        own = {name: networks[name] for name in names if name in networks}
        return {name: jax.tree.map(whole(net.dtype), net.shapes) for name, net in own.items()}

    window = min(sample.window, generated(model, num_frames))
    picture = lambda *axes: jax.ShapeDtypeStruct((1, *axes, *size, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    reference = shapes(model.stages["reference"])
    shared = jax.eval_shape(model.condition_reference, reference, picture(), key)
    signals = traces.signal_shapes(config, window, *size)
    frames = shapes(model.stages["frames"])
    encode = partial(model.condition_frames, signals=None)
    parts = (
        jax.eval_shape(encode, frames, picture(window))
        if signals is None
        else jax.eval_shape(model.condition_frames, frames, picture(window), signals)
    )
    latent = model.latent_shape(*size)
    step = windowed.traced(
        model,
        shapes(model.stages["sampling"]),
        shared.replace(**parts),
        latent,
        sample.window_batch,
        place,
        halves=2 if traces.is_guided(config) else 1,
    )
    step.lower().compile()
    if not threading.main_thread().is_alive():
        return  # the run has ended
    chunk = sample.decode_chunk
    if generated(model, num_frames) >= chunk or sample.decode_rest == "whole":
        decoder = shapes(model.stages["decoding"])
        decoding.traced(model, decoder, latent, chunk, place).lower().compile()
