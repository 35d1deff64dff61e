"""All implementations of attention equal the formula and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import dispatch
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental import pallas as pl
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

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
    monkeypatch.setitem(ops.USED, "cpu", ops.USED["cpu"]._replace(scores=scores))
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


@pytest.fixture
def interpreted(monkeypatch):
    """Pallas's kernels run as plain programs. (Its interpreter of TPUs waits for ever where one
    core has to play several devices.)"""
    monkeypatch.setattr(pl, "pallas_call", partial(pl.pallas_call, interpret=True))


@pytest.mark.parametrize(
    "n, m, width, lengths",
    [
        (128, 256, 128, None),
        (128, 256, 4, (256, 100)),
        (144, 200, 40, None),
        (72, 200, 160, (7, 200)),
    ],
)
def test_the_kernel_of_tpus_pads_tokens_and_heads_and_is_given_the_lengths(
    interpreted, n, m, width, lengths
):
    """Among them a row whose last tile of keys is hidden as a whole."""
    q, k, v = inputs(n=n, m=m, heads=1, width=width)
    given = None if lengths is None else jnp.asarray(lengths)
    ours = ops.attention(q, k, v, lengths=given, implementation="tpu")
    np.testing.assert_allclose(ours, formula(q, k, v, lengths=lengths), atol=1e-5)


def test_tiles_of_the_kernel_divide_the_tokens_and_are_as_large_as_they_may():
    sizes = partial(ops._tiles, SimpleBlocks)
    found = {n: sizes(n, n)["block_q"] for n in (128, 640, 2304, 4096, 9216, 12288)}
    assert found == {128: 128, 640: 640, 2304: 768, 4096: 1024, 9216: 1024, 12288: 1024}


class SimpleBlocks:
    """Stands for the kernel's module."""

    BlockSizes = dict


def some_mesh():
    return jax.make_mesh((2, 2, 2), ("data", "fsdp", "frames"), axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("implementation", ["chunked", "tpu"])
@pytest.mark.parametrize("rows, shared", [(8, ("data", "fsdp", "frames")), (4, ("data",)), (3, ())])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_on_a_mesh_the_kernels_give_the_explicit_product_and_its_gradients(
    monkeypatch, interpreted, implementation, rows, shared, with_lengths
):
    """Rows that divide over all devices, over some of them, and over none."""
    if implementation == "chunked":
        hold_at_most(monkeypatch, 2 * 72 * 30)
    q, k, v = inputs(batch=rows, n=144, m=72, heads=2)
    lengths = jnp.asarray(np.random.default_rng(1).integers(1, 72, rows)) if with_lengths else None

    def gradient(implementation, *arrays):
        def loss(q, k, v):
            found = ops.attention(q, k, v, lengths=lengths, implementation=implementation)
            return (found * jnp.cos(q)).sum(), found

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)

    expected = gradient("explicit", q, k, v)
    place = NamedSharding(some_mesh(), PartitionSpec(shared))
    ours = gradient(implementation, *(jax.device_put(x, place) for x in (q, k, v)))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-5)
    if rows == 8:
        assert ours[1].sharding.spec == place.spec, "each device has its own rows"


DEVICES = {
    "tpu": AbstractDevice("TPU v5 lite", 1, "tpu"),
    "cuda": AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"),
    "old": AbstractDevice("NVIDIA A100-SXM4-80GB", 108, "gpu"),
}
CALLS = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha", "old": "__cudnn$fmha"}


def on_devices(kind, *shapes, dtype=jnp.bfloat16):
    """Shapes of arrays whose rows eight devices share that are not here."""
    kinds = {"axis_types": (AxisType.Auto,) * 2, "abstract_device": DEVICES[kind]}
    mesh = AbstractMesh((4, 2), ("data", "fsdp"), **kinds)
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes]


@pytest.fixture
def absent(monkeypatch):
    """JAX's own questions to the local GPU, answered for one that is not here. What else asks for
    it, how to split the call, is settled where each device has its own rows."""
    monkeypatch.setattr(dispatch, "prim_requires_devices_during_lowering", set())
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda wanted: float(wanted) <= 9.0)


