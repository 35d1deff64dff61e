"""One sampling job: files in, files out.

A thin layer over the animator: it writes the video, a JSON with all that it depended on, a preview
and the explanation. Latents are kept on disk until the video is whole, so a failed decode is
resumed by running the same command again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from dispose_jax import dry_run, explain, inputs, limits, memory, provenance
from dispose_jax.animator import Animator, Preview, Progress
from dispose_jax.bars import Bar
from dispose_jax.clip import Clip, padding
from dispose_jax.correspondence import keypoints
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, output, video
from dispose_jax.models import networks, registry
from dispose_jax.models.protocol import generated
from dispose_jax.pose import draw

LATENTS = ".latents.safetensors"
KEYPOINTS = ".keypoints.safetensors"  # that were detected
EXPLANATION = (".explain.png", ".explain.mp4")
ENDINGS = (".json", ".preview.png", LATENTS, KEYPOINTS, *EXPLANATION)
UNITS = {
    "finding keypoints": "frame",
    "control signals": "frame",
    "sampling": "step",
    "decoding": "frame",
}


@dataclass
class Job:
    """What to animate, with what, and where the results go.

    given: what weights.choose gives. animator: one with this config and these weights; None makes
    one. say: receives sentences for people. progress: is told the stages in place of bars. preview:
    as of an Animator's call. What the callbacks raise ends the job. Raises ValueError for settings,
    weights and an output that cannot be worked with.
    """

    config: object  # of configs/
    given: tuple[str, ...]
    sources: Sources
    output: Path
    explain: bool = False
    say: Callable[[str], None] = print
    animator: Animator | None = None
    progress: Progress | None = None
    preview: Preview | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    stamps: dict[str, dict] = field(default_factory=dict, init=False)  # of what `prepare` read

    def __post_init__(self):
        limits.check(self.config)
        self.output = output.prepare(self.output, ".mp4")
        self._spare_sources()
        video.try_out(self.output)
        for ending in ENDINGS:
            output.try_out(self.path(ending))
        if self.animator is None:
            self.animator = Animator(self.config, self.given, say=self.say)

    def path(self, ending: str) -> Path:
        """A file beside the video."""
        return self.output.with_name(self.output.stem + ending)

    def _spare_sources(self) -> None:
        """Raise ValueError if a result would replace a file that is read."""
        results = {output.place(path) for path in outputs(self.output)}
        for flag, source in self.sources.files.items():
            if output.place(source) in results:
                raise ValueError(
                    f"--{flag} {source}: {self.output} and the files beside it would replace it; "
                    "choose another --output"
                )


def outputs(video: Path) -> list[Path]:
    """All files that a job of this output may write."""
    return [video, *(video.with_name(video.stem + ending) for ending in ENDINGS)]


class Stages:
    """The animator's progress for people: stages by name, bars or lines, and seconds of each."""

    def __init__(self, job: Job):
        self.job, self.name, self.bar, self.start = job, None, None, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self.name:
            self.end()
            self.job.say(f"{stage} ...")
            self.name, self.start = stage, time.perf_counter()
            hidden = stage not in UNITS or self.job.progress is not None
            unit = UNITS.get(stage, "part")
            self.bar = Bar(stage, total, unit, titled=False, hidden=hidden)
        if self.job.progress is not None:
            self.job.progress(stage, done, total)
        self.bar.total = total  # keypoints are found in the reference, then in the video
        self.bar.update(done - self.bar.done)

    def end(self) -> None:
        """The stage that is going on is over."""
        if self.name is not None:
            self.bar.close()
            self.job.seconds[self.name] = round(time.perf_counter() - self.start, 3)
            self.name = None


def run(job: Job) -> Path:
    """Animate. Returns the video's path; raises ValueError or OSError with one sentence, which
    names what helps where a stage ran out of memory."""
    return animate(job, prepare(job))


def prepare(job: Job) -> Clip:
    """What would be animated, and its first skeleton over the reference as .preview.png; nothing
    long but looking for keypoints. Raises as `run`."""
    stages = Stages(job)
    try:
        stages("reading inputs", 0, 1)
        job.stamps = provenance.stamps(job.sources)
        kept = job.path(KEYPOINTS)
        clip = job.animator.prepare_sources(job.sources, progress=stages, kept=kept)
        preview = draw.preview(clip.reference, clip.pose.at([1]))
        image.write_png(job.path(".preview.png"), preview)
    finally:
        stages.end()
    for warning in clip.warnings:
        job.say(f"warning: {warning}; see {job.path('.preview.png')}")
    return clip


