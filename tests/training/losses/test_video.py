"""DisPose's training objective: its start, what it trains, and each of its options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import FrozenConfigDict

from configs.common import CONTROL
from dispose_jax import control_signals
from dispose_jax.data import examples
from dispose_jax.diffusion import schedules
from dispose_jax.models import protocol
from dispose_jax.ops import levels
from dispose_jax.training.losses import video
from dispose_jax.training.losses.video import VideoLoss
from dispose_jax.types import Conditioning
from tests import small
from tests.training import light

VARIANTS = [name for name in CONTROL if name != "base"]


@pytest.fixture(scope="module")
def full() -> SimpleNamespace:
    """A run of the full model, a batch, and three steps."""
    made = light.run("full")
    made.batch = light.batch(made.config)
    made.kept = jax.tree.map(np.array, made.frozen)
    made.first, made.second, made.third = light.steps(made, made.batch, 3)
    return made


@pytest.fixture(scope="module")
def base_output() -> np.ndarray:
    made = light.run("base", trainable=("unet",))
    base = {**made.params, **light.run("no_point").frozen}  # the frozen base that variants share
    return light.denoised(made, {"unet": base["unet"]}, light.batch(made.config))


def flat(tree) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(tree, sep="/")


# The others are heavy only because each compiles; untrained paths are also checked with the models.
STARTS = [v if v in ("full", "exp2") else pytest.param(v, marks=pytest.mark.full) for v in VARIANTS]


@pytest.mark.parametrize("variant", STARTS)
def test_every_variant_starts_as_its_frozen_base(variant, base_output):
    made = light.run(variant)
    found = light.denoised(made, made.params, light.batch(made.config))
    np.testing.assert_array_equal(found, base_output)


def test_after_one_update_the_model_is_not_its_base_any_more(full, base_output):
    found = light.denoised(full, full.first.after, full.batch)
    assert np.abs(found - base_output).max() > 1e-3


@pytest.mark.full
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "full"])
def test_every_variant_moves_away_from_its_base_and_learns(variant, base_output):
    made = light.run(variant)
    batch = light.batch(made.config)
    first, second = light.steps(made, batch, 2)
    assert np.abs(light.denoised(made, first.after, batch) - base_output).max() > 1e-3
    reached = {path for path, leaf in flat(second.gradient).items() if np.any(leaf)}
    assert {path.split("/")[0] for path in reached} == set(made.config.train.trainable)


def test_at_first_gradients_reach_only_what_ends_in_zero(full):
    reached = {path for path, leaf in flat(full.first.gradient).items() if np.any(leaf)}
    outputs = {path for path in flat(full.params) if "/controlnet_" in path}
    assert reached == outputs
    assert all(not np.any(flat(full.params)[path]) for path in outputs)


def test_gradients_then_reach_everything_that_learns_and_nothing_else(full):
    # A context of one token gets all attention, whatever the queries and keys.
    one_token = re.compile(r"attn2/to_[qk]/|transformer_blocks_0/norm2/")
    # The flow towers end in zero themselves: what is around those convolutions waits for them.
    hidden = re.compile(r"motion_encoder/((sparse|dense)/(conv_in|blocks_\d)/|conv_final/kernel)")
    for step, waiting in ((full.second, hidden), (full.third, re.compile("$^"))):
        gradient = flat(step.gradient)
        assert gradient.keys() == flat(full.params).keys()
        assert {path.split("/")[0] for path in gradient} == set(full.config.train.trainable)
        for path, leaf in gradient.items():
            still = bool(waiting.match(path) or one_token.search(path))
            assert np.any(leaf) != still, path


def test_training_leaves_the_frozen_networks_as_they_were(full):
    jax.tree.map(np.testing.assert_array_equal, full.frozen, full.kept)
    for step in (full.first, full.third):
        assert step.after.keys() == set(full.config.train.trainable)
        assert not step.after.keys() & full.frozen.keys()


@dataclass
class Told:
    """A model that notes what it is asked, and answers with a known v."""

    model: object
    seen: dict = field(default_factory=dict)

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def latents(self, posterior, key):
        self.seen["clean"] = self.model.latents(posterior, key)
        return self.seen["clean"]

    def denoise(self, params, x, t, conditioning):
        v = jnp.cos(3 * x) + 0.2
        self.seen.update(x=x, t=t, v=v, conditioning=conditioning)
        return v


@pytest.fixture(scope="module")
def base() -> SimpleNamespace:
    made = light.run("base", drop_rate=0.0)
    made.batch = light.batch(made.config)
    return made


def test_the_loss_is_edm_s_weighted_error_of_the_clean_latents(base):
    told = Told(base.loss.model)
    value, _ = replace(base.loss, model=told)(light.everything(base), base.batch, small.key(2))
    seen = {name: np.float64(told.seen[name]) for name in ("clean", "x", "t", "v")}
    sigma = np.exp(4 * seen["t"])[:, None, None, None, None]
    assert len(set(sigma.ravel())) == light.B, "every clip has a noise level of its own"
    noised = seen["x"] * np.sqrt(sigma**2 + 1)
    noise = (noised - seen["clean"]) / sigma
    assert noise.mean() == pytest.approx(0, abs=0.1) and noise.std() == pytest.approx(1, abs=0.05)
    found = noised / (sigma**2 + 1) - sigma / np.sqrt(sigma**2 + 1) * seen["v"]
    error = (1 + sigma**2) / sigma**2 * (found - seen["clean"]) ** 2
    assert float(value) == pytest.approx(error.mean(), rel=1e-5)


def test_latents_of_a_stored_posterior_equal_those_encoded_on_the_way(base):
    mean, logvar = light.Pool().apply({}, levels.to_float(base.batch.frames), "encode")
    stored = base.batch.replace(
        posterior=np.concatenate([mean, logvar], -1), frames=base.batch.frames[:, :1]
    )
    params, key = light.everything(base), jax.random.key(8)
    ours = base.loss.latents(params, base.batch, key)
    np.testing.assert_allclose(ours, base.loss.latents(params, stored, key), atol=1e-6)
    scale = base.config.model.vae.scale
    noise = (np.asarray(ours) / scale - mean) / np.sqrt(light.VARIANCE)
    assert noise.std() == pytest.approx(1, abs=0.05)
    other = base.loss.latents(params, base.batch, jax.random.key(9))
    assert np.abs(other - ours).max() > 0.1, "a draw from the posterior, not its mean"


def test_the_region_weighs_the_error_before_the_mean(base):
    rng = np.random.default_rng(0)
    error = rng.uniform(size=(2, 3, 4, 5, 6))
    region = rng.uniform(1, 4, size=(2, 3, 4, 5))
    loss = base.loss
    assert float(loss.mean(error, None)) == pytest.approx(error.mean())
    weighed = np.mean([(error[..., c] * region).mean() for c in range(6)])
    assert float(loss.mean(error, region)) == pytest.approx(weighed)
    train = FrozenConfigDict({**base.config.train.to_dict(), "skip_reference": True})
    driven = replace(loss, train=train)
    assert float(driven.mean(error, None)) == pytest.approx(error[:, 1:].mean())
    weighed = (error[:, 1:] * region[:, 1:, ..., None]).mean()
    assert float(driven.mean(error, region)) == pytest.approx(weighed)


def test_the_batch_s_region_is_what_the_loss_weighs_with(base):
    params, key = light.everything(base), small.key(2)
    loss = replace(base.loss, model=Told(base.loss.model))
    plain, _ = loss(params, base.batch, key)
    region = np.full((light.B, light.F, *small.LATENTS[:2]), 3.0, np.float32)
    thrice, _ = loss(params, base.batch.replace(region=region), key)
    assert float(thrice) == pytest.approx(3 * float(plain), rel=1e-6)


MANY = 4000


@pytest.fixture(scope="module")
def conditions() -> Conditioning:
    ones = lambda *shape: np.ones((MANY, *shape), np.float32)
    return Conditioning(
        context=ones(1, 2),
        pose_features=ones(2, 1, 1, 3),
        image_latents=ones(1, 1, 4),
        added_time=ones(3),
        motion=ones(2, 1, 1, 1),
        points=(ones(2, 1, 1, 1),),
    )


def dropped(conditions: Conditioning, base, kind: str) -> dict[str, np.ndarray]:
    """Which clips have lost each condition."""
    found = video.drop(base.loss.model, conditions, jax.random.key(3), kind, 0.1)
    lost = {}
    for name in ("context", "pose_features", "image_latents", "added_time", "motion", "points"):
        leaf = np.asarray(jax.tree.leaves(getattr(found, name))[0]).reshape(MANY, -1)
        assert np.isin(leaf, (0, 1)).all() and (leaf == leaf[:, :1]).all()
        lost[name] = leaf[:, 0] == 0
    assert not any(lost[name].any() for name in ("added_time", "motion", "points"))
    return lost


def close(share: np.ndarray, expected: float) -> bool:
    """Within five standard deviations of a count of independent draws."""
    return abs(share.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / MANY)


def test_joint_dropout_takes_away_what_guidance_does_together(conditions, base):
    lost = dropped(conditions, base, "joint")
    np.testing.assert_array_equal(lost["context"], lost["image_latents"])
    np.testing.assert_array_equal(lost["context"], lost["pose_features"])
    assert close(lost["context"], 0.1)


def test_separate_dropout_takes_context_and_reference_each_alone_and_both(conditions, base):
    lost = dropped(conditions, base, "svd_xtend")
    context, picture = lost["context"], lost["image_latents"]
    assert not lost["pose_features"].any()
    for share in (context & ~picture, ~context & picture, context & picture):
        assert close(share, 0.1)


@pytest.mark.full
def test_dropout_of_the_loss_is_the_config_s(base):
    seen = {}
    for kind, rate in (("joint", 0.3), ("svd_xtend", 0.3), ("joint", 0.0)):
        train = {**base.config.train.to_dict(), "dropout": kind, "drop_rate": rate}
        told = Told(base.loss.model)
        loss = replace(base.loss, model=told, train=FrozenConfigDict(train))
        for seed in range(6):
            loss(light.everything(base), base.batch, small.key(seed))
            for leaf in ("context", "pose_features", "image_latents"):
                rows = np.asarray(getattr(told.seen["conditioning"], leaf)).reshape(light.B, -1)
                seen[kind, rate, leaf] = seen.get((kind, rate, leaf), 0) + (rows == 0).all(1).sum()
    assert seen["joint", 0.3, "pose_features"] == seen["joint", 0.3, "context"] > 0
    assert seen["svd_xtend", 0.3, "context"] > 0 == seen["svd_xtend", 0.3, "pose_features"]
    assert seen["joint", 0.0, "context"] == 0


def noise_of_reference(base, noise_aug, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """The level that the network is told, and the deviation of the reference's noise."""
    model = replace(base.loss.model, noise_aug=noise_aug)
    still = np.zeros((clips, *small.SIZE, 3), np.float32)
    skeletons = np.zeros((clips, 1, *small.SIZE, 3), np.float32)
    params = light.everything(base)
    found = protocol.condition(model, params, still, skeletons, None, jax.random.key(1))
    pixels = np.asarray(found.image_latents)[..., :3] * 8  # means over 8 x 8 pixels
    return np.asarray(found.added_time[:, 2]), pixels.reshape(clips, -1).std(1)


