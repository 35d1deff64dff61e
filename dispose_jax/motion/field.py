"""From impulses to motion fields (device code): the sparse field blurs them, in the dense one CMP
completes them.

Fields are (f, h, w, 2) float32 in pixels, x first; frame 0, the reference, is zero (DisPose section
4.1). Positions come from `tracks`, which resolves what must be exact on the host.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from dispose_jax.networks.cmp import CMP, ImageFeatures
from dispose_jax.ops import filters, gather, resize
from dispose_jax.types import Impulses, Params

Array = jax.Array
Size = tuple[int, int]  # height, width


@partial(jax.jit, static_argnames=("size", "kernel", "sigma"))
def sparse(impulses: Impulses, size: Size, *, kernel: int, sigma: float) -> Array:
    """Impulses filtered with a Gaussian, borders mirrored: (f, 18, ..) -> (f, *size, 2). The sparse
    motion field F_s, paper section 4.1.

    kernel (odd) and sigma in pixels: 199 and 20 at 576 x 1024. The Gaussian has sum 1, so a step of
    10 pixels is a bump of 0.004. Equal to filtering the rasterised field, without it: a separable
    filter answers an impulse with an outer product of two matrix columns. Raises ValueError for an
    impossible kernel.
    """
    taps = filters.gaussian(kernel, sigma)
    # Row i of a transposed filter matrix is the response to an impulse at i.
    rows, columns = (
        jnp.asarray(filters.filter_matrix(taps, length).T, jnp.float32) for length in size
    )
    vectors = jnp.where(impulses.valid[..., None], jnp.asarray(impulses.vectors, jnp.float32), 0)
    across = columns[impulses.pixels[..., 0]][..., None] * vectors[..., None, :]  # (f, k, w, 2)
    down = rows[impulses.pixels[..., 1]]  # (f, k, h)
    return jnp.einsum("...kh,...kwc->...hwc", down, across, precision=jax.lax.Precision.HIGHEST)


def rasterise(impulses: Impulses, size: Size) -> tuple[Array, Array]:
    """Impulses as pictures: field (f, *size, 2) float32, zero elsewhere; mask (f, *size) bool."""
    vectors = jnp.asarray(impulses.vectors, jnp.float32)[None]
    pixels, valid = jnp.asarray(impulses.pixels)[None], jnp.asarray(impulses.valid)[None]
    field, mask = gather.scatter(vectors, pixels, valid, size)
    return field[0], mask[0]


@partial(jax.jit, static_argnames=("network", "side"))
def encode_picture(network: CMP, params: Params, reference: Array, side: int) -> ImageFeatures:
    """CMP's branch of the picture, the same for all frames: reference (h, w, 3) in -1..1.

    side: of the square in which CMP works. Raises ValueError unless it is a multiple of 64.
    """
    if side < 64 or side % 64:
        raise ValueError(f"motion.cmp_size is {side}; CMP needs a multiple of 64")
    small = resize.nearest(reference, (side, side))
    return network.apply({"params": params}, small[None], method=CMP.encode_image)


@partial(jax.jit, static_argnames=("network", "size", "side", "chunk"))
def complete(
    network: CMP,
    params: Params,
    features: ImageFeatures,
    impulses: Impulses,
    size: Size,
    side: int,
    *,
    chunk: int,
) -> Array:
    """Impulses of frames completed by CMP: (n, k, ..) in pixels of its square -> (n, *size, 2). The
    dense motion field F_d, paper section 4.1.

    The flow is resized from the square of `side` to the picture, and scaled to its pixels. `chunk`
    frames at a time, which bounds memory and changes nothing else.
    """

    def of_frame(frame: Impulses) -> Array:  # -> (h, w, 2)
        guidance, mask = rasterise(jax.tree.map(lambda x: x[None], frame), (side, side))
        flow = network.apply({"params": params}, features, guidance, mask, method=CMP.complete)[0]
        if size == (side, side):
            return flow
        height, width = size
        return resize.nearest(flow, size) * jnp.array([width / side, height / side], flow.dtype)

    return jax.lax.map(of_frame, impulses, batch_size=min(chunk, len(impulses.valid)))


def dense(
    network: CMP, params: Params, reference: Array, impulses: Impulses, side: int, *, chunk: int = 8
) -> Array:
    """Impulses completed by CMP on the reference picture: (f, k, ..) -> (f, h, w, 2).

    reference (h, w, 3) in -1..1; frame 0 of the impulses is its own and gives no flow. Raises
    ValueError if side is not a multiple of 64, or if there is no frame but the reference.
    """
    if len(impulses.valid) < 2:
        raise ValueError("a dense field needs the reference and at least one driving frame")
    size = reference.shape[:2]
    features = encode_picture(network, params, reference, side)
    moving = jax.tree.map(lambda x: x[1:], impulses)
    flows = complete(network, params, features, moving, size, side, chunk=chunk)
    return jnp.concatenate([jnp.zeros((1, *size, 2), flows.dtype), flows])
