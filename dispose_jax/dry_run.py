"""What a sampling run needs, from shapes alone: parameters, bytes and arithmetic.

Functions are traced, so nothing is read, computed or compiled; see flops.py for what counts.
Training has its own plan (training/plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.typing import DTypeLike

from dispose_jax import control_signals
from dispose_jax.correspondence import dift
from dispose_jax.counting import counted
from dispose_jax.diffusion import guidance
from dispose_jax.diffusion.plan import plan
from dispose_jax.flops import flops, flops_by_module, in_bytes, in_flops, line, live_bytes, size
from dispose_jax.media.image import check_size
from dispose_jax.models import networks, registry
from dispose_jax.models.networks import Network
from dispose_jax.models.protocol import Model, condition, generated
from dispose_jax.networks.cmp import CMP
from dispose_jax.types import Conditioning, ControlSignals, Impulses, Params

_JOINTS = 18
_struct = jax.ShapeDtypeStruct


def report(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> str:
    """The needs of a sampling run, as a text of some forty lines.

    config: see configs/svd.py; num_frames of the clip, the reference included; height, width in
    pixels; dtype: what the networks compute in. Raises ValueError for sizes off the grid and
    impossible windows or guidance.
    """
    size_px = height, width
    shapes = _shapes(config, num_frames, height, width, dtype)
    built, model, params = shapes.built, shapes.model, shapes.params
    signals, conditioning, latents = shapes.signals, shapes.conditioning, shapes.latents
    recipe = control_signals.build(config, built)
    sample = config.sample
    num_windows, window = _windows(config, shapes)
    halves = 2 if is_guided(config) else 1
    stages = {
        "conditioning": model.stages["reference"],
        "diffusion features": recipe.dift_networks,
        "control signals": (*recipe.cmp_networks, *model.stages["frames"]),
        "denoising": model.stages["sampling"],
        "decoding": model.stages["decoding"],
    }
    of = lambda stage: {name: params[name] for name in stages[stage] if name in params}
    rows = sample.window_batch * halves
    call = denoise_jaxpr(model, of("denoising"), conditioning, latents, rows, window)
    by_network = {name: amount // rows for name, amount in flops_by_module(call).items()}
    once = sum(by_network.values())
    step = num_windows * halves * once
    work = _work(config, shapes, once)

    traces = {
        "conditioning": _reference_jaxpr(model, of("conditioning"), height, width),
        "diffusion features": _features_jaxpr(recipe, of("diffusion features"), height, width),
        "control signals": _frames_jaxpr(model, recipe, of("control signals"), signals, size_px),
        "denoising": call,
        "decoding": _decode_jaxpr(model, of("decoding"), latents, sample.decode_chunk),
    }
    needs = {
        stage: size([variable.aval for variable in trace.invars]) + live_bytes(trace)
        for stage, trace in traces.items()
        if trace is not None
    }
    largest = max(needs, key=needs.get)
    both = "both halves" if halves > 1 else "one half"
    lines = [
        f"{counted(num_frames - 1, 'frame')} and the reference at {width} x {height}, "
        f"computing in {jnp.dtype(dtype).name}",
        "",
        *_weights(stages, built, params),
        "",
        *_arrays(conditioning, latents),
        "",
        "Largest need of each stage on each device, about; no clip's length changes it",
        *(
            line(stage, in_bytes(need), "the most of all" if stage == largest else "")
            for stage, need in needs.items()
        ),
        "",
        "Arithmetic: convolutions and matrix products, multiply + add = 2",
        line("one denoising call", in_flops(once), f"{window} frames, one half of guidance"),
        *(line(f"  {name}", in_flops(amount)) for name, amount in by_network.items()),
        line("one step", in_flops(step), f"{counted(num_windows, 'window')}, {both}"),
        *(line(name, in_flops(amount)) for name, amount in work.items()),
        line("in all", in_flops(sum(work.values())), counted(sample.steps, "step")),
        line("per new frame", in_flops(sum(work.values()) / (num_frames - 1))),
    ]
    return "\n".join(lines)


def flops_per_frame(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> float:
    """FLOPs of a run per new frame; arguments and errors as of `report`."""
    shapes = _shapes(config, num_frames, height, width, dtype)
    return sum(_work(config, shapes, _once(config, shapes)).values()) / (num_frames - 1)


class _Shapes(NamedTuple):
    """Of what a run has."""

    built: dict[str, Network]
    model: Model
    params: Params
    signals: ControlSignals
    conditioning: Conditioning
    latents: jax.ShapeDtypeStruct
    encoding: int  # FLOPs of what encodes the reference and the skeletons
    clip: tuple[int, int, int]  # frames with the reference, height, width


def _shapes(config, num_frames: int, height: int, width: int, dtype: DTypeLike) -> _Shapes:
    check_size(height, width)
    built = networks.build(config, dtype)
    model = registry.build(config, built)
    params = {name: _params(network) for name, network in built.items()}
    signals = signal_shapes(config, num_frames, height, width)
    conditioning, encoding = condition_shapes(model, params, signals, num_frames, height, width)
    made = generated(model, num_frames)
    latents = _struct((1, made, *model.latent_shape(height, width)), jnp.float32)
    clip = num_frames, height, width
    return _Shapes(built, model, params, signals, conditioning, latents, encoding, clip)


def _windows(config, shapes: _Shapes) -> tuple[int, int]:
    """How many windows there are, of how many frames."""
    sample, made = config.sample, shapes.latents.shape[1]
    return shapes.model.windows(made, sample.window, sample.overlap).frames.shape


def _once(config, shapes: _Shapes, *, finest: bool = False) -> int:
    """FLOPs of one window and half in a denoising call; finest: with an earlier call's deep
    features."""
    model, window = shapes.model, _windows(config, shapes)[1]
    params = {
        name: shapes.params[name] for name in model.stages["sampling"] if name in shapes.built
    }
    call = denoise_jaxpr(
        model, params, shapes.conditioning, shapes.latents, 1, window, finest=finest
    )
    return sum(flops_by_module(call).values())


def _work(config, shapes: _Shapes, once: int) -> dict[str, int]:
    """FLOPs of each stage; once: see `_once`."""
    sample, (num_windows, _) = config.sample, _windows(config, shapes)
    calls = plan(shapes.model.schedule, sample, is_guided(config))
    finest = 0 if all(call.fresh for call in calls) else _once(config, shapes, finest=True)
    rows = sum(call.halves * (once if call.fresh else finest) for call in calls)
    return {
        **_signal_flops(config, shapes.built, shapes.params, *shapes.clip),
        "conditioning": shapes.encoding,
        "denoising": num_windows * rows,
        "decoding": _decode(shapes.model, shapes.params, shapes.latents, sample.decode_chunk),
    }


def denoise_jaxpr(
    model: Model,
    params: Params,
    conditioning: Conditioning,
    latents: jax.ShapeDtypeStruct,
    rows: int,
    window: int,
    *,
    finest: bool = False,
) -> Jaxpr:
    """The trace of model.denoise on `rows` windows of `window` frames, all arguments being shapes.

    conditioning and latents (1, f, h/8, w/8, c) of the whole clip. finest: of a call that takes the
    deep features of another one.
    """

    def call(params, conditioning, latents):
        one = conditioning.at(np.arange(window))
        many = jax.tree.map(lambda x: jnp.repeat(x, rows, axis=0), model.hoist(params, one))
        x = jnp.zeros((rows, window, *latents.shape[2:]))
        return params, x, jnp.zeros(rows), many

    arguments = jax.eval_shape(call, params, conditioning, latents)
    if not finest:
        return jax.make_jaxpr(model.denoise)(*arguments).jaxpr
    _, deep = jax.eval_shape(partial(model.denoise, keep=True), *arguments)
    with_deep = lambda params, x, t, rows, deep: model.denoise(params, x, t, rows, deep=deep)
    return jax.make_jaxpr(with_deep)(*arguments, deep).jaxpr


def _params(network: Network) -> Params:
    """Shapes of a network's weights in the type it computes in."""
    return jax.tree.map(lambda x: _struct(x.shape, network.dtype), network.shapes)