def test_a_number_of_noise_on_the_reference_is_the_same_for_every_clip(base):
    told, deviation = noise_of_reference(base, 0.3, clips=3)
    np.testing.assert_array_equal(told, np.float32([0.3] * 3))
    np.testing.assert_allclose(deviation, 0.3, rtol=0.2)
    told, deviation = noise_of_reference(base, 0.0, clips=1)
    assert told == deviation == 0


def test_a_pair_of_noise_on_the_reference_is_drawn_for_every_clip(base):
    told, deviation = noise_of_reference(base, (-3.0, 0.5), clips=200)
    assert np.log(told).mean() == pytest.approx(-3, abs=5 * 0.5 / np.sqrt(200))
    assert np.log(told).std() == pytest.approx(0.5, rel=0.25)
    np.testing.assert_allclose(deviation / told, 1, atol=0.25)


def test_the_config_s_noise_on_the_reference_reaches_the_model():
    for noise in (0.05, (-3.0, 0.5)):
        assert light.run("base", noise_aug=noise).loss.model.noise_aug == noise


@pytest.mark.parametrize("kind", ["lognormal", "cosine"])
def test_noise_levels_are_of_the_distribution_that_the_config_names(kind):
    train = light.config("base", sigmas=kind, sigma_mean=0.2, sigma_std=0.9).train
    key = jax.random.key(4)
    expected = {
        "lognormal": schedules.lognormal_sigmas(key, 5, mean=0.2, std=0.9),
        "cosine": schedules.cosine_sigmas(key, 5),
    }
    np.testing.assert_array_equal(video.noise_levels(train, key, 5), expected[kind])


