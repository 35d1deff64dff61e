"""Cross-attention to one token: the shortcuts equal the general path; order of contexts. Reference
attention."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.networks import temporal
from dispose_jax.networks.attention import (
    Attention,
    ReferenceTokens,
    TransformerBlock,
    one_token_values,
    reference_tokens,
    reference_variables,
)
from dispose_jax.networks.resnet import AlphaBlender
from dispose_jax.networks.temporal import TemporalTransformerBlock
from tests import drawn
from tests.drawn import draw

B, F, S, C, D = 2, 3, 5, 8, 6
random_params = partial(drawn.random_params, scale=0.5)


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


def test_rows_that_read_attend_to_their_own_and_the_reference_s_tokens():
    """Two clips of three frames, of which the second reads; each frame is a row of its own."""
    x, tokens = draw(B * F, S, C), draw(B, 4, C, seed=3)
    module = Attention(heads=2)
    params = {"params": random_params(module, x, x)}
    ours = module.apply(params, x, x, reference=ReferenceTokens(tokens, np.array([False, True])))
    np.testing.assert_allclose(ours[:F], module.apply(params, x[:F], x[:F]), atol=1e-6)
    both = np.concatenate([x[F:], np.repeat(tokens[1:], F, axis=0)], axis=1)
    np.testing.assert_allclose(ours[F:], module.apply(params, x[F:], both), atol=1e-6)


def reference_pass(module, params, x, token):
    """(output, tokens) of a pass that writes."""
    out, state = module.apply({"params": params}, x, token, mutable="reference")
    return out, reference_tokens(state["reference"])


def reader(module, params):
    """The pass that reads: (tokens, read, x, context, further collections) -> output."""

    @jax.jit
    def run(tokens, read, x, context, **more):
        more["reference"] = reference_variables(tokens, read)
        return module.apply({"params": params, **more}, x, context)

    return run


def two_networks(module):
    """Parameters of two, a clip, a reference picture of each clip, a token."""
    x, picture, token = draw(B, F, S, C), draw(B, 1, S, C, seed=4), draw(B, 1, D, seed=3)
    return *(random_params(module, x, token, seed=i) for i in (1, 2)), x, picture, token


FIRST_DOES_NOT, BOTH = np.array([False, True]), np.array([True, True])


def test_a_block_reads_what_the_block_of_another_network_wrote():
    module = TransformerBlock(2)
    params, other, x, picture, token = two_networks(module)
    made = jax.eval_shape(module.init, jax.random.key(0), x, token)
    assert made.keys() == {"params"}, "making parameters writes nothing"
    out, tokens = reference_pass(module, other, picture, token)
    np.testing.assert_array_equal(out, module.apply({"params": other}, picture, token))
    assert jax.tree.map(np.shape, tokens) == {"tokens": (B, S, C)}

    run = reader(module, params)
    mixed, both = run(tokens, FIRST_DOES_NOT, x, token), run(tokens, BOTH, x, token)
    plain = module.apply({"params": params}, x, token)
    np.testing.assert_allclose(mixed[0], plain[0], atol=2e-5)
    assert np.abs(mixed[1] - plain[1]).max() > 0.01, "the reference matters"
    np.testing.assert_allclose(mixed[1], both[1], atol=2e-5)
    swapped = run({"tokens": tokens["tokens"][::-1]}, BOTH, x, token)
    assert np.abs(both - swapped).max(axis=(1, 2, 3)).min() > 0.01, "each reads its own"
    # The constant cross-attention goes with it, and so does the general one.
    cross = one_token_values(params, token, jnp.float32)
    np.testing.assert_allclose(run(tokens, FIRST_DOES_NOT, x, token, cross=cross), mixed, atol=2e-5)
    several = np.repeat(token, 2, axis=1)
    np.testing.assert_allclose(run(tokens, FIRST_DOES_NOT, x, several), mixed, atol=2e-5)


def test_reference_attention_and_its_gradients_pass_through_what_is_computed_again():
    """Gradients reach the network that wrote, from rows that read and from no others."""

    def loss_and_gradient(module):
        params, other, x, picture, token = two_networks(module)

        @jax.jit
        @jax.value_and_grad
        def loss(other, read):
            _, tokens = reference_pass(module, other, picture, token)
            return (reader(module, params)(tokens, read, x, token) ** 2).sum()

        return loss, other

    loss, other = loss_and_gradient(TransformerBlock(2))
    value, gradient = loss(other, FIRST_DOES_NOT)
    assert np.abs(gradient["norm1"]["scale"]).min() > 1e-3
    step, values = 1e-2, []
    for sign in (-1, 1):  # against a difference, along the norm's bias
        moved = other | {"norm1": other["norm1"] | {"bias": other["norm1"]["bias"] + sign * step}}
        values.append(loss(moved, FIRST_DOES_NOT)[0])
    slope = gradient["norm1"]["bias"].sum()
    np.testing.assert_allclose((values[1] - values[0]) / (2 * step), slope, rtol=0.02)
    _, none = loss(other, np.array([False, False]))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(none))

    again, _ = loss_and_gradient(nn.remat(TransformerBlock)(2))
    for ours, expected in zip(
        jax.tree.leaves(again(other, FIRST_DOES_NOT)), jax.tree.leaves((value, gradient))
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_reference_tokens_of_other_clips_are_refused():
    module = TransformerBlock(2)
    x, token = draw(B, F, S, C), draw(B, 1, D)
    params = random_params(module, x, token)
    reference = reference_variables({"tokens": draw(1, S, C)}, np.array([True]))
    with pytest.raises(ValueError, match="reference tokens of 1 clips for a batch of 2"):
        module.apply({"params": params, "reference": reference}, x, token)


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


@pytest.mark.parametrize("switched", [False, True])
def test_shares_of_a_blend_in_bfloat16_add_up_to_1(switched):
    """Whatever is the same in both parts comes out unchanged."""
    same = jnp.asarray(np.random.default_rng(0).normal(size=100), jnp.bfloat16)
    for factor in (-3.0, -0.4, 0.3, 2.7):
        params = {"mix_factor": np.array([factor], np.float32)}
        blend = AlphaBlender(switched).apply({"params": params}, same, same)
        assert blend.dtype == jnp.bfloat16
        np.testing.assert_array_equal(blend, same)
