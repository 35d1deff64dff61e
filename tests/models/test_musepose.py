"""MusePose: what conditions it, what guidance takes away, and DisPose's start on it."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sd15
from dispose_jax import sampling, windowed
from dispose_jax.models import musepose, networks, registry
from dispose_jax.models.musepose import merged
from dispose_jax.networks.attention import reference_tokens
from dispose_jax.networks.clip import clip_pixels
from dispose_jax.types import Conditioning
from tests import small
from tests.models.test_mimicmotion import Embed, Pool, Project, to_float

F = 5  # frames of the clip, the reference included
TIMES = np.full(2, 500.0, np.float32)
REFERENCE, SKELETONS = small.pictures(1, seed=1)[0], small.pictures(F, seed=2)


class Written:
    """Stands for the reference U-Net: writes what it was called with."""

    def apply(self, _, latents, t, context, mutable):
        assert mutable == ["reference"]
        tokens = latents.reshape(len(latents), -1, latents.shape[-1])
        told = jnp.stack([t, context.mean((1, 2))], axis=1)
        return None, {"reference": {"block": {"tokens": (tokens,), "told": (told,)}}}


@pytest.fixture(scope="module")
def base():
    """The base model among encoders that need no compilation."""
    model = small.build("base", base="sd15").model
    parts = {"image_encoder": Embed(), "pose_encoder": Project(), "reference": Written()}
    return replace(model, **parts, vae=Pool())


PARAMS = {name: {} for name in ("image_encoder", "pose_encoder", "reference", "vae")}


def test_moore_samples_with_other_betas_than_it_trains_with():
    config = sd15.get_config("size=tiny")
    config.sample.betas = "linear"
    modules = {name: net.module for name, net in networks.build(config).items()}
    betas = lambda training: musepose.build(config, modules, training=training).schedule.betas
    assert (betas(False), betas(True)) == ("linear", "scaled_linear")


def condition(model, key: int = 0, signals=None, params=PARAMS):
    one = jax.devices()[:1]
    return sampling.condition(
        model, params, REFERENCE, SKELETONS, signals, small.key(key), devices=one
    )


def test_conditioning_is_what_each_encoder_gives_of_its_picture(base):
    found = condition(base)
    pixels = clip_pixels(to_float(REFERENCE)[None], base.image_size, "stretch")
    context = Embed().apply({}, pixels)[:, None]
    np.testing.assert_allclose(found.context, context, atol=1e-5)
    poses = Project().apply({}, SKELETONS[1:] / np.float32(255))
    np.testing.assert_allclose(found.pose_features[0], poses, atol=1e-5)
    mean, _ = Pool().apply({}, to_float(REFERENCE)[None], "encode")
    block = found.reference["block"]
    np.testing.assert_allclose(
        block["tokens"], base.latent_scale * mean.reshape(1, -1, 3), atol=1e-5
    )
    np.testing.assert_allclose(block["told"], [[0, context.mean()]], atol=1e-5)
    assert found.read_reference.tolist() == [True]
    assert found.motion is None and found.points is None


def test_training_draws_the_reference_and_cuts_out_its_middle_for_the_image_encoder(base):
    made = small.build("base", base="sd15")
    trained = registry.build(made.config, made.networks, training=True)
    model = replace(base, draws_reference=trained.draws_reference, clip_method=trained.clip_method)
    drawn, again, other = condition(model), condition(model), condition(model, key=1)
    tokens = lambda found: np.asarray(found.reference["block"]["tokens"])
    np.testing.assert_array_equal(tokens(drawn), tokens(again))
    noise = (tokens(drawn) - tokens(condition(base))) / base.latent_scale
    assert abs(noise.std() - np.sqrt(Pool().variance)) < 0.1
    assert np.abs(tokens(drawn) - tokens(other)).max() > 0.01
    pixels = clip_pixels(to_float(REFERENCE)[None], base.image_size, "crop")
    np.testing.assert_allclose(drawn.context, Embed().apply({}, pixels)[:, None], atol=1e-5)


def test_guidance_takes_away_the_reference_alone(base):
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), condition(base))
    dropped = base.unconditional(two, jnp.array([True, False]))
    assert not np.asarray(dropped.context)[0].any()
    np.testing.assert_array_equal(dropped.context[1], two.context[1])
    assert dropped.read_reference.tolist() == [False, True]
    np.testing.assert_array_equal(dropped.pose_features, two.pose_features)
    again = base.unconditional(dropped, jnp.array([False, True]))
    assert again.read_reference.tolist() == [False, False]


@pytest.fixture(scope="module")
def conditioning():
    """Of the small model, random; the reference's tokens are those that its U-Net writes."""
    made = small.build("base", base="sd15")
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    context = normal(1, 1, 8)
    variables = {"params": made.params["reference"]}
    latents = normal(1, 1, *small.LATENTS)
    _, written = made.model.reference.apply(
        variables, latents, np.zeros(1, np.float32), context, mutable=["reference"]
    )
    return Conditioning(
        context=context,
        pose_features=normal(1, F - 1, *small.LATENTS[:2], made.config.model.unet.channels[0]),
        reference=reference_tokens(written["reference"]),
        read_reference=np.ones(1, bool),
    )


