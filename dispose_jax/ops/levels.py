"""Pictures as files hold them, uint8 levels, and as networks see them, -1..1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def to_float(levels: Array) -> Array:
    """uint8 -> float32 in -1..1, any shape; on the host or the device, wherever the levels are."""
    return levels.astype(jnp.float32) / 127.5 - 1


def to_uint8(pictures: Array | np.ndarray) -> Array | np.ndarray:
    """-1..1 -> the nearest levels, any shape; on the host or the device, as to_float. What lies
    outside becomes 0 or 255.

    Finished frames become levels in another way, the released one, see decoding.pictures.
    """
    module = jnp if isinstance(pictures, Array) else np
    return module.clip(module.rint(127.5 * pictures + 127.5), 0, 255).astype(np.uint8)