def is_guided(config) -> bool:
    """Whether every window is denoised twice, with and without its conditions."""
    return bool((guidance.scales(config.sample.guidance_scale, 2) != 1).any())


def _jaxpr(function, *arguments) -> Jaxpr:
    return jax.make_jaxpr(function)(*arguments).jaxpr


def _reference_jaxpr(model: Model, params: Params, height: int, width: int) -> Jaxpr:
    picture, key = _struct((1, height, width, 3), jnp.float32), _key()
    return _jaxpr(model.condition_reference, params, picture, key)


def _features_jaxpr(recipe, params: Params, height: int, width: int) -> Jaxpr | None:
    """Of the diffusion features of the reference, if there are any."""
    if recipe.dift is None:
        return None
    picture = _struct((height, width, 3), jnp.float32)
    return _jaxpr(partial(dift.features, recipe.dift), params, picture, _key())


def _frames_jaxpr(model: Model, recipe, params: Params, signals, size_px) -> Jaxpr:
    """Of a chunk of frames: the fields, and the encoders of skeletons, fields and points."""
    chunk = recipe.chunk
    skeletons = _struct((1, chunk, *size_px, 3), jnp.float32)
    if signals is None:
        return _jaxpr(lambda p, x: model.condition_frames(p, x, None), params, skeletons)
    joints = np.zeros((1, chunk, _JOINTS))
    impulses = Impulses(np.zeros((*joints.shape, 2), int), joints[..., None] + [0, 0], joints > 0)
    paths = control_signals.Trajectories(
        impulses, impulses, impulses.pixels, joints > 0, joints[..., 0] > 0
    )
    side = recipe.cmp_size
    picture = None
    if recipe.cmp is not None:
        encode = partial(_apply, recipe.cmp, method=CMP.encode_image)
        square = _struct((1, side, side, 3), jnp.float32)
        picture = jax.eval_shape(encode, params["cmp"], square)

    def call(params, picture, points, skeletons):
        made = control_signals.of_frames(recipe, size_px, params, picture, points, paths)
        return model.condition_frames(params, skeletons, made)

    return _jaxpr(call, params, picture, signals.point_features, skeletons)


