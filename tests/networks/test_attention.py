"""Cross-attention to one token: the shortcuts equal the general path; order of contexts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks import temporal
from dispose_jax.networks.attention import Attention, TransformerBlock, one_token_values
from dispose_jax.networks.resnet import AlphaBlender
from dispose_jax.networks.temporal import TemporalTransformerBlock

B, F, S, C, D = 2, 3, 5, 8, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_params(module, *inputs, seed=1):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape, np.float32), shapes)


def test_attention_is_heads_of_contiguous_channels():
    x, context = draw(B, S, C), draw(B, 4, D, seed=3)
    module = Attention(heads=2)
    params = random_params(module, x, context)
    ours = module.apply({"params": params}, x, context)
    q, k, v = (
        y @ params[n]["kernel"] for n, y in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    parts = []
    for head in (slice(0, C // 2), slice(C // 2, C)):
        scores = q[..., head] @ k[..., head].transpose(0, 2, 1) / np.sqrt(C // 2)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        parts.append(weights / weights.sum(-1, keepdims=True) @ v[..., head])
    out = params["to_out_0"]
    expected = np.concatenate(parts, -1) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("block", [TransformerBlock(2), TemporalTransformerBlock(2)])
def test_one_token_of_context_takes_a_shortcut_that_changes_nothing(block):
    """The same token twice has the same attention, but goes through queries and keys."""
    x, token = draw(B, F, S, C), draw(B, 1, D, seed=3)
    params = random_params(block, x, token)
    short = block.apply({"params": params}, x, token)
    general = block.apply({"params": params}, x, np.repeat(token, 2, axis=1))
    np.testing.assert_allclose(short, general, atol=2e-5)
    other = block.apply({"params": params}, x, token + 1)
    assert np.abs(short - other).max() > 0.1, "the context matters"


@pytest.mark.parametrize(
    "block", [TransformerBlock(2), TemporalTransformerBlock(2), TemporalTransformerBlock(2, 2)]
)
def test_hoisted_cross_attention_equals_computing_it_in_the_network(block):
    x, token = draw(B, F, S, C), draw(B, 1, D, seed=3)
    params = random_params(block, x, token)
    cross = one_token_values(params, token, jnp.float32)
    assert cross.keys() == {"attn2"}
    inside = block.apply({"params": params}, x, token)
    hoisted = block.apply({"params": params, "cross": cross}, x, token)
    np.testing.assert_allclose(hoisted, inside, atol=1e-5)
    # What was hoisted is what is used: the token itself no longer counts.
    ignored = block.apply({"params": params, "cross": cross}, x, token + 1)
    np.testing.assert_array_equal(ignored, hoisted)


def test_hoisted_values_have_the_nesting_of_the_parameters():
    leaf = {"to_v": {"kernel": draw(D, C)}, "to_out_0": {"kernel": draw(C, C), "bias": draw(C)}}
    params = {"down": {"block": {"attn2": leaf, "attn1": leaf}}, "conv": {"kernel": draw(3, 3)}}
    token = draw(B, 1, D)
    values = one_token_values(params, token, jnp.float32)
    assert jax.tree.structure(values) == jax.tree.structure(
        {"down": {"block": {"attn2": {"value": 0}}}}
    )
    expected = token[:, 0] @ leaf["to_v"]["kernel"] @ leaf["to_out_0"]["kernel"]
    value = values["down"]["block"]["attn2"]["value"]
    np.testing.assert_allclose(value, expected + leaf["to_out_0"]["bias"], atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "positions", "group"), [(2, 4, 2), (4, 5, 2), (6, 1, 3), (2, 3, 8)]
)
def test_released_context_order_is_position_major_rows_read_as_clip_major(batch, positions, group):
    values = draw(batch, C)
    ours = np.asarray(temporal.context_of_positions(values, positions, group))
    assert ours.shape == (batch, 1, positions, C)
    group = min(group, batch)
    for start in range(0, batch, group):
        # The original: contexts of a group repeated for each position, (s, b) order, then flattened
        # beside hidden rows that are in (b, s) order.
        rows = [values[start + b] for _ in range(positions) for b in range(group)]
        for member in range(group):
            for s in range(positions):
                expected = rows[member * positions + s]
                np.testing.assert_array_equal(ours[start + member, 0, s], expected)


def test_a_group_of_one_reads_its_own_context():
    values = draw(3, C)
    ours = temporal.context_of_positions(values, 4, 1)
    np.testing.assert_array_equal(ours, values[:, None, None])


def test_rows_that_do_not_fill_their_groups_are_refused():
    with pytest.raises(ValueError, match="3 batch rows do not divide into context groups of 2"):
        temporal.context_of_positions(draw(3, C), 4, 2)


def test_the_released_order_is_refused_for_several_context_tokens():
    block = TemporalTransformerBlock(2, context_group=2)
    x, context = draw(B, F, S, C), draw(B, 2, D)
    params = random_params(block, x, context[:, :1])
    with pytest.raises(ValueError, match="one context token, got 2.*per_clip"):
        block.apply({"params": params}, x, context)


def test_temporal_attention_sees_frames_of_one_position_only():
    x, token = draw(B, F, S, C), draw(B, 1, D, seed=3)
    block = TemporalTransformerBlock(2)
    params = random_params(block, x, token)
    before = block.apply({"params": params}, x, token)
    changed = x.copy()
    changed[0, 1, 2, :3] += 1
    difference = np.abs(block.apply({"params": params}, changed, token) - before).max(-1)
    assert (difference[0, :, 2] > 1e-3).all(), "every frame of that position sees it"
    difference[0, :, 2] = 0
    assert difference.max() < 1e-5, "no other position or clip does"


@pytest.mark.parametrize(("switched", "kept"), [(False, 0.8), (True, 0.2)])
def test_the_blend_keeps_the_sigmoid_s_share_of_the_spatial_part(switched, kept):
    spatial, other = draw(2, 3), draw(2, 3, seed=5)
    params = {"mix_factor": np.log(np.float32([0.8 / 0.2]))}
    ours = AlphaBlender(switched).apply({"params": params}, spatial, other)
    np.testing.assert_allclose(ours, kept * spatial + (1 - kept) * other, atol=1e-6)
