"""What the benchmarks share: clocks, the peak of the device, random weights and shapes, a table.

Figures of a shared machine are noisy. Things to be compared therefore run in alternation and their
medians are taken, by the wall clock and by the process's own CPU time, which others do not lengthen
as much.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import chips
from dispose_jax import settings
from dispose_jax.media import output


def config(parser: argparse.ArgumentParser, text: str):
    """The configuration of a benchmark's --config. One that there is not ends the program with a
    sentence, as wrong options do."""
    try:
        return settings.load(text)
    except ValueError as error:
        parser.error(str(error))


def outputs(parser: argparse.ArgumentParser, *paths: str | os.PathLike | None) -> None:
    """End the program with a sentence, before it measures for long, unless these files, those that
    are given, can be written."""
    try:
        for path in filter(None, paths):
            output.try_out(output.prepare(path))
    except (ValueError, OSError) as error:
        parser.error(str(error))


class Seconds(NamedTuple):
    """Median seconds of one call, and its result."""

    wall: float
    cpu: float


def alternate(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1
) -> dict[str, Seconds]:
    """Time calls in turn: {name: Seconds}. JAX results are waited for; warm-up calls do not
    count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if turn >= warm_up:
                spent = time.perf_counter() - wall, time.process_time() - cpu
                taken[name].append(spent)
    median = lambda values: statistics.median(values)
    return {n: Seconds(*(median(clock) for clock in zip(*v))) for n, v in taken.items()}


def against(
    calls: Mapping[str, Callable[[], object]], repeats: int, ours: str = "ours"
) -> dict[str, float]:
    """Seconds of calls timed in turn, and the share that ours takes of each other one's time: by
    the wall clock, and on a CPU by its own time, too."""
    figures = {}
    for name, taken in alternate(calls, repeats).items():
        figures |= {f"{name}_wall_s": taken.wall, f"{name}_cpu_s": taken.cpu}
    for name in calls:
        for clock in ("cpu", "wall") if on_cpu() else ("wall",):
            if name != ours:
                ratio = figures[f"{ours}_{clock}_s"] / figures[f"{name}_{clock}_s"]
                figures[f"{ours} / {name}, {clock} time"] = ratio
    return figures


def on_cpu() -> bool:
    """Whether JAX computes on a CPU."""
    return jax.default_backend() == "cpu"


def clock() -> str:
    """The clock that ratios are taken by: CPU time on a CPU, which others disturb less."""
    return "cpu" if on_cpu() else "wall"


def use_cores(count: int) -> None:
    """Restrict this process to some cores; call it before JAX starts, its threads are as many."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, allowed[-count:])  # the first core serves the system too


def device() -> str:
    """The device in words."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"CPU, {len(os.sched_getaffinity(0))} cores"
    return f"{jax.device_count()} x {first.device_kind}"


def peak_flops(dtype) -> tuple[float, str]:
    """FLOP/s that all devices could reach by `clock`, and where the figure is from.

    From the table of chips.py; for a device that is not in it, a product of large matrices is
    measured.
    """
    chip = chips.of_kind(jax.devices()[0].device_kind)
    if chip and jnp.dtype(dtype).itemsize == 2:
        return chip.teraflops * 1e12 * jax.device_count(), "bfloat16 peak by the maker"
    n = 1536 if on_cpu() else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(jnp.matmul)
    best = min(getattr(alternate({"": lambda: product(a, a)}, 1)[""], clock()) for _ in range(5))
    return 2 * n**3 / best, f"measured product of {n} x {n} matrices"


def peak_memory() -> tuple[float, str]:
    """Most bytes in use so far, and of what."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"


def random_tree(shapes, seed: int = 0):
    """Device arrays for a tree of `jax.ShapeDtypeStruct`: normal, kernels by their fan-in.

    Values repeat a pool of a million: billions of draws would take longer than the benchmark.
    Constants would not do, a chip is faster on them. Integers are zero, booleans true.
    """
    pool = np.random.default_rng(seed).standard_normal(2**20 + 7, np.float32)

    def one(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, leaf.dtype == jnp.bool_, leaf.dtype)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 400.0
        scaled = (pool / np.sqrt(max(fan_in, 1))).astype(leaf.dtype)
        return jax.device_put(np.resize(scaled, leaf.shape))

    return jax.tree.map(one, shapes)


def table(rows: list[tuple], header: tuple[str, ...]) -> str:
    """Columns of text; numbers with four digits."""
    cells = [header, *rows]
    text = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row] for row in cells]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in text]
    return "\n".join(lines)
