"""CLIP's transformers and the preparation of its pictures against the original ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from converters import rules
from dispose_jax.networks import clip
from dispose_jax.networks.clip import clip_pixels
from tests.parity.cases import assert_close, convert, load_case, weights
from tests.parity.modules import text_transformer, vision_transformer


@pytest.mark.parametrize(
    "name", ["svd_image_encoder.tiny", "sd_image_variations_image_encoder.tiny"]
)
def test_vision_transformer_gives_the_original_embeddings(name):
    case = load_case(name)
    module = vision_transformer(case.config)
    pixels = np.moveaxis(case.inputs["pixel_values"], 1, -1)
    variables = {"params": convert(weights(case), rules.PLAIN, module, pixels)}
    tolerances = case.about["tolerance"]
    tolerance = tolerances["float32"] if "float32" in tolerances else tolerances["value"]

    embeds, inner = module.apply(
        variables, pixels, capture_intermediates=lambda module, _: module.name == "encoder"
    )
    assert_close(case, "image_embeds", embeds, tolerance)
    tokens = inner["intermediates"]["vision_model"]["encoder"]["__call__"][0]
    assert_close(case, "last_hidden_state", tokens, tolerance)
    if "image_embeds_of_zeros" in case.outputs:
        of_zeros = module.apply(variables, np.zeros_like(pixels[:1]))[0]
        assert_close(case, "image_embeds_of_zeros", of_zeros, tolerance)


def test_text_transformer_gives_the_original_vectors():
    case = load_case("sd15_text_encoder.tiny")
    module = text_transformer(case.config)
    tokens = jnp.asarray(case.inputs["input_ids"], jnp.int32)
    params = convert(weights(case), rules.PLAIN, module, tokens)
    vectors = module.apply({"params": params}, tokens)
    assert_close(case, "last_hidden_state", vectors, case.about["tolerance"]["float32"])


def test_pictures_are_resized_and_normalised_as_for_the_original():
    case = load_case("sampling_clip_preprocess")
    config = case.config
    tolerance = 2e-4  # the case's own sentence: max abs 2e-4
    for i in range(len(config["sizes"])):
        image = case.inputs[f"image_{i}"].astype(np.float32) / 255 * 2 - 1
        pixels = np.asarray(clip_pixels(image[None], config["out"]))[0]
        resized = (pixels * np.asarray(clip.PIXEL_STD) + np.asarray(clip.PIXEL_MEAN)) * 2 - 1
        for name, ours in {"pixel_values": pixels, "resized": resized}.items():
            sampled = np.moveaxis(ours, -1, 0)[None, :, ::3, ::3]
            assert_close(case, f"{name}_{i}", sampled, tolerance, relative=False)
        extremes = (resized.min(), resized.max())
        stats = np.array([pixels.mean(), pixels.std(), np.abs(pixels).max(), *extremes])
        assert_close(case, f"stats_{i}", stats, tolerance, relative=False)


def test_normalisation_has_the_released_mean_and_deviation():
    config = load_case("sampling_clip_preprocess").config
    assert clip.PIXEL_MEAN == pytest.approx(config["mean"])
    assert clip.PIXEL_STD == pytest.approx(config["std"])