def run(model, params, pair) -> np.ndarray:
    """Output for both halves of guidance, of the same latents."""
    x = np.random.default_rng(1).normal(size=(1, F - 1, *small.LATENTS)).astype(np.float32)
    return np.asarray(small.eager(model).denoise(params, np.repeat(x, 2, axis=0), TIMES, pair))


def denoise(made, params, conditioning) -> np.ndarray:
    """Output of the whole denoiser for the small signals."""
    signals = small.signals(F).at(slice(1, None))
    encoded = small.encode(made.model.control, params, signals)
    pair = windowed.guided(made.model, conditioning.replace(**encoded), halves=2)
    return run(made.model, params, pair)


@pytest.mark.parametrize("variant", ["full", "exp2"])
def test_an_untrained_variant_equals_the_plain_base_and_a_trained_one_does_not(
    variant, conditioning
):
    plain, made = (small.build(name, base="sd15") for name in ("base", variant))
    expected = denoise(plain, plain.params, conditioning)
    names = set(made.networks) & {"controlnet", "motion_encoder", "point_encoder"}
    fresh = {name: jax.jit(made.networks[name].init)(small.key(1))["params"] for name in names}
    untrained = denoise(made, made.params | fresh, conditioning)
    np.testing.assert_array_equal(untrained, expected)
    assert np.abs(denoise(made, made.params, conditioning) - expected).max() > 0.01


def test_signals_of_the_reference_frame_are_not_read(base):
    control = small.build("full", base="sd15").model.control
    model = replace(base, control=replace(control, controlnet=None))
    params = PARAMS | small.build("full", base="sd15").params
    found = condition(model, signals=small.signals(F), params=params)
    signals = small.signals(F)
    for leaf in (signals.sparse_flow, signals.dense_flow, signals.cells):
        leaf[:, 0] += 1
    other = condition(model, signals=signals, params=params)
    assert found.motion.shape[1] == found.points[0].shape[1] == F - 1
    jax.tree.map(np.testing.assert_array_equal, found.per_frame, other.per_frame)


def test_the_conditional_half_alone_reads_the_reference(conditioning):
    made = small.build("base", base="sd15")
    moved = conditioning.replace(reference=jax.tree.map(lambda x: x + 1, conditioning.reference))
    one, two = (denoise(made, made.params, c) for c in (conditioning, moved))
    np.testing.assert_allclose(one[0], two[0], atol=1e-5)
    assert np.abs(one[1] - two[1]).max() > 1e-4


def test_hoisted_cross_attention_equals_the_plain_path(conditioning):
    made = small.build("base", base="sd15")
    pair = windowed.guided(made.model, conditioning, halves=2)
    plain = run(made.model, made.params, pair)
    hoisted = made.model.hoist(made.params, pair)
    np.testing.assert_allclose(
        run(made.model, made.params, hoisted), plain, atol=1e-5 * plain.std()
    )
    doubled = hoisted.replace(cross=jax.tree.map(lambda v: 2 * v, hoisted.cross))
    assert np.abs(run(made.model, made.params, doubled) - plain).max() > 1e-3


def test_deep_features_of_a_call_serve_another_on_the_same_latent(conditioning):
    made = small.build("full", base="sd15")
    encoded = small.encode(made.model.control, made.params, small.signals(F).at(slice(1, None)))
    pair = windowed.guided(made.model, conditioning.replace(**encoded), halves=2)
    model = small.eager(made.model)
    x = np.random.default_rng(1).normal(size=(2, F - 1, *small.LATENTS)).astype(np.float32)
    plain = np.asarray(model.denoise(made.params, x, TIMES, pair))
    kept, deep = model.denoise(made.params, x, TIMES, pair, keep=True)
    np.testing.assert_array_equal(kept, plain)
    without = {name: made.params[name] for name in ("unet", "motion_modules")}
    again = model.denoise(without, x, TIMES, pair, deep=deep)
    np.testing.assert_allclose(again, plain, atol=1e-5 * plain.std())


def test_windows_longer_than_the_motion_modules_know_are_refused_before_any_work():
    model = small.build("base", base="sd15").model
    positions = model.unet.flavour.motion.positions
    assert model.windows(positions + 9, positions, 1).frames.shape == (2, positions)
    assert model.windows(3, positions + 1, 1).frames.shape == (1, 3)
    sampler = sampling.Sampler(steps=2, window=positions + 1, overlap=1, guidance_scale=1.0)
    with pytest.raises(
        ValueError, match=f"sample.window is {positions + 1}: .* {positions} frames"
    ):
        sampling.check(model, positions + 9, sampler)


def test_two_trees_become_one():
    one, other = {"a": {"x": 1}, "b": {"y": 2}}, {"a": {"z": 3}, "c": {"w": 4}}
    assert merged(one, other) == {"a": {"x": 1, "z": 3}, "b": {"y": 2}, "c": {"w": 4}}
    assert one == {"a": {"x": 1}, "b": {"y": 2}}
