"""MimicMotion: what conditions it, what guidance takes away, and its exact shortcut."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import animate
from dispose_jax.networks.clip import clip_pixels
from tests import small

F = 3


@pytest.fixture(scope="module")
def base():
    return small.build("base")


def to_float(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float32) / 127.5 - 1


@pytest.fixture(scope="module")
def conditioned(base):
    """The base model's conditioning of a clip, and the pictures that it read."""
    reference, skeletons = small.pictures(1, seed=1)[0], small.pictures(F, seed=2)
    run = lambda model, key=0: animate.condition(
        model, base.params, reference, skeletons, None, jax.random.key(key)
    )
    return run, to_float(reference), to_float(skeletons)


def apply(base, name: str, *inputs, **named):
    return base.networks[name].module.apply({"params": base.params[name]}, *inputs, **named)


def test_conditioning_is_what_each_encoder_gives(base, conditioned):
    run, reference, skeletons = conditioned
    conditioning = run(base.model)
    size = base.config.model.image_encoder.image_size
    embedding = apply(base, "image_encoder", clip_pixels(reference[None], size))
    np.testing.assert_allclose(conditioning.context, embedding[:, None], atol=1e-5)
    mean, _ = apply(base, "vae", reference[None], method="encode")  # neither drawn nor scaled
    np.testing.assert_allclose(conditioning.image_latents, mean, atol=1e-5)
    pose = apply(base, "pose_encoder", skeletons)
    np.testing.assert_allclose(conditioning.pose_features[0], pose, atol=1e-5)
    sample = base.config.sample
    told = [[sample.conditioning_fps - 1, sample.motion_bucket, sample.noise_aug]]
    np.testing.assert_array_equal(conditioning.added_time, np.float32(told))
    assert conditioning.motion is None and conditioning.points is None


def test_noise_on_the_reference_reaches_its_latents_alone_and_is_told(base, conditioned):
    run, reference, _ = conditioned
    clean = run(base.model)
    model = replace(base.model, noise_aug=0.5)
    noised, again, other = run(model), run(model), run(model, key=1)
    assert float(noised.added_time[0, 2]) == 0.5
    np.testing.assert_array_equal(noised.context, clean.context)
    np.testing.assert_array_equal(noised.image_latents, again.image_latents)
    assert np.abs(noised.image_latents - clean.image_latents).max() > 0.01
    assert np.abs(noised.image_latents - other.image_latents).max() > 0.01


def test_guidance_takes_away_picture_and_pose_but_not_motion_points_and_time():
    made = small.build("full")
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), small.conditioning(made, F))
    dropped = made.model.unconditional(two, jnp.array([True, False]))
    for name in ("context", "image_latents", "pose_features"):
        assert not np.asarray(getattr(dropped, name))[0].any()
        np.testing.assert_array_equal(getattr(dropped, name)[1], getattr(two, name)[1])
    for name in ("motion", "points", "added_time"):
        jax.tree.map(np.testing.assert_array_equal, getattr(dropped, name), getattr(two, name))


@pytest.mark.parametrize("order", ["released", "per_clip"])
def test_hoisted_cross_attention_equals_the_plain_path(order):
    made = small.build("full", time_context_order=order)
    assert made.model.unet.flavour.context_group == (2 if order == "released" else 1)
    pair = animate.guided(made.model, small.conditioning(made, F), halves=2)
    x = np.random.default_rng(1).normal(size=(2, F, *small.LATENTS)).astype(np.float32)
    t = np.full(2, 0.4, np.float32)
    run = lambda conditioning: made.model.denoise(made.params, x, t, conditioning)
    hoisted = made.model.hoist(made.params, pair)
    assert set(hoisted.cross) == {"unet", "controlnet"}
    plain = np.asarray(run(pair))
    np.testing.assert_allclose(run(hoisted), plain, atol=1e-6 * plain.std())
    # The networks do read what was hoisted: other values change the result.
    doubled = hoisted.replace(cross=jax.tree.map(lambda v: 2 * v, hoisted.cross))
    assert np.abs(np.asarray(run(doubled)) - plain).max() > 1e-3


def test_released_order_of_the_context_mixes_the_halves_of_guidance_alone():
    released, own = (
        small.build("base", time_context_order=order) for order in ("released", "per_clip")
    )
    conditioning = small.conditioning(released, F)
    x = np.random.default_rng(1).normal(size=(1, F, *small.LATENTS)).astype(np.float32)
    t = np.full(2, 0.4, np.float32)

    def run(made, halves: int) -> np.ndarray:
        rows = animate.guided(made.model, conditioning, halves)
        repeated = np.repeat(x, halves, axis=0)
        return np.asarray(made.model.denoise(made.params, repeated, t[:halves], rows))

    np.testing.assert_array_equal(run(released, 1), run(own, 1))
    assert (np.abs(run(released, 2) - run(own, 2)).max((1, 2, 3, 4)) > 1e-4).all()


def test_latents_are_scaled_for_diffusion_and_back(base):
    frames = to_float(small.pictures(F))[None]
    scale = base.config.model.vae.scale
    assert scale != 1
    latents = base.model.encode(base.params, frames, jax.random.key(3))
    mean, logvar = apply(base, "vae", frames, method="encode")
    noise = (latents / scale - mean) * jnp.exp(-logvar / 2)
    assert latents.shape == (1, F, *small.LATENTS)
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    decoded = base.model.decode(base.params, latents)
    expected = apply(base, "vae", latents / scale, method="decode")
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
