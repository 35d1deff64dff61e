"""Properties of the autoencoders that no stored output is needed for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks.vae import VAE, sample_latents
from dispose_jax.ops import attention
from tests.drawn import drawn

pytestmark = pytest.mark.full  # minutes of compilation; the parity tests hold the same networks

SIZES = dict(widths=(8, 16), latent_channels=3, layers=1, groups=4)


@pytest.fixture(scope="module", params=[False, True], ids=["picture", "temporal"])
def model(request):
    """A small autoencoder and random weights."""
    vae = VAE(temporal=request.param, **SIZES)
    return vae, {"params": drawn(vae, jnp.zeros((1, 2, 8, 12, 3)))}


def latents(*shape):
    return jax.random.normal(jax.random.key(1), (*shape, 4, 6, 3))


def test_only_the_temporal_decoder_lets_frames_see_each_other(model):
    vae, params = model
    clip = latents(1, 3)
    other = clip.at[:, 2].add(1.0)
    first, second = (vae.apply(params, x, method="decode")[:, :2] for x in (clip, other))
    unchanged = np.allclose(first, second, atol=1e-6)
    assert unchanged != vae.temporal


def test_clips_of_a_batch_do_not_see_each_other(model):
    vae, params = model
    clips = latents(2, 3)
    together = vae.apply(params, clips, method="decode")
    alone = vae.apply(params, clips[1:], method="decode")
    np.testing.assert_allclose(together[1:], alone, atol=2e-5)


def test_attention_in_blocks_of_queries_changes_nothing(model, monkeypatch):
    vae, params = model
    images = jax.random.uniform(jax.random.key(2), (2, 8, 12, 3), minval=-1)
    whole = vae.apply(params, images, method="encode")[0]
    few = attention.USED["cpu"]._replace(scores=100)
    monkeypatch.setitem(attention.USED, "cpu", few)  # 24 positions: blocks of 4 queries
    monkeypatch.setattr(attention, "_MIN_BLOCK", 4)
    np.testing.assert_allclose(vae.apply(params, images, method="encode")[0], whole, atol=2e-5)


def test_pictures_are_encoded_alike_whatever_axes_lead(model):
    vae, params = model
    images = jax.random.uniform(jax.random.key(3), (2, 3, 8, 12, 3), minval=-1)
    flat = vae.apply(params, images.reshape(6, 8, 12, 3), method="encode")
    for clip, pictures in zip(vae.apply(params, images, method="encode"), flat):
        np.testing.assert_allclose(clip.reshape(pictures.shape), pictures, atol=2e-5)


def test_log_variance_is_clipped_as_released():
    vae = VAE(temporal=False, **SIZES)
    images = jnp.ones((1, 8, 12, 3))
    params = drawn(vae, images, method="encode")
    params["quant_conv"]["bias"] = np.array([0.0, 0.0, 0.0, 100.0, -100.0, 0.0], np.float32)
    mean, logvar = vae.apply({"params": params}, images, method="encode")
    assert (logvar[..., 0] == 20).all() and (logvar[..., 1] == -30).all()
    assert (np.abs(logvar[..., 2]) < 20).all() and np.abs(mean).max() < 30


def test_an_encoder_alone_has_no_decoder_weights():
    vae = VAE(temporal=False, **SIZES)
    images = jnp.ones((1, 8, 12, 3))
    assert set(drawn(vae, images, method="encode")) == {"encoder", "quant_conv"}


def test_half_precision_stays_near_float32(model):
    vae, params = model
    clip = latents(1, 2)
    exact = vae.apply(params, clip, method="decode")
    half = vae.clone(dtype=jnp.bfloat16).apply(params, clip, method="decode")
    assert half.dtype == jnp.float32
    assert np.abs(half - exact).max() < 0.1 * np.asarray(exact).std()


def test_draws_from_the_posterior_have_its_mean_and_deviation():
    mean, logvar = jnp.array([1.0, -2.0]), jnp.log(jnp.array([4.0, 0.25]))
    draws = sample_latents(mean, logvar, jax.random.normal(jax.random.key(4), (20000, 2)))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.06)
    np.testing.assert_allclose(draws.std(0), [2.0, 0.5], rtol=0.03)