@pytest.fixture(scope="module")
def no_cmp() -> SimpleNamespace:
    return light.run("no_cmp")


def test_a_dropped_joint_is_missing_from_the_whole_clip(no_cmp):
    batch = light.batch(no_cmp.config)
    batch = jax.tree.map(lambda x: np.repeat(x, 100, axis=0), batch)
    reference = levels.to_float(batch.frames[:, 0])
    signals = lambda rate: control_signals.for_training(
        no_cmp.loss.recipe, {}, batch, reference, jax.random.key(2), point_drop_rate=rate
    )
    np.testing.assert_array_equal(signals(0.0).visible, batch.visible)
    kept = np.asarray(signals(0.2).visible)
    assert not (kept & ~batch.visible).any()
    lost = (batch.visible & ~kept).any(1)
    assert not (kept & lost[:, None]).any(), "in all of its frames or in none"
    seen = batch.visible.any(1)
    assert abs(lost[seen].mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / seen.sum())


def test_joints_are_dropped_at_the_config_s_rate(no_cmp):
    train = {**no_cmp.config.train.to_dict(), "point_drop_rate": 1.0}
    loss: VideoLoss = replace(no_cmp.loss, train=FrozenConfigDict(train))
    signals, _ = loss.condition(
        light.everything(no_cmp), light.batch(no_cmp.config), jax.random.key(0)
    )
    assert not np.any(signals.visible)


