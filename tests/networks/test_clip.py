"""Properties of CLIP's transformers and of the preparation of pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks.clip import (
    PIXEL_MEAN,
    PIXEL_STD,
    TextEmbeddings,
    TextTransformer,
    VisionTransformer,
    clip_pixels,
)
from tests.drawn import drawn

VISION = dict(width=16, layers=2, heads=2, hidden=24, projection=6, patch=7)
TEXT = dict(vocabulary=50, width=16, layers=2, heads=2, hidden=24, positions=12)


def normalised(images):
    return ((np.asarray(images) + 1) / 2 - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)


def test_a_picture_of_the_right_size_is_only_normalised():
    images = jax.random.uniform(jax.random.key(0), (2, 30, 30, 3), minval=-1)
    np.testing.assert_allclose(clip_pixels(images, 30), normalised(images), atol=1e-5)


def test_a_plain_picture_stays_plain_at_any_size():
    images = jnp.broadcast_to(jnp.array([0.5, -0.25, 1.0]), (1, 61, 90, 3))
    expected = np.broadcast_to(normalised(jnp.array([0.5, -0.25, 1.0])), (1, 24, 24, 3))
    np.testing.assert_allclose(clip_pixels(images, 24), expected, atol=1e-5)


def test_shrinking_averages_a_pattern_finer_than_the_result():
    rows, columns = np.indices((96, 96))
    pattern = np.where((rows + columns) % 2, 1.0, -1.0)[None, ..., None].repeat(3, -1)
    pixels = np.asarray(clip_pixels(pattern, 24))
    middle = pixels[:, 3:-3, 3:-3]  # mirrored borders keep a little of the pattern
    np.testing.assert_allclose(middle, normalised(np.zeros_like(middle)), atol=0.01)


def test_rows_and_columns_are_treated_alike():
    images = jax.random.uniform(jax.random.key(1), (1, 40, 64, 3), minval=-1)
    turned = clip_pixels(images.transpose(0, 2, 1, 3), 20)
    expected = np.asarray(clip_pixels(images, 20)).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_stretching_keeps_everything_and_cropping_the_middle_of_the_long_side():
    picture = np.zeros((1, 20, 60, 3), np.float32)
    picture[:, :, 20:40] = 1.0
    normal = lambda value: normalised(np.full(3, value))
    whole = np.asarray(clip_pixels(picture, 40, "stretch"))[0]
    for column, value in ((3, 0.0), (20, 1.0), (36, 0.0)):
        np.testing.assert_allclose(whole[20, column], normal(value), atol=1e-5)
    middle = np.asarray(clip_pixels(picture, 40, "crop"))[0]
    assert middle.shape == (40, 40, 3)
    for column in (1, 20, 38):
        np.testing.assert_allclose(middle[20, column], normal(1.0), atol=1e-5)


@pytest.mark.parametrize("method", ["stretch", "crop"])
def test_overshoot_is_cut_where_the_original_has_eight_bits(method):
    edge = np.where(np.arange(12)[:, None] < 6, -1.0, 1.0)[None, :, :, None].repeat(8, 2)
    edge = edge.repeat(3, 3)
    pixels = np.asarray(clip_pixels(edge, 30, method))
    assert pixels.max() <= normalised(np.ones(3)).max() + 1e-5
    free = np.asarray(clip_pixels(edge, 30))
    assert free.max() > normalised(np.ones(3)).max() + 0.1


def test_an_unknown_way_to_the_square_is_refused():
    with pytest.raises(ValueError, match="'nearest': expected"):
        clip_pixels(np.zeros((1, 8, 8, 3)), 4, "nearest")


@pytest.fixture(scope="module")
def pixels():
    return jax.random.normal(jax.random.key(2), (2, 14, 21, 3))


def test_the_two_activations_are_the_only_ones(pixels):
    gelu, quick = (VisionTransformer(**VISION, activation=a) for a in ("gelu", "quick_gelu"))
    params = {"params": drawn(gelu, pixels)}
    assert np.abs(gelu.apply(params, pixels) - quick.apply(params, pixels)).max() > 1e-6
    with pytest.raises(ValueError, match="'relu': expected one of"):
        VisionTransformer(**VISION, activation="relu").apply(params, pixels)


def test_without_positions_the_embedding_ignores_the_order_of_patches(pixels):
    module = VisionTransformer(**VISION, activation="gelu")
    params = {"params": drawn(module, pixels)}
    swapped = jnp.concatenate([pixels[:, 7:], pixels[:, :7]], axis=1)  # the two rows of patches
    first = module.apply(params, pixels)
    assert np.abs(module.apply(params, swapped) - first).max() > 1e-5
    embeddings = params["params"]["vision_model"]["embeddings"]
    embeddings["position_embedding"]["embedding"] *= 0
    plain, again = (module.apply(params, x) for x in (pixels, swapped))
    np.testing.assert_allclose(plain, again, atol=1e-5)


def test_text_tokens_do_not_see_later_ones():
    module = TextTransformer(**TEXT, activation="quick_gelu")
    tokens = jnp.array([[3, 1, 4, 1, 5, 9]])
    params = {"params": drawn(module, tokens)}
    other = tokens.at[0, 3:].set(jnp.array([7, 8, 2]))
    first, second = module.apply(params, tokens), module.apply(params, other)
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=1e-6)
    assert np.abs(first[:, 3:] - second[:, 3:]).max() > 1e-3


def test_the_gradient_of_a_word_that_returns_keeps_its_digits_in_bfloat16():
    tokens = np.full((1, 512), 3)
    module = TextEmbeddings(vocabulary=5, width=6, positions=512, dtype=jnp.bfloat16)
    params = module.init(jax.random.key(0), tokens)["params"]
    above = np.random.default_rng(0).normal(size=(1, 512, 6)).astype(jnp.bfloat16)
    _, pull = jax.vjp(lambda params: module.apply({"params": params}, tokens), params)
    found = np.asarray(pull(above)[0]["token_embedding"]["embedding"])
    exact = np.zeros((5, 6))
    exact[3] = above.astype(np.float64).sum((0, 1))
    np.testing.assert_allclose(found, exact, atol=1e-3)  # of a size of 22
