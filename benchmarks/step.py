"""How long one denoising step takes, and what part of the device's peak it reaches.

The fraction is by the wall clock on an accelerator, by CPU time on a CPU.

  python -m benchmarks.step                         # the small model
  python -m benchmarks.step --config configs/svd.py:size=full --dtype bfloat16

The driver's own loop is timed (dispose_jax/sampling.py), windows and guidance included, on random
weights and conditioning.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from benchmarks import measure
from dispose_jax import flops, sampling, traces
from dispose_jax.media.image import target_size
from dispose_jax.models import networks, registry
from dispose_jax.models.network import Network
from dispose_jax.models.protocol import generated
from dispose_jax.types import Params


def run(
    config, num_frames: int, height: int, width: int, dtype, repeats: int = 3
) -> dict[str, float]:
    """Figures of a step: seconds, FLOPs and bytes. num_frames of the clip, the reference
    included."""
    built = networks.build(config, dtype)
    model = registry.build(config, built)
    every = weight_shapes(built)
    shapes = {name: every[name] for name in model.stages["sampling"] if name in built}
    params = measure.random_tree(shapes)
    signals = traces.signal_shapes(config, num_frames, height, width)
    _, conditioning = traces.conditioning(model, every, signals, num_frames, height, width)
    made = generated(model, num_frames)
    latents = jax.ShapeDtypeStruct((1, made, *model.latent_shape(height, width)), jnp.float32)
    sampler = sampling.Sampler(
        steps=repeats + 1,
        window=config.sample.window,
        overlap=config.sample.overlap,
        guidance_scale=config.sample.guidance_scale,
        window_batch=config.sample.window_batch,
    )
    plan = model.windows(made, sampler.window, sampler.overlap)
    halves = 2 if traces.is_guided(config) else 1
    call = traces.denoising(model, shapes, conditioning, latents, 1, plan.frames.shape[1])
    work = sum(flops.flops_by_module(call).values()) * len(plan.frames) * halves

    marks = [(time.perf_counter(), time.process_time())]
    sampling.sample(
        model,
        params,
        measure.random_tree(conditioning),
        measure.random_tree(latents),
        sampler,
        progress=lambda done, total: marks.append((time.perf_counter(), time.process_time())),
    )
    spent = [[b - a for a, b in zip(x, y)] for x, y in zip(marks[1:], marks[2:])]
    seconds, cpu_seconds = (statistics.median(clock) for clock in zip(*spent))
    peak, _ = measure.peak_flops(dtype)
    rate = work / (cpu_seconds if measure.clock() == "cpu" else seconds)
    figures = {
        "compile_s": marks[1][0] - marks[0][0] - seconds,
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": cpu_seconds,
        "seconds_per_frame_and_step": seconds / (num_frames - 1),
        "windows": len(plan.frames),
        "tflop_per_step": work / 1e12,
        "tflop_per_s": work / seconds / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "fraction_of_peak": rate / peak,
        "peak_memory_gib": measure.peak_memory()[0] / 2**30,
    }
    return figures | ({"tflop_per_cpu_s": rate / 1e12} if measure.on_cpu() else {})


def weight_shapes(built: Mapping[str, Network]) -> Params:
    """Shapes of all weights in the types that the networks compute in."""
    cast = lambda net: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, net.dtype), net.shapes)
    return {name: cast(net) for name, net in built.items()}


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of what is run, for every benchmark of the model."""
    parser.add_argument("--config", default="configs/svd.py:size=tiny", help="file.py[:argument]")
    parser.add_argument("--frames", type=int, default=16, help="the reference included")
    parser.add_argument("--height", type=int, help="pixels; default: the config's, landscape")
    parser.add_argument("--width", type=int)
    parser.add_argument("--window_batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, help="use so many of the CPU's cores")
    return parser


def parse(parser: argparse.ArgumentParser):
    """Options, config, size and type."""
    options = arguments(parser).parse_args()
    if options.cores:
        measure.use_cores(options.cores)
    config = measure.config(parser, options.config)
    config.sample.window_batch = options.window_batch
    height, width = target_size(9, 16, config.sample.resolution)
    size = options.height or height, options.width or width
    dtype = options.dtype or ("float32" if measure.on_cpu() else "bfloat16")
    return options, config, size, jnp.dtype(dtype)


def main() -> None:
    options, config, size, dtype = parse(argparse.ArgumentParser(description=__doc__))
    print(
        f"{measure.device()}; {options.config}, {options.frames} frames, {size[1]} x {size[0]}, ",
        end="",
    )
    print(f"{dtype.name}, median of {options.repeats}")
    for name, value in run(config, options.frames, *size, dtype, options.repeats).items():
        print(f"  {name:<28}{value:12.4g}")
    print(f"  peak: {measure.peak_flops(dtype)[1]}; memory of the {measure.peak_memory()[1]}")


if __name__ == "__main__":
    main()
