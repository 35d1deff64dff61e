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
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import against_pytorch, measure, train_step
from dispose_jax.models import networks
from dispose_jax.training import optimizer


def run(config, repeats: int = 3) -> dict[str, float]:
    """Seconds of a step by both, their ratios, and how far loss and gradient norm are apart."""
    import torch

    train, sizes = config.train, config.model.unet
    latent, width = config.model.vae.latent_channels, config.model.image_encoder.projection
    dtype = jnp.dtype(networks.compute_dtype(train.dtype))
    place = "cpu" if measure.on_cpu() else "cuda"
    theirs = against_pytorch.original(sizes, latent, width, train.frames).to(place).train()
    if train.remat == "layer":
        theirs.enable_gradient_checkpointing()
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    b, f, grid = train.batch, train.frames, (train.height // 8, train.width // 8)
    x, target, context = (
        normal(b, f, *grid, 2 * latent),
        normal(b, f, *grid, latent),
        normal(b, 1, width),
    )
    t, ids = np.full(b, 1.3, np.float32), np.tile(np.float32([6, 127, 0]), (b, 1))

    ours, params = against_pytorch.counterpart(
        sizes, latent, theirs, jnp.dtype("float32"), x, t, context, ids
    )
    ours = ours.clone(flavour=replace(ours.flavour, dtype=dtype, remat=train.remat == "layer"))
    transformation = optimizer.build(train)

    def one(params, moments, x, target, context, t, ids):
        def loss(params):
            made = ours.apply({"params": params}, x, t, context, added_time=ids)
            return jnp.square(made - target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = transformation.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, value, optax.global_norm(gradient)

    arguments = jax.device_put((x, target, context, t, ids))
    held = [params, transformation.init(params)]
    start = time.perf_counter()
    program = jax.jit(one, donate_argnums=(0, 1)).lower(*held, *arguments).compile()
    seconds = {"ours_compile_s": time.perf_counter() - start}

    def step_ours():
        held[0], held[1], *told = program(*held, *arguments)
        return told

    adam = torch.optim.AdamW(
        theirs.parameters(),
        lr=train.learning_rate,
        betas=(train.b1, train.b2),
        eps=train.epsilon,
        weight_decay=train.weight_decay,
    )
    tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(place)
    frames_first = lambda a: tensor(np.moveaxis(a, -1, 2))
    inputs = frames_first(x), tensor(t), tensor(context), tensor(ids)
    wanted = frames_first(target)

    def step_theirs():
        half = dtype == jnp.bfloat16
        with torch.autocast(place, torch.bfloat16, enabled=half):
            made = theirs(*inputs).sample
        value = (made.float() - wanted).square().mean()
        adam.zero_grad(set_to_none=True)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), train.clip)
        adam.step()
        return float(value.detach()), float(norm)  # waits for the device

    told = {"ours": [float(v) for v in step_ours()], "torch": step_theirs()}
    for i, what in enumerate(("loss", "gradient norm")):
        a, b = told["ours"][i], told["torch"][i]
        seconds[f"{what}, relative difference"] = abs(a - b) / abs(b)
    calls = {"ours": step_ours, "torch": step_theirs}
    for name, taken in measure.alternate(calls, repeats).items():
        seconds |= {f"{name}_wall_s": taken.wall, f"{name}_cpu_s": taken.cpu}
    for clock in ("cpu", "wall") if measure.on_cpu() else ("wall",):
        ratio = seconds[f"ours_{clock}_s"] / seconds[f"torch_{clock}_s"]
        seconds[f"ours / torch, {clock} time"] = ratio
    return seconds


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
