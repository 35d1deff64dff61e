"""Scaled dot-product attention: the one place where a kernel is chosen.

Every implementation computes softmax(q k^T / sqrt(d)) v with a float32 softmax, over all keys or,
row by row, over the first of them. `auto` takes what the table USED names for the devices that the
program is for: a flash kernel where it applies, else either the explicit product (few scores) or a
loop over blocks of queries that never holds more than a slice of the scores.

The devices are those of the mesh on which the arguments lie (devices.py). There each device runs
the kernel on rows of its own, since compilers cannot split a kernel.
"""

from __future__ import annotations

import warnings
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jax.typing import DTypeLike

from dispose_jax.ops.devices import mesh_of, target

Array = jax.Array


class Use(NamedTuple):
    """What `auto` takes on a platform.

    kernel: for at least `tokens` queries and keys, heads of `width` channels at most, and these
    types; "" for none. scores: held at once by XLA, explicit up to here, blocks of queries beyond.
    """

    kernel: str
    tokens: int
    width: int
    types: tuple[DTypeLike, ...]
    scores: int


# Kernels lose to plain matrix products on short sequences. On a CPU 8 MB of scores stay in its
# cache, which makes long sequences twice as fast; elsewhere 256 MB fit any device.
USED = {
    "gpu": Use("cudnn", 256, 256, (jnp.bfloat16, jnp.float16), 2**26),
    "tpu": Use("tpu", 512, 256, (jnp.bfloat16, jnp.float32), 2**26),
    "cpu": Use("", 0, 0, (), 2**21),
}
_ELSEWHERE = Use("", 0, 0, (), 2**26)  # on what other plugins bring: nothing but plain products
_MIN_BLOCK = 128  # queries of a block: shorter ones would waste the products
_LANES = 128  # of a TPU: what the Pallas kernel's tokens are padded to
# Tokens of a tile of the Pallas kernel, whose scores fill a good part of its memory.
_MAX_TILE = 1024
# GPUs whose cuDNN kernel takes heads wider than 128, by part of their names: Hopper's.
_WIDE = ("H100", "H200", "H20")


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
    if implementation == "explicit":
        return _explicit(q, k, v, lengths)
    return _on_rows(_IMPLEMENTATIONS[implementation], q, k, v, lengths)


def choose(q: Array, k: Array) -> str:
    """Name of the implementation that `auto` takes for these shapes where the arrays live."""
    batch, n, heads, width = q.shape
    m = k.shape[1]
    platform, kind = target(q)
    used = USED.get(platform, _ELSEWHERE)
    if used.kernel and q.dtype in used.types and min(n, m) >= used.tokens and width <= used.width:
        if used.kernel != "cudnn" or (width % 8 == 0 and width <= _cudnn_width(kind)):
            return used.kernel
    return "explicit" if batch * heads * n * m <= used.scores else "chunked"


def between_frames(q: Array, k: Array, v: Array) -> Array:
    """Attention between the frames of each position: q, k, v (b, f, s, heads, d) -> the same shape,
    in q's type.

    A few frames and a batch of all positions: explicit products beat any kernel. A TPU keeps the
    two minor axes of an array in tiles of 8 x 128, which heads, frames and channels do not fill;
    there positions are the minor axis, and sums of products take the place of matrix products. Of
    one such layer's traffic that leaves four tenths, by the compiler's count.
    """
    if target(q)[0] == "tpu":
        return _positions_minor(q, k, v)
    b, f, s, heads, width = q.shape
    rows = lambda x: x.transpose(0, 2, 1, 3, 4).reshape(b * s, f, heads, width)
    y = _explicit(rows(q), rows(k), rows(v), None)
    return y.reshape(b, s, f, heads, width).transpose(0, 2, 1, 3, 4)


def _positions_minor(q: Array, k: Array, v: Array) -> Array:
    minor = lambda x: x.transpose(0, 1, 3, 4, 2).astype(jnp.float32)  # b f heads d s
    scores = (minor(q)[:, :, None] * minor(k)[:, None]).sum(4) * (q.shape[-1] ** -0.5)
    weights = jax.nn.softmax(scores, axis=2).astype(v.dtype).astype(jnp.float32)  # b f m heads s
    out = (weights[:, :, :, :, None] * minor(v)[:, None]).sum(2)
    return out.astype(q.dtype).transpose(0, 1, 4, 2, 3)


