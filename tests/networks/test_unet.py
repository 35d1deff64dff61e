"""The U-Net's flavours against each other: what a flavour adds begins as nothing."""

import re
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from jax.tree_util import tree_leaves_with_path as leaves_with_path

from dispose_jax.networks.attention import reference_tokens, reference_variables
from dispose_jax.networks.temporal import MotionSizes, split_motion
from dispose_jax.networks.unet import Flavour, UNet
from dispose_jax.types import Joining, Residuals
from tests import blockwise
from tests.drawn import draw

B, F, H, W, D = 2, 3, 6, 4, 5
SIZES = {"channels": (8, 16), "heads": (2, 2), "layers": 1}
MOTION = MotionSizes(heads=2, groups=4, positions=6)
PICTURE = UNet(flavour=Flavour(groups=4), **SIZES)
VIDEO = UNet(flavour=Flavour("motion_module", groups=4, motion=MOTION), **SIZES)


def inputs():
    return draw(B, F, H, W, 4), np.float32([3, 700]), draw(B, 1, D, seed=3)


def drawn(tree, seed=1):
    """All leaves drawn, matrices so that variances stay."""
    rng = np.random.default_rng(seed)
    scale = lambda leaf: 1 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.5
    return jax.tree.map(
        lambda leaf: scale(leaf) * rng.standard_normal(leaf.shape, np.float32), tree
    )


@cache
def parameters():
    """(the picture model's, the motion modules') of the video flavour, all drawn."""
    shapes = jax.eval_shape(VIDEO.init, jax.random.key(0), *inputs())["params"]
    return tuple(drawn(part) for part in split_motion(shapes))


def run(unet, params, **more):
    collections = {k: more.pop(k) for k in ("reference",) if k in more}
    return blockwise.apply(unet, {"params": params, **collections}, *inputs(), **more)


def join(picture, motion):
    """Trees that share branches, not leaves."""
    shared = {k: join(picture[k], motion[k]) for k in picture.keys() & motion.keys()}
    return picture | motion | shared


def names(tree):
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves_with_path(tree)}


def test_motion_modules_that_begin_as_nothing_leave_the_picture_model_exactly_as_it_is():
    picture, motion = parameters()
    expected = jax.eval_shape(PICTURE.init, jax.random.key(0), *inputs())["params"]
    assert jax.tree.map(np.shape, picture) == jax.tree.map(np.shape, expected)
    plain = run(PICTURE, picture)
    is_last = lambda path: "proj_out" in [key.key for key in path]
    untrained = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if is_last(path) else leaf, motion
    )
    np.testing.assert_array_equal(run(VIDEO, join(picture, untrained)), plain)
    trained = join(picture, motion)
    assert np.abs(run(VIDEO, trained) - plain).max() > 0.1
    pictures_only = VIDEO.clone(flavour=replace(VIDEO.flavour, spatial_only=True))
    np.testing.assert_array_equal(run(pictures_only, trained), plain)


def test_a_motion_module_follows_every_layer_and_the_middle_s_transformer():
    _, motion = parameters()
    found = {re.match(r".*motion_modules_\d+", name)[0] for name in names(motion)}
    down = {f"encoder/down_blocks_{i}/motion_modules_0" for i in range(2)}
    up = {f"up_blocks_{i}/motion_modules_{j}" for i in range(2) for j in range(2)}
    assert found == down | up | {"encoder/mid_block/motion_modules_0"}


def test_without_a_head_the_last_hidden_map_comes_out_and_every_token_was_written():
    picture, _ = parameters()
    headless = UNet(flavour=Flavour(groups=4), head=False, **SIZES)
    shapes = jax.eval_shape(headless.init, jax.random.key(0), *inputs())["params"]
    assert picture.keys() - shapes.keys() == {"conv_norm_out", "conv_out"}
    own = {name: picture[name] for name in shapes}
    hidden, written = run(headless, own, writes="reference")
    last = run(PICTURE, picture, stop_after_up=1)
    np.testing.assert_allclose(hidden, last, atol=1e-5)
    tokens = reference_tokens(written["reference"])
    block = "attentions_{}/transformer_blocks_0/tokens"
    fine, coarse = (B, F * H * W, 8), (B, F * H * W // 4, 16)
    assert {name: leaf.shape for name, leaf in names(tokens).items()} == {
        "encoder/down_blocks_0/" + block.format(0): fine,
        "encoder/mid_block/" + block.format(0): coarse,
        "up_blocks_1/" + block.format(0): fine,
        "up_blocks_1/" + block.format(1): fine,
    }
    # Rows that do not read are those of a model without a reference.
    ours = run(PICTURE, picture, reference=reference_variables(tokens, np.array([True, False])))
    plain = run(PICTURE, picture)
    np.testing.assert_allclose(ours[1], plain[1], atol=1e-5)
    assert np.abs(ours[0] - plain[0]).max() > 1e-3


def test_an_unknown_flavour_is_refused():
    with pytest.raises(ValueError, match="temporal is 'motion': expected None, 'mixed' or"):
        Flavour("motion")


def residuals(seed=4):
    """For the skips and the middle of PICTURE."""
    grids = [(H, W, 8), (H, W, 8), (H // 2, W // 2, 8), (H // 2, W // 2, 16)]
    skips = tuple(draw(B, F, *grid, seed=seed + i) for i, grid in enumerate(grids))
    return Residuals(skips=skips, mid=draw(B, F, H // 2, W // 2, 16, seed=seed))


@pytest.mark.parametrize("controlled", [False, True])
def test_what_a_call_leaves_gives_the_same_result_at_the_same_latent(controlled):
    picture, motion = parameters()
    params, given = join(picture, motion), residuals() if controlled else None
    plain = run(VIDEO, params, joining=Joining(residuals=given))
    kept, deep = run(VIDEO, params, joining=Joining(residuals=given), keep=True)
    np.testing.assert_array_equal(kept, plain)
    assert deep.features.shape == (B, F, H, W, 16)
    again = run(VIDEO, params, deep=deep)
    np.testing.assert_allclose(again, plain, atol=1e-5)


def test_only_the_finest_level_is_computed_from_what_was_left():
    picture, motion = parameters()
    params = join(picture, motion)
    _, deep = run(VIDEO, params, keep=True)
    finest = {"encoder": {}, "up_blocks_1": params["up_blocks_1"]}
    for name in ("time_embedding", "conv_norm_out", "conv_out"):
        finest[name] = params[name]
    for name in ("conv_in", "down_blocks_0"):
        finest["encoder"][name] = params["encoder"][name]
    x, t, context = inputs()
    apply = lambda x, params: blockwise.apply(VIDEO, {"params": params}, x, t, context, deep=deep)
    moved = apply(x + 0.1, finest)  # parameters that are not there are not asked for
    np.testing.assert_array_equal(moved, apply(x + 0.1, params))
    assert np.abs(moved - apply(x, finest)).max() > 1e-3, "the finest level follows the latent"
