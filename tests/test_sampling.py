"""The driver against the plain loop it stands for: one window at a time, on one device, nothing
hoisted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import sampling, windowed
from dispose_jax.diffusion import solvers
from dispose_jax.types import Deep
from tests import small
from tests.plain_loop import C, H, Toy, W, assert_same, plain_loop, toy_clip


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


def test_guidance_reaches_its_end_with_the_clip_and_not_with_what_fills_its_windows():
    params, conditioning, noise = toy_clip(num_frames=11)
    sampler = sampling.Sampler(2, 5, 2, (1.5, 3.0))
    ours = sampling.sample(Toy(), params, conditioning, noise, sampler, spare=4)
    assert_same(ours, plain_loop(Toy(), params, conditioning, noise, sampler, spare=4))


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


@pytest.mark.parametrize(("num_frames", "placed"), [(8, 1), (11, 2 * 3)])  # 3 windows, 4
def test_windows_of_one_batch_stay_on_the_devices_from_call_to_call(
    monkeypatch, num_frames, placed
):
    predict, given = windowed._predict, []

    def watched(*arguments):
        given.append(arguments[7]["motion"])
        return predict(*arguments)

    monkeypatch.setattr(windowed, "_predict", watched)
    params, conditioning, noise = toy_clip(num_frames)
    sampler = sampling.Sampler(3, 4, 2, 2.0, window_batch=3)
    some = jax.devices()[:1]
    ours = sampling.sample(Toy(), params, conditioning, noise, sampler, devices=some)
    assert len({id(rows) for rows in given}) == placed
    assert_same(ours, plain_loop(Toy(), params, conditioning, noise, sampler))


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
