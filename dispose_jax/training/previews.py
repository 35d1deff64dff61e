"""Pictures of what networks can do while they learn (host code around jitted calls)."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from dispose_jax import explain, sampling
from dispose_jax.correspondence import dift
from dispose_jax.media import page
from dispose_jax.motion import color
from dispose_jax.networks.vae import VAE
from dispose_jax.ops.levels import to_float, to_uint8
from dispose_jax.training.losses import cmp
from dispose_jax.training.losses.cmp import CompletionLoss
from dispose_jax.training.losses.video import VideoLoss
from dispose_jax.types import Array, Batch, Params

CLIPS = 6  # shown
SIDE = 192  # pixels that small pictures are enlarged to, about


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of pictures, each (n, h, w, 3) uint8 -> one picture, small ones enlarged."""
    return page.below([page.row(page.enlarged(row, SIDE), gap=0) for row in rows])


def reconstructions(vae: VAE, params: Params, batch: Batch, key: Array) -> np.ndarray:
    """Pictures above, what the autoencoder makes of them below."""
    frames = batch.frames[:CLIPS]
    decoded = _reconstruct(vae, params["vae"], frames)
    return sheet([frames[:, 0], to_uint8(decoded[:, 0])])


def features(recipe: dift.Dift, params: Params, batch: Batch, key: Array) -> np.ndarray:
    """Pictures above, below them their diffusion features: the three main directions as colours."""
    frames = batch.frames[:CLIPS, 0]
    read = jax.jit(jax.vmap(partial(dift.features, recipe), in_axes=(None, 0, 0)))
    found = np.asarray(read(params, to_float(frames), jax.random.split(key, len(frames))))
    flat = found.reshape(-1, found.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    main = np.linalg.svd(flat, full_matrices=False)[2][:3]
    colors = flat @ main.T
    colors = (colors - colors.min(0)) / np.maximum(np.ptp(colors, axis=0), 1e-9)
    colors = np.rint(255 * colors).astype(np.uint8).reshape(*found.shape[:-1], 3)
    times = frames.shape[1] // colors.shape[1], frames.shape[2] // colors.shape[2]
    return sheet([frames, colors.repeat(times[0], axis=1).repeat(times[1], axis=2)])


def completions(loss: CompletionLoss, params: Params, batch: Batch, key: Array) -> np.ndarray:
    """References, their exact flow to frame 1, and what CMP completes from the joints."""
    some = jax.tree.map(lambda x: x[:CLIPS], batch)
    found, exact, image = _complete(loss, params["cmp"], some)
    true = np.asarray(exact)
    largest = max(1.0, float(np.linalg.norm(true, axis=-1).max()))
    paint = lambda flows: color.picture(np.asarray(flows), least=largest)
    return sheet([to_uint8(image), paint(true), paint(found)])


def animation(loss: VideoLoss, sample, params: Params, batch: Batch, key: Array) -> np.ndarray:
    """The first clip sampled as sample.py would, beside what controlled it and the true frames."""
    one = jax.tree.map(lambda x: x[:1], batch)
    condition_key, noise_key = jax.random.split(key)
    signals, conditioning = _condition(loss, params, one, condition_key)
    sampler = sampling.Sampler(
        steps=sample.steps,
        window=one.skeletons.shape[1],
        overlap=0,
        guidance_scale=sample.guidance_scale,
    )
    frames, shape = one.skeletons.shape[1], loss.model.latent_shape(*one.skeletons.shape[2:4])
    noise = sampling.initial_noise(loss.model, noise_key, frames, shape, frames)
    devices = jax.local_devices()[:1]
    latents = sampling.sample(loss.model, params, conditioning, noise, sampler, devices=devices)
    made = sampling.decode(
        loss.model,
        params,
        latents,
        sample.decode_chunk,
        rest=sample.decode_rest,
        devices=devices,
    )
    shown = jax.device_get(signals)
    run = explain.Run(
        reference=one.frames[0, 0],
        skeletons=one.skeletons[0],
        sparse_flow=None if shown is None else shown.sparse_flow[0],
        dense_flow=None if shown is None or shown.dense_flow is None else shown.dense_flow[0],
        cells=None if shown is None else shown.cells[0],
        visible=None if shown is None else shown.visible[0],
        result=np.concatenate(list(made)),
    )
    return explain.contact_sheet(run)


@partial(jax.jit, static_argnums=0)
def _reconstruct(vae: VAE, params: Params, frames: Array) -> Array:
    return vae.apply({"params": params}, to_float(frames))


@partial(jax.jit, static_argnums=0)
def _complete(loss: CompletionLoss, params: Params, batch: Batch):
    """Flow found and exact, of every clip's first driving frame, and the pictures."""
    task = cmp.make_task(batch, loss.side, None)
    with cmp.batch_norms({}):  # while it learns, the stored averages mean nothing
        found = cmp.complete(loss.cmp, params, task)
    return found[:: task.frames], task.flow[:: task.frames], task.image


@partial(jax.jit, static_argnums=0)
def _condition(loss: VideoLoss, params: Params, batch: Batch, key: Array):
    return loss.condition(params, batch, key)