@pytest.mark.full
def test_the_dense_field_completes_the_guides_of_the_batch(full):
    """The stand-in for CMP gives back its guidance, so the field is that at the guides' pixels."""
    config, batch = full.config, full.batch
    signals, _ = full.loss.condition(light.everything(full), batch, jax.random.key(0))
    joints = np.asarray(signals.dense_flow)
    assert not joints[:, 0].any() and joints[:, 1:].any()
    flows = np.full((light.F, *small.SIZE, 2), (6.0, -2.0), np.float32)
    flows[0] = 0
    rng = np.random.default_rng(0)
    watershed = examples.watershed_guides(config, flows, rng)
    flowing = batch.replace(guides=jax.tree.map(lambda x: np.stack([x] * light.B), watershed))
    signals, _ = full.loss.condition(light.everything(full), flowing, jax.random.key(0))
    dense = np.asarray(signals.dense_flow)
    assert not dense[:, 0].any()
    moved = np.abs(dense[:, 1:]).sum(-1) > 0
    assert 0 < moved.mean() < 0.5, "at guides alone"
    np.testing.assert_allclose(dense[:, 1:][moved], [[6.0, -2.0]] * moved.sum(), rtol=1e-5)
    # Columns of CMP's square stand for two of this picture's.
    x, y = watershed.pixels[1][watershed.valid[1]].T
    assert moved[0, 0, y, 2 * x].all() and moved[0, 0, y, 2 * x + 1].all()
    assert moved[0, 0].sum() == 2 * len(x)
