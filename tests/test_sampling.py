"""The driver against the plain loop it stands for: one window at a time, on one device, nothing
hoisted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import sampling
from dispose_jax.diffusion import solvers, windows
from dispose_jax.diffusion.samplers import Euler
from dispose_jax.networks.temporal import context_of_positions
from dispose_jax.types import Conditioning, Deep
from tests import small

H, W, C = 3, 4, 2  # latents of the toy


@dataclass(frozen=True)
class Toy:
    """A model that compiles at once and reads all that a driver brings.

    Frames of a window see each other and their places; rows of a group see each other's context.
    """

    group: int = 2
    repeats_noise: bool = True
    generates_reference: bool = True
    schedule: Euler = Euler()

    def windows(self, num_frames, window, overlap):
        return windows.anchored(num_frames, window, overlap)

    def unconditional(self, conditioning, drop):
        keep = lambda x: jnp.where(drop.reshape(-1, *[1] * (x.ndim - 1)), 0, x)
        return conditioning.replace(
            context=keep(conditioning.context),
            pose_features=jax.tree.map(keep, conditioning.pose_features),
        )

    def unpaired(self):
        return replace(self, group=1)

    def hoist(self, params, conditioning):
        value = conditioning.context[:, 0] @ params["kernel"]
        return conditioning.replace(cross={"value": value})

    def denoise(self, params, x, t, conditioning, *, deep=None, keep=False):
        if conditioning.cross is None:
            conditioning = self.hoist(params, conditioning)
        b, f = x.shape[:2]
        features = jnp.cos(2 * x) if deep is None else deep.features
        values = context_of_positions(conditioning.cross["value"], H * W, self.group)
        y = x + jnp.broadcast_to(values, (b, 1, H * W, C)).reshape(b, 1, H, W, C)
        y = y + t[:, None, None, None, None] + conditioning.added_time.mean()
        y = y + jnp.arange(f)[:, None, None, None] / f + conditioning.image_latents[:, None]
        y = y + conditioning.pose_features + conditioning.motion + conditioning.points[0]
        y = y + 0.1 * features
        y = jnp.tanh(y) + 0.3 * jnp.sin(3 * y).mean(1, keepdims=True)
        return (y, Deep(features, None)) if keep else y

    def decode(self, params, latents):
        """Frames of one pixel per latent that depend on those they are decoded with."""
        return latents[..., :1] + latents[..., 1:].mean(1, keepdims=True) * params["colours"]


@dataclass(frozen=True, eq=False)
class Frozen(Toy):
    """Takes these deep features in every call."""

    features: np.ndarray | None = None

    def denoise(self, params, x, t, conditioning, *, deep=None, keep=False):
        features = jnp.repeat(jnp.asarray(self.features), len(x), axis=0)
        return super().denoise(params, x, t, conditioning, deep=Deep(features, None))


class Counting(Toy):
    """Keeps how many rows each traced call had, and of which kind it was."""

    rows: ClassVar[list[int]] = []
    kinds: ClassVar[list[str]] = []

    def denoise(self, params, x, t, conditioning, *, deep=None, keep=False):
        self.rows.append(len(x))
        self.kinds.append("keeps" if keep else "plain" if deep is None else "reuses")
        return super().denoise(params, x, t, conditioning, deep=deep, keep=keep)


def toy_clip(num_frames: int, seed: int = 0):
    """params, conditioning and noise."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    conditioning = Conditioning(
        context=normal(1, 1, 5),
        pose_features=normal(1, num_frames, H, W, C),
        image_latents=normal(1, H, W, C),
        added_time=normal(1, 3),
        motion=normal(1, num_frames, H, W, C),
        points=(normal(1, num_frames, H, W, C),),
    )
    return {"kernel": normal(5, C)}, conditioning, normal(1, num_frames, H, W, C)


