"""Scaled dot-product attention: the one place where a kernel is chosen.

Every implementation computes softmax(q k^T / sqrt(d)) v with a float32 softmax, over all keys or,
row by row, over the first of them. `auto` takes cuDNN's flash kernel on GPUs and the Pallas flash
kernel on TPUs where they apply, and otherwise either the explicit product (few scores) or a loop
over blocks of queries that never holds more than a slice of the scores.
"""

from __future__ import annotations

import warnings
from functools import cache

import jax
import jax.numpy as jnp

Array = jax.Array

# Scores held at once: explicit up to here, blocks of queries beyond. On a CPU 8 MB stay in its
# cache, which makes long sequences twice as fast; elsewhere 256 MB fit any device.
_MAX_SCORES = {"cpu": 2**21}
_MAX_SCORES_ELSEWHERE = 2**26
_MIN_BLOCK = 128  # queries: shorter blocks would waste the products
_MIN_FLASH_TOKENS = 256  # kernels lose to plain matmuls on short sequences


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    lengths: Array | None = None,
    implementation: str = "auto",
) -> Array:
    """Attention of q to k, v.

    q (b, n, heads, d), k and v (b, m, heads, d), any float type -> (b, n, heads, d) in q's type.
    lengths (b,) int in 1..m: row i sees its first lengths[i] keys only; None: all. implementation:
    "auto", "explicit", "chunked", "cudnn" or "tpu"; causal only with "auto" and "explicit". Raises
    ValueError for another name, or for a causal mask elsewhere.
    """
    if implementation == "auto":
        implementation = "explicit" if causal else choose(q, k)
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"attention implementation {implementation!r}: expected one of "
            f"{', '.join(sorted(_IMPLEMENTATIONS))}"
        )
    if causal:
        if implementation != "explicit":
            raise ValueError(f"{implementation} attention has no causal mask here: use explicit")
        return _explicit(q, k, v, lengths, causal=True)
    return _IMPLEMENTATIONS[implementation](q, k, v, lengths)


def choose(q: Array, k: Array) -> str:
    """Name of the implementation that `auto` takes for these shapes on the default backend."""
    batch, n, heads, width = q.shape
    m = k.shape[1]
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    backend = jax.default_backend()
    if backend == "gpu" and half and width % 8 == 0 and width <= _cudnn_width():
        if n >= _MIN_FLASH_TOKENS and m >= _MIN_FLASH_TOKENS:
            return "cudnn"
    if backend == "tpu" and n % 512 == 0 and m % 512 == 0 and width <= 128:
        return "tpu"
    return "explicit" if batch * heads * n * m <= _max_scores() else "chunked"


def _max_scores() -> int:
    return _MAX_SCORES.get(jax.default_backend(), _MAX_SCORES_ELSEWHERE)


@cache
def _cudnn_width() -> int:
    """Largest head width of cuDNN's kernel: 256 from Hopper on, 128 before; 0 if it does not run
    here."""
    try:
        # A shape, not an array: attention is mostly chosen while something is traced.
        probe = jax.ShapeDtypeStruct((1, 512, 1, 64), jnp.bfloat16)
        jax.jit(_cudnn).lower(probe, probe, probe, None).compile()
        capability = float(jax.devices()[0].compute_capability)
    except Exception as error:  # any failure of a probe means the same: take another kernel
        warnings.warn(f"cuDNN attention is not available ({error}); using XLA", stacklevel=2)
        return 0
    return 256 if capability >= 9.0 else 128


def _explicit(
    q: Array, k: Array, v: Array, lengths: Array | None, *, causal: bool = False
) -> Array:
    q = q.transpose(0, 2, 1, 3)  # b heads n d: plain batched matmuls are fastest on CPU
    k = k.transpose(0, 2, 3, 1)  # b heads d m
    v = v.transpose(0, 2, 1, 3)  # b heads m d
    scores = jnp.matmul(q, k, preferred_element_type=jnp.float32) * (q.shape[-1] ** -0.5)
    lowest = jnp.finfo(jnp.float32).min  # its weight is 0 exactly, as every row sees some key
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, lowest)
    if lengths is not None:
        scores = jnp.where(_seen(k.shape[-1], lengths)[:, None, None], scores, lowest)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.matmul(weights, v).transpose(0, 2, 1, 3)


def _seen(m: int, lengths: Array) -> Array:
    """Which of m keys each row sees, (b, m) bool."""
    return jnp.arange(m) < lengths[:, None]


def _chunked(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
    """Blocks of queries against all keys, one block and one batch row at a time."""
    batch, n, heads, width = q.shape
    m = k.shape[1]
    block = min(n, max(_MIN_BLOCK, _max_scores() // (heads * m)))
    while n % block:  # the largest divisor that fits
        block -= 1
    queries = q.reshape(batch * (n // block), 1, block, heads, width)
    rows = jnp.repeat(jnp.arange(batch), n // block)

    @jax.checkpoint
    def one(args):
        row, part = args
        of_row = lambda x: jax.lax.dynamic_index_in_dim(x, row, keepdims=True)
        return _explicit(part, *jax.tree.map(of_row, (k, v, lengths)))

    return jax.lax.map(one, (rows, queries)).reshape(q.shape)


def _cudnn(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
    if lengths is not None:
        lengths = lengths.astype(jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def _tpu(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
    """Pallas flash attention; heads are padded to the 128 lanes with zeros, which change nothing.

    The kernel lets queries see the keys of their own segment: what is hidden is a segment of none.
    """
    from jax.experimental.pallas.ops.tpu import flash_attention

    width = q.shape[-1]
    pad = ((0, 0), (0, 0), (0, 0), (0, 128 - width))
    heads_first = [jnp.pad(x, pad).transpose(0, 2, 1, 3) for x in (q, k, v)]
    segments = None
    if lengths is not None:
        segments = flash_attention.SegmentIds(
            q=jnp.ones(q.shape[:2], jnp.int32),
            kv=_seen(k.shape[1], lengths).astype(jnp.int32),
        )
    out = flash_attention.flash_attention(*heads_first, segment_ids=segments, sm_scale=width**-0.5)
    return out.transpose(0, 2, 1, 3)[..., :width]


_IMPLEMENTATIONS = {
    "explicit": _explicit,
    "chunked": _chunked,
    "cudnn": _cudnn,
    "tpu": _tpu,
}