def animate(job: Job, clip: Clip) -> Path:
    """The rest of `run`, of what the job's `prepare` gave."""
    stages = Stages(job)
    height, width = clip.reference.shape[:2]
    job.say(
        f"{clip.num_frames} frames of {width} x {height} at {float(clip.fps):.4g} fps, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    try:
        latents = _latents(job, clip, stages)
        shown = _decode(job, clip, latents, stages)
    finally:
        stages.end()
    if job.explain:
        with closing(shown):
            _explain(job, clip, shown, stages)
        stages.end()
    job.path(LATENTS).unlink(missing_ok=True)
    return job.output


def needs(config, sources: Sources) -> str:
    """What a run would need: parameters, memory and FLOPs, before any weight is read."""
    limits.check(config)
    num_frames, height, width = inputs.measure(sources, config.sample)
    dtype = networks.compute_dtype(config.sample.dtype)
    model = registry.build(config, networks.build(config, dtype))
    num_frames += padding(config.sample, generated(model, num_frames + 1))
    return dry_run.report(config, num_frames + 1, height, width, dtype)


def _latents(job: Job, clip: Clip, stages: Stages) -> np.ndarray:
    """Those that an earlier run left, else sampled ones, which are kept until they are decoded."""
    kept = job.path(LATENTS)
    fingerprint = provenance.fingerprint(job.config, clip, job.animator.weights.folders)
    latents = provenance.saved_latents(kept, fingerprint)
    if latents is not None:
        job.say(f"found {kept} of the same run: only decoding")
        return latents
    size = job.animator.model.latent_shape(*clip.reference.shape[:2])
    output.check_room(kept, clip.num_frames * math.prod(size) * 4)  # float32
    latents = job.animator.latents(clip, seed=job.config.seed, progress=stages, preview=job.preview)
    try:
        provenance.save_latents(kept, latents, fingerprint)
    except OSError as error:  # no reason to lose them
        job.say(f"warning: if decoding fails, sampling starts over: {error}")
    return latents


def _decode(job: Job, clip: Clip, latents: np.ndarray, stages: Stages) -> explain.Strip | None:
    """Latents -> the video and its record; its frames too, reduced, if they are to be shown."""
    shown = explain.Strip(clip.reference.shape[:2]) if job.explain else None
    try:
        _write(job, clip, latents, stages, shown)
    except memory.OutOfMemory as error:
        if not job.path(LATENTS).exists():
            raise
        raise memory.OutOfMemory(
            f"{error}; {job.path(LATENTS)} keeps the latents, so that the same command only decodes"
        ) from error
    return shown


def _write(
    job: Job, clip: Clip, latents: np.ndarray, stages: Stages, shown: explain.Strip | None
) -> None:
    """Write the video and its record, and append the frames to `shown` if there is one."""
    record = job.path(".json")
    # Both or none: an older record would tell of another video than the one beside it.
    with output.replacing(record) as place:
        with video.writer(job.output, clip.fps, sound=clip.sound) as write:
            for frames in job.animator.decode(clip, latents, progress=stages):
                write(frames)
                if shown is not None:
                    shown.append(frames)
            stages.end()
            with output.explained(record):
                place.write_bytes(output.as_json(_about(job, clip), indent=2))
        for ending in EXPLANATION:  # of the video that was there
            job.path(ending).unlink(missing_ok=True)


def _about(job: Job, clip: Clip) -> dict:
    """What the record tells."""
    return provenance.describe(job.config, clip, job.sources, job.stamps, job.given, job.seconds)


def _explain(job: Job, clip: Clip, result: explain.Strip, stages: Stages) -> None:
    """Write what controlled each frame; no stage of it holds all frames in memory."""
    stages("explaining", 0, 1)
    size = clip.reference.shape[:2]
    cells, visible = [], []
    with explain.Strip(size) as sparse, explain.Strip(size) as dense:
        for signals in job.animator.fields(clip) if job.animator.controlled else ():
            sparse.append(signals.sparse_flow[0])
            if signals.dense_flow is not None:
                dense.append(signals.dense_flow[0])
            cells.append(signals.cells[0])
            visible.append(signals.visible[0])
        grid = size[0] // keypoints.CELL, size[1] // keypoints.CELL
        joints, seen = keypoints.places(clip.pose, size, grid)
        run = explain.Explained(
            reference=clip.reference,
            skeletons=clip.skeletons,
            sparse_flow=sparse,
            dense_flow=dense if len(dense) else None,
            cells=np.concatenate(cells) if cells else None,
            visible=np.concatenate(visible) if visible else None,
            joints=joints if cells else None,
            seen=seen if cells else None,
            result=result,
        ).only(job.config.control)
        random = job.animator.weights.random
        note = f"random weights: {', '.join(random)}" if random else ""
        explain.write(job.path(".explain.png"), job.path(".explain.mp4"), run, clip.fps, note=note)
    job.say(f"wrote {job.path('.explain.png')} and {job.path('.explain.mp4')}")