def plain_loop(model, params, conditioning, noise, sampler) -> np.ndarray:
    """Sampling as the paper's base model describes it, in float64 around the network."""
    f = noise.shape[1]
    length, overlap = min(sampler.window, f), sampler.overlap
    tiles = [[0, *range(s + 1, s + length)] for s in range(0, f - length + 1, length - overlap)]
    if tiles[-1][-1] < f - 1:
        tiles.append([0, *range(f - length + 1, f)])
    middle = (np.arange(length) + 0.5) * 2 / length
    weights = np.minimum(middle, 2 - middle)[:, None, None, None]

    ramp = np.linspace(0, 1, sampler.steps)
    high, low = model.schedule.sigma_max ** (1 / 7), model.schedule.sigma_min ** (1 / 7)
    sigmas = (high + ramp * (low - high)) ** 7
    scale = np.linspace(*np.broadcast_to(sampler.guidance_scale, 2), f)[:, None, None, None]
    x = noise[0].astype(np.float64) * np.sqrt(sigmas[0] ** 2 + 1)
    for sigma, lower in pairwise([*sigmas, 0.0]):
        fused, total = np.zeros((2, *x.shape)), np.zeros((f, 1, 1, 1))
        for tile in tiles:
            pair = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), conditioning.at(tile))
            pair = model.unconditional(pair, jnp.array([True, False]))
            seen = np.stack([x[tile] / np.sqrt(sigma**2 + 1)] * 2).astype(np.float32)
            t = np.full(2, 0.25 * np.log(sigma), np.float32)
            output = np.asarray(model.denoise(params, seen, t, pair))
            np.add.at(fused, (slice(None), tile), output * weights)
            np.add.at(total, tile, weights)
        unconditional, conditional = fused / total
        v = unconditional + scale * (conditional - unconditional)
        clean = x / (sigma**2 + 1) - v * sigma / np.sqrt(sigma**2 + 1)
        x = x + (x - clean) / sigma * (lower - sigma)
    return x[None]


def assert_same(ours, reference, tolerance=1e-4):
    difference = np.abs(np.asarray(ours) - reference).max() / reference.std()
    assert difference < tolerance


