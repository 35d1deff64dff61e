"""What a sampling run needs, from shapes alone: parameters, bytes and arithmetic.

Programs are traced (traces.py), so nothing is read, computed or compiled; see flops.py for what
counts. Training has its own plan (training/plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr
from jax.typing import DTypeLike

from dispose_jax import control_signals, decoding, traces
from dispose_jax.control_signals import Recipe
from dispose_jax.counting import counted
from dispose_jax.diffusion.plan import plan
from dispose_jax.flops import flops_by_module, in_bytes, in_flops, line, live_bytes, size, work
from dispose_jax.media.image import check_size
from dispose_jax.models import networks, registry
from dispose_jax.models.network import Network
from dispose_jax.models.protocol import Model, generated
from dispose_jax.types import Conditioning, ControlSignals, Params


def report(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> str:
    """The needs of a sampling run, as a text of some forty lines.

    config: see configs/svd.py; num_frames of the clip, the reference included; height, width in
    pixels; dtype: what the networks compute in. Raises ValueError for sizes off the grid and
    impossible windows or guidance.
    """
    run = _run(config, num_frames, height, width, dtype)
    programs = _programs(run)
    lines = [
        f"{counted(num_frames - 1, 'frame')} and the reference at {width} x {height}, "
        f"computing in {jnp.dtype(dtype).name}",
        *_of_this_cpu(config, dtype),
        "",
        *_weights(run),
        "",
        *_arrays(run.conditioning, run.latents),
        "",
        *_memory(programs),
        "",
        *_arithmetic(run, programs["denoising"]),
    ]
    return "\n".join(lines)


def _of_this_cpu(config, dtype: DTypeLike) -> Iterator[str]:
    """That a plan is of another type than the same command's on the device it is made for."""
    if config.sample.dtype == "auto" and dtype == jnp.float32:
        yield "(this is a CPU: --config.sample.dtype=bfloat16 plans for a GPU or TPU)"


