"""Diffusion features against the original ones, all noise given."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from converters import rules
from dispose_jax.correspondence import dift
from dispose_jax.networks.unet import Flavour, UNet
from tests import small
from tests.parity import modules
from tests.parity.cases import assert_close, convert, load_case, weights

TOLERANCE = 5e-4  # the case's own sentence: max abs <= 5e-4 x std


@pytest.fixture(scope="module")
def case():
    return load_case("dift.tiny")


@pytest.fixture(scope="module")
def extractor(case):
    """The module at the first pass's settings, and converted weights."""
    vae, unet, text = (case.config[name] for name in ("vae", "unet", "text"))
    extractor = dift.Dift(
        vae=modules.vae(vae),
        unet=UNet(
            channels=tuple(unet["block_out_channels"]),
            heads=(unet["attention_head_dim"],) * len(unet["block_out_channels"]),
            flavour=Flavour(groups=unet["norm_num_groups"]),
            layers=unet["layers_per_block"],
            out_channels=unet["out_channels"],
        ),
        text_encoder=modules.text_transformer(text),
        tokens=tuple(case.inputs["token_ids_0"][0].tolist()),
        timestep=case.config["t"][0],
        up_block=case.config["up_block"][0],
        ensemble=case.config["ensemble"],
        chunk=case.config["ensemble"],
        latent_scale=case.config["scaling_factor"],
    )
    latents = jnp.zeros((1, 1, 8, 8, unet["in_channels"]))
    context = jnp.zeros((1, 77, unet["cross_attention_dim"]))
    vae_weights = weights(case, "dift_vae.tiny")
    for leaf in ("weight", "bias"):  # the original extractor drops the decoder, but not this
        vae_weights.pop(f"post_quant_conv.{leaf}")
    params = {
        "dift_vae": convert(
            vae_weights, rules.PLAIN, extractor.vae, jnp.zeros((16, 16, 3)), method="encode"
        ),
        "dift_unet": convert(
            weights(case, "dift_unet.tiny"),
            rules.UNET_PICTURE,
            extractor.unet,
            latents,
            jnp.zeros(1),
            context,
        ),
        "dift_text_encoder": convert(
            weights(case, "dift_text.tiny"),
            rules.PLAIN,
            extractor.text_encoder,
            jnp.zeros((1, 77), jnp.int32),
        ),
    }
    by_blocks = {name: small.Blockwise(getattr(extractor, name)) for name in ("vae", "unet")}
    return dataclasses.replace(extractor, **by_blocks), params


def test_posterior_of_the_picture_is_the_original_one(case, extractor):
    module, params = extractor
    image = (case.inputs["image"].astype(np.float32) / 255 - 0.5) * 2
    mean, logvar = module.vae.apply({"params": params["dift_vae"]}, image, method="encode")
    for output, ours in {"vae_mean": mean, "vae_logvar": logvar}.items():
        assert_close(case, output, np.moveaxis(np.asarray(ours), -1, 0)[None], TOLERANCE)


@pytest.mark.parametrize("i", range(len(load_case("dift.tiny").config["t"])))
def test_features_of_every_pass_are_the_original_ones(case, extractor, i):
    module, params = extractor
    tokens = tuple(case.inputs[f"token_ids_{i}"][0].tolist())
    if case.config["prompts"][i] in dift.KNOWN_PROMPTS:  # others need the tokenizer's files
        assert dift.token_ids(case.config["prompts"][i]) == tokens
    module = dataclasses.replace(
        module, tokens=tokens, timestep=case.config["t"][i], up_block=case.config["up_block"][i]
    )
    image = (case.inputs["image"].astype(np.float32) / 255 - 0.5) * 2
    noises = [
        np.moveaxis(case.inputs[f"{name}_{i}"], 1, -1) for name in ("posterior_noise", "noise")
    ]

    context = dift.prompt_context(module, params)
    assert_close(case, f"prompt_embeds_{i}", context, TOLERANCE)
    noised = dift.noised_latents(module, params, image, *noises)
    first = np.moveaxis(np.asarray(noised), -1, 1)
    assert_close(case, f"noisy_latents_{i}", first, TOLERANCE)
    features = dift.read(module, params, noised, context)
    assert_close(case, f"feature_{i}", np.moveaxis(np.asarray(features), -1, 0)[None], TOLERANCE)