@pytest.mark.parametrize(
    "kind, n, m, width, chosen",
    [
        ("tpu", 9216, 9216, 64, "tpu"),
        ("tpu", 2304, 2304, 64, "tpu"),
        ("tpu", 576, 576, 64, "tpu"),
        ("tpu", 576, 1152, 160, "tpu"),
        ("tpu", 144, 144, 64, "explicit"),
        ("tpu", 9216, 9216, 512, "chunked"),
        ("cuda", 9216, 9216, 64, "cudnn"),
        ("cuda", 576, 1152, 160, "cudnn"),
        ("old", 576, 1152, 160, "chunked"),
        ("old", 576, 576, 80, "cudnn"),
        ("cuda", 144, 144, 64, "explicit"),
    ],
)
def test_the_devices_of_a_program_choose_and_it_lowers_for_eight_of_them(
    absent, kind, n, m, width, chosen
):
    """Whatever this process runs on; with gradients, and with lengths as the second base has."""
    q, k, v, lengths = on_devices(
        kind, *((16, tokens, 8, width) for tokens in (n, m, m)), (16,), dtype=jnp.bfloat16
    )
    lengths = jax.ShapeDtypeStruct(lengths.shape, jnp.int32, sharding=lengths.sharding)
    names = []

    def loss(q, k, v, lengths):
        names.append(ops.choose(q, k))
        return ops.attention(q, k, v, lengths=lengths).astype(jnp.float32).sum()

    for given in (lengths, None):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, v, given)
        text = traced.lower(lowering_platforms=("tpu" if kind == "tpu" else "cuda",)).as_text()
        assert (CALLS[kind] in text) == (chosen in ("tpu", "cudnn"))
    assert set(names) == {chosen}


@pytest.mark.parametrize(
    ("kernel", "gradient", "found"), [(256, 256, 256), (256, 128, 128), (128, 128, 128), (0, 0, 0)]
)
def test_heads_are_as_wide_as_the_gpu_compiles_the_kernel_and_its_gradient_for(
    monkeypatch, kernel, gradient, found
):
    """Hopper, Blackwell with a cuDNN that has no such gradient there, Ampere, and before it."""

    def check(width, most):
        if width > most:
            raise jax.errors.JaxRuntimeError("INTERNAL: No valid engine configs")

    @jax.custom_vjp
    def attend(q, k, v):
        check(q.shape[-1], kernel)
        return ops._explicit(q, k, v, None)

    def backward(kept, above):
        check(above.shape[-1], gradient)
        return kept

    attend.defvjp(lambda *given: (attend(*given), given), backward)
    monkeypatch.setattr(ops, "_cudnn", lambda q, k, v, lengths: attend(q, k, v))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    ops._probed_width.cache_clear()
    q = jax.ShapeDtypeStruct((2, 576, 8, 160), jnp.bfloat16)  # of Stable Diffusion 1.5
    try:
        if found:
            assert ops._cudnn_width("") == found
        else:
            with pytest.warns(UserWarning, match="not available .*No valid engine configs"):
                assert ops._cudnn_width("") == found
        assert ops.choose(q, q) == ("cudnn" if found == 256 else "explicit")
    finally:
        ops._probed_width.cache_clear()


@pytest.mark.parametrize(("n", "chosen"), [(144, "explicit"), (9216, "chunked")])
def test_devices_that_another_plugin_brings_get_plain_products(monkeypatch, n, chosen):
    monkeypatch.setattr(jax, "default_backend", lambda: "mps")
    q = jax.ShapeDtypeStruct((2, n, 8, 64), jnp.bfloat16)
    assert ops.choose(q, q) == chosen
    traced = jax.make_jaxpr(ops.attention)(q, q, q)
    assert ("scan" in str(traced)) == (chosen == "chunked")


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_between_frames_every_position_attends_over_its_own(monkeypatch, platform, dtype):
    """Also as a TPU computes it, with the gradients of the formula."""
    monkeypatch.setattr(ops, "target", lambda x: (platform, ""))
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 5, 7, 3, 4), np.float32), dtype) for _ in "qkv")
    rows = lambda x: x.swapaxes(1, 2).reshape(14, 5, 3, 4)
    back = lambda y: y.reshape(2, 7, 5, 3, 4).swapaxes(1, 2)
    ours, tolerance = ops.between_frames(q, k, v), 2e-2 if dtype == jnp.bfloat16 else 1e-5
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, back(formula(*map(rows, (q, k, v)))), atol=tolerance)
    loss = lambda function: lambda *args: jnp.sin(function(*args).astype(jnp.float32)).sum()
    plain = lambda *args: back(ops.attention(*map(rows, args), implementation="explicit"))
    found, expected = (
        jax.grad(loss(f), argnums=(0, 1, 2))(q, k, v) for f in (ops.between_frames, plain)
    )
    for one, other in zip(found, expected):
        np.testing.assert_allclose(
            one.astype(np.float32), other.astype(np.float32), atol=2 * tolerance
        )
