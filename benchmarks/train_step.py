"""How long one training step takes, what part of the device's peak it reaches, and whether the data
keep up.

  python -m benchmarks.train_step                         # the small model
  python -m benchmarks.train_step --config configs/svd.py:size=full --batch 2
  python -m benchmarks.train_step --source SET            # reads a prepared set, too

The loop's own step is timed (dispose_jax/training/step.py) on random weights and a random batch.
FLOPs are useful ones: what gradients compute again is not in them. Rates are by the wall clock on
an accelerator, by CPU time on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from dispose_jax import flops
from dispose_jax.models import networks
from dispose_jax.training import objectives, optimizer, plan, sharding, sources, state, step


def run(config, repeats: int = 3) -> dict[str, float]:
    """Figures of a config's step on all devices: seconds, FLOPs, bytes."""
    train, mesh = config.train, sharding.make_mesh(config)
    dtype = networks.compute_dtype(train.dtype)
    built = networks.build(config, dtype, training=True)
    objective, transformation = objectives.build(config, built), optimizer.build(train)
    place = partial(sharding.of_tree, mesh, smallest=train.mesh.smallest)
    params = {}
    for name in objective.networks:
        kind = jnp.float32 if name in train.trainable else built[name].dtype
        shapes = jax.tree.map(
            lambda x, k=kind: jax.ShapeDtypeStruct(x.shape, k), built[name].shapes
        )
        made = measure.random_tree(shapes)
        params[name] = jax.device_put(made, place(made))
    learnt = {name: params.pop(name) for name in train.trainable}
    current = state.create(learnt, transformation, averaged=train.average > 0)
    layout = place(current)
    current = jax.device_put(current, layout)
    clips = random_batch(plan.batch_shapes(config, train.batch))
    clips = sharding.place_batch(mesh, clips, train.batch, train.frames)
    jitted = step.jitted(objective.loss, transformation, train, mesh, layout)
    start = time.perf_counter()
    traced = jitted.trace(current, params, clips, jax.random.key(0))
    work = flops.work(traced.jaxpr.jaxpr)
    compiled = traced.lower().compile()
    compile_s = time.perf_counter() - start
    spent = []
    for _ in range(repeats + 1):  # the first one does not count
        marks = time.perf_counter(), time.process_time()
        current, scalars = compiled(current, params, clips, jax.random.key(0))
        jax.block_until_ready((current, scalars))
        spent.append((time.perf_counter() - marks[0], time.process_time() - marks[1]))
    seconds, cpu_seconds = (statistics.median(clock) for clock in zip(*spent[1:]))
    peak, _ = measure.peak_flops(dtype)
    rate = work.useful / (cpu_seconds if measure.on_cpu() else seconds)
    return {
        "compile_s": compile_s,
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": cpu_seconds,
        "clips_per_s": train.batch / seconds,
        "useful_tflop_per_step": work.useful / 1e12,
        "executed_tflop_per_step": work.executed / 1e12,
        "useful_tflop_per_s": rate / 1e12,
        "peak_tflop_per_s": peak / 1e12,
        "fraction_of_peak": rate / peak,
        "peak_memory_gib": measure.peak_memory()[0] / 2**30,
    }


def pipeline(config, batches: int = 5) -> dict[str, float]:
    """How many clips a second the config's source makes when nothing else runs."""
    source = sources.open_source(config)
    try:
        next(source)  # compiles, opens files, starts readers
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(source)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        source.close()
    made = batches * config.train.batch
    return {"clips_per_s": made / wall, "cpu_seconds_per_clip": cpu / made}


def random_batch(shapes):
    """Host arrays for a batch's shapes: noise for pictures and vectors, joints in the first cell,
    everything visible."""
    rng = np.random.default_rng(0)

    def one(leaf) -> np.ndarray:
        if leaf.dtype == jnp.uint8:
            return rng.integers(0, 256, leaf.shape, np.uint8)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype)
        return np.full(leaf.shape, leaf.dtype == jnp.bool_, leaf.dtype)

    return jax.tree.map(one, shapes)


def parse(parser: argparse.ArgumentParser):
    """Options and config."""
    parser.add_argument("--config", default="configs/svd.py:size=tiny", help="file.py[:argument]")
    parser.add_argument("--batch", type=int, help="clips of a step; default: the config's")
    parser.add_argument("--remat", choices=("none", "layer"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, help="use so many of the CPU's cores")
    options = parser.parse_args()
    if options.cores:
        measure.use_cores(options.cores)
    config = measure.config(parser, options.config)
    for name in ("batch", "remat", "dtype"):
        if getattr(options, name) is not None:
            config.train[name] = getattr(options, name)
    return options, config


def heading(options, config) -> str:
    """What is measured where, in a line."""
    train = config.train
    return (
        f"{measure.device()}; {options.config}, {train.batch} clips of {train.frames} frames, "
        f"{train.width} x {train.height}, {networks.compute_dtype(train.dtype).__name__}, "
        f"remat {train.remat}, median of {options.repeats}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="a prepared set, read beside the drawn people")
    options, config = parse(parser)
    print(heading(options, config))
    figures = run(config, options.repeats)
    for name, value in figures.items():
        print(f"  {name:<28}{value:12.4g}")
    dtype = networks.compute_dtype(config.train.dtype)
    print(f"  peak: {measure.peak_flops(dtype)[1]}; memory of the {measure.peak_memory()[1]}")
    for source in filter(None, ("synthetic", options.source)):
        config.data.source = source
        made = pipeline(config)
        rate, cpu = made["clips_per_s"], made["cpu_seconds_per_clip"]
        name = "drawn people" if source == "synthetic" else "prepared set"
        ratio = rate / figures["clips_per_s"]
        print(
            f"  {name}: {rate:.4g} clips/s alone ({cpu:.3g} CPU s each), {ratio:.3g} x the step's"
        )


if __name__ == "__main__":
    main()
