"""One sampling job: files in, files out.

Reads and fits the inputs, runs the driver stage by stage with only the weights each stage needs,
and writes the video, a JSON with all that it depended on, and the explanation. Latents are kept on
disk until the video is whole, so a failed decode is resumed by running the same command again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from dispose_jax import animate, control_signals, dry_run, explain, inputs, provenance, settings
from dispose_jax.media import image, output, video
from dispose_jax.models import networks, registry
from dispose_jax.pose import draw
from dispose_jax.types import ControlSignals
from dispose_jax.weights import Weights

LATENTS = ".latents.safetensors"
ENDINGS = (".json", ".preview.png", LATENTS, ".explain.png", ".explain.mp4")  # beside the video
SIGNAL_NOISE, CONDITION_NOISE, LATENT_NOISE = range(3)  # purposes of the seed


@dataclass
class Job:
    """What to animate, with what, and where the results go.

    given: what weights.choose gives. say: receives sentences for people. Raises ValueError for
    settings, weights and an output that cannot be worked with.
    """

    config: object  # of configs/
    given: tuple[str, ...]
    sources: inputs.Sources
    output: Path
    explain: bool = False
    say: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        settings.check(self.config)
        self.output = output.prepare(self.output, ".mp4")
        self._spare_sources()
        self.networks = networks.build(
            self.config, networks.compute_dtype(self.config.sample.dtype)
        )
        self.model = registry.build(self.config, self.networks)
        self.recipe = control_signals.build(self.config, self.networks)
        self.weights = Weights(self.given, self.networks, self.config)
        if self.weights.random:
            names = ", ".join(self.weights.random)
            self.say(f"random weights, so the result is noise: {names}")

    def path(self, ending: str) -> Path:
        """A file beside the video."""
        return self.output.with_name(self.output.stem + ending)

    def _spare_sources(self) -> None:
        """Raise ValueError if a result would replace a file that is read."""
        results = {path.resolve() for path in (self.output, *map(self.path, ENDINGS))}
        for flag, source in vars(self.sources).items():
            if source is not None and source.resolve() in results:
                raise ValueError(
                    f"--{flag} {source}: {self.output} and the files beside it would replace it; "
                    "choose another --output"
                )

    @property
    def sampling(self) -> animate.Sampling:
        """The numbers of `config.sample` that the driver takes."""
        sample = self.config.sample
        return animate.Sampling(
            steps=sample.steps,
            window=sample.window,
            overlap=sample.overlap,
            guidance_scale=sample.guidance_scale,
            window_batch=sample.window_batch,
            features_on_host=sample.features_on_host,
        )

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "step"):
        """Time a stage; yields a progress callback if it has countable parts."""
        start = time.perf_counter()
        self.say(f"{name} ...")
        with tqdm(total=total, unit=unit, disable=total is None, leave=False) as bar:
            yield lambda done, _: bar.update(done - bar.n)
        self.seconds[name] = round(time.perf_counter() - start, 3)


def run(job: Job) -> Path:
    """Animate. Returns the video's path; raises ValueError or OSError with one sentence."""
    config = job.config
    with job.stage("reading inputs"):
        clip = inputs.prepare(
            job.sources,
            config.sample,
            config.skeleton,
            job.weights.pose_folder,
            job.say,
        )
        spare = inputs.padding(config.sample, clip.num_frames)
        animate.check(job.model, clip.num_frames + spare + 1, job.sampling)
        preview = draw.preview(clip.reference, clip.pose.at([1]))
        image.write_png(job.path(".preview.png"), preview)
    for warning in clip.warnings:
        job.say(f"warning: {warning}; see {job.path('.preview.png')}")
    height, width = clip.reference.shape[:2]
    job.say(
        f"{clip.num_frames} frames of {width} x {height} at {float(clip.fps):.4g} fps, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    kept = job.path(LATENTS)
    fingerprint = provenance.fingerprint(config, clip, job.weights.folders)
    latents = provenance.saved_latents(kept, fingerprint)
    signals = shown = None
    if job.explain or latents is None:
        whole = inputs.prolonged(clip, spare)
        signals = _signals(job, whole)
    if job.explain:
        shown = jax.device_get(signals.at(slice(len(clip.skeletons))))
    if latents is None:
        latents = _sample(job, whole, signals)
        latents = latents[:, : latents.shape[1] - spare]
        try:
            provenance.save_latents(kept, latents, fingerprint)
        except OSError as error:  # no reason to lose them
            job.say(f"warning: if decoding fails, sampling starts over: {error}")
    else:
        job.say(f"found {kept} of the same run: only decoding")
    del signals

    frames = _decode(job, clip, latents)
    about = provenance.describe(config, clip, job.sources, job.given, job.seconds)
    output.write_json(job.path(".json"), about)
    if job.explain:
        with job.stage("explaining"):
            _explain(job, clip, shown, frames)
    kept.unlink(missing_ok=True)
    return job.output


def plan(config, sources: inputs.Sources) -> str:
    """What a run would need: parameters, memory and FLOPs, before any weight is read."""
    settings.check(config)
    num_frames, height, width = inputs.measure(sources, config.sample)
    num_frames += inputs.padding(config.sample, num_frames)
    dtype = networks.compute_dtype(config.sample.dtype)
    return dry_run.report(config, num_frames + 1, height, width, dtype)


def _signals(job: Job, clip: inputs.Clip) -> ControlSignals | None:
    """The control signals, if anything uses or shows them."""
    control_used = job.config.control.motion or job.config.control.points
    if not (control_used or job.explain):
        return None
    with job.stage("control signals"):
        params = job.weights.load(job.recipe.networks)
        key = _key(job.config.seed, SIGNAL_NOISE)
        signals = control_signals.for_sampling(job.recipe, params, clip.reference, clip.pose, key)
        return jax.block_until_ready(signals)


def _sample(job: Job, clip: inputs.Clip, signals: ControlSignals | None) -> np.ndarray:
    """Condition and denoise: latents (1, f, h, w, c) on the host."""
    config, model = job.config, job.model
    with job.stage("conditioning"):
        used = signals if config.control.motion or config.control.points else None
        conditioning = animate.condition(
            model,
            job.weights.load(model.stages["conditioning"]),
            clip.reference,
            clip.skeletons,
            used,
            _key(config.seed, CONDITION_NOISE),
        )
        jax.block_until_ready(conditioning)
    sampling, shape = job.sampling, model.latent_shape(*clip.reference.shape[:2])
    noise = animate.initial_noise(
        model, _key(config.seed, LATENT_NOISE), clip.num_frames + 1, shape, sampling.window
    )
    with job.stage("sampling", sampling.steps) as progress:
        params = job.weights.load(model.stages["sampling"])
        latents = animate.sample(model, params, conditioning, noise, sampling, progress)
        latents = np.asarray(jax.block_until_ready(latents))
    if not np.isfinite(latents).all():
        raise ValueError(
            "sampling gave numbers that are not finite; try --config.sample.dtype=float32, and "
            "check the weights with: python -m converters.convert check WEIGHTS"
        )
    return latents


def _decode(job: Job, clip: inputs.Clip, latents: np.ndarray) -> np.ndarray | None:
    """Latents -> the video; its frames too if they are to be shown."""
    kept = []
    with job.stage("decoding", len(latents[0]), "frame") as progress:
        params = job.weights.load(job.model.stages["decoding"])
        chunk = job.config.sample.decode_chunk
        with video.writer(job.output, clip.fps) as write:
            parts = animate.decode(
                job.model, params, latents, chunk, progress, rest=job.config.sample.decode_rest
            )
            for frames in parts:
                write(_shown(frames, clip.shown))
                if job.explain:
                    kept.append(frames)
    return np.concatenate(kept) if job.explain else None


def _shown(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Finished frames (n, h, w, 3) at the height and width of the video to write."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([image.bilinear(one, *size) for one in frames])


def _key(seed: int, purpose: int):
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _explain(job: Job, clip: inputs.Clip, signals, frames: np.ndarray) -> None:
    sparse = signals.sparse_flow[0]
    run = explain.Run(
        reference=clip.reference,
        skeletons=clip.skeletons,
        sparse_flow=sparse,
        dense_flow=None if signals.dense_flow is None else signals.dense_flow[0],
        cells=signals.cells[0],
        visible=signals.visible[0],
        result=frames,
    )
    note = f"random weights: {', '.join(job.weights.random)}" if job.weights.random else ""
    explain.write(job.path(".explain.png"), job.path(".explain.mp4"), run, clip.fps, note=note)
    job.say(f"wrote {job.path('.explain.png')} and {job.path('.explain.mp4')}")