ARRANGEMENTS = {  # windows at a time, devices
    "one by one": (1, 1),
    "a batch that does not divide the windows": (3, 1),
    "a batch larger than the windows": (9, 1),
    "two devices": (1, 2),
    "two devices, two each": (2, 2),
    "more devices than windows": (1, 8),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_arrangement_of_windows_does_not_change_the_result(arrangement):
    window_batch, devices = ARRANGEMENTS[arrangement]
    params, conditioning, noise = toy_clip(num_frames=11)
    sampler = sampling.Sampler(3, 5, 2, (1.5, 3.0), window_batch)
    ours = sampling.sample(
        Toy(), params, conditioning, noise, sampler, devices=jax.devices()[:devices]
    )
    assert_same(ours, plain_loop(Toy(), params, conditioning, noise, sampler))


@pytest.mark.parametrize("scale", [0.0, 0.4, (0.2, 0.9)])
def test_guidance_below_1_lies_between_the_two_halves(scale):
    params, conditioning, noise = toy_clip(num_frames=6)
    sampler = sampling.Sampler(2, 4, 1, scale)
    ours = sampling.sample(Toy(), params, conditioning, noise, sampler)
    assert_same(ours, plain_loop(Toy(), params, conditioning, noise, sampler))


@pytest.mark.parametrize("num_frames", [2, 3, 5, 6])
def test_clips_around_the_length_of_a_window(num_frames):
    params, conditioning, noise = toy_clip(num_frames)
    sampler = sampling.Sampler(2, 5, 1, 2.0)
    ours = sampling.sample(Toy(), params, conditioning, noise, sampler)
    assert ours.shape == noise.shape
    assert_same(ours, plain_loop(Toy(), params, conditioning, noise, sampler))


def test_guidance_of_one_gives_the_conditional_result_and_computes_no_other():
    params, conditioning, noise = toy_clip(num_frames=7)
    sampler = sampling.Sampler(2, 4, 2, 1.0, window_batch=2)
    Counting.rows.clear()
    model = Counting(group=1)
    ours = sampling.sample(model, params, conditioning, noise, sampler, devices=jax.devices()[:1])
    assert Counting.rows == [2]  # two windows, one row each; traced once
    assert_same(ours, plain_loop(Toy(group=1), params, conditioning, noise, sampler))
    stronger = sampling.Sampler(2, 4, 2, 1.01, window_batch=2)
    sampling.sample(model, params, conditioning, noise, stronger, devices=jax.devices()[:1])
    assert Counting.rows == [2, 4]


def test_order_of_the_context_matters_only_between_the_halves_of_guidance():
    params, conditioning, noise = toy_clip(num_frames=7)
    run = lambda group, scale: np.asarray(
        sampling.sample(Toy(group), params, conditioning, noise, sampling.Sampler(2, 4, 2, scale))
    )
    assert np.abs(run(2, 2.0) - run(1, 2.0)).max() > 0.01
    np.testing.assert_array_equal(run(2, 1.0), run(1, 1.0))


def test_every_step_is_reported_with_its_latents():
    params, conditioning, noise = toy_clip(num_frames=4)
    done, kept = [], []
    latents = sampling.sample(
        Toy(),
        params,
        conditioning,
        noise,
        sampling.Sampler(3, 4, 2, 2.0),
        progress=lambda *counts: done.append(counts),
        watch=lambda step, x, clean: kept.append((step, x)),
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [step for step, _ in kept] == [0, 1, 2]
    np.testing.assert_array_equal(kept[-1][1], latents)
    short = sampling.Sampler(2, 4, 2, 2.0)
    assert np.abs(kept[1][1] - sampling.sample(Toy(), params, conditioning, noise, short)).max() > 0


def test_initial_noise_is_one_window_repeated_where_the_model_says_so():
    key = small.key(5)
    repeated = sampling.initial_noise(Toy(), key, 11, (H, W, C), 4)
    assert repeated.shape == (1, 11, H, W, C)
    np.testing.assert_array_equal(repeated[:, 4:8], repeated[:, :4])
    np.testing.assert_array_equal(repeated[:, 8:], repeated[:, :3])
    own = sampling.initial_noise(Toy(repeats_noise=False), key, 11, (H, W, C), 4)
    assert len(np.unique(np.asarray(own))) == own.size
    short = sampling.initial_noise(Toy(), key, 3, (H, W, C), 4)
    assert short.shape[1] == 3 and len(np.unique(np.asarray(short))) == short.size


def test_noise_of_any_length_begins_alike_and_comes_of_few_programs():
    key, model, compiled = jax.random.key(5), Toy(repeats_noise=False), []
    whole = np.asarray(jax.random.normal(key, (1, 16, H, W, C)))
    sampling.initial_noise(model, key, 16, (H, W, C), 4)
    count = lambda name, *_, **about: compiled.append(name)
    jax.monitoring.register_event_duration_secs_listener(count)
    made = {n: sampling.initial_noise(model, key, n, (H, W, C), 4) for n in range(9, 16)}
    jax.monitoring.unregister_event_duration_listener(count)
    assert not [name for name in compiled if name.endswith("backend_compile_duration")]
    for n, noise in made.items():
        np.testing.assert_array_equal(noise, whole[:, :n])


def test_what_is_not_shared_out_is_computed_on_one_of_the_devices_given(monkeypatch):
    finish, where = sampling._finish, []

    def watched(*arguments):
        found = finish(*arguments)
        where.append(found[0].devices())
        return found

    monkeypatch.setattr(sampling, "_finish", watched)
    params, conditioning, noise = toy_clip(6)
    some = jax.devices()[4:2:-1]
    sampler = sampling.Sampler(2, 4, 2, 2.0)
    sampling.sample(Toy(), params, conditioning, noise, sampler, devices=some)
    assert where and all(devices == {some[0]} for devices in where)


@pytest.mark.parametrize("chunk", [1, 3, 20])
@pytest.mark.parametrize("generates_reference", [True, False])
def test_frames_are_decoded_chunk_by_chunk_without_a_generated_reference(
    chunk, generates_reference
):
    model = Toy(generates_reference=generates_reference)
    params = {"colours": np.array([1.0, 0.5, -1.0], np.float32)}
    latents = np.random.default_rng(1).normal(size=(1, 7, H, W, C)).astype(np.float32)
    done = []
    parts = sampling.decode(
        model,
        params,
        latents,
        chunk,
        devices=jax.devices()[:1],
        progress=lambda *counts: done.append(counts),
    )
    frames = list(parts)
    assert all(len(part) and part.dtype == np.uint8 for part in frames)
    parts = [latents[:, i : i + chunk] for i in range(0, 7, chunk)]
    expected = np.concatenate([np.asarray(model.decode(params, part))[0] for part in parts])
    levels = np.floor(np.clip(expected / 2 + 0.5, 0, 1) * 255)
    levels = levels[1:] if generates_reference else levels
    assert np.abs(np.concatenate(frames) - levels).max() <= 1  # a rounding in front of a floor
    assert (np.concatenate(frames) == levels).mean() > 0.99
    assert done == [(min(i + chunk, 7), 7) for i in range(0, 7, chunk)]


def test_frames_left_over_are_decoded_as_the_end_of_a_whole_chunk_where_asked():
    model = Toy(generates_reference=False)
    params = {"colours": np.array([1.0, 0.5, -1.0], np.float32)}
    latents = np.random.default_rng(1).normal(size=(1, 8, H, W, C)).astype(np.float32)
    ask = lambda part, **options: np.concatenate(
        list(sampling.decode(model, params, part, 3, **options))
    )
    found, released, end = ask(latents, rest="whole"), ask(latents), ask(latents[:, 5:])
    np.testing.assert_array_equal(found[:6], released[:6])
    np.testing.assert_array_equal(found[6:], end[1:])
    assert np.any(released[6:] != end[1:])
    np.testing.assert_array_equal(ask(latents[:, :6], rest="whole"), ask(latents[:, :6]))
    # Too few for a chunk: as if its last frame came again.
    longer = ask(latents[:, [0, 1, 1]])
    np.testing.assert_array_equal(ask(latents[:, :2], rest="whole"), longer[:2])


def test_networks_on_eight_devices_equal_the_plain_loop():
    """MimicMotion with all of DisPose, released order of the context."""
    made = small.build("full")
    conditioning = small.conditioning(made, num_frames=7)
    noise = np.random.default_rng(2).normal(size=(1, 7, *small.LATENTS)).astype(np.float32)
    sampler = sampling.Sampler(2, 4, 2, 2.0)
    assert made.config.quirks.time_context_order == "released"
    ours = sampling.sample(made.model, made.params, conditioning, noise, sampler)
    assert jax.device_count() == 8
    model = small.eager(made.model)
    assert_same(ours, plain_loop(model, made.params, conditioning, noise, sampler))


def test_a_whole_interval_and_every_call_computed_are_the_exact_run_bit_for_bit():
    params, conditioning, noise = toy_clip(num_frames=11)
    run = lambda **more: sampling.sample(
        Toy(), params, conditioning, noise, sampling.Sampler(4, 5, 2, (1.5, 3.0), 2, **more)
    )
    exact = run()
    np.testing.assert_array_equal(run(guidance_interval=(0.0, np.inf)), exact)
    np.testing.assert_array_equal(run(cache_interval=1), exact)
    np.testing.assert_array_equal(run(solver="euler"), exact)
    assert np.abs(run(cache_interval=2) - exact).max() > 1e-3
    assert np.abs(run(guidance_interval=(0.1, 10.0)) - exact).max() > 1e-3
    assert np.abs(run(solver="heun") - exact).max() > 1e-3


@pytest.mark.parametrize("window_batch", [1, 3])
def test_outside_the_interval_only_the_conditional_half_is_computed(window_batch):
    """Rows that the released order mixes in pairs are for themselves there, however many."""
    params, conditioning, noise = toy_clip(num_frames=8)  # three windows
    sampler = sampling.Sampler(3, 4, 2, 2.0, window_batch, guidance_interval=(0.0, 0.0001))
    Counting.rows.clear()
    one = jax.devices()[:1]
    nowhere = sampling.sample(Counting(), params, conditioning, noise, sampler, devices=one)
    assert set(Counting.rows) == {window_batch}
    off = sampling.Sampler(3, 4, 2, 1.0, window_batch)
    np.testing.assert_array_equal(
        nowhere, sampling.sample(Toy(group=1), params, conditioning, noise, off, devices=one)
    )


@pytest.mark.parametrize("solver", ["heun", "dpmpp_2m"])
def test_the_driver_runs_a_solver_as_its_plain_loop(solver):
    """One window and no guidance: the network is called with the whole latents."""
    params, conditioning, noise = toy_clip(num_frames=4)
    model = Toy(group=1)
    steps, seen = [], []
    ours = sampling.sample(
        model,
        params,
        conditioning,
        noise,
        sampling.Sampler(4, 4, 1, 1.0, solver=solver),
        progress=lambda done, total: steps.append((done, total)),
        watch=lambda step, x, clean: seen.append(step),
    )
    x, last, schedule = schedule_start(model, noise, 4), None, model.schedule
    for call in solvers.calls(solver, schedule, 4):
        t = np.full(1, schedule.time(call.at))
        output = model.denoise(params, schedule.scale_input(x, call.at), t, conditioning)
        second = call.again or call.weight
        start, before = last if second else (None, None)
        moved, clean = solvers.advance(
            schedule, x, output, call, start=start if call.again else None, before=before
        )
        last, x = (x, clean), moved
    assert_same(ours, np.asarray(x), 1e-5)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)] and seen == [0, 1, 2, 3]


