"""What each approximate way of sampling gains and costs on a small model, whose truth is known.

  python -m benchmarks.tradeoff                                  # configs/svd.py:size=small
  python -m benchmarks.tradeoff --config configs/sd15.py:size=small --clips 16 --full 576x1024
  python -m benchmarks.tradeoff --output tradeoff.json --plot tradeoff.png    # extra: bench

Drawn people whom no training saw, several windows long. Every way starts from the same noise and
conditioning; seconds are the process's own CPU time, without compilation. Differences are to the
exact run, clip by clip, with 95 % intervals over the clips. TFLOP are counted (dry_run.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from dispose_jax import control_signals, decoding, dry_run, limits, sampling, settings
from dispose_jax.evaluation import statistics
from dispose_jax.evaluation.ablation import clips as drawn_clips
from dispose_jax.evaluation.ablation import metrics
from dispose_jax.media import output
from dispose_jax.models import networks, registry
from dispose_jax.weights import Weights, choose

EXACT = "exact"
# Values of `config.sample` by the name of the way. Steps of an exact run: 8 on the small models.
WAYS = {
    EXACT: {},
    "euler 4": {"steps": 4},
    "2m 6": {"solver": "dpmpp_2m", "steps": 6},
    "2m 5": {"solver": "dpmpp_2m", "steps": 5},
    "2m 4": {"solver": "dpmpp_2m", "steps": 4},
    "2m 3": {"solver": "dpmpp_2m", "steps": 3},
    "cache 2": {"cache_interval": 2},
    "cache 3": {"cache_interval": 3},
    "2m 4, cache 2": {"solver": "dpmpp_2m", "steps": 4, "cache_interval": 2},
    "2m 5, cache 2": {"solver": "dpmpp_2m", "steps": 5, "cache_interval": 2},
    "heun 4": {"solver": "heun", "steps": 4},
    "2m 4, overlap 2": {"solver": "dpmpp_2m", "steps": 4, "overlap": 2},
}
# With Align Your Steps: {name: (steps, cache_interval, overlap)}. Schedules are part of a program.
ALIGNED = {
    "2m 4, ays": (4, 1, 3),
    "2m 3, ays": (3, 1, 3),
    "2m 4, ays, cache 2": (4, 2, 3),
    "2m 3, ays, cache 3": (3, 3, 3),
    "2m 3, ays, cache 3, overlap 2": (3, 3, 2),
    "2m 2, ays, cache 2, overlap 2": (2, 2, 2),
}
SPACINGS = {"svd": "sigmas", "sd15": "timesteps"}  # what a base calls its levels
SHOWN = ("figure_psnr", "joint_error")


def ways_of(base: str) -> dict[str, dict[str, object]]:
    """All ways of a base, the exact one first."""
    aligned = {
        name: {
            "solver": "dpmpp_2m",
            "steps": steps,
            "cache_interval": every,
            "overlap": overlap,
            SPACINGS[base]: "ays",
        }
        for name, (steps, every, overlap) in ALIGNED.items()
    }
    return WAYS | aligned


def changed(config, values: Mapping[str, object]):
    """A copy of a config with other values of `sample`. Raises ValueError for impossible ones."""
    made = config.copy_and_resolve_references()
    made.sample.update(values)
    limits.check(made)
    return made


def run(
    config, ways: Mapping[str, Mapping], num_clips: int, frames: int, say: Callable[[str], None]
) -> dict[str, dict[str, np.ndarray]]:
    """{way: {figure: values of the clips}}: the metrics of SHOWN, seconds of stages, and how far
    the frames are from the exact run's (mean absolute difference of 255 levels).

    frames: of a clip, the reference included.
    """
    built = networks.build(config, networks.compute_dtype(config.sample.dtype))
    weights = Weights(choose(None, config), built, config)
    params = weights.load(built)
    recipe = control_signals.build(config, built)
    clips = drawn_clips.draw(config, num_clips, frames)["same"]
    devices = jax.local_devices()[:1]
    found: dict[str, dict[str, list]] = {name: {} for name in ways}
    for i, clip in enumerate([clips[0], *clips]):  # the first one twice: it compiles
        key = jax.random.fold_in(jax.random.key(config.seed), max(i - 1, 0))
        model = registry.build(config, built)
        start = time.process_time()
        signals = control_signals.for_sampling(recipe, params, clip.reference, clip.pose, key)
        conditioning = sampling.condition(
            model, params, clip.reference, clip.skeletons, signals, key, devices=devices
        )
        conditioned = time.process_time() - start
        shape = model.latent_shape(*clip.reference.shape[:2])
        noise = sampling.initial_noise(model, key, len(clip.skeletons), shape, config.sample.window)
        exact = None
        for name, values in ways.items():
            own = changed(config, values)
            model, start = registry.build(own, built), time.process_time()
            latents = sampling.sample(
                model, params, conditioning, noise, sampling.Sampler.of(own.sample), devices=devices
            )
            sampled = time.process_time() - start
            parts = decoding.decode(
                model,
                params,
                latents,
                own.sample.decode_chunk,
                rest=own.sample.decode_rest,
                devices=devices,
            )
            made = np.concatenate(list(parts))
            whole = conditioned + time.process_time() - start
            exact = made if exact is None else exact
            if i == 0:
                continue
            scores = metrics.measure(made, clip.truth)
            figures = {name: scores[name] for name in SHOWN}
            figures |= {"sampling_s": sampled, "clip_s": whole}
            figures["distance"] = float(np.abs(made.astype(float) - exact).mean())
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(value)
        say(f"clip {i} of {num_clips}")
    return {name: {k: np.array(v) for k, v in of.items()} for name, of in found.items()}


def report(
    config,
    ways: Mapping[str, Mapping],
    found: Mapping[str, Mapping[str, np.ndarray]],
    full: tuple[int, int] | None,
) -> list[dict]:
    """A row of figures for every way; full: height and width of the full-size clip whose TFLOP per
    new frame are counted, of 73 frames, with the same share of the exact steps."""
    rows, exact = [], found[EXACT]
    for name, values in ways.items():
        of = found[name]
        row = {"way": name, **values}
        for clock in ("sampling_s", "clip_s"):
            row[clock] = float(np.median(of[clock]))
            row[clock[:-2] + "_ratio"] = float(np.median(of[clock]) / np.median(exact[clock]))
        row["distance"] = float(of["distance"].mean())
        for metric in SHOWN:
            row[metric] = float(of[metric].mean())
            if name != EXACT:
                change = statistics.bootstrap(
                    statistics.paired(of[metric][None], exact[metric][None])
                )
                row[f"{metric}_change"] = [change.mean, change.low, change.high]
        if full is not None:
            row["tflop_per_frame"] = _full_size(config, values, full) / 1e12
        rows.append(row)
    return rows


def _full_size(config, values: Mapping, size: tuple[int, int]) -> float:
    """FLOPs per frame at full size of changes that are as large there, in proportion."""
    whole = settings.load(config.name.partition(":")[0])
    values = dict(values)
    if "steps" in values:
        values["steps"] = round(values["steps"] / config.sample.steps * whole.sample.steps)
    if "overlap" in values:
        share = values["overlap"] / config.sample.overlap
        values["overlap"] = round(share * whole.sample.overlap)
    return dry_run.flops_per_frame(changed(whole, values), 73, *size, jnp.bfloat16)


def plot(rows: list[dict], path: str) -> None:
    """A picture: shares of the exact run's time against what they cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "distance": "from the exact frames, levels of 255",
        "figure_psnr_change": "change of figure PSNR, dB",
        "joint_error_change": "change of joint error, px",
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 5), layout="constrained")
    for axis, (name, title) in zip(axes, panels.items()):
        for i, row in enumerate(row for row in rows if row["way"] != EXACT):
            value = row[name]
            mean, low, high = value if isinstance(value, list) else (value,) * 3
            at, spread = row["clip_ratio"], [[mean - low], [high - mean]]
            marker, color = "os^"[i // 10 % 3], f"C{i % 10}"
            axis.errorbar(at, mean, spread, marker=marker, color=color, capsize=2, label=row["way"])
        axis.set(xlabel="of the exact run's CPU time for a clip", title=title, xlim=(0, 1.1))
        if name == "distance":
            axis.set(yscale="log")
        else:  # the exact run
            axis.axhline(0, color="0.6", linewidth=1)
    lines, names = axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/svd.py:size=small", help="file.py[:argument]")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=14, help="of a clip, the reference included")
    parser.add_argument("--full", help="HEIGHTxWIDTH: count TFLOP at full size too")
    parser.add_argument("--ways", help="names of some ways, separated by ;")
    parser.add_argument("--output", help="JSON to write")
    parser.add_argument("--plot", help="picture to write, which needs matplotlib (extra: bench)")
    options = parser.parse_args()
    config = measure.config(parser, options.config)
    measure.outputs(parser, options.output, options.plot)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install 'dispose-jax[bench]'")
    ways = ways_of(config.base)
    if options.ways:
        chosen = (EXACT, *options.ways.split(";"))
        if unknown := [name for name in chosen if name not in ways]:
            parser.error(f"--ways: {unknown[0]!r} is none of {'; '.join(ways)}")
        ways = {name: ways[name] for name in chosen}
    sides = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", options.full or "")
    if options.full and not sides:
        parser.error(f"--full {options.full}: expected HEIGHTxWIDTH such as 576x1024")
    full = sides and (int(sides[1]), int(sides[2]))
    say = lambda sentence: print(sentence, flush=True)
    rows = report(config, ways, run(config, ways, options.clips, options.frames, say), full)
    columns = [
        name
        for name in rows[-1]
        if name in ("way", "distance") or name.endswith(("_ratio", "_change", "_s", "_frame"))
    ]
    text = lambda value: (
        "{:+.3f} ({:+.3f} to {:+.3f})".format(*value) if isinstance(value, list) else value
    )
    print(measure.device())
    print(
        measure.table(
            [tuple(text(row.get(c, "")) for c in columns) for row in rows], tuple(columns)
        )
    )
    try:
        if options.output:
            output.write_bytes(options.output, json.dumps(rows, indent=2).encode())
        if options.plot:
            plot(rows, options.plot)
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
