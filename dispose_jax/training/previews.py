"""Pictures of what networks can do while they learn (host code around jitted calls).

Every program runs where the parameters lie, on the mesh of the run, with as many copies of them as
there are; what is drawn comes back whole to every process. `whole` is that mesh's sharding of
arrays that all devices have; batches are on the host, the same in every process.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from dispose_jax import decoding, explain, flops, sampling, windowed
from dispose_jax.correspondence import dift
from dispose_jax.diffusion import guidance, solvers
from dispose_jax.diffusion.plan import plan
from dispose_jax.diffusion.solvers import Call
from dispose_jax.media import montage
from dispose_jax.models.protocol import Model, generated
from dispose_jax.motion import color
from dispose_jax.networks.vae import VAE
from dispose_jax.ops.levels import to_float, to_uint8
from dispose_jax.training.losses import cmp
from dispose_jax.training.losses.cmp import CompletionLoss
from dispose_jax.training.losses.video import VideoLoss
from dispose_jax.types import Array, Batch, Conditioning, Params

CLIPS = 6  # shown
SIDE = 192  # pixels that small pictures are enlarged to, about


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of pictures, each (n, h, w, 3) uint8 -> one picture, small ones enlarged."""
    return montage.below([montage.row(montage.enlarged(row, SIDE), gap=0) for row in rows])


def reconstructions(
    vae: VAE, params: Params, batch: Batch, key: Array, whole: NamedSharding
) -> np.ndarray:
    """Pictures above, what the autoencoder makes of them below."""
    frames = batch.frames[:CLIPS]
    decoded = np.asarray(_reconstruct(vae, whole, params["vae"], frames))
    return sheet([frames[:, 0], to_uint8(decoded[:, 0])])


