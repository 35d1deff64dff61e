"""Folders of frames as they are measured: real clips, and what a model made of them."""

import numpy as np

from dispose_jax.media import image


def clip(seed: int, count: int = 6, size=(40, 32)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 200, (*size, 3))
    return np.stack([start + 5 * i for i in range(count)]).clip(0, 255).astype(np.uint8)


def write(folder, frames: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        image.write_png(folder / f"frame_{i}.png", frame)


def pairs(folder):
    """Three real clips and what a model made of them, some 12 frames each: the two folders."""
    for i, name in enumerate(("a", "b", "c")):
        real = clip(i, 12)
        noise = np.random.default_rng(9 + i).integers(-9, 10, real.shape)
        write(folder / "real" / name, real)
        write(folder / "fake" / name, (0.7 * real + noise).clip(0, 255).astype(np.uint8))
    return folder / "real", folder / "fake"
