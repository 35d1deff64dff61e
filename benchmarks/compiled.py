"""Compile a program of sampling or training for a chip that is not there, and say what it needs.

  pip install -e ".[aot-tpu]"        # or aot-gpu: the compilers, no device
  python -m benchmarks.compiled --chip v5e --program step --plan_only
  python -m benchmarks.compiled --chip h100 --program train --set train.batch=1
  python -m benchmarks.compiled --chip v5e --program step --size tiny --by module

The real programs are compiled from shapes alone, for the devices of a mesh: one window, chunk of
frames or share of a batch on each. A full-size step takes a TPU's compiler many minutes;
--plan_only stops once the memory is planned, after about one, without the compiler's own count of
what is moved.

What this cannot say is how long anything takes. A GPU's compiler chooses algorithms and work space
by trying them on the card, which it cannot here.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks import chips, measure, plans, programs
from dispose_jax import flops, limits, settings
from dispose_jax.flops import in_bytes, in_flops, line
from dispose_jax.media.image import check_size, target_size
from dispose_jax.training import sharding

_SHOWN, _SHOWN_MODULES = 8, 24  # the largest buffers, those who move most
_REFUSED = re.compile(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM]) hbm")


def examine(options, config, size: tuple[int, int]) -> dict:
    """What the compiler says of a program, as a dictionary for JSON; bytes and FLOPs are those of
    one device.

    options: chip, devices, program, dtype, plan_only as on the command line; size: height, width in
    pixels, of sampling. Raises ValueError for what is not there or does not divide.
    """
    chip, found = chips.CHIPS.get(options.chip), chips.devices(options.chip, options.devices)
    axes = ("data",), (len(found),)
    if options.program == "train":
        config.train.dtype = options.dtype
        size = config.train.height, config.train.width
        axes = sharding.AXES, sharding.mesh_shape(config.train, len(found))
        if np.prod(axes[1]) != len(found):
            raise ValueError(f"train.mesh is of {np.prod(axes[1])} devices, --devices {len(found)}")
        sharding.check_shares(config, axes[1])
    kinds = (AxisType.Auto,) * len(axes[0])
    mesh = Mesh(np.array(found).reshape(axes[1]), axes[0], axis_types=kinds)
    clock = [time.perf_counter()]
    with chips.answered(chip.gpu.capability if chip.gpu else (0, 0)):
        traced = programs.trace(options.program, config, mesh, size, jnp.dtype(options.dtype))
        clock.append(time.perf_counter())
        lowered = traced.lower()
    clock.append(time.perf_counter())
    # A compiler that is left behind may still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        compiled, refusal = _compile(lowered, Path(folder), options.plan_only)
        clock.append(time.perf_counter())
        plan = None if refusal else plans.read(Path(folder))
    work = flops.work(traced.jaxpr.jaxpr)
    seconds = [round(b - a, 1) for a, b in zip(clock, clock[1:])]
    report = {
        "chip": options.chip,
        "devices": len(found),
        "program": options.program,
        "size": list(size),
        "dtype": options.dtype,
        "room": int(chip.memory * 2**30),
        "useful_flops": work.useful // len(found),
        "executed_flops": work.executed // len(found),
        "arithmetic_s": work.useful / len(found) / chip.teraflops / 1e12,
        "trace_s": seconds[0],
        "lower_s": seconds[1],
        "compile_s": None if options.plan_only else seconds[2],
        "plan_s": seconds[2] if options.plan_only else None,
        "versions": chips.versions(),
        "date": datetime.date.today().isoformat(),
    }
    if refusal:
        return report | {"needed": refusal, "fits": False}
    by_module, by_kind = Counter(), Counter()
    for (name, kind), size in plan.traffic.items():
        by_module[name] += size
        by_kind[kind] += size
    cost = (compiled and compiled.cost_analysis()) or {}
    moved = cost.get("bytes accessed")
    counted = sum(by_module.values())
    return report | {
        "needed": plan.total,
        "fits": plan.total <= chip.memory * 2**30,
        "arguments": plan.arguments,
        "buffers": [buffer._asdict() for buffer in plan.buffers[:_SHOWN]],
        "kernels": plan.kernels,
        "collectives": plan.collectives,
        "moved": moved,
        "counted": counted,
        "memory_s": (moved or counted) / chip.gb_per_s / 1e9,
        "by_module": dict(by_module.most_common(_SHOWN_MODULES)),
        "by_kind": dict(by_kind.most_common()),
    }


def _compile(lowered, folder: Path, plan_only: bool):
    """The compiled program, or None if only its plan is waited for, and the bytes that it would
    have needed if it was refused."""
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    done, errors = [], []

    def work():
        try:
            done.append(lowered.compile(compiler_options=options))
        except Exception as error:
            errors.append(error)

    # A compiler cannot be interrupted: it is left behind, and ends with the process.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive() and not (plan_only and plans.is_planned(folder)):
        thread.join(0.5)
    if not errors:
        return done[0] if done else None, None
    refused = _REFUSED.search(str(errors[0]))
    if not refused:
        raise errors[0]
    scale = {"G": 2**30, "M": 2**20}[refused[2]]
    return None, int(float(refused[1]) * scale)


def lines(found: dict, by: str | None):
    """The report as text."""
    chip = chips.CHIPS[found["chip"]]
    left = found["room"] - found["needed"]
    fits = f"fits, {in_bytes(left)} left" if left >= 0 else f"does not fit: {in_bytes(-left)} more"
    yield f"{found['program']} for {found['devices']} x {found['chip']}, {found['dtype']}"
    yield line(
        "memory of a device", in_bytes(found["needed"]), f"of {in_bytes(found['room'])}: {fits}"
    )
    if "arguments" in found:
        yield line("  arguments", in_bytes(found["arguments"]))
        yield line("  results, intermediate ones", in_bytes(found["needed"] - found["arguments"]))
        yield "Intermediate results in memory at its fullest"
        for buffer in found["buffers"]:
            note = f"{buffer['count']} x {buffer['shape']} {buffer['module']}"
            yield line("", in_bytes(buffer["size"]), note)
    yield "Work of a device"
    yield line("useful", in_flops(found["useful_flops"]), f"{found['arithmetic_s']:.3f} s at peak")
    if found["executed_flops"] != found["useful_flops"]:
        yield line("executed", in_flops(found["executed_flops"]))
    if "counted" in found:
        rate = f"of {chip.gb_per_s} GB/s: {found['memory_s']:.3f} s"
        if found["moved"]:
            yield line("moved, by the compiler", in_gb(found["moved"]), rate)
        yield line("moved, by operands", in_gb(found["counted"]), "" if found["moved"] else rate)
        for title in ("kernels", "collectives"):
            counts = ", ".join(f"{name} {count}" for name, count in found[title].items())
            yield f"  {title:<14}{counts or 'none'}"
    timed = "plan" if found["compile_s"] is None else "compile"
    seconds = f"trace {found['trace_s']} s, lower {found['lower_s']} s, {timed} "
    yield (
        seconds
        + f"{found['plan_s'] or found['compile_s']} s; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    )
    if by and "counted" in found:
        rows = [
            (name or "outside networks", size / 1e9, size / found["counted"])
            for name, size in found[f"by_{by}"].items()
        ]
        yield measure.table(rows, (by, "GB", "share"))


def in_gb(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.2f} GB"


def parse(arguments: list[str] | None = None):
    """Options, config and size. Raises ValueError for a wrong value."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", required=True, help=", ".join(chips.CHIPS))
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--program", required=True, choices=programs.NAMES)
    parser.add_argument("--base", choices=("svd", "sd15"), default="svd")
    parser.add_argument("--size", default="full", help="of the networks: full, small, tiny")
    parser.add_argument("--height", type=int, help="pixels; default: the config's, landscape")
    parser.add_argument("--width", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a value of the config, as sample.window=24",
    )
    parser.add_argument("--plan_only", action="store_true", help="stop once memory is planned")
    parser.add_argument("--by", choices=("module", "kind"), help="who moves how much")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    options = parser.parse_args(arguments)
    config = settings.load(f"configs/{options.base}.py:size={options.size}")
    for name, _, value in (change.partition("=") for change in options.set):
        settings.override(config, name, value)
    limits.check(config)
    sample = config.sample
    height, width = (
        (sample.height, sample.width) if sample.height else target_size(9, 16, sample.resolution)
    )
    size = options.height or height, options.width or width
    check_size(*size)
    return options, config, size


def main() -> None:
    try:
        options, config, size = parse()
        jax.config.update("jax_platforms", "cpu")  # JAX itself needs no accelerator
        jax.config.update("jax_enable_compilation_cache", False)  # it would leave nothing to read
        found = examine(options, config, size)
    except ValueError as error:
        sys.exit(str(error))
    if options.json:
        print(json.dumps(found | {"base": options.base, "set": options.set}))
    else:
        print("\n".join(lines(found, options.by)))
    sys.stdout.flush()
    os._exit(0)  # without waiting for a compiler that was left behind


if __name__ == "__main__":
    main()