def features(
    recipe: dift.Dift, params: Params, batch: Batch, key: Array, whole: NamedSharding
) -> np.ndarray:
    """Pictures above, below them their diffusion features: the three main directions as colours."""
    frames = batch.frames[:CLIPS, 0]
    found = np.asarray(_features(recipe, whole, params, frames, key))
    flat = found.reshape(-1, found.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    main = np.linalg.svd(flat, full_matrices=False)[2][:3]
    colors = flat @ main.T
    colors = (colors - colors.min(0)) / np.maximum(np.ptp(colors, axis=0), 1e-9)
    colors = np.rint(255 * colors).astype(np.uint8).reshape(*found.shape[:-1], 3)
    times = frames.shape[1] // colors.shape[1], frames.shape[2] // colors.shape[2]
    return sheet([frames, colors.repeat(times[0], axis=1).repeat(times[1], axis=2)])


def completions(
    loss: CompletionLoss, params: Params, batch: Batch, key: Array, whole: NamedSharding
) -> np.ndarray:
    """References, their exact flow to frame 1, and what CMP completes from the joints."""
    some = jax.tree.map(lambda x: x[:CLIPS], batch)
    found, true, image = map(np.asarray, _complete(loss, whole, params["cmp"], some))
    largest = max(1.0, float(np.linalg.norm(true, axis=-1).max()))
    paint = lambda flows: color.picture(flows, least=largest)
    return sheet([to_uint8(image), paint(true), paint(found)])


def animation(
    loss: VideoLoss, config, params: Params, batch: Batch, key: Array, whole: NamedSharding
) -> np.ndarray:
    """The first clip sampled as sample.py would, beside what controlled it and the true frames.

    config: frozen, of the run: how is sampled, and what controls.
    """
    sample = config.sample
    one = jax.tree.map(lambda x: x[:1], batch)
    condition_key, noise_key = jax.random.split(key)
    signals, conditioning = _condition(loss, whole, params, one, condition_key)
    frames, shape = one.skeletons.shape[1], loss.model.latent_shape(*one.skeletons.shape[2:4])
    noise = sampling.initial_noise(loss.model, noise_key, frames, shape, frames)
    latents = denoised(loss.model, sample, params, conditioning, noise, whole)
    pieces = decoding.pieces(latents.shape[1], sample.decode_chunk, sample.decode_rest)
    made = np.concatenate(
        [
            np.asarray(_decode(loss.model, whole, params, latents[:, numbers]))[0, new]
            for numbers, new in pieces
        ]
    )
    shown = jax.tree.map(np.asarray, signals)
    run = explain.Explained(
        reference=one.frames[0, 0],
        skeletons=one.skeletons[0],
        sparse_flow=None if shown is None else shown.sparse_flow[0],
        dense_flow=None if shown is None or shown.dense_flow is None else shown.dense_flow[0],
        cells=None if shown is None else shown.cells[0],
        visible=None if shown is None else shown.visible[0],
        joints=None if shown is None else one.joints[0],
        seen=None if shown is None else one.seen[0],
        result=made[1:] if loss.model.generates_reference else made,
    )
    return explain.contact_sheet(run.only(config.control))


def denoised(
    model: Model,
    sample,
    params: Params,
    conditioning: Conditioning,
    noise: np.ndarray,
    whole: NamedSharding,
) -> np.ndarray:
    """Noise (1, f, h, w, c) -> the clip's latents, as sampling.sample with one window over it.

    sample: `config.sample`, of which steps and guidance are read. The networks stay where they lie
    and are not copied to every device, as sampling would.
    """
    window = noise.shape[1]
    sampler = sampling.Sampler(sample.steps, window, 0, sample.guidance_scale)
    scale = guidance.scales(sampler.guidance_scale, window)
    x = np.asarray(model.schedule.start(noise, model.schedule.levels(sampler.steps)), np.float32)
    for call, halves, _, _ in plan(model.schedule, sampler, guided=(scale != 1).any()):
        x = np.asarray(_move(model, whole, halves, params, conditioning, x, scale, call))
    return x


def live_bytes(loss: VideoLoss, sample, params: Params, batch: Batch) -> int:
    """The most bytes of intermediate results that `animation` has alive at once, of shapes alone.

    params, batch: shapes, the batch of one clip.
    """
    model, key = loss.model, jax.eval_shape(lambda: jax.random.key(0))
    conditioned = jax.make_jaxpr(loss.condition, return_shape=True)(params, batch, key)
    program, (_, conditioning) = conditioned
    frames, (h, w) = generated(model, batch.skeletons.shape[1]), batch.skeletons.shape[2:4]
    shape = 1, frames, *model.latent_shape(h, w)
    latents = jax.ShapeDtypeStruct(shape, jnp.float32)
    some = jax.ShapeDtypeStruct((1, min(sample.decode_chunk, frames), *shape[2:]), jnp.float32)
    halves = 2 if np.any(np.asarray(sample.guidance_scale) != 1) else 1

    def call(params: Params, conditioning: Conditioning, x: Array) -> Array:
        rows = windowed.guided(model, conditioning, halves)
        return model.denoise(params, jnp.repeat(x, halves, axis=0), jnp.zeros(halves), rows)

    programs = (
        program,
        jax.make_jaxpr(call)(params, conditioning, latents),
        jax.make_jaxpr(partial(decoding.pictures, model))(params, some),
    )
    return max(flops.live_bytes(made.jaxpr) for made in programs)


@partial(jax.jit, static_argnums=(0, 1))
def _reconstruct(vae: VAE, whole: NamedSharding, params: Params, frames: Array) -> Array:
    return _to_all(vae.apply({"params": params}, to_float(frames)), whole)


@partial(jax.jit, static_argnums=(0, 1))
def _features(recipe: dift.Dift, whole: NamedSharding, params: Params, frames: Array, key: Array):
    """Diffusion features of pictures (n, h, w, 3) uint8, (n, h/16, w/16, d)."""
    keys = jax.random.split(key, len(frames))
    read = jax.vmap(partial(dift.features, recipe, params))
    return _to_all(read(to_float(frames), keys), whole)


@partial(jax.jit, static_argnums=(0, 1))
def _complete(loss: CompletionLoss, whole: NamedSharding, params: Params, batch: Batch):
    """Flow found and exact, of every clip's first driving frame, and the pictures."""
    task = cmp.make_task(batch, loss.side, None)
    with cmp.batch_norms({}):  # while it learns, the stored averages mean nothing
        found = cmp.complete(loss.cmp, params, task)
    return _to_all((found[:: task.frames], task.flow[:: task.frames], task.image), whole)


@partial(jax.jit, static_argnums=(0, 1))
def _condition(loss: VideoLoss, whole: NamedSharding, params: Params, batch: Batch, key: Array):
    return _to_all(loss.condition(params, batch, key), whole)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _move(
    model: Model,
    whole: NamedSharding,
    halves: int,
    params: Params,
    conditioning: Conditioning,
    x: Array,
    scale: Array,
    call: Call,
) -> Array:
    """The latents (1, f, h, w, c) after a call of the network on the whole clip."""
    rows = windowed.guided(model, conditioning, halves)
    seen = jnp.repeat(model.schedule.scale_input(x, call.at), halves, axis=0)
    t = jnp.broadcast_to(model.schedule.time(call.at), (halves,))
    prediction = model.denoise(params, seen, t, rows).astype(jnp.float32)
    if halves == 2:
        prediction = guidance.combine(*prediction, scale)[None]
    moved, _ = solvers.advance(model.schedule, x, prediction, call, start=None, before=None)
    return _to_all(moved, whole)


@partial(jax.jit, static_argnums=(0, 1))
def _decode(model: Model, whole: NamedSharding, params: Params, latents: Array) -> Array:
    return _to_all(decoding.pictures(model, params, latents), whole)


def _to_all(tree, whole: NamedSharding):
    """Whole on every device, so that every process can read it."""
    return jax.lax.with_sharding_constraint(tree, whole)
