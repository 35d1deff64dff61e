"""Where control signals enter, and what each ablation of the paper leaves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import CONTROL
from dispose_jax.models import control_path
from dispose_jax.networks import controlnet as residual_rules
from dispose_jax.types import Residuals
from tests import small

F = 4
CONTROL_NETWORKS = ("controlnet", "motion_encoder", "point_encoder")


def denoise(made, params, signals) -> np.ndarray:
    """Output of the whole denoiser for some signals, all else fixed."""
    rng = np.random.default_rng(4)
    base = small.conditioning(small.build("base"), F)
    conditioning = base.replace(**small.encode(made.model.control, params, signals))
    x = np.repeat(rng.normal(size=(1, F, *small.LATENTS)).astype(np.float32), 2, axis=0)
    two = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), conditioning)
    t = np.full(2, 0.7, np.float32)
    return np.asarray(small.eager(made.model).denoise(params, x, t, two))


def started(networks: dict) -> dict:
    """Initial parameters of control networks; equal modules are initialised once."""
    for name in set(networks) & set(CONTROL_NETWORKS):
        if (module := networks[name].module) not in _started:
            _started[module] = jax.jit(networks[name].init)(small.key(1))["params"]
    return {name: _started[networks[name].module] for name in CONTROL_NETWORKS if name in networks}


_started: dict = {}


@pytest.fixture(scope="module")
def base_output() -> np.ndarray:
    made = small.build("base")
    return denoise(made, made.params, small.signals(F))


@pytest.mark.parametrize("variant", CONTROL)
def test_an_untrained_variant_equals_its_frozen_base_and_a_trained_one_does_not(
    variant, base_output
):
    made = small.build(variant)
    untrained = denoise(made, made.params | started(made.networks), small.signals(F))
    np.testing.assert_array_equal(untrained, base_output)
    trained = denoise(made, made.params, small.signals(F))
    assert (np.abs(trained - base_output).max() > 0.01) == (variant != "base")


@pytest.mark.parametrize("variant", CONTROL)
def test_a_variant_has_the_networks_that_its_signals_need_and_no_other(variant):
    control, names = CONTROL[variant], set(small.build(variant).networks)
    motion, points = bool(control["motion"]), control["points"]
    into_unet = (
        motion and control.get("motion_into") == "unet",
        points and control.get("points_into") == "unet",
    )
    expected = {"motion_encoder"} if motion else set()
    expected |= {"point_encoder"} if points else set()
    expected |= {"controlnet"} if into_unet != (motion, points) else set()
    assert names & set(CONTROL_NETWORKS) == expected
    assert ("cmp" in names) == ("dense" in control["motion"])
    assert ("dift_unet" in names) == points


def test_without_completion_the_dense_field_is_not_read():
    made = small.build("no_cmp")
    signals = small.signals(F)
    one = denoise(made, made.params, signals)
    other = denoise(made, made.params, signals.replace(dense_flow=None))
    np.testing.assert_array_equal(one, other)
    moved = signals.replace(sparse_flow=2 * signals.sparse_flow)
    assert np.abs(denoise(made, made.params, moved) - one).max() > 1e-3


def test_encoding_a_clip_once_equals_encoding_every_window():
    made = small.build("full")
    signals = small.signals(num_frames=7)
    once = small.conditioning(made, num_frames=7)
    for window in ([0, 1, 2, 3], [0, 4, 5, 6]):
        per_frame = ("sparse_flow", "dense_flow", "cells", "visible")
        part = {name: getattr(signals, name)[:, window] for name in per_frame}
        alone = small.encode(made.model.control, made.params, signals.replace(**part))
        picked = once.at(np.array(window))
        np.testing.assert_allclose(picked.motion, alone["motion"], atol=1e-6)
        for ours, theirs in zip(picked.points, alone["points"], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("variant", ["full", "no_motion", "exp1", "exp2"])
def test_a_map_of_points_for_the_latents_joins_where_motion_does(variant):
    """The first skip is the input convolution's: of the points only this map can reach it."""
    plain, finest = small.build(variant), small.build(variant, point_levels="finest")
    signals = small.signals(F)
    for made, reaches in ((plain, False), (finest, True)):
        encoded = small.encode(made.model.control, made.params, signals)
        other = small.encode(
            made.model.control,
            made.params,
            signals.replace(point_features=-signals.point_features),
        )
        assert len(encoded["points"]) == len(made.model.unet.channels) + reaches
        first, moved = (_joining(made, points) for points in (encoded, other))
        assert (np.abs(first - moved).max() > 1e-3) == reaches
    untrained = finest.params | started(finest.networks)
    base = denoise(small.build("base"), small.build("base").params, signals)
    np.testing.assert_array_equal(denoise(finest, untrained, signals), base)


def _joining(made, encoded: dict) -> np.ndarray:
    """What of the control signals joins after the input convolution the points enter at."""
    conditioning = small.conditioning(made, F).replace(**encoded)
    height, width, channels = small.LATENTS
    x = np.zeros((1, F, height, width, 2 * channels), np.float32)  # with the reference's latents
    control = small.eager(made.model).control
    t = np.full(1, 0.7, np.float32)
    added, _, residuals = control.apply(made.params, x, t, conditioning)
    return np.asarray(added if made.config.control.points_into == "unet" else residuals.skips[0])


def test_scaled_residuals_keep_their_type():
    """A cache holds them on the device for every window."""
    whole = jnp.arange(6, dtype=jnp.float32).reshape(1, 1, 1, 2, 3)
    residuals = Residuals(skips=(whole.astype(jnp.bfloat16),), mid=whole)
    scaled = residual_rules.scale(residuals, 0.7)
    assert scaled.skips[0].dtype == jnp.bfloat16 and scaled.mid.dtype == jnp.float32
    np.testing.assert_allclose(scaled.mid, 0.7 * whole, rtol=1e-6)
    np.testing.assert_allclose(np.float32(scaled.skips[0]), 0.7 * whole, rtol=2**-8)


def test_residuals_are_scaled_and_counted_as_the_quirk_says():
    """Of two levels with one layer each: the first level's skips count twice as released."""
    rng = np.random.default_rng(0)
    one = lambda: rng.normal(size=(1, 2, 2, 2, 3)).astype(np.float32)
    residuals = Residuals(skips=tuple(one() for _ in range(4)), mid=one())  # input, 2 of level 0, 1

    class Fixed:
        channels, layers = (3, 3), 1

        def apply(self, *_, **__):
            return residuals

    made = small.build("full")

    def through(quirk: str) -> Residuals:
        path = replace(made.model.control, controlnet=Fixed(), scale=0.5, residuals=quirk)
        conditioning = small.conditioning(made, num_frames=2)
        return path.apply({"controlnet": {}}, jnp.zeros(1), jnp.zeros(1), conditioning).residuals

    for quirk, times in {"accumulated": (2, 2, 2, 1), "once": (1, 1, 1, 1)}.items():
        ours = through(quirk)
        for skip, count, ours_skip in zip(residuals.skips, times, ours.skips, strict=True):
            np.testing.assert_allclose(ours_skip, 0.5 * count * skip, rtol=1e-6)
        np.testing.assert_allclose(ours.mid, 0.5 * residuals.mid, rtol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [(64, 64, 8, 8), (256, 384, 8, 2), (576, 1024, 8, 1), (1024, 768, 8, 1), (64, 64, 3, 3)],
)
def test_large_frames_are_encoded_one_by_one(height, width, most, expected):
    pictures = jax.ShapeDtypeStruct((2, 16, height, width, 2), jnp.float32)
    assert control_path.frames_at_once(pictures, most) == expected
