"""One sampling job: files in, files out.

Reads and fits the inputs, runs the driver stage by stage with only the weights each stage needs,
and writes the video, a JSON with all that it depended on, and the explanation. Latents are kept on
disk until the video is whole, so a failed decode is resumed by running the same command again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm

from dispose_jax import animate, control, dry_run, explain
from dispose_jax.correspondence import dift
from dispose_jax.data import image, inputs, output, video
from dispose_jax.models import bundle, mimicmotion, networks
from dispose_jax.pose import draw
from dispose_jax.types import Params

RANDOM = "random"  # --weights random
SIGNAL_NOISE, CONDITION_NOISE, LATENT_NOISE = range(3)  # purposes of the seed
CONDITION_NETWORKS = ("image_encoder", "vae", "pose_encoder", "motion_encoder", "point_encoder")
SAMPLE_NETWORKS = ("unet", "controlnet")


@dataclass
class Job:
    """What to animate, with what, and where the results go.

    weights: bundle folders, a later one's networks replacing an earlier one's, or (RANDOM,). say:
    receives sentences for people.
    """

    config: object  # of configs/
    weights: tuple[str, ...]
    sources: inputs.Sources
    output: Path
    explain: bool = False
    say: Callable[[str], None] = print
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        self.output = output.prepare(self.output, ".mp4")
        self.networks = networks.build(self.config, compute_dtype(self.config.sample.dtype))
        self.model = mimicmotion.build(self.config, self.networks)
        self.folders = tuple(w for w in self.weights if w != RANDOM)
        self.random = ()
        if RANDOM in self.weights:
            held = [bundle.describe(folder)["networks"] for folder in self.folders]
            self.random = tuple(n for n in self.networks if not any(n in names for names in held))
        bundled = [name for name in self.networks if name not in self.random]
        if self.folders:
            bundle.owners(self.folders, bundled, **self._belongs)
        if self.random:
            self.say(f"random weights, so the result is noise: {', '.join(self.random)}")

    @property
    def _belongs(self) -> dict:
        return {"model": self.config.model, "quirks": self.config.quirks}

    def path(self, ending: str) -> Path:
        """A file beside the video."""
        return self.output.with_name(self.output.stem + ending)

    def load(self, names: Iterable[str]) -> Params:
        """Weights of some of the config's networks, in the type each computes in."""
        params = {}
        for name in names:
            if name not in self.networks:
                continue  # an ablation left it out
            network = self.networks[name]
            if name in self.random:
                tree = networks.random({name: network}, self.config.seed)[name]
            else:
                tree = bundle.load(self.folders, [name], **self._belongs)[name]
            cast = lambda x, dtype=network.dtype: jnp.asarray(x, dtype)
            params[name] = jax.tree.map(cast, tree)
        return params

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
    config, model = job.config, job.model
    with job.stage("reading inputs"):
        clip = inputs.prepare(job.sources, config.sample, _pose_folder(job.folders), job.say)
        image.write_png(job.path(".preview.png"), draw.preview(clip.reference, clip.pose.at([1])))
    for warning in clip.warnings:
        job.say(f"warning: {warning}; see {job.path('.preview.png')}")
    sampling = animate.Sampling(
        steps=config.sample.steps,
        window=config.sample.window,
        overlap=config.sample.overlap,
        guidance_scale=config.sample.guidance_scale,
        window_batch=config.sample.window_batch,
        features_on_host=config.sample.features_on_host,
    )
    height, width = clip.reference.shape[:2]
    job.say(
        f"{clip.num_frames} frames of {width} x {height} at {float(clip.fps):.4g} fps, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    )
    animate.check(model, clip.num_frames + 1, sampling)  # before any long work
    latents = _saved_latents(job, clip)
    signals = None
    if job.explain or latents is None:
        with job.stage("control signals"):
            recipe = control_recipe(config, job.networks)
            if config.control.motion or config.control.points or job.explain:
                key = _key(config.seed, SIGNAL_NOISE)
                signals = control.for_sampling(
                    recipe, job.load(recipe.networks), clip.reference, clip.pose, key
                )
                jax.block_until_ready(signals)
    if job.explain:
        shown = jax.device_get(signals)
    if latents is None:
        latents = _sample(job, clip, signals, sampling)
        _save_latents(job, clip, latents)
    else:
        job.say(f"found {job.path('.latents.safetensors')} of the same run: only decoding")
    del signals

    kept = []
    with job.stage("decoding", len(latents[0]), "frame") as progress:
        params = job.load(["vae"])
        with video.writer(job.output, clip.fps) as write:
            chunks = animate.decode(model, params, latents, config.sample.decode_chunk, progress)
            for frames in chunks:
                write(frames)
                if job.explain:
                    kept.append(frames)
    if job.explain:
        with job.stage("explaining"):
            _explain(job, clip, shown, np.concatenate(kept))
    output.write_json(job.path(".json"), _record(job, clip))
    job.path(".latents.safetensors").unlink(missing_ok=True)
    return job.output


def plan(config, sources: inputs.Sources) -> str:
    """What a run would need: parameters, memory and FLOPs, before any weight is read."""
    num_frames, height, width = inputs.measure(sources, config.sample)
    dtype = compute_dtype(config.sample.dtype)
    return dry_run.report(config, num_frames + 1, height, width, dtype)


def choose_weights(given: list[str] | None, config, assets: Path) -> tuple[str, ...]:
    """The weights of a run: those given, else the bundled ones of the config, else random ones.

    What the bundle of a config lacks is random. Raises ValueError for a config of full size without
    weights, and for "random" after a folder.
    """
    if given:
        if RANDOM in given[1:]:
            raise ValueError(
                f"--weights {','.join(given)}: 'random' comes first, folders replace it"
            )
        return tuple(given)
    if not config.bundled:
        raise ValueError(
            f"{config.name} needs --weights: a bundle made by python -m converters.convert to-flax "
            "--from WEIGHTS --to BUNDLE, or 'random' to try the program"
        )
    folder = assets / config.bundled
    return (RANDOM, str(folder)) if (folder / bundle.DESCRIPTION).exists() else (RANDOM,)


def _sample(job: Job, clip: inputs.Clip, signals, sampling: animate.Sampling) -> np.ndarray:
    """Condition and denoise: latents (1, f, h, w, c) on the host."""
    config, model = job.config, job.model
    with job.stage("conditioning"):
        used = signals if config.control.motion or config.control.points else None
        conditioning = animate.condition(
            model,
            job.load(CONDITION_NETWORKS),
            clip.reference,
            clip.skeletons,
            used,
            _key(config.seed, CONDITION_NOISE),
        )
        jax.block_until_ready(conditioning)
    shape = conditioning.image_latents.shape[1:]
    noise = animate.initial_noise(
        model, _key(config.seed, LATENT_NOISE), clip.num_frames + 1, shape, sampling.window
    )
    with job.stage("sampling", sampling.steps) as progress:
        params = job.load(SAMPLE_NETWORKS)
        latents = animate.sample(model, params, conditioning, noise, sampling, progress)
        latents = np.asarray(jax.block_until_ready(latents))
    if not np.isfinite(latents).all():
        raise ValueError(
            "sampling gave numbers that are not finite; try --config.sample.dtype=float32, and "
            "check the weights with: python -m converters.convert check WEIGHTS"
        )
    return latents


def control_recipe(config, built: dict[str, networks.Network]) -> control.Recipe:
    """How a config's control signals are made, from its networks."""
    module = lambda name: built[name].module if name in built else None
    features = None
    if module("dift_unet") is not None:
        features = dift.Dift(
            vae=module("dift_vae"),
            unet=module("dift_unet"),
            text_encoder=module("dift_text_encoder"),
            tokens=dift.token_ids(config.dift.prompt, config.dift.tokenizer or None),
            timestep=config.dift.timestep,
            up_block=config.dift.up_block,
            ensemble=config.dift.ensemble,
            chunk=config.dift.chunk,
            latent_scale=config.model.dift.scale,
        )
    return control.Recipe(
        cmp=module("cmp"),
        dift=features,
        kernel=config.motion.kernel,
        sigma=config.motion.sigma,
        cmp_size=config.motion.cmp_size,
        missing_joints=config.quirks.missing_joints,
        chunk=config.motion.chunk,
    )


def compute_dtype(name: str):
    """The type of the networks' arithmetic: "auto" is bfloat16 on GPU and TPU, float32 on CPU."""
    choices = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
    choices["auto"] = choices["float32" if jax.default_backend() == "cpu" else "bfloat16"]
    if name not in choices:
        raise ValueError(f"sample.dtype is {name!r}: expected one of {', '.join(choices)}")
    return choices[name]


def _key(seed: int, purpose: int):
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _pose_folder(folders: tuple[str, ...]) -> Path | None:
    """The folder of weights that holds DWPose's files, if one does."""
    found = bundle.pose_file(folders, bundle.POSE_FILES[0])
    return found.parent if found else None


def _fingerprint(job: Job, clip: inputs.Clip) -> str:
    """Digest of all that the latents depend on."""
    digest = hashlib.sha256()
    config = json.loads(job.config.to_json())
    for key in ("decode_chunk", "fps"):  # these come after the latents
        config["sample"].pop(key)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for leaf in (clip.reference, *jax.tree.leaves(clip.pose)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    for folder in job.folders:
        digest.update((Path(folder) / bundle.DESCRIPTION).read_bytes())
    return digest.hexdigest()


def _saved_latents(job: Job, clip: inputs.Clip) -> np.ndarray | None:
    """Latents that an earlier, interrupted run of the same job left."""
    path = job.path(".latents.safetensors")
    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("run") == _fingerprint(job, clip):
                return file.get_tensor("latents")
    except (OSError, SafetensorError):
        pass  # none, or not whole: sample again
    return None


def _save_latents(job: Job, clip: inputs.Clip, latents: np.ndarray) -> None:
    content = save({"latents": latents}, metadata={"run": _fingerprint(job, clip)})
    output.write_bytes(job.path(".latents.safetensors"), content)


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
    note = f"random weights: {', '.join(job.random)}" if job.random else ""
    explain.write(job.path(".explain.png"), job.path(".explain.mp4"), run, clip.fps, note=note)
    job.say(f"wrote {job.path('.explain.png')} and {job.path('.explain.mp4')}")


def _record(job: Job, clip: inputs.Clip) -> dict:
    """What the video was made of and with."""
    packages = ("dispose-jax", "jax", "jaxlib", "flax", "numpy")
    devices = jax.devices()
    return {
        "seed": job.config.seed,
        "weights": list(job.weights),
        "sources": job.sources.as_dict(),
        "frames": clip.num_frames,
        "size": list(clip.reference.shape[1::-1]),
        "fps": float(clip.fps),
        "fit": clip.fit._asdict(),
        "warnings": clip.warnings,
        "config": json.loads(job.config.to_json()),
        "versions": {name: _version(name) for name in packages},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "seconds": job.seconds,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
