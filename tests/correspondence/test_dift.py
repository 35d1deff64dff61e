"""Diffusion features: what averages, what is drawn, and which settings are refused."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.correspondence import dift
from dispose_jax.networks.clip import TextTransformer
from dispose_jax.networks.unet import Flavour, UNet
from dispose_jax.networks.vae import VAE
from tests.drawn import drawn

features = jax.jit(dift.features, static_argnums=0)
noised_latents = jax.jit(dift.noised_latents, static_argnums=0)


@pytest.fixture(scope="module")
def extractor():
    """A small extractor: one halving to the latent, U-Net of two levels, two draws."""
    return dift.Dift(
        vae=VAE((8, 8), latent_channels=4, layers=1, groups=4, temporal=False),
        unet=UNet(channels=(8, 16), heads=(2, 2), flavour=Flavour(groups=4), layers=1),
        text_encoder=TextTransformer(
            vocabulary=20, width=8, layers=1, heads=2, hidden=8, positions=5, activation="gelu"
        ),
        tokens=(18, 2, 19, 19, 19),
        up_block=0,
        ensemble=2,
        chunk=2,
    )


@pytest.fixture(scope="module")
def params(extractor):
    latents, context = jnp.zeros((1, 1, 4, 8, 4)), jnp.zeros((1, 5, 8))
    return {
        "dift_vae": drawn(extractor.vae, jnp.zeros((8, 16, 3)), method="encode"),
        "dift_unet": drawn(extractor.unet, latents, jnp.zeros(1), context),
        "dift_text_encoder": drawn(extractor.text_encoder, jnp.zeros((1, 5), jnp.int32)),
    }


@pytest.fixture(scope="module")
def image():
    return jax.random.uniform(jax.random.key(1), (8, 16, 3), minval=-1)


@pytest.mark.full
def test_draws_in_chunks_give_the_same_features(extractor, params, image):
    key = jax.random.key(2)
    together = features(extractor, params, image, key)
    assert together.shape == (4, 8, 16)
    one_by_one = dataclasses.replace(extractor, chunk=1)
    apart = features(one_by_one, params, image, key)
    np.testing.assert_allclose(apart, together, atol=2e-5)

    draws = jax.random.normal(key, (2, 2, 4, 8, 4))
    noised = noised_latents(extractor, params, image, *draws)
    assert np.abs(noised[0] - noised[1]).max() > 0.1  # otherwise there is nothing to average


def test_key_decides_the_features(extractor, params, image):
    first, again, other = (
        features(extractor, params, image, jax.random.key(seed)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_noise_has_the_power_that_the_timestep_says(extractor, params, image):
    nothing, ones = jnp.zeros((2, 4, 8, 4)), jnp.ones((2, 4, 8, 4))
    encode = jax.jit(partial(extractor.vae.apply, method="encode"))
    mean, logvar = encode({"params": params["dift_vae"]}, image)
    signal = 1.0  # computed once more, step by step, from the definition of the schedule
    for i in range(262):
        root = np.sqrt(0.00085) + i / 999 * (np.sqrt(0.012) - np.sqrt(0.00085))
        signal *= 1 - root**2

    clean = noised_latents(extractor, params, image, nothing, nothing)[0]
    np.testing.assert_allclose(clean, np.sqrt(signal) * 0.18215 * mean, atol=1e-6)
    noised = noised_latents(extractor, params, image, nothing, ones)[0]
    np.testing.assert_allclose(noised - clean, np.full(mean.shape, np.sqrt(1 - signal)), atol=1e-6)
    drawn = noised_latents(extractor, params, image, ones, nothing)[0]
    expected = np.sqrt(signal) * 0.18215 * np.exp(np.asarray(logvar) / 2)
    np.testing.assert_allclose(drawn - clean, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 3}, "2 draws do not divide into chunks of 3"),
        ({"ensemble": 0}, "0 draws"),
        ({"tokens": (3, 20)}, "token 20 is beyond .* vocabulary of 20"),
        ({"timestep": 1000}, "timestep 1000 is not a training step"),
        ({"up_block": 2}, "up block 2 does not exist"),
    ],
)
def test_settings_that_do_not_fit_are_refused(extractor, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(extractor, **change)


def test_released_prompts_need_no_tokenizer():
    human, empty = dift.token_ids("photo of a human"), dift.token_ids("")
    assert human == (49406, 1125, 539, 320, 2751, *(49407,) * 72)
    assert empty == (49406, *(49407,) * 76)


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer folder that knows one word and its letters."""
    words = {"a</w>": 320, "c": 66, "a": 64, "t</w>": 339, "ca": 1000, "cat</w>": 2368}
    vocabulary = words | {"<|startoftext|>": dift.START, "<|endoftext|>": dift.END}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return tmp_path


def test_another_prompt_is_read_with_the_given_tokenizer(tokenizer):
    assert dift.token_ids("a cat", tokenizer) == (49406, 320, 2368, *(49407,) * 74)


def test_a_prompt_that_does_not_fit_is_refused(tokenizer):
    with pytest.raises(ValueError, match="prompt of 76 tokens, at most 75 fit"):
        dift.token_ids("cat " * 76, tokenizer)


def test_another_prompt_without_a_tokenizer_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="needs CLIP's tokenizer.*tokenizer folder"):
        dift.token_ids("a cat")
    with pytest.raises(ValueError, match=f"no vocab.json in {tmp_path}"):
        dift.token_ids("a cat", tmp_path)
