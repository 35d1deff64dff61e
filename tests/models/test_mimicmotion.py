"""MimicMotion: what conditions it, what guidance takes away, and its exact shortcut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax import sampling, windowed
from dispose_jax.networks.clip import clip_pixels
from tests import small

F = 4
TWO = np.full(2, 0.4, np.float32)  # times


class Embed:
    """Stands for the image encoder: simple, and different for different pictures."""

    def apply(self, _, pixels):
        return pixels.mean((1, 2))


class Project:
    """Stands for PoseNet."""

    def apply(self, _, skeletons):
        return skeletons[..., ::8, ::8, :] * 2


@dataclass(frozen=True)
class Pool:
    """Stands for the autoencoder: latents are means over 8 x 8 pixels, of a known variance."""

    variance: float = 0.25

    def apply(self, _, x, method, in_pieces=False):
        if method == "decode":
            return x.repeat(8, -3).repeat(8, -2)
        *rest, h, w, c = x.shape
        mean = x.reshape(*rest, h // 8, 8, w // 8, 8, c).mean((-4, -2))
        return mean, jnp.full(mean.shape, jnp.log(self.variance))


@pytest.fixture(scope="module")
def base():
    """The base model among encoders that need no compilation."""
    model = small.build("base").model
    parts = {"image_encoder": Embed(), "pose_encoder": Project(), "vae": Pool()}
    return replace(model, **parts, noise_aug=0.0)


PARAMS = {"image_encoder": {}, "pose_encoder": {}, "vae": {}}
REFERENCE, SKELETONS = small.pictures(1, seed=1)[0], small.pictures(F, seed=2)


def condition(model, key: int = 0):
    one = jax.devices()[:1]
    return sampling.condition(
        model, PARAMS, REFERENCE, SKELETONS, None, small.key(key), devices=one
    )


def to_float(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float32) / 127.5 - 1


def test_conditioning_is_what_each_encoder_gives_of_its_picture(base):
    conditioning = condition(base)
    pixels = clip_pixels(to_float(REFERENCE)[None], base.image_size)
    np.testing.assert_allclose(conditioning.context, Embed().apply({}, pixels)[:, None], atol=1e-5)
    mean, _ = Pool().apply({}, to_float(REFERENCE)[None], "encode")  # neither drawn nor scaled
    np.testing.assert_allclose(conditioning.image_latents, mean, atol=1e-5)
    pose = Project().apply({}, to_float(SKELETONS))
    np.testing.assert_allclose(conditioning.pose_features[0], pose, atol=1e-5)
    told = [[base.fps - 1, base.motion_bucket, base.noise_aug]]
    np.testing.assert_array_equal(conditioning.added_time, np.float32(told))
    assert conditioning.motion is None and conditioning.points is None


def test_skeletons_encoded_at_a_time_do_not_matter(base):
    three = condition(replace(base, chunk=3))  # does not divide the frames
    np.testing.assert_allclose(three.pose_features, condition(base).pose_features, atol=1e-6)


def test_noise_on_the_reference_reaches_its_latents_alone_and_is_told(base):
    clean, model = condition(base), replace(base, noise_aug=0.5)
    noised, again, other = condition(model), condition(model), condition(model, key=1)
    assert float(noised.added_time[0, 2]) == 0.5
    np.testing.assert_allclose(noised.context, clean.context, atol=1e-6)
    np.testing.assert_array_equal(noised.image_latents, again.image_latents)
    assert np.abs(noised.image_latents - clean.image_latents).max() > 0.01
    assert np.abs(noised.image_latents - other.image_latents).max() > 0.01


def test_latents_are_draws_scaled_for_diffusion_and_scaled_back(base):
    assert base.latent_scale != 1
    frames = to_float(small.pictures(F))[None]
    latents = base.latents(base.encode(PARAMS, frames), small.key(3))
    mean, _ = Pool().apply({}, frames, "encode")
    noise = (latents / base.latent_scale - mean) / np.sqrt(Pool().variance)
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    decoded = base.decode(PARAMS, latents)
    np.testing.assert_allclose(decoded[:, :, ::8, ::8], latents / base.latent_scale, rtol=1e-6)


def test_guidance_takes_away_picture_and_pose_but_not_motion_points_and_time():
    made = small.build("full")
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), small.conditioning(made, F))
    dropped = made.model.unconditional(two, jnp.array([True, False]))
    for name in ("context", "image_latents", "pose_features"):
        assert not np.asarray(getattr(dropped, name))[0].any()
        np.testing.assert_array_equal(getattr(dropped, name)[1], getattr(two, name)[1])
    for name in ("motion", "points", "added_time"):
        jax.tree.map(np.testing.assert_array_equal, getattr(dropped, name), getattr(two, name))


def guided(made) -> tuple:
    """Latents of both halves, alike, and their conditioning."""
    x = np.random.default_rng(1).normal(size=(1, F, *small.LATENTS)).astype(np.float32)
    pair = windowed.guided(made.model, small.conditioning(made, F), halves=2)
    return np.repeat(x, 2, axis=0), pair


@pytest.mark.parametrize("order", ["released", "per_clip"])
def test_hoisted_cross_attention_equals_the_plain_path(order):
    made = small.build("full", time_context_order=order)
    assert made.model.unet.flavour.context_group == (2 if order == "released" else 1)
    x, pair = guided(made)
    model = small.eager(made.model)
    run = lambda conditioning: model.denoise(made.params, x, TWO, conditioning)
    hoisted = model.hoist(made.params, pair)
    assert set(hoisted.cross) == {"unet", "controlnet"}
    plain = np.asarray(run(pair))
    np.testing.assert_allclose(run(hoisted), plain, atol=1e-5 * plain.std())
    # The networks do read what was hoisted: other values change the result.
    doubled = hoisted.replace(cross=jax.tree.map(lambda v: 2 * v, hoisted.cross))
    assert np.abs(np.asarray(run(doubled)) - plain).max() > 1e-3


def test_deep_features_and_residuals_of_a_call_serve_another_on_the_same_latent():
    made = small.build("full")
    x, pair = guided(made)
    model = small.eager(made.model)
    plain = np.asarray(model.denoise(made.params, x, TWO, pair))
    kept, deep = model.denoise(made.params, x, TWO, pair, keep=True)
    np.testing.assert_array_equal(kept, plain)
    without = {"unet": made.params["unet"]}  # the ControlNet is not asked
    again = np.asarray(model.denoise(without, x, TWO, pair, deep=deep))
    np.testing.assert_allclose(again, plain, atol=1e-5 * plain.std())
    silent = deep.replace(residuals=jax.tree.map(jnp.zeros_like, deep.residuals))
    assert np.abs(model.denoise(without, x, TWO, pair, deep=silent) - plain).max() > 1e-3


def test_released_order_of_the_context_mixes_the_halves_of_guidance_and_nothing_else():
    released, own = (
        small.build("base", time_context_order=order) for order in ("released", "per_clip")
    )
    x, pair = guided(released)
    same = pair.replace(context=jnp.repeat(pair.context[1:], 2, axis=0))

    def run(made, conditioning) -> np.ndarray:
        return np.asarray(small.eager(made.model).denoise(made.params, x, TWO, conditioning))

    np.testing.assert_allclose(run(released, same), run(own, same), atol=1e-6)
    difference = np.abs(run(released, pair) - run(own, pair)).max((1, 2, 3, 4))
    assert (difference > 1e-4).all()