def _decode_jaxpr(model: Model, params: Params, latents, chunk: int) -> Jaxpr:
    part = _struct((1, min(chunk, latents.shape[1]), *latents.shape[2:]), latents.dtype)
    return _jaxpr(model.decode, params, part)


def _key():
    return jax.eval_shape(lambda: jax.random.key(0))


def signal_shapes(config, f: int, height: int, width: int) -> ControlSignals | None:
    """Shapes of what control.for_sampling gives; None for the base model alone."""
    motion, points = config.control.motion, config.control.points
    if not motion and not points:
        return None
    flow = _struct((1, f, height, width, 2), jnp.float32)
    features = _struct((1, _JOINTS, config.model.dift.channels[-2]), jnp.float32)
    return ControlSignals(
        sparse_flow=flow,
        dense_flow=flow if "dense" in motion else None,
        cells=_struct((1, f, _JOINTS, 2), jnp.int32),
        visible=_struct((1, f, _JOINTS), jnp.bool_),
        point_features=features if points else None,
    )


def condition_shapes(
    model: Model, params: Params, signals, f: int, height: int, width: int
) -> tuple[Conditioning, int]:
    """Shapes of a clip's Conditioning, and the FLOPs of making it."""
    pictures = [_struct((1, *shape, height, width, 3), jnp.float32) for shape in ((), (f,))]
    trace = jax.make_jaxpr(partial(condition, model), return_shape=True)
    jaxpr, conditioning = trace(params, *pictures, signals, _key())
    return conditioning, sum(flops_by_module(jaxpr.jaxpr).values())


def _signal_flops(config, built, params: Params, f: int, height: int, width: int) -> dict[str, int]:
    """FLOPs of diffusion features and of CMP's dense field, if the config has them."""
    work = {}
    if "dift_unet" in built:
        sizes, ensemble = config.model.dift, config.dift.ensemble
        module = lambda name: partial(_apply, built[name].module)
        picture = _struct((height, width, 3), jnp.float32)
        latents = _struct(
            (1, ensemble, height // 8, width // 8, sizes.latent_channels), jnp.float32
        )
        context = _struct((1, 77, sizes.text_width), jnp.float32)
        unet = partial(module("dift_unet"), stop_after_up=config.dift.up_block)
        work["diffusion features"] = (
            flops(partial(module("dift_vae"), method="encode"), params["dift_vae"], picture)
            + flops(module("dift_text_encoder"), params["dift_text_encoder"], _struct((1, 77), int))
            + flops(unet, params["dift_unet"], latents, _struct((1,), jnp.float32), context)
        )
    if "cmp" in built:
        side, cmp = config.motion.cmp_size, partial(_apply, built["cmp"].module)
        picture, field, mask = (_struct((1, side, side, *c), jnp.float32) for c in ((3,), (2,), ()))
        encode = partial(cmp, method=CMP.encode_image)
        features = jax.eval_shape(encode, params["cmp"], picture)
        complete = partial(cmp, method=CMP.complete)
        work["dense field"] = flops(encode, params["cmp"], picture) + (f - 1) * flops(
            complete, params["cmp"], features, field, mask
        )
    return work


def _apply(module, params, *inputs, **named):
    return module.apply({"params": params}, *inputs, **named)


def _decode(model: Model, params: Params, latents, chunk: int) -> int:
    """FLOPs of decoding a clip's latents some frames at a time."""
    f = latents.shape[1]
    full, rest = divmod(f, chunk)
    part = lambda n: flops(model.decode, params, _struct((1, n, *latents.shape[2:]), latents.dtype))
    return (full * part(chunk) if full else 0) + (part(rest) if rest else 0)


def _weights(
    stages: dict[str, tuple[str, ...]], built: dict[str, Network], params: Params
) -> Iterator[str]:
    """The table of networks by stage."""
    yield "Weights, loaded for their stage and dropped after it"
    for stage, names in stages.items():
        used = [name for name in names if name in params]
        if not used:
            continue
        yield line(stage, in_bytes(size([params[name] for name in used])))
        for name in used:
            count = sum(x.size for x in jax.tree.leaves(params[name]))
            dtype = jnp.dtype(built[name].dtype).name
            yield line(
                f"  {name}",
                in_bytes(size(params[name])),
                f"{count / 1e6:.1f} M parameters, {dtype}",
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