def schedule_start(model, noise, steps):
    return model.schedule.start(noise, model.schedule.levels(steps))


def test_deep_features_are_computed_every_nth_call_and_belong_to_their_windows():
    params, conditioning, noise = toy_clip(num_frames=8)
    one = jax.devices()[:1]
    run = lambda model, window_batch: sampling.sample(
        model,
        params,
        conditioning,
        noise,
        sampling.Sampler(5, 4, 2, 2.0, window_batch, cache_interval=2),
        devices=one,
    )
    Counting.kinds.clear()
    alone = run(Counting(), 1)
    assert sorted(Counting.kinds) == ["keeps", "plain", "reuses"], "each a program of its own"
    assert_same(run(Toy(), 3), alone, 1e-5)


def test_features_that_were_computed_once_serve_all_later_calls():
    params, conditioning, noise = toy_clip(num_frames=4)
    one = jax.devices()[:1]
    sampler = sampling.Sampler(4, 4, 1, 2.0, cache_interval=4)
    ours = sampling.sample(Toy(), params, conditioning, noise, sampler, devices=one)
    first = Toy().schedule.scale_input(
        schedule_start(Toy(), noise, 4), Toy().schedule.levels(4)[0, 0]
    )
    frozen = Frozen(features=np.cos(2 * first))
    expected = sampling.sample(
        frozen, params, conditioning, noise, sampling.Sampler(4, 4, 1, 2.0), devices=one
    )
    assert_same(ours, expected, 1e-5)


def test_networks_whose_deep_features_serve_stay_close_to_the_exact_run():
    made = small.build("full")
    conditioning = small.conditioning(made, num_frames=5)
    noise = np.random.default_rng(2).normal(size=(1, 5, *small.LATENTS)).astype(np.float32)
    run = lambda **more: sampling.sample(
        made.model, made.params, conditioning, noise, sampling.Sampler(6, 4, 2, 2.0, **more)
    )
    exact, cached = run(), run(cache_interval=2)
    distance = np.abs(cached - exact).mean() / exact.std()
    assert 1e-4 < distance < 1
