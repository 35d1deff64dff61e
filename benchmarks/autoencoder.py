"""How well the small autoencoder codes drawn people it never saw, against linear codes.

  python -m benchmarks.autoencoder                           # the bundled one
  python -m benchmarks.autoencoder --size small BUNDLE       # of 128 pixels

A linear code keeps the main directions (PCA) of 8 x 8 patches of training pictures. At as many
numbers per patch as there are latent channels it is the floor that a trained autoencoder must beat.
Printed: dB over all pixels, and over those inside the person.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from configs.common import SIDES
from configs.svd import get_config
from dispose_jax.models import bundle, networks
from dispose_jax.networks.vae import VAE
from dispose_jax.synthetic import batches

PATCH = 8
CHANNELS = (4, 8, 16, 32)  # of the linear codes
LEARNT_FROM, TESTED = 64, 24  # batches


def pictures(config, people: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips (n, f, h, w, 3) in 0..1 and the person's pixels (n, f, h, w)."""
    source = batches.DrawnBatches(config, people=people)
    drawn = [next(source) for _ in range(count)]
    frames = np.concatenate([batch.frames for batch in drawn]) / np.float32(255)
    return frames, np.concatenate([batch.figure for batch in drawn])


def patches(frames: np.ndarray) -> np.ndarray:
    """(n, f, h, w, 3) -> (patches, values)."""
    n, f, h, w, c = frames.shape
    cut = frames.reshape(n * f, h // PATCH, PATCH, w // PATCH, PATCH, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PATCH * PATCH * c)


def pictures_of(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `patches`."""
    n, f, h, w, c = shape
    cut = values.reshape(n * f, h // PATCH, w // PATCH, PATCH, PATCH, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def main_directions(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and directions as columns, the most varied first."""
    mean = values.mean(0)
    return mean, np.linalg.eigh(np.cov(values.T))[1][:, ::-1]


def psnr(made: np.ndarray, true: np.ndarray, figure: np.ndarray) -> tuple[float, float]:
    """dB over all pixels and inside the person; pictures in 0..1."""
    error = np.square(np.clip(made, 0, 1) - true).mean(-1)
    return tuple(float(-10 * np.log10(part.mean())) for part in (error, error[figure]))


def rows(
    vae: VAE, params, learnt_from: np.ndarray, true: np.ndarray, figure: np.ndarray
) -> Iterator:
    """(name, dB of all, dB of the figure) of each code."""
    mean, directions = main_directions(patches(learnt_from))
    for count in CHANNELS:
        kept = directions[:, :count]
        coded = (patches(true) - mean) @ kept
        yield (
            f"linear, {count} numbers per patch",
            *psnr(pictures_of(coded @ kept.T + mean, true.shape), true, figure),
        )
    decode = jax.jit(lambda x: vae.apply({"params": params}, x))
    made = np.concatenate([np.asarray(decode(2 * clip[None] - 1)) for clip in true]) / 2 + 0.5
    yield f"autoencoder, {vae.latent_channels} channels", *psnr(made, true, figure)


def main(folder: Path, size: str) -> None:
    config = get_config(f"size={size},stage=decoder")  # whole windows, as sampling decodes them
    built = {"vae": networks.build(config, training=True)["vae"]}
    belongs = {"model": config.model, "quirks": config.quirks}
    params = bundle.load([folder], ["vae"], **belongs)["vae"]
    learnt_from, _ = pictures(config, batches.TRAINING, LEARNT_FROM)
    true, figure = pictures(config, batches.HELD_OUT, TESTED)
    print(f"{len(true) * true.shape[1]} pictures never learnt from   all pixels   figure")
    for name, everywhere, inside in rows(built["vae"].module, params, learnt_from, true, figure):
        print(f"{name:40}{everywhere:10.1f} dB{inside:8.1f} dB")


if __name__ == "__main__":
    bundled = Path(__file__).parents[1] / "assets" / get_config("size=small").bundled[0]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIDES), default="small", help="of the pictures")
    parser.add_argument("bundle", type=Path, nargs="?", default=bundled, help="the bundled one")
    args = parser.parse_args()
    main(args.bundle, args.size)