def _on_rows(function, q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
    """function on every device's share of the rows; an axis of the mesh that does not divide them
    repeats the work."""
    mesh = mesh_of(q)
    axes, parts = [], 1
    for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types):
        if kind == AxisType.Manual:  # each device has its own rows already
            return function(q, k, v, lengths)
        if len(q) % (parts * size) == 0:
            axes, parts = [*axes, name], parts * size
    if mesh.size <= 1:
        return function(q, k, v, lengths)
    rows = PartitionSpec(tuple(axes))
    given = (q, k, v) if lengths is None else (q, k, v, lengths)
    some = function if lengths is not None else partial(function, lengths=None)
    # Kernels do not say which axes their results vary over.
    return jax.shard_map(some, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)(*given)


def _cudnn_width(kind: str) -> int:
    """Largest head width of cuDNN's kernel on a kind of device; 0 if it does not run here."""
    if jax.default_backend() != "gpu":  # for devices that are elsewhere
        return 256 if any(name in kind for name in _WIDE) else 128
    return _probed_width()


@cache
def _probed_width() -> int:
    """The same of this process's devices, found by compiling the kernel and its gradient.

    No rule would do: Hopper's takes 256, that of the GPUs before it and of most after it 128, which
    changes with cuDNN's version, for the gradient later than for the kernel.
    """
    total = lambda *given: _cudnn(*given, None).astype(jnp.float32).sum()
    both = lambda *given: (_cudnn(*given, None), jax.grad(total, argnums=(0, 1, 2))(*given))
    reason = None
    for width in (256, 128):
        # A shape, not an array: attention is mostly chosen while something is traced.
        probe = jax.ShapeDtypeStruct((1, 512, 1, width), jnp.bfloat16)
        try:
            jax.jit(both).lower(probe, probe, probe).compile()
            return width
        except Exception as error:  # any failure of a probe means the same: take another kernel
            reason = error
    warnings.warn(f"cuDNN attention is not available ({reason}); using XLA", stacklevel=2)
    return 0


def _explicit(
    q: Array, k: Array, v: Array, lengths: Array | None, *, causal: bool = False
) -> Array:
    """All scores at once, (b, heads, n, m) float32; arguments as of `attention`."""
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
    used = USED.get(target(q)[0], _ELSEWHERE)
    block = min(n, max(_MIN_BLOCK, used.scores // (heads * m)))
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
    """Pallas flash attention; tokens are padded to whole tiles, heads to what the kernel takes.

    The kernel lets queries see the keys of their own segment: what is hidden, padding included, is
    a segment of none. Zeros in the channels change nothing.
    """
    from jax.experimental.pallas.ops.tpu import flash_attention

    batch, n, heads, width = q.shape
    m = k.shape[1]
    up = lambda size: -(-size // _LANES) * _LANES
    wide = width if width in (64, 128) else up(width)

    def heads_first(x: Array) -> Array:
        missing = up(x.shape[1]) - x.shape[1]
        pad = ((0, 0), (0, missing), (0, 0), (0, wide - width))
        return jnp.pad(x, pad).transpose(0, 2, 1, 3)  # b heads tokens wide

    segments = None
    if lengths is not None or m != up(m):
        lengths = jnp.full((batch,), m) if lengths is None else lengths
        segments = flash_attention.SegmentIds(
            q=jnp.ones((batch, up(n)), jnp.int32), kv=_seen(up(m), lengths).astype(jnp.int32)
        )
    out = flash_attention.flash_attention(
        *map(heads_first, (q, k, v)),
        segment_ids=segments,
        sm_scale=width**-0.5,
        block_sizes=_tiles(flash_attention, up(n), up(m)),
    )
    return out.transpose(0, 2, 1, 3)[:, :n, :, :width]


def _tiles(kernel, n: int, m: int):
    """Tiles of the Pallas kernel for n queries and m keys, multiples of the lanes: large ones read
    keys and values less often."""

    def largest(size: int, most: int) -> int:
        return max(t for t in range(_LANES, min(size, most) + 1, _LANES) if size % t == 0)

    queries, keys = largest(n, _MAX_TILE), largest(m, _MAX_TILE)
    return kernel.BlockSizes(
        block_q=queries,
        block_k_major=keys,
        block_k=keys,
        block_b=1,
        block_q_major_dkv=queries,
        block_k_major_dkv=keys,
        block_k_dkv=keys,
        block_q_dkv=queries,
        block_k_major_dq=_LANES,  # as wide as an array of row sums is repeated, in float32
        block_k_dq=_LANES,
        block_q_dq=queries,
    )


_IMPLEMENTATIONS = {
    "explicit": _explicit,
    "chunked": _chunked,
    "cudnn": _cudnn,
    "tpu": _tpu,
}
