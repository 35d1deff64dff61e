"""Inference as a whole against the released pipeline: the denoising loop, and picture to frames."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dispose_jax import control_signals, decoding, sampling, windowed
from dispose_jax.correspondence import dift, keypoints
from dispose_jax.media import image
from dispose_jax.models import networks, registry
from dispose_jax.motion import tracks
from dispose_jax.networks.clip import clip_pixels
from dispose_jax.pose import draw, retarget
from dispose_jax.types import ControlSignals, Pose
from tests.parity import pipeline
from tests.parity.cases import assert_close, load_case, record, requantised
from tests.parity.pipeline import Tap


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1).astype(np.float32)


def channels_first(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, -3)


def with_zero_frame(flow: np.ndarray) -> np.ndarray:
    """(1, f - 1, 2, h, w) -> (1, f, h, w, 2): ours stores the reference's zero flow."""
    flow = channels_last(flow)
    return np.concatenate([np.zeros_like(flow[:, :1]), flow], axis=1)


def body_only(xy: np.ndarray, seen: np.ndarray) -> Pose:
    """Pose of one person from body joints (f, 18, 2) and whether they are seen (f, 18)."""
    f = len(xy)
    return Pose(
        body=xy[:, None],
        body_score=np.where(seen, 1.0, 0.0)[:, None],
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )


@dataclass(frozen=True)
class Given:
    """Stands for an encoder whose output the case states."""

    output: object
    __hash__ = object.__hash__

    def apply(self, *_, **__):
        return self.output


@pytest.fixture(scope="module")
def denoised():
    """The denoising case, run by the driver; what its networks gave is kept in order."""
    case = load_case("pipe_denoise.tiny")
    config = pipeline.config_of(case)
    built = networks.build(config)
    params = pipeline.params_of(case, built) | {"image_encoder": {}, "vae": {}}
    inputs, size = case.inputs, (config.sample.height, config.sample.width)

    pose = body_only(inputs["candidate"], inputs["subset"] != -1)
    features = channels_last(inputs["dift_feature"])[0]
    cells, visible = keypoints.cells(pose, size)
    signals = ControlSignals(
        sparse_flow=with_zero_frame(inputs["traj_flow"]),
        dense_flow=with_zero_frame(inputs["controlnet_flow"]),
        cells=cells[None],
        visible=visible[None],
        point_features=keypoints.embed(features, pose.at([0]), size)[None],
    )
    latents = channels_last(inputs["image_latents"])
    model = replace(
        registry.build(config, built),
        image_encoder=Given(inputs["image_embeds"]),
        vae=Given((latents, None)),
    )
    reference = np.zeros((*size, 3), np.uint8)  # read by the encoders that are given
    skeletons = np.moveaxis(inputs["pose_image"], 1, -1)
    key = jax.random.key(0)
    silent = np.zeros((1, *reference.shape), np.float32)
    with pipeline.given_draws(silent, channels_last(inputs["noise"])):
        conditioning = sampling.condition(
            model, params, reference, skeletons, signals, key, devices=jax.devices()[:1]
        )
        noise = sampling.initial_noise(
            model, key, case.config["num_frames"], latents.shape[1:], config.sample.window
        )
    run = pipeline.sample(model, params, conditioning, noise, pipeline.sampling_of(config))
    tolerance = re.search(
        r"ref_point_emb: max abs (\S+) x std.*latents_steps: max abs (\S+) x std",
        case.about["tolerance"],
    )
    tight, loose = map(float, tolerance.groups())
    return SimpleNamespace(**locals())


@pytest.mark.full  # the whole case shows it too
def test_denoising_starts_from_the_released_conditioning(denoised):
    case = denoised.case
    embedding = denoised.signals.point_features
    assert_close(case, "ref_point_emb", embedding, denoised.tight)
    ids = windowed.guided(denoised.model, denoised.conditioning, 2).added_time
    assert_close(case, "added_time_ids", ids, denoised.tight)


