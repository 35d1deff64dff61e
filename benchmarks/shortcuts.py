"""What each exact shortcut saves: the plain way over the short way, on the same device.

  python -m benchmarks.shortcuts                    # the small model
  python -m benchmarks.shortcuts --config configs/svd.py:size=full --only points,temporal_conv

Both ways are compiled, run in alternation, and their results compared. Sizes are those of one
window of the config.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, step
from dispose_jax import traces
from dispose_jax.models import networks, registry
from dispose_jax.motion import field
from dispose_jax.networks.cmp import CMP
from dispose_jax.networks.layers import temporal_conv
from dispose_jax.networks.point_encoder import PointMLP
from dispose_jax.ops import attention, filters, gather, resize
from dispose_jax.types import ControlSignals, Impulses


class Setting(NamedTuple):
    """What all cases share."""

    config: object
    frames: int
    height: int
    width: int
    dtype: object

    @property
    def networks(self) -> dict:
        return networks.build(self.config, self.dtype)

    def params(self, *names: str) -> dict:
        """Random weights of some networks."""
        cast = lambda x: jax.ShapeDtypeStruct(x.shape, self.dtype)
        shapes = {name: jax.tree.map(cast, self.networks[name].shapes) for name in names}
        return measure.random_tree(shapes)

    def normal(self, *shape: int, dtype=None) -> jax.Array:
        values = np.random.default_rng(len(shape)).standard_normal(shape, np.float32)
        return jnp.asarray(values, dtype or self.dtype)


Calls = dict[str, Callable[[], object]]  # "plain" and "short", or several ways by name


def _compiled(function: Callable, *arguments) -> Callable[[], object]:
    run = jax.jit(function)
    return lambda: run(*arguments)


def _denoiser(setting: Setting):
    """Model, weights, and a denoising call's arguments for both halves of guidance."""
    s = setting
    # Two tokens of context have no released order: each row reads its own.
    s.config.quirks.time_context_order = "per_clip"
    built = s.networks
    model = registry.build(s.config, built)
    params = s.params("unet", "controlnet")
    signals = traces.signal_shapes(s.config, s.frames, s.height, s.width)
    weights = step.weight_shapes(built)
    _, shapes = traces.conditioning(model, weights, signals, s.frames, s.height, s.width)
    conditioning = measure.random_tree(shapes)
    conditioning = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), conditioning)
    x = s.normal(2, s.frames, s.height // 8, s.width // 8, s.config.model.vae.latent_channels)
    return model, params, x, jnp.zeros(2), conditioning


def one_token(setting: Setting) -> Calls:
    """Cross-attention to one token is a constant; plain: the same token twice, attended to."""
    model, params, x, t, conditioning = _denoiser(setting)
    twice = conditioning.replace(context=jnp.repeat(conditioning.context, 2, axis=1))
    run = jax.jit(model.denoise)
    return {
        "plain": lambda: run(params, x, t, twice),
        "short": lambda: run(params, x, t, conditioning),
    }


def hoisted_cross(setting: Setting) -> Calls:
    """The constants of cross-attention computed once per clip, not in every call."""
    model, params, x, t, conditioning = _denoiser(setting)
    hoisted = jax.jit(model.hoist)(params, conditioning)
    run = jax.jit(model.denoise)
    return {
        "plain": lambda: run(params, x, t, conditioning),
        "short": lambda: run(params, x, t, hoisted),
    }


def hoisted_control(setting: Setting) -> Calls:
    """Motion and point encoders once per clip; plain: in every call, for both halves."""
    s = setting
    model, params, x, t, conditioning = _denoiser(s)
    encoders = s.params("motion_encoder", "point_encoder")
    signals = _signals(s)
    both = jax.tree.map(lambda y: jnp.repeat(y, 2, axis=0), signals)
    encoded = jax.jit(model.control.encode)(encoders, both)
    ready = conditioning.replace(**encoded)

    def plain(params, encoders, x, t, conditioning, both):
        encoded = model.control.encode(encoders, both)
        return model.denoise(params, x, t, conditioning.replace(**encoded))

    run = jax.jit(model.denoise)
    return {
        "plain": _compiled(plain, params, encoders, x, t, conditioning, both),
        "short": lambda: run(params, x, t, ready),
    }


def window_batching(setting: Setting) -> Calls:
    """Four rows (two windows, two halves) in one call; plain: row by row."""
    model, params, x, t, conditioning = _denoiser(setting)
    double = lambda tree: jax.tree.map(lambda y: jnp.concatenate([y, y]), tree)
    x, t, conditioning = double((x, t, conditioning))
    rows = [jax.tree.map(lambda y: y[i : i + 1], (x, t, conditioning)) for i in range(4)]  # noqa: B023
    run = jax.jit(model.denoise)
    return {
        "plain": lambda: jnp.concatenate([run(params, *row) for row in rows]),
        "short": lambda: run(params, x, t, conditioning),
    }


def points(setting: Setting) -> Calls:
    """The point MLPs on at most 18 points per frame; plain: on every cell, masked afterwards."""
    s = setting
    s.config.quirks.point_levels = "released"
    encoder, params = s.networks["point_encoder"].module, s.params("point_encoder")
    signals, size = _signals(s), (s.height, s.width)
    arguments = signals.point_features, signals.cells, signals.visible

    def short(params, *arguments):
        return encoder.apply({"params": params["point_encoder"]}, *arguments, size)

    def plain(params, features, cells, visible):
        means, keep = gather.cell_mean(features, cells, visible)
        grid, occupied = gather.scatter(means, cells, keep, (size[0] // 16, size[1] // 16))
        maps = []
        for i, (channels, stride) in enumerate(zip(encoder.channels, encoder.strides)):
            mlp = PointMLP(channels, encoder.width, dtype=encoder.dtype)
            level = mlp.apply({"params": params["point_encoder"][f"levels_{i}"]}, grid)
            mask = occupied[..., None].astype(level.dtype)
            target = (size[0] // stride, size[1] // stride)
            level = resize.bilinear(level * mask, target) * resize.nearest(mask, target)
            maps.append(level.astype(encoder.dtype))
        return tuple(maps)

    return {
        "plain": _compiled(plain, params, *arguments),
        "short": _compiled(short, params, *arguments),
    }


def temporal_conv_2d(setting: Setting) -> Calls:
    """A convolution over frames as a (3, 1) one on (frames, positions); plain: a 3-D one."""
    s = setting
    h, w, c = s.height // 8, s.width // 8, s.config.model.unet.channels[0]
    x = s.normal(2, s.frames, h, w, c)
    kernel, bias = s.normal(3, 1, c, c) / np.sqrt(3 * c), s.normal(c)
    short = temporal_conv(c, name="conv", dtype=s.dtype)
    plain = nn.Conv(c, (3, 1, 1), padding=((1, 1), (0, 0), (0, 0)), dtype=s.dtype)
    flat = lambda x: x.reshape(2, s.frames, h * w, c)
    return {
        "plain": _compiled(
            lambda k, x: plain.apply({"params": {"kernel": k[:, :, None], "bias": bias}}, x),
            kernel,
            x,
        ),
        "short": _compiled(
            lambda k, x: short.apply({"params": {"kernel": k, "bias": bias}}, flat(x)).reshape(
                x.shape
            ),
            kernel,
            x,
        ),
    }


def sparse_field(setting: Setting) -> Calls:
    """The sparse field as a sum of the joints' responses; plain: a picture, convolved."""
    s = setting
    size, kernel, sigma = (s.height, s.width), s.config.motion.kernel, s.config.motion.sigma
    impulses = _impulses(s.frames, size)
    taps = jnp.asarray(filters.gaussian(kernel, sigma), jnp.float32)
    reach = kernel // 2

    def convolve(x, axis):  # (f, h, w, 2), borders mirrored
        sides = [(0, 0)] * 4
        sides[axis] = (reach, reach)
        shape = [1, 1, 1, 2]
        shape[axis - 1] = kernel
        return jax.lax.conv_general_dilated(
            jnp.pad(x, sides, mode="reflect"),
            jnp.broadcast_to(jnp.expand_dims(taps, (1, 2, 3)), (kernel, 1, 1, 2)).reshape(shape),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    def plain(impulses):
        return convolve(convolve(field.rasterise(impulses, size)[0], 1), 2)

    return {
        "plain": _compiled(plain, impulses),
        "short": lambda: field.sparse(impulses, size, kernel=kernel, sigma=sigma),
    }


def cmp_image_once(setting: Setting) -> Calls:
    """CMP's branch of the picture once per clip; plain: once per frame."""
    s = setting
    net, params = s.networks["cmp"].module, s.params("cmp")["cmp"]
    side, n = s.config.motion.cmp_size, s.frames
    picture = s.normal(1, side, side, 3, dtype=jnp.float32)
    guidance, mask = field.rasterise(_impulses(n, (side, side)), (side, side))

    def short(params, picture, guidance, mask):
        features = net.apply({"params": params}, picture, method=CMP.encode_image)
        return net.apply({"params": params}, features, guidance, mask, method=CMP.complete)

    def plain(params, picture, guidance, mask):
        pictures = jnp.repeat(picture, n, axis=0)
        return net.apply({"params": params}, pictures, guidance, mask)

    arguments = params, picture, guidance, mask
    return {"plain": _compiled(plain, *arguments), "short": _compiled(short, *arguments)}


def attention_kernels(setting: Setting) -> Calls:
    """Spatial self-attention of the finest grid by every implementation there is here."""
    s = setting
    sizes = s.config.model.unet
    heads = sizes.heads[0]
    tokens = s.height * s.width // 64
    shape = (2 * s.frames, tokens, heads, sizes.channels[0] // heads)
    q, k, v = (s.normal(*shape) * scale for scale in (1.0, 0.7, 0.3))
    names = ["chunked"] + {"gpu": ["cudnn"], "tpu": ["tpu"]}.get(jax.default_backend(), [])
    if q.shape[0] * heads * tokens**2 <= 2**30:  # 4 GB of scores
        names.insert(0, "explicit")
    chosen = attention.choose(q, k)
    names.sort(key=lambda name: name == chosen)  # the choice of "auto" last, others are held to it
    way = lambda name: partial(attention.attention, implementation=name)
    calls = {"jax.nn (xla)": _compiled(jax.nn.dot_product_attention, q, k, v)}
    return calls | {name: _compiled(way(name), q, k, v) for name in names}


CASES = {
    "one_token": one_token,
    "hoisted_cross": hoisted_cross,
    "hoisted_control": hoisted_control,
    "window_batching": window_batching,
    "points": points,
    "temporal_conv": temporal_conv_2d,
    "sparse_field": sparse_field,
    "cmp_image_once": cmp_image_once,
    "attention": attention_kernels,
}


def run(setting: Setting, names: list[str], repeats: int = 3) -> list[tuple]:
    """Rows (case, way, wall seconds, CPU seconds, times the last way, difference from the last)."""
    rows = []
    for name in names:
        # Cases change quirks of their own copy.
        config = setting.config.copy_and_resolve_references()
        calls = CASES[name](setting._replace(config=config))
        reference = list(calls)[-1]
        result = jax.device_get(calls[reference]())
        taken = measure.alternate(calls, repeats)
        base = getattr(taken[reference], measure.clock())
        for way, seconds in taken.items():
            ratio = getattr(seconds, measure.clock()) / base
            difference = _difference(jax.device_get(calls[way]()), result)
            rows.append((name, way, seconds.wall, seconds.cpu, ratio, difference))
    return rows


def _difference(a, b) -> float:
    """Largest difference over the largest deviation of b's leaves."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    largest = max(float(np.abs(np.float32(x) - np.float32(y)).max()) for x, y in pairs)
    return largest / max(float(np.float32(y).std()) for _, y in pairs)


def _impulses(f: int, size: tuple[int, int]) -> Impulses:
    """18 vectors per frame at random pixels; none in the reference."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, [size[1], size[0]], (f, 18, 2)).astype(np.int32)
    valid = np.ones((f, 18), bool)
    valid[0] = False
    flat = pixels[..., 1] * size[1] + pixels[..., 0]
    for row, numbers in zip(valid, flat):  # one vector per pixel
        row &= np.isin(np.arange(18), np.unique(numbers, return_index=True)[1])
    return Impulses(pixels, rng.normal(0, 5, (f, 18, 2)), valid)


def _signals(s: Setting) -> ControlSignals:
    """Random signals of one window."""
    rng = np.random.default_rng(1)
    flow = lambda: s.normal(1, s.frames, s.height, s.width, 2, dtype=jnp.float32)
    cells = rng.integers(0, [s.width // 16, s.height // 16], (1, s.frames, 18, 2))
    return ControlSignals(
        sparse_flow=flow(),
        dense_flow=flow(),
        cells=jnp.asarray(cells, jnp.int32),
        visible=jnp.asarray(rng.uniform(size=(1, s.frames, 18)) > 0.1),
        point_features=s.normal(1, 18, s.config.model.dift.channels[-2], dtype=jnp.float32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=f"some of {', '.join(CASES)}, separated by commas")
    options, config, size, dtype = step.parse(parser)
    names = options.only.split(",") if options.only else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(CASES)}")
    print(
        f"{measure.device()}; {options.config}, {options.frames} frames, {size[1]} x {size[0]}, ",
        end="",
    )
    print(f"{dtype.name}; ratios by {measure.clock()} time, median of {options.repeats}")
    header = ("shortcut", "way", "wall s", "CPU s", "times", "difference")
    for name in names:  # a table per case: each is seen as soon as it is known
        setting = Setting(config, options.frames, *size, dtype)
        print(measure.table(run(setting, [name], options.repeats), header), flush=True)


if __name__ == "__main__":
    main()
