"""The denoising U-Net here and the original one in PyTorch (diffusers), same weights, same device.

  python -m benchmarks.against_pytorch --cores 1                 # the small model on a CPU
  python -m benchmarks.against_pytorch --config configs/svd.py:size=full --height 576 --width 1024

Needs the `parity` extra. One forward of both guidance halves is timed, in alternation, with equal
numbers of threads; below 1 ours is faster. diffusers fixes 32 norm groups, so ours has 32 here too.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, step
from converters import mapping, rules
from dispose_jax.networks.unet import Flavour, UNet


def run(
    config,
    num_frames: int,
    height: int,
    width: int,
    dtype,
    repeats: int = 5,
    compiled: bool = True,
) -> dict[str, float]:
    """Seconds of a forward by both, their ratios, and the largest difference of the results.

    compiled: run torch.compile's program too, where it works.
    """
    import torch

    sizes, latent = config.model.unet, config.model.vae.latent_channels
    context_width = config.model.image_encoder.projection
    grid = (height // 8, width // 8)
    place = "cpu" if measure.on_cpu() else "cuda"
    theirs = original(sizes, latent, context_width, num_frames)
    theirs = theirs.to(place, getattr(torch, dtype.name)).eval()

    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    x, context = normal(2, num_frames, *grid, 2 * latent), normal(2, 1, context_width)
    t, ids = np.full(2, 1.3, np.float32), np.tile(np.float32([6, 127, 0]), (2, 1))

    ours, params = counterpart(sizes, latent, theirs, dtype, x, t, context, ids)
    start = time.perf_counter()
    function = lambda params, x, t, context, ids: ours.apply(
        {"params": params}, x, t, context, added_time=ids
    )
    arguments = jax.device_put((x, t, context, ids))
    program = jax.jit(function).lower(params, *arguments).compile()
    seconds = {"ours_compile_s": time.perf_counter() - start}

    tensors = [
        torch.from_numpy(a.copy()).to(place) for a in (np.moveaxis(x, -1, 2), t, context, ids)
    ]
    tensors = [tensors[0].to(theirs.dtype), tensors[1], tensors[2].to(theirs.dtype), tensors[3]]

    def forward(module):
        with torch.inference_mode():
            out = module(tensors[0], tensors[1], tensors[2], tensors[3]).sample
        if place == "cuda":
            torch.cuda.synchronize()
        return out

    calls = {"ours": lambda: program(params, *arguments), "torch": lambda: forward(theirs)}
    if compiled:
        faster = torch.compile(theirs)
        try:
            start = time.perf_counter()
            forward(faster)
            seconds["torch_compile_s"] = time.perf_counter() - start
            calls["torch.compile"] = lambda: forward(faster)
        except Exception as error:  # no compiler on this machine, or an operation it does not know
            print(f"torch.compile does not work here: {str(error).splitlines()[0]}")

    a = np.float32(calls["ours"]())
    b = np.moveaxis(np.float32(forward(theirs).float().cpu().numpy()), 2, -1)
    seconds |= measure.against(calls, repeats)
    return seconds | {"difference": float(np.abs(a - b).max() / b.std())}


def original(sizes, latent: int, context_width: int, num_frames: int):
    """diffusers' U-Net of these sizes with random weights."""
    import torch
    from diffusers import UNetSpatioTemporalConditionModel

    torch.manual_seed(0)
    return UNetSpatioTemporalConditionModel(
        in_channels=2 * latent,
        out_channels=latent,
        down_block_types=(
            *["CrossAttnDownBlockSpatioTemporal"] * (len(sizes.channels) - 1),
            "DownBlockSpatioTemporal",
        ),
        up_block_types=(
            "UpBlockSpatioTemporal",
            *["CrossAttnUpBlockSpatioTemporal"] * (len(sizes.channels) - 1),
        ),
        block_out_channels=tuple(sizes.channels),
        addition_time_embed_dim=sizes.added_width,
        projection_class_embeddings_input_dim=3 * sizes.added_width,
        layers_per_block=sizes.layers,
        cross_attention_dim=context_width,
        num_attention_heads=tuple(sizes.heads),
        num_frames=num_frames,
    )


def counterpart(sizes, latent: int, theirs, dtype, *inputs) -> tuple[UNet, dict]:
    """Our U-Net of the same sizes, and the weights of theirs through the converters."""
    ours = UNet(
        channels=tuple(sizes.channels),
        heads=tuple(sizes.heads),
        flavour=Flavour("mixed", groups=32, dtype=dtype),
        layers=sizes.layers,
        out_channels=latent,
        added_width=sizes.added_width,
    )
    x, t, context, ids = inputs
    init = lambda key: ours.init(key, x[:, :1, :8, :8], t, context, added_time=ids)
    shapes = jax.eval_shape(init, jax.random.key(0))["params"]
    tensors = {key: value.float().cpu().numpy() for key, value in theirs.state_dict().items()}
    params = mapping.to_flax(mapping.derive(shapes, *rules.UNET_VIDEO), tensors)
    return ours, jax.tree.map(lambda p: jnp.asarray(p, dtype), params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--eager_only", action="store_true", help="leave torch.compile out")
    options, config, size, dtype = step.parse(parser)
    import torch

    threads = torch.get_num_threads()
    if measure.on_cpu():
        threads = options.cores or threads
        torch.set_num_threads(threads)
    elif not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU; install its CUDA build")
    print(
        f"{measure.device()}; {options.config}, {options.frames} frames, {size[1]} x {size[0]}, ",
        end="",
    )
    print(f"{dtype.name}; median of {options.repeats}, {threads} PyTorch threads")
    figures = run(
        config, options.frames, *size, dtype, options.repeats, compiled=not options.eager_only
    )
    for name, value in figures.items():
        print(f"  {name:<34}{value:12.4g}")


if __name__ == "__main__":
    main()
