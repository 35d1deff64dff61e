"""All implementations of attention equal the formula and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from dispose_jax.ops import attention as ops


def inputs(batch=2, n=7, m=5, heads=3, width=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = (batch, n, heads, width), (batch, m, heads, width), (batch, m, heads, width)
    return [jnp.asarray(rng.standard_normal(s, np.float32), dtype) for s in shapes]


def formula(q, k, v, causal=False, lengths=None):
    """softmax(q k^T / sqrt(d)) v in float64, one head at a time, of the keys that a row keeps."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        kept = slice(k.shape[1] if lengths is None else lengths[b])
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, kept, h].T / np.sqrt(q.shape[-1])
            if causal:
                scores[np.triu_indices(len(scores), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, h] = weights / weights.sum(-1, keepdims=True) @ v[b, kept, h]
    return out


def hold_at_most(monkeypatch, scores):
    """Let that many scores be held at once."""
    monkeypatch.setattr(ops, "_max_scores", lambda: scores)
    monkeypatch.setattr(ops, "_MIN_BLOCK", 1)


@pytest.mark.parametrize("implementation", ["auto", "explicit", "chunked"])
def test_every_implementation_is_the_formula(implementation):
    q, k, v = inputs()
    ours = ops.attention(q, k, v, implementation=implementation)
    np.testing.assert_allclose(ours, formula(q, k, v), atol=1e-5)


@pytest.mark.parametrize("n", [1, 6, 7, 12])
@pytest.mark.parametrize("most", [1, 16, 40, 10**6])
def test_chunks_of_any_size_give_the_same_result(monkeypatch, n, most):
    """Prime, odd and even numbers of queries, from one query a time to all at once."""
    hold_at_most(monkeypatch, most)
    q, k, v = inputs(n=n, m=4, heads=2)
    ours = ops.attention(q, k, v, implementation="chunked")
    np.testing.assert_allclose(ours, formula(q, k, v), atol=1e-5)


def test_chunks_never_hold_all_scores(monkeypatch):
    hold_at_most(monkeypatch, 2 * 8 * 4)
    q, k, v = inputs(n=12, m=8, heads=2)
    text = str(jax.make_jaxpr(lambda *x: ops.attention(*x, implementation="chunked"))(q, k, v))
    assert "f32[1,2,4,8]" in text, "blocks of 4 queries"
    assert "12,8]" not in text


def test_the_gradient_through_chunks_is_that_of_the_explicit_product(monkeypatch):
    hold_at_most(monkeypatch, 30)
    q, k, v = inputs(n=6, heads=2)

    def loss(implementation):
        weighted = lambda *x: (ops.attention(*x, implementation=implementation) * q**2).sum()
        return jax.grad(weighted, argnums=(0, 1, 2))(q, k, v)

    for ours, expected in zip(loss("chunked"), loss("explicit"), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


LENGTHS = np.array([5, 2, 3])  # of the keys that three rows see, some all


@pytest.mark.parametrize("implementation", ["auto", "explicit", "chunked"])
def test_rows_of_different_lengths_attend_to_their_first_keys_only(monkeypatch, implementation):
    hold_at_most(monkeypatch, 40 if implementation == "chunked" else 10**6)
    q, k, v = inputs(batch=3)
    attend = lambda k, v: ops.attention(
        q, k, v, lengths=jnp.asarray(LENGTHS), implementation=implementation
    )
    ours = attend(k, v)
    np.testing.assert_allclose(ours, formula(q, k, v, lengths=LENGTHS), atol=1e-5)
    hidden = (np.arange(5) >= LENGTHS[:, None])[..., None, None]
    np.testing.assert_array_equal(attend(k + 9 * hidden, v - 9 * hidden), ours)


def test_the_kernel_of_gpus_is_given_the_lengths(monkeypatch):
    """The kernel itself needs the device; its arguments mean the same to XLA's implementation."""
    plain = jax.nn.dot_product_attention

    def recorded(*args, implementation, **named):
        assert implementation == "cudnn"
        return plain(*args, implementation="xla", **named)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    q, k, v = inputs(batch=3)
    for lengths in (None, LENGTHS):
        given = None if lengths is None else jnp.asarray(lengths, jnp.uint8)
        ours = ops.attention(q, k, v, lengths=given, implementation="cudnn")
        np.testing.assert_allclose(ours, formula(q, k, v, lengths=lengths), atol=1e-5)


def test_the_kernel_of_tpus_is_given_the_lengths():
    """In Pallas's interpreter; the second row's last block of keys is hidden as a whole."""
    q, k, v = inputs(batch=2, n=128, m=256, heads=1)
    lengths = np.array([256, 100])
    with pltpu.force_tpu_interpret_mode():
        ours = ops.attention(q, k, v, lengths=jnp.asarray(lengths), implementation="tpu")
        everything = ops.attention(q, k, v, implementation="tpu")
    np.testing.assert_allclose(ours, formula(q, k, v, lengths=lengths), atol=1e-5)
    np.testing.assert_allclose(everything, formula(q, k, v), atol=1e-5)


@pytest.mark.parametrize("implementation", ["explicit", "chunked"])
def test_gradients_of_hidden_keys_are_zero_and_the_others_those_of_the_kept_keys(
    monkeypatch, implementation
):
    hold_at_most(monkeypatch, 30)
    q, k, v = inputs(batch=3, n=6, heads=2)

    def gradient(q, k, v, lengths, implementation):
        attend = lambda *x: ops.attention(*x, lengths=lengths, implementation=implementation)
        loss = lambda *x: (attend(*x) * q**2).sum()
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    ours = gradient(q, k, v, jnp.asarray(LENGTHS), implementation)
    for row, length in enumerate(LENGTHS):
        own = slice(row, row + 1)
        kept = gradient(q[own], k[own, :length], v[own, :length], None, "explicit")
        for one, expected in zip(ours, kept):
            np.testing.assert_allclose(one[own, : expected.shape[1]], expected, atol=1e-5)
        for one in ours[1:]:
            assert not np.any(one[row, length:])


@pytest.mark.parametrize("implementation", ["auto", "explicit"])
def test_a_causal_query_sees_no_later_key(implementation):
    q, k, v = inputs(n=6, m=6)
    ours = ops.attention(q, k, v, causal=True, implementation=implementation)
    np.testing.assert_allclose(ours, formula(q, k, v, causal=True), atol=1e-5)
    later = ops.attention(q, k, v.at[:, 4:].add(9), causal=True, implementation=implementation)
    np.testing.assert_array_equal(ours[:, :4], later[:, :4])


def test_softmax_is_float32_for_half_precision_inputs():
    """600 equal keys: a bfloat16 sum of their weights would be off by percents."""
    q, k, v = inputs(n=2, m=600, dtype=jnp.bfloat16)
    flat = ops.attention(jnp.zeros_like(q), k, jnp.ones_like(v), implementation="explicit")
    assert flat.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(flat, np.float32), 1.0, atol=0.01)
    ours = ops.attention(q, k, v, implementation="explicit")
    np.testing.assert_allclose(np.asarray(ours, np.float32), formula(q, k, v), atol=0.01)


def test_many_scores_are_computed_in_chunks_and_few_at_once(monkeypatch):
    q, k, _ = inputs(batch=2, n=7, m=5, heads=3)
    hold_at_most(monkeypatch, 2 * 3 * 7 * 5)
    assert ops.choose(q, k) == "explicit"
    hold_at_most(monkeypatch, 2 * 3 * 7 * 5 - 1)
    assert ops.choose(q, k) == "chunked"


def test_unknown_and_unfit_implementations_are_refused():
    q, k, v = inputs(n=5)
    with pytest.raises(ValueError, match="'flash': expected one of .*explicit"):
        ops.attention(q, k, v, implementation="flash")
    with pytest.raises(ValueError, match="chunked attention has no causal mask"):
        ops.attention(q, k, v, implementation="chunked", causal=True)
