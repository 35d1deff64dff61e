"""A training step of the U-Net here and of the original one in PyTorch (diffusers), same weights.

  python -m benchmarks.train_against_pytorch --cores 1             # the small model on a CPU
  python -m benchmarks.train_against_pytorch --config configs/svd.py:size=full,stage=base --batch 1

Needs the `parity` extra. Timed in alternation: forward, squared error, gradient of all parameters,
the limit on their norm, AdamW; below 1 ours is faster. Both compute gradients again per layer with
--remat layer (in PyTorch: gradient checkpointing). Parameters are float32; --dtype bfloat16 is ours
as in training, and autocast in PyTorch. The encoders around the U-Net are left out on both sides.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import against_pytorch, measure, train_step
from dispose_jax.models import networks
from dispose_jax.training import optimizer


class DrawnBatch(NamedTuple):
    """What a step learns from, random: host arrays of b clips, latents (b, f, h, w, c)."""

    x: np.ndarray  # noised latents beside the reference's
    target: np.ndarray
    context: np.ndarray  # (b, 1, d)
    t: np.ndarray  # (b,)
    ids: np.ndarray  # (b, 3) added time ids


def run(config, repeats: int = 3) -> dict[str, float]:
    """Seconds of a step by both, their ratios, and how far loss and gradient norm are apart."""
    train, latent = config.train, config.model.vae.latent_channels
    width = config.model.image_encoder.projection
    dtype = jnp.dtype(networks.compute_dtype(train.dtype))
    place = "cpu" if measure.on_cpu() else "cuda"
    theirs = against_pytorch.original(config.model.unet, latent, width, train.frames)
    theirs = theirs.to(place).train()
    batch = _batch(train, latent, width)
    step_ours, compile_s = _ours(config, theirs, batch, dtype)
    calls = {"ours": step_ours, "torch": _torch_step(train, theirs, batch, dtype, place)}
    figures = {"ours_compile_s": compile_s}
    told = {name: [float(value) for value in call()] for name, call in calls.items()}
    for what, a, b in zip(("loss", "gradient norm"), told["ours"], told["torch"]):
        figures[f"{what}, relative difference"] = abs(a - b) / abs(b)
    return figures | measure.against(calls, repeats)


def _batch(train, latent: int, width: int) -> DrawnBatch:
    """A batch of `config.train`'s size."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    b, f, grid = train.batch, train.frames, (train.height // 8, train.width // 8)
    return DrawnBatch(
        x=normal(b, f, *grid, 2 * latent),
        target=normal(b, f, *grid, latent),
        context=normal(b, 1, width),
        t=np.full(b, 1.3, np.float32),
        ids=np.tile(np.float32([6, 127, 0]), (b, 1)),
    )


def _ours(config, theirs, batch: DrawnBatch, dtype) -> tuple[Callable, float]:
    """A call that takes one of our steps and gives loss and gradient norm, and the seconds that
    compiling took."""
    train, latent = config.train, config.model.vae.latent_channels
    ours, params = against_pytorch.counterpart(
        config.model.unet,
        latent,
        theirs,
        jnp.dtype("float32"),
        *(batch.x, batch.t, batch.context, batch.ids),
    )
    ours = ours.clone(flavour=replace(ours.flavour, dtype=dtype, remat=train.remat == "layer"))
    transformation = optimizer.build(train)

    def one(params, moments, batch: DrawnBatch):
        def loss(params):
            given = batch.x, batch.t, batch.context
            made = ours.apply({"params": params}, *given, added_time=batch.ids)
            return jnp.square(made - batch.target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = transformation.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value, optax.global_norm(gradient)

    placed = jax.device_put(batch)
    held = [params, transformation.init(params)]
    start = time.perf_counter()
    program = jax.jit(one, donate_argnums=(0, 1)).lower(*held, placed).compile()
    compile_s = time.perf_counter() - start

    def step():
        held[0], held[1], *told = program(*held, placed)
        return told

    return step, compile_s


def _torch_step(train, theirs, batch: DrawnBatch, dtype, place: str) -> Callable:
    """A call that takes one of their steps and gives loss and gradient norm."""
    import torch

    if train.remat == "layer":
        theirs.enable_gradient_checkpointing()
    adam = torch.optim.AdamW(
        theirs.parameters(),
        lr=train.learning_rate,
        betas=(train.b1, train.b2),
        eps=train.epsilon,
        weight_decay=train.weight_decay,
    )
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(place)
    frames_first = lambda a: tensor(np.moveaxis(a, -1, 2))
    inputs = frames_first(batch.x), tensor(batch.t), tensor(batch.context), tensor(batch.ids)
    wanted = frames_first(batch.target)

    def step():
        half = dtype == jnp.bfloat16
        with torch.autocast(place, torch.bfloat16, enabled=half):
            made = theirs(*inputs).sample
        value = (made.float() - wanted).square().mean()
        adam.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), train.clip)
        adam.step()
        return float(value.detach()), float(norm)  # waits for the device

    return step


def main() -> None:
    options, config = train_step.parse(argparse.ArgumentParser(description=__doc__))
    import torch

    if measure.on_cpu():
        torch.set_num_threads(options.cores or torch.get_num_threads())
    print(train_step.heading(options, config))
    for name, value in run(config, options.repeats).items():
        print(f"  {name:<36}{value:12.4g}")


if __name__ == "__main__":
    main()