@pytest.mark.full  # the whole case shows it too
def test_first_predictions_of_every_window_equal_the_released_ones(denoised):
    case, run = denoised.case, denoised.run
    outputs = case.outputs["step0_tile_preds"]
    assert_close(
        case, "step0_tile_preds", channels_first(run.outputs[: len(outputs)]), denoised.tight
    )
    names = [name for name in case.outputs if name.endswith("_mid_residual")]
    assert names
    for name in names:
        window = int(re.fullmatch(r"step0_tile(\d+)_mid_residual", name).group(1))
        mid = channels_first(run.residuals[window].mid)
        mid = mid.reshape(-1, *mid.shape[2:]) * denoised.config.sample.control_scale
        assert_close(case, name, mid, denoised.tight)


@pytest.mark.full  # the whole case shows it too
def test_latents_after_every_step_equal_the_released_ones(denoised):
    case, run = denoised.case, denoised.run
    assert_close(case, "latents_steps", channels_first(run.steps), denoised.loose)
    assert_close(case, "latents", channels_first(run.latents), denoised.loose)


def person(inputs: dict, prefix: str) -> Pose:
    """One person's keypoints; the reference's have no frame axis."""
    frames = inputs[f"{prefix}_candidate"].reshape(-1, 18, 2)
    f = len(frames)
    score = inputs[f"{prefix}_score"].reshape(f, 1, 18)
    pose = Pose(
        body=frames[:, None],
        body_score=score,
        hands=inputs[f"{prefix}_hands"].reshape(f, 1, 2, 21, 2),
        hands_score=inputs[f"{prefix}_hands_score"].reshape(f, 1, 2, 21),
        face=inputs[f"{prefix}_faces"].reshape(f, 1, 68, 2),
        face_score=inputs[f"{prefix}_faces_score"].reshape(f, 1, 68),
    )
    assert (pose.visible == (inputs[f"{prefix}_subset"].reshape(f, 1, 18) >= 0)).all()
    return pose