def flops_per_frame(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> float:
    """FLOPs of a run per new frame; arguments and errors as of `report`."""
    run = _run(config, num_frames, height, width, dtype)
    return sum(_work(run, _once(run)).values()) / (num_frames - 1)


class _Run(NamedTuple):
    """What a run has, as shapes."""

    config: object
    built: dict[str, Network]
    model: Model
    recipe: Recipe
    params: Params
    signals: ControlSignals | None
    conditioning: Conditioning
    encoding: Jaxpr  # of what made that of the whole clip
    latents: jax.ShapeDtypeStruct
    num_frames: int  # the reference included
    size: tuple[int, int]  # height and width in pixels

    @property
    def windows(self) -> tuple[int, int]:
        """How many windows there are, of how many frames."""
        sample, made = self.config.sample, self.latents.shape[1]
        return self.model.windows(made, sample.window, sample.overlap).frames.shape

    @property
    def pieces(self) -> list[int]:
        """Frames that are decoded together, time after time."""
        sample, made = self.config.sample, self.latents.shape[1]
        cut = decoding.pieces(made, sample.decode_chunk, sample.decode_rest)
        return [len(numbers) for numbers, _ in cut]

    @property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Names of each stage's networks, those among them that an ablation leaves out, too."""
        return {
            "conditioning": self.model.stages["reference"],
            "diffusion features": self.recipe.dift_networks,
            "control signals": (*self.recipe.cmp_networks, *self.model.stages["frames"]),
            "denoising": self.model.stages["sampling"],
            "decoding": self.model.stages["decoding"],
        }

    def weights(self, stage: str) -> Params:
        """Of the networks that a stage has."""
        return {name: self.params[name] for name in self.stages[stage] if name in self.params}


def _run(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> _Run:
    """What the programs of a run are traced of. Raises ValueError for impossible sizes."""
    check_size(height, width)
    built = networks.build(config, dtype)
    model = registry.build(config, built)
    params = {name: _params(network) for name, network in built.items()}
    signals = traces.signal_shapes(config, num_frames, height, width)
    encoding, conditioning = traces.conditioning(model, params, signals, num_frames, height, width)
    shape = 1, generated(model, num_frames), *model.latent_shape(height, width)
    return _Run(
        config=config,
        built=built,
        model=model,
        recipe=control_signals.build(config, built),
        params=params,
        signals=signals,
        conditioning=conditioning,
        encoding=encoding,
        latents=jax.ShapeDtypeStruct(shape, jnp.float32),
        num_frames=num_frames,
        size=(height, width),
    )


def _params(network: Network) -> Params:
    """Shapes of a network's weights in the type it computes in."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, network.dtype), network.shapes)


def _halves(config) -> int:
    """How often every window is denoised in a call: twice with guidance."""
    return 2 if traces.is_guided(config) else 1


def _programs(run: _Run) -> dict[str, Jaxpr]:
    """The program of each stage that the run has."""
    of, model, recipe = run.weights, run.model, run.recipe
    rows, window = run.config.sample.window_batch * _halves(run.config), run.windows[1]
    made = {
        "conditioning": traces.reference(model, of("conditioning"), run.size),
        "diffusion features": traces.diffusion_features(recipe, of("diffusion features"), run.size),
        "control signals": traces.frames(
            model, recipe, of("control signals"), run.signals, run.size
        ),
        "denoising": traces.denoising(
            model, of("denoising"), run.conditioning, run.latents, rows, window
        ),
        "decoding": traces.decoded(model, of("decoding"), run.latents, max(run.pieces)),
    }
    return {stage: program for stage, program in made.items() if program is not None}


def _once(run: _Run, *, finest: bool = False) -> int:
    """FLOPs of one window and half in a denoising call; finest: with an earlier call's deep
    features."""
    call = traces.denoising(
        run.model,
        run.weights("denoising"),
        run.conditioning,
        run.latents,
        1,
        run.windows[1],
        finest=finest,
    )
    return work(call).executed


def _work(run: _Run, once: int) -> dict[str, int]:
    """FLOPs of each stage; once: see `_once`."""
    calls = plan(run.model.schedule, run.config.sample, traces.is_guided(run.config))
    finest = 0 if all(call.fresh for call in calls) else _once(run, finest=True)
    rows = sum(call.halves * (once if call.fresh else finest) for call in calls)
    return {
        **_signal_work(run),
        "conditioning": work(run.encoding).executed,
        "denoising": run.windows[0] * rows,
        "decoding": _decoding_work(run),
    }


def _signal_work(run: _Run) -> dict[str, int]:
    """FLOPs of diffusion features and of CMP's dense field, if the run has them."""
    found = {}
    features = traces.diffusion_features(run.recipe, run.params, run.size)
    if features is not None:
        found["diffusion features"] = work(features).executed
    completion = traces.completion(run.recipe, run.params)
    if completion is not None:
        picture, frame = (work(part).executed for part in completion)
        found["dense field"] = picture + (run.num_frames - 1) * frame
    return found


def _decoding_work(run: _Run) -> int:
    """FLOPs of decoding the clip's latents, piece by piece."""
    decode = lambda count: traces.decoded(run.model, run.params, run.latents, count)
    each = {count: work(decode(count)).executed for count in set(run.pieces)}
    return sum(each[count] for count in run.pieces)


def _weights(run: _Run) -> Iterator[str]:
    """The table of networks by stage."""
    yield "Weights, loaded for their stage and dropped after it"
    for stage in run.stages:
        used = run.weights(stage)
        if not used:
            continue
        yield line(stage, in_bytes(size(used)))
        for name, params in used.items():
            count = sum(x.size for x in jax.tree.leaves(params))
            dtype = jnp.dtype(run.built[name].dtype).name
            yield line(
                f"  {name}", in_bytes(size(params)), f"{count / 1e6:.1f} M parameters, {dtype}"
            )


def _arrays(conditioning: Conditioning, latents) -> Iterator[str]:
    """The table of what a clip keeps between stages."""
    yield "Kept on the host for the whole clip"
    kept = {
        "pose features": conditioning.pose_features,
        "reference tokens": conditioning.reference,
        "motion features": conditioning.motion,
        "point features": conditioning.points,
        "latents": latents,
    }
    for name, tree in kept.items():
        leaves = jax.tree.leaves(tree)
        if leaves:
            shapes = " + ".join(" x ".join(map(str, leaf.shape[1:])) for leaf in leaves[:4])
            more = f" + {len(leaves) - 4} more" if len(leaves) > 4 else ""
            yield line(name, in_bytes(size(leaves)), f"{shapes}{more} {leaves[0].dtype.name}")


def _memory(programs: dict[str, Jaxpr]) -> Iterator[str]:
    """The table of what each stage's program holds at once."""
    yield (
        "Largest need of each stage on each device, before a compiler fuses anything; no clip's "
        "length changes it"
    )
    arguments = lambda program: size([variable.aval for variable in program.invars])
    needs = {stage: arguments(program) + live_bytes(program) for stage, program in programs.items()}
    largest = max(needs, key=needs.get)
    for stage, need in needs.items():
        yield line(stage, in_bytes(need), "the most of all" if stage == largest else "")


def _arithmetic(run: _Run, call: Jaxpr) -> Iterator[str]:
    """The table of FLOPs; call: the program of denoising."""
    yield "Arithmetic: convolutions and matrix products, multiply + add = 2"
    sample, (num_windows, window) = run.config.sample, run.windows
    halves = _halves(run.config)
    rows = sample.window_batch * halves
    by_network = {name: amount // rows for name, amount in flops_by_module(call).items()}
    once = sum(by_network.values())
    yield line("one denoising call", in_flops(once), f"{window} frames, one half of guidance")
    for name, amount in by_network.items():
        yield line(f"  {name}", in_flops(amount))
    both = "both halves" if halves > 1 else "one half"
    step = num_windows * halves * once
    yield line("one step", in_flops(step), f"{counted(num_windows, 'window')}, {both}")
    done = _work(run, once)
    for name, amount in done.items():
        yield line(name, in_flops(amount))
    total = sum(done.values())
    yield line("in all", in_flops(total), counted(sample.steps, "step"))
    yield line("per new frame", in_flops(total / (run.num_frames - 1)))
