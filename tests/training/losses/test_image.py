"""The autoencoder's and the picture model's objectives."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dispose_jax.diffusion import schedules
from dispose_jax.networks.vae import VAE
from dispose_jax.training.losses import image
from dispose_jax.training.losses.image import AutoencoderLoss, ImageLoss
from tests.drawn import drawn
from tests.training import light

B, F, H, W = 3, 2, 8, 16
NETWORK = VAE(widths=(8, 8), latent_channels=3, layers=1, groups=4, temporal=True)


def batch(seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (B, F, H, W, 3), np.uint8)
    place = rng.uniform(size=(B, F, H, W))
    return SimpleNamespace(frames=frames, figure=place < 0.3, face=place < 0.1)


def without_figure(clips: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(frames=clips.frames, figure=None, face=None)


@pytest.fixture(scope="module")
def params() -> dict:
    return drawn(NETWORK, jnp.zeros((1, 1, H, W, 3)))


def test_latents_of_unit_power_decode_to_the_same_pictures(params):
    batches = [batch(i) for i in range(3)]
    scaled = image.with_unit_power(NETWORK, params, iter(batches))
    encode = jax.jit(partial(NETWORK.apply, method="encode"))
    to_float = lambda clips: jnp.asarray(clips.frames, jnp.float32) / 127.5 - 1
    before = [encode({"params": params}, to_float(clips)) for clips in batches]
    after = [encode({"params": scaled}, to_float(clips)) for clips in batches]
    means = np.stack([mean for mean, _ in after])
    np.testing.assert_allclose(np.square(means).mean((0, 1, 2, 3, 4)), 1, rtol=1e-4)
    power = np.square(np.stack([mean for mean, _ in before])).mean((0, 1, 2, 3, 4))
    assert np.ptp(power) > 0.05, "channels differ, and each has a factor of its own"
    # The posterior's deviation shrinks with its mean: draws are the same draws, scaled.
    for (_, old), (_, new) in zip(before, after):
        np.testing.assert_allclose(new, old - np.log(power), atol=1e-4)
    decode = jax.jit(partial(NETWORK.apply, method="decode"))
    ours = decode({"params": scaled}, after[0][0])
    np.testing.assert_allclose(ours, decode({"params": params}, before[0][0]), atol=1e-4)


def test_latents_are_of_unit_power_as_they_are_diffused():
    network = NETWORK.clone(temporal=False)  # with a convolution between latents and decoder
    params = drawn(network, jnp.zeros((1, 1, H, W, 3)))
    scaled = image.with_unit_power(network, params, iter([batch()]), 0.2)
    frames = jnp.asarray(batch().frames, jnp.float32) / 127.5 - 1
    see = lambda p, *given, method: network.apply({"params": p}, *given, method=method)
    old, new = (see(p, frames, method="encode")[0] for p in (params, scaled))
    np.testing.assert_allclose(np.square(0.2 * new).mean((0, 1, 2, 3)), 1, rtol=1e-4)
    ours, theirs = see(scaled, new, method="decode"), see(params, old, method="decode")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert image.encoder_of(params).keys() == {"encoder", "quant_conv"}


def test_the_feature_extractor_s_part_is_all_but_the_decoder(params):
    assert image.encoder_of(params).keys() == {"encoder", "quant_conv"}
    shapes = jax.eval_shape(
        partial(NETWORK.init, method="encode"), jax.random.key(0), jnp.zeros((1, H, W, 3))
    )["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(image.encoder_of(params))


@dataclass(frozen=True)
class Off:
    """Stands for an autoencoder that encodes to a known posterior and decodes to known errors."""

    frames: np.ndarray
    error: np.ndarray
    mean: float = 0.5
    logvar: float = -1.0

    def apply(self, _, x, method):
        if method == "encode":
            shape = (*x.shape[:-1], 4)
            return jnp.full(shape, self.mean), jnp.full(shape, self.logvar)
        return self.frames / 127.5 - 1 + self.error


@pytest.mark.full
def test_the_autoencoder_s_loss_is_the_sum_of_its_parts():
    clips = batch(4)
    error = np.random.default_rng(1).normal(size=clips.frames.shape)
    vae = Off(clips.frames.astype(np.float64), error)
    loss = AutoencoderLoss(vae, kl_weight=0.01, figure_weight=3.0, face_weight=5.0)
    value, parts = loss({"vae": {}}, clips, jax.random.key(0))
    weight = np.select([clips.face, clips.figure], [15.0, 3.0], 1.0)
    each = (np.abs(error) + error**2 / 2).mean(-1)
    assert float(parts["pixels"]) == pytest.approx((weight * each).sum() / weight.sum(), rel=1e-5)
    # The divergence of N(m, s^2) from N(0, 1): (m^2 + s^2 - 1) / 2 - ln s.
    expected = (0.25 + np.exp(-1) - 1) / 2 + 0.5
    assert float(parts["divergence"]) == pytest.approx(expected, rel=1e-5)
    down, across = np.abs(np.diff(error, axis=2)).mean(), np.abs(np.diff(error, axis=3)).mean()
    total = parts["pixels"] + image.EDGE_WEIGHT * (down + across) + 0.01 * expected
    assert float(value) == pytest.approx(float(total), rel=1e-5)
    _, parts = loss({"vae": {}}, without_figure(clips), jax.random.key(0))
    assert float(parts["pixels"]) == pytest.approx(each.mean(), rel=1e-5)


def test_a_decoder_alone_has_the_same_loss_and_leaves_the_encoder_without_a_gradient(params):
    clips, key = batch(5), jax.random.key(3)
    with_weights = partial(AutoencoderLoss, NETWORK, 1e-3, 2.0, 2.0)
    both, alone = (with_weights(decoder_only=only) for only in (False, True))
    ask = lambda loss: jax.value_and_grad(lambda p: loss({"vae": p}, clips, key)[0])(params)
    (value, gradient), (same, rest) = ask(both), ask(alone)
    assert float(value) == float(same)
    for name in ("encoder", "quant_conv"):
        assert not any(leaf.any() for leaf in jax.tree.leaves(rest[name]))
        assert any(leaf.any() for leaf in jax.tree.leaves(gradient[name]))
    jax.tree.map(np.testing.assert_array_equal, rest["decoder"], gradient["decoder"])


@pytest.mark.full
def test_the_autoencoder_learns_one_batch_by_heart(params):
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (B, F, 2, 2, 3)).repeat(H // 2, axis=2).repeat(W // 2, axis=3)
    clips = without_figure(SimpleNamespace(frames=colors.astype(np.uint8)))
    loss = AutoencoderLoss(NETWORK, 1e-4, 1.0, 1.0)
    adam = optax.adam(1e-2)

    def step(params, state, frames, key):
        one = SimpleNamespace(frames=frames, figure=None, face=None)
        (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)({"vae": params}, one, key)
        updates, state = adam.update(gradient["vae"], state, params)
        return optax.apply_updates(params, updates), state, parts["pixels"]

    state, key = adam.init(params), jax.random.key(0)
    compiled = light.quick(step, params, state, clips.frames, key)
    found = []
    for i in range(60):
        params, state, pixels = compiled(params, state, clips.frames, jax.random.fold_in(key, i))
        found.append(float(pixels))
    assert np.mean(found[-5:]) < 0.35 * found[0]


class Sure:
    """Stands for an autoencoder without noise: latents are the frames, twice."""

    def apply(self, _, x, method):
        mean = jnp.concatenate([x, x], -1)
        return mean, jnp.full(mean.shape, -jnp.inf)


@dataclass
class Guess:
    """Stands for the picture model: notes what it is shown, and answers with half of it."""

    seen: dict = field(default_factory=dict)

    def apply(self, variables, x, t, context):
        self.seen.update(variables=variables, x=x, t=t, context=context)
        return 0.5 * x


class Words:
    def apply(self, _, tokens):
        return jnp.ones((*tokens.shape, 5))


@pytest.mark.full
def test_the_picture_model_is_to_find_the_noise_of_single_frames():
    clips = batch(2)
    unet = Guess()
    recipe = SimpleNamespace(
        vae=Sure(), unet=unet, text_encoder=Words(), tokens=(7, 8), latent_scale=0.3
    )
    params = {"dift_vae": {}, "dift_unet": {"w": 1}, "dift_text_encoder": {}}
    value, _ = ImageLoss(recipe)(params, clips, jax.random.key(3))
    x, t = np.float64(unet.seen["x"]), np.asarray(unet.seen["t"])
    assert unet.seen["variables"] == {"params": {"w": 1}}
    assert x.shape == (B * F, 1, H, W, 6) and unet.seen["context"].shape == (B * F, 2, 5)
    assert len(set(t)) > 1 and t.min() >= 0 and t.max() < 1000
    clean = 0.3 * np.concatenate([clips.frames / 127.5 - 1] * 2, -1).reshape(x.shape)
    left = np.float64(schedules.alphas_cumprod())[t][:, None, None, None, None]
    noise = (x - np.sqrt(left) * clean) / np.sqrt(1 - left)
    assert noise.mean() == pytest.approx(0, abs=0.1) and noise.std() == pytest.approx(1, abs=0.05)
    assert float(value) == pytest.approx(((0.5 * x - noise) ** 2).mean(), rel=1e-3)
