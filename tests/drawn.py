"""Random numbers, and random parameters without running an initialiser: compiling one costs more
than most tests."""

from functools import partial

import jax
import numpy as np


def drawn(module, *inputs, seed: int = 0, **named) -> dict:
    """Parameters of a module, every one of them random: kernels of unit gain, norms near identity.

    inputs and named: a call that makes all parameters wanted (`method=` too).
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(partial(module.init, **named), jax.random.key(0), *inputs)["params"]

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        if name == "kernel":
            return noise / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        if name in ("scale", "var"):
            return 1 + 0.1 * np.abs(noise)
        return (0.5 if name == "embedding" else 0.05) * noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def random_params(module, *inputs, seed: int = 1, scale: float = 1.0) -> dict:
    """Parameters of a small layer, all normal of deviation `scale`: initial ones hide a forgotten
    scale or bias."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)
    normal = lambda leaf: np.float32(scale) * rng.standard_normal(leaf.shape, np.float32)
    return jax.tree.map(normal, shapes)
