"""The library call: arrays or files in, frames out.

    import dispose_jax
    animator = dispose_jax.Animator.load("bundle", config="configs/svd.py")
    clip = animator.prepare("ref.png", driving="dance.mp4")
    for frames in animator(clip):  # (n, h, w, 3) uint8, as they are decoded
        ...

An animator keeps its weights on the host and its programs compiled, so that a second clip of any
length starts at once. Each stage gives back what it held on the devices before the next one starts.
Writing files is not its business (job.py).
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np

from dispose_jax import (
    ahead,
    control_signals,
    decoding,
    inputs,
    limits,
    memory,
    sampling,
    settings,
    weights,
    windowed,
)
from dispose_jax.clip import Clip, padding
from dispose_jax.conditions import Conditioner
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image
from dispose_jax.models import networks, registry
from dispose_jax.models.protocol import generated
from dispose_jax.pose.detector import Detector, Recent
from dispose_jax.pose.files import PoseFile
from dispose_jax.types import ControlSignals, Pose

FINDING = "finding keypoints"  # the stage of preparing a clip
STAGES = ("conditioning", "control signals", "sampling", "decoding")
PREVIEWED = 4  # frames of a preview
SIGNAL_NOISE, CONDITION_NOISE, LATENT_NOISE = range(3)  # purposes of the seed

Progress = Callable[[str, int, int], None]  # stage, done, total
Preview = Callable[[int, np.ndarray], None]  # step, picture (h, frames w, 3) uint8


class Animator:
    """A model with its weights, ready for clip after clip.

    config: of configs/, checked here. given: what weights.choose gives. devices: those that share
    the work, all by default. say receives sentences for people. recent: keypoints that were found
    for another animator; those that this one finds, under any config, are added. Raises ValueError
    for settings and weights that cannot be worked with, before any weight is read.
    """

    def __init__(
        self,
        config,
        given: Sequence[str],
        *,
        devices: Sequence[jax.Device] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
        recent: Recent | None = None,
    ):
        limits.check(config)
        self.config, self.devices, self.say = config, devices, say
        built = networks.build(config, networks.compute_dtype(config.sample.dtype))
        self.networks = built
        self.model = registry.build(config, built)
        self.recipe = control_signals.build(config, built)
        self.weights = weights.Weights(given, built, config)
        self.sampler = sampling.Sampler.of(config.sample)
        self.recent: Recent = {} if recent is None else recent
        if self.weights.random:
            names = ", ".join(self.weights.random)
            say(f"random weights, so the result is noise: {names}")

    @classmethod
    def load(
        cls,
        bundles: str | Path | Sequence[str | Path] | None = None,
        *,
        config="configs/svd.py",
        devices: Sequence[jax.Device] | None = None,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> Animator:
        """An animator of bundle folders, later ones replacing earlier ones, or of "random" weights.

        config: a file of configs/ with its argument, as on the command line, or what its get_config
        gives. bundles None: those that the checkout has for the config. Raises ValueError as the
        class does.
        """
        if isinstance(config, (str, Path)):
            config = settings.load(str(config))
        if isinstance(bundles, (str, Path)):
            bundles = [bundles]
        given = weights.choose(bundles and [str(folder) for folder in bundles], config)
        return cls(config, given, devices=devices, say=say)

    def under(self, config) -> Animator:
        """This model with the weights and programs that it has, under another config.

        Only `seed`, `sample` (but its dtype) and `skeleton` may differ; networks without weights
        stay those of the first seed. What the model is told of every clip (sample.control_scale,
        noise_aug, conditioning_fps, motion_bucket) is part of its programs, which are compiled
        again. Raises ValueError for anything else, and for impossible values.
        """
        limits.check(config)
        if differing := sorted(_fixed(config) ^ _fixed(self.config)):
            raise ValueError(
                f"{differing[0][0]} differs from what this animator was made with; make another"
            )
        other = copy.copy(self)
        other.config, other.sampler = config, sampling.Sampler.of(config.sample)
        other.model = registry.build(config, self.networks)
        return other

    def prepare(
        self,
        reference: str | Path | np.ndarray,
        *,
        driving: str | Path | np.ndarray | None = None,
        poses: str | Path | PoseFile | None = None,
        reference_pose: str | Path | Pose | None = None,
        fps: float | Fraction | None = None,
        progress: Progress | None = None,
    ) -> Clip:
        """What is to be animated: everything read, keypoints found and fitted to the reference.

        Arguments are paths, or arrays as Sources says: reference (h, w, 3) and driving
        (n, h, w, 3) uint8. Without poses or reference_pose keypoints are detected, which needs
        DWPose's files in a bundle; progress is told of the frames of that. fps: of a driving array
        or of poses alone. Raises ValueError for what cannot be animated.
        """
        path = lambda source: Path(source) if isinstance(source, str) else source
        given = map(path, (reference, reference_pose, driving, poses))
        return self.prepare_sources(Sources(*given, fps=fps), progress=progress)

    def prepare_sources(
        self,
        sources: Sources,
        *,
        progress: Progress | None = None,
        kept: Path | None = None,
    ) -> Clip:
        """The same for sources that are already put together; kept: a file for the keypoints that
        are detected, which are not looked for again."""
        config = self.config
        found = progress and (lambda done, total: progress(FINDING, done, total))
        detector = Detector(self.weights.pose_folder, self.say, found, kept, self.recent)
        clip = inputs.prepare(sources, config.sample, config.skeleton, detector)
        self._check(clip)
        return clip

    def __call__(
        self,
        clip: Clip,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> Iterator[np.ndarray]:
        """The frames of the video to come, (n, h, w, 3) uint8, some at a time.

        seed: in place of the config's. progress is told the stage of STAGES and how much of it is
        done. preview is shown some frames after every step, as they would be without their noise;
        it keeps the decoder beside the denoiser, on one device. Raises ValueError for a clip of
        another config, an impossible seed and numbers that are not finite, OutOfMemory (a
        ValueError) with what helps where a stage does not fit; what the callbacks raise ends this
        clip alone.
        """
        latents = self.latents(clip, seed=seed, progress=progress, preview=preview)
        yield from self.decode(clip, latents, progress=progress)

    def latents(
        self,
        clip: Clip,
        *,
        seed: int | None = None,
        progress: Progress | None = None,
        preview: Preview | None = None,
    ) -> np.ndarray:
        """The denoised latents of a clip, (1, f, h, w, c) float32; the arguments of a call."""
        self._check(clip)
        seed = self.config.seed if seed is None else operator.index(seed)
        limits.check_range("seed", seed)
        spare = self._spare(clip)
        given, clip = clip, clip.prolonged(spare)
        told = lambda stage, total: _told(progress, stage, total)
        size = clip.reference.shape[:2]
        count = len(clip.skeletons)
        ahead.start(self.model, self.networks, self.config, count, size, self.devices)
        keys = _key(seed, CONDITION_NOISE), _key(seed, SIGNAL_NOISE)
        conditioning = self._conditioner.conditions(clip, *keys, told)
        model, shape = self.model, self.model.latent_shape(*size)
        key = _key(seed, LATENT_NOISE)
        noise = sampling.initial_noise(model, key, count, shape, self.sampler.window)
        helps = (
            f"lower --config.sample.window_batch (now {self.sampler.window_batch}), or choose a "
            "smaller picture or a shorter --config.sample.window"
        )
        with memory.explained("sampling", helps):
            latents = sampling.sample(
                model,
                self._load(model.stages["sampling"]),
                conditioning,
                noise,
                self.sampler,
                spare=spare,
                progress=told("sampling", self.sampler.steps),
                watch=preview and self._watch(preview, given.num_frames),
                devices=self.devices,
            )
        if not np.isfinite(latents).all():
            raise ValueError(
                "sampling gave numbers that are not finite; try --config.sample.dtype=float32, and "
                "check the weights with: python -m converters.convert check WEIGHTS"
            )
        return latents[:, : latents.shape[1] - spare]

    def decode(
        self, clip: Clip, latents: np.ndarray, *, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """Frames (n, h, w, 3) uint8 of a clip's latents, at the size of the video to write. Raises
        ValueError for latents that are not this clip's by their shape."""
        sample, size = self.config.sample, clip.reference.shape[:2]
        made = generated(self.model, len(clip.skeletons))
        expected = 1, made, *self.model.latent_shape(*size)
        if np.shape(latents) != expected:
            raise ValueError(
                f"latents of the shape {np.shape(latents)} are not this clip's; expected {expected}"
            )
        helps = f"lower --config.sample.decode_chunk (now {sample.decode_chunk})"
        with memory.explained("decoding", helps):
            parts = decoding.decode(
                self.model,
                self._load(self.model.stages["decoding"]),
                latents,
                sample.decode_chunk,
                rest=sample.decode_rest,
                devices=self.devices,
                progress=_told(progress, "decoding", latents.shape[1]),
            )
            for frames in parts:
                yield _at_size(frames, clip.shown)

    def fields(self, clip: Clip) -> Iterator[ControlSignals]:
        """What DisPose derives of the poses, block by block on the host, to be looked at.

        Leaves are (1, n, ..) and follow each other from frame 0, the reference, on; features of
        points are left out.
        """
        return self._conditioner.fields(clip)

    @property
    def controlled(self) -> bool:
        """Whether a control signal enters the model: not in the base model alone."""
        return bool(self.config.control.motion or self.config.control.points)

    @property
    def _conditioner(self) -> Conditioner:
        return Conditioner(self.model, self.recipe, self.controlled, self._load, self.devices)

    def _check(self, clip: Clip) -> None:
        """Raise ValueError for a clip that this animator cannot animate."""
        if clip.look != dict(self.config.skeleton):
            raise ValueError(
                f"the clip was prepared with the skeletons of another config, {clip.look}, and not "
                f"{dict(self.config.skeleton)}; prepare it with this animator"
            )
        sampling.check(self.model, len(clip.skeletons) + self._spare(clip), self.sampler)

    def _spare(self, clip: Clip) -> int:
        """How often the clip's last pose is repeated, for frames that nobody gets."""
        return padding(self.config.sample, generated(self.model, len(clip.skeletons)))

    def _load(self, names: Sequence[str]):
        """Weights of a stage, whole on every device."""
        return self.weights.load(names, windowed.placement(self.devices).whole)

    def _watch(self, preview: Preview, num_frames: int) -> sampling.Watch:
        """After every step, the decoded picture of what the latents are without their noise.

        num_frames: of the video to come; latents may have more.
        """
        device = windowed.placement(self.devices).first
        whole = windowed.placement([device]).whole
        params = self.weights.load(self.model.stages["decoding"], whole)
        first = 1 if self.model.generates_reference else 0

        def watch(step: int, _, clean: np.ndarray) -> None:
            count = min(PREVIEWED, num_frames)
            numbers = np.rint(np.linspace(first, first + num_frames - 1, count)).astype(int)
            pictures = decoding.decode_pictures(self.model, params, clean[0, numbers], device)
            preview(step, np.concatenate(pictures, axis=1))

        return watch


def _fixed(config) -> set[tuple[str, str]]:
    """Names and values of a config that networks and control signals are built with."""
    values = {
        name: str(value)
        for name, value in settings.leaves(config)
        if not name.startswith(("seed", "sample.", "skeleton."))
    }
    values["sample.dtype"] = config.sample.dtype
    values["whether there is guidance"] = str(networks.context_group(config))
    return set(values.items())


def _told(progress: Progress | None, stage: str, total: int) -> sampling.Progress | None:
    """The progress of one stage, told that it begins."""
    if progress is None:
        return None
    progress(stage, 0, total)
    return lambda done, total: progress(stage, done, total)


def _at_size(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Finished frames (n, h, w, 3) at the height and width of the video to write."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([image.bilinear(one, *size) for one in frames])


def _key(seed: int, purpose: int):
    return jax.random.fold_in(jax.random.key(seed), purpose)