class Whole:
    """The whole case: everything after pose detection, by the package."""

    def __init__(self):
        self.case = case = load_case("pipe_end_to_end.tiny")
        about, inputs = case.config, case.inputs
        self.config = config = pipeline.config_of(case)
        built = networks.build(config)
        self.params = pipeline.params_of(case, built)
        self.model = registry.build(config, built)
        self.recipe = pipeline.recipe_of(case, config, built)
        self.size = (about["height"], about["width"])
        picture = inputs["picture"]
        assert image.target_size(*picture.shape[:2], about["resolution"]) == self.size
        self.picture = image.fit(picture, *self.size)
        self.pose = retarget.to_reference(
            config.skeleton.fit,
            person(inputs, "ref"),
            person(inputs, "drive"),
            video_size=tuple(about["video_hw"][::-1]),
            target_size=self.size[::-1],
        ).pose
        self.skeletons = draw.draw(self.pose, *self.size)

    def requantised(self, picture: np.ndarray) -> np.ndarray:
        """The picture as CLIP and the autoencoder saw it."""
        dtype = self.case.config["requantise"]
        return requantised(picture, np.dtype(dtype)) if dtype else picture

    def run(self, picture: np.ndarray, requantised: np.ndarray, skeletons: np.ndarray):
        """From pictures to frames, with what every stage gave."""
        inputs, sample = self.case.inputs, self.config.sample
        posterior_noise, noise = (
            channels_last(inputs[name]) for name in ("dift_posterior_noise", "dift_noise")
        )
        means, features, decoded = [], [], []
        extractor = replace(
            self.recipe.dift,
            vae=Tap(self.recipe.dift.vae, means.append, blockwise=True),
            unet=Tap(self.recipe.dift.unet, features.append, blockwise=True),
        )
        recipe = replace(self.recipe, dift=extractor)
        draws = (
            np.stack([posterior_noise, noise]),
            channels_last(inputs["pixel_noise"]),
            channels_last(inputs["initial_noise"]),
        )
        key = jax.random.key(0)
        with pipeline.given_draws(*draws):
            with pipeline.unjitted(control_signals, "_features"):
                signals = control_signals.for_sampling(recipe, self.params, picture, self.pose, key)
            conditioning = sampling.condition(
                self.model,
                self.params,
                requantised,
                skeletons,
                signals,
                key,
                devices=jax.devices()[:1],
            )
            shape = conditioning.image_latents.shape[1:]
            noise = sampling.initial_noise(self.model, key, len(skeletons), shape, sample.window)
        sampled = pipeline.sample(
            self.model, self.params, conditioning, noise, pipeline.sampling_of(self.config)
        )
        model = replace(self.model, vae=Tap(self.model.vae, decoded.append))
        chunk = self.case.config["decode_chunk_size"]
        frames = list(
            decoding.decode(model, self.params, sampled.latents, chunk, devices=jax.devices()[:1])
        )
        jax.effects_barrier()
        return SimpleNamespace(
            signals=signals,
            conditioning=conditioning,
            sampled=sampled,
            dift_mean=np.asarray(means[0][0]),
            dift_feature=np.asarray(features[0][0]).mean(0),
            decoded=np.concatenate([np.asarray(x[0]) for x in decoded]),
            frames=np.concatenate(frames),
        )

    @cached_property
    def drawn(self) -> np.ndarray:
        """The case's own skeleton pictures: only pixels that are not black are stored."""
        frame, row, column = self.case.outputs["pose_index"].T
        skeletons = np.zeros((self.pose.num_frames, *self.size, 3), np.uint8)
        skeletons[frame, row, column] = self.case.outputs["pose_value"]
        return skeletons

    @cached_property
    def staged(self) -> SimpleNamespace:
        """The run on the case's own pictures, so that no rounding decision comes in."""
        outputs = self.case.outputs
        requantised = np.moveaxis(outputs["picture_requantised"], 0, -1)
        return self.run(outputs["picture"], requantised, self.drawn)

    @cached_property
    def free(self) -> SimpleNamespace:
        """The run on our own pictures."""
        outputs = self.case.outputs
        same = np.array_equal(self.picture, outputs["picture"])
        requantised = self.requantised(self.picture)
        expected = np.moveaxis(outputs["picture_requantised"], 0, -1)
        same &= np.array_equal(requantised, expected)
        same &= np.array_equal(self.skeletons, self.drawn)
        return self.staged if same else self.run(self.picture, requantised, self.skeletons)

    def stored(self, name: str, ours) -> np.ndarray:
        """The values of an output that the case stores: every stride-th along each axis."""
        strides = self.case.config["strides"].get(name, [])
        return np.asarray(ours)[tuple(slice(None, None, step) for step in strides)]

    def check(self, name: str, ours, **named) -> None:
        """Compare with an output by its own absolute tolerance, stored values only."""
        tolerance = self.case.about["tolerance"][name]
        assert_close(self.case, name, self.stored(name, ours), tolerance, relative=False, **named)

    def check_levels(self, name: str, ours: np.ndarray, bounds: dict | None = None) -> None:
        """Compare whole levels, stored values only: how far apart at most, how many differ."""
        bounds = bounds or self.case.about["tolerance"][name]
        ours, reference = self.stored(name, ours), self.case.outputs[name]
        assert ours.shape == reference.shape and ours.dtype == reference.dtype
        difference = np.abs(ours.astype(int) - reference)
        record(self.case.name, f"{name}, levels", difference.max(), bounds["max_abs"])
        for bound, least in (("fraction_differing", 1), ("fraction_gt1", 2)):
            if bound in bounds:
                share = (difference >= least).mean()
                record(self.case.name, f"{name}, {bound}", share, bounds[bound])


@pytest.fixture(scope="module")
def whole():
    return Whole()


def test_levels_are_compared_where_a_case_stores_them():
    picture = np.arange(120, dtype=np.uint8).reshape(10, 12)
    other = picture.copy()
    other[2, 3] += 7  # a value that the case below stores
    for stored, passes in ((picture, True), (other, False)):
        checked = object.__new__(Whole)
        checked.case = SimpleNamespace(
            name="strided",
            about={"tolerance": {"picture": {"max_abs": 0}}},
            config={"strides": {"picture": [2, 3]}},
            outputs={"picture": stored[::2, ::3]},
        )
        with nullcontext() if passes else pytest.raises(AssertionError, match="picture, levels"):
            checked.check_levels("picture", picture)


def test_pictures_and_poses_are_fitted_as_released(whole):
    whole.check_levels("picture", whole.picture)
    requantised = whole.requantised(whole.case.outputs["picture"])
    whole.check_levels("picture_requantised", np.moveaxis(requantised, -1, 0))
    whole.check("fitted_candidate", whole.pose.body[:, 0])
    drawn = np.stack(np.nonzero(whole.skeletons.any(-1)), -1)
    whole.check("pose_index", drawn)
    whole.check_levels("pose_value", whole.skeletons[tuple(drawn.T)])


@pytest.mark.full  # CMP at full size; each network has its own parity test in the default suite
def test_control_signals_equal_the_released_ones(whole):
    case, run = whole.case, whole.staged
    impulses = tracks.from_reference(
        whole.pose, whole.size, whole.recipe.cmp_size, whole.recipe.missing_joints
    )
    frame, joint = np.nonzero(impulses.valid)
    places = np.stack([frame - 1, *impulses.pixels[frame, joint].T[::-1]], -1)
    order = np.lexsort(places.T[::-1])
    whole.check("pd_index", places[order])
    whole.check("pd_value", impulses.vectors[frame, joint][order])
    for name in ("sparse_flow", "dense_flow"):
        flow = np.asarray(getattr(run.signals, name))[0]
        assert not flow[0].any()
        whole.check(name, channels_first(flow[1:]))
    if case.config["prompt"] in dift.KNOWN_PROMPTS:
        assert dift.token_ids(case.config["prompt"]) == whole.recipe.dift.tokens
    whole.check("dift_vae_mean", channels_first(run.dift_mean)[None])
    whole.check("dift_feature", channels_first(run.dift_feature)[None])
    whole.check("ref_point_emb", run.signals.point_features)


def test_conditioning_equals_the_released_one(whole):
    case, conditioning = whole.case, whole.staged.conditioning
    requantised = channels_last(case.outputs["picture_requantised"]) / 127.5 - 1
    pixels = clip_pixels(requantised[None], whole.config.model.image_encoder.image_size)
    whole.check("clip_pixels", channels_first(pixels))
    whole.check("image_embeds", conditioning.context[:, 0])
    whole.check("image_latents", channels_first(conditioning.image_latents))
    whole.check("pose_latents", channels_first(conditioning.pose_features[0]))
    whole.check("added_time_ids", windowed.guided(whole.model, conditioning, 2).added_time)
    sample = whole.config.sample
    plan = whole.model.windows(whole.pose.num_frames, sample.window, sample.overlap)
    windows = conditioning.at(plan.frames)
    for i, level in enumerate(windows.points):
        whole.check(f"point_level_{i}", channels_first(level[0]))
    whole.check("motion", channels_first(windows.motion[0]))


def test_networks_and_latents_of_every_step_equal_the_released_ones(whole):
    case, run = whole.case, whole.staged.sampled
    outputs = case.outputs["step0_tile_preds"]
    whole.check("step0_tile_preds", channels_first(run.outputs[: len(outputs)]))
    scale = whole.config.sample.control_scale
    first = [jax.tree.map(lambda r: scale * r, r) for r in run.residuals[: len(outputs)]]
    mids = np.stack([channels_first(r.mid) for r in first])
    whole.check("step0_mid_residual", mids.reshape(len(first), -1, *mids.shape[3:]))
    figures = lambda x: (x.mean(), x.std(), np.abs(x).max())
    stats = [[figures(np.asarray(x)) for x in (*r.skips, r.mid)] for r in first]
    whole.check("step0_residual_stats", stats)
    whole.check("fused", channels_first(run.fused))
    whole.check("latents_steps", channels_first(run.steps)[:, 0])
    whole.check("latents", channels_first(run.latents))


def test_frames_equal_the_released_ones(whole):
    run = whole.staged
    whole.check("decoded", channels_first(run.decoded))
    whole.check_levels("frames", channels_first(run.frames))


def test_a_free_run_gives_the_released_frames(whole):
    case, run, loose = whole.case, whole.free, whole.case.about["loose"]
    bound = loose["latents_max_abs_over_std"]
    assert_close(case, "latents", channels_first(run.sampled.latents), bound)
    whole.check_levels("frames", channels_first(run.frames), loose["frames"])
