"""Training on the second base: the same objective, with another schedule and other frames."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType
from ml_collections import FrozenConfigDict

from configs import sd15, svd
from dispose_jax.diffusion import prediction
from dispose_jax.diffusion.samplers import Ddim
from dispose_jax.models import networks
from dispose_jax.training import objectives, sharding
from dispose_jax.training.losses import video
from dispose_jax.training.losses.video import VideoLoss
from dispose_jax.types import Batch, Conditioning
from tests.training import light

CLIPS, FRAMES = 3, 4


@dataclass(frozen=True)
class Knows:
    """A model of clips whose clean latents are zero, so that what is seen tells the target: its
    output is that and an error."""

    error: float = 0.0
    schedule: Ddim = Ddim()
    seen: list = field(default_factory=list)
    generates_reference = False

    def encode(self, params, frames):
        return jnp.zeros((*frames.shape[:2], 2, 2, 8))

    def latents(self, posterior, key):
        return jnp.zeros((*posterior.shape[:-1], 4))

    def condition_reference(self, params, reference, key):
        return Conditioning(context=jnp.ones((len(reference), 1, 1)))

    def condition_frames(self, params, skeletons, signals):
        return {}

    def unconditional(self, conditioning, drop):
        return conditioning

    def denoise(self, params, x, t, conditioning):
        self.seen.append((np.asarray(x), np.asarray(t)))
        alpha = self.schedule.alpha(t).reshape(-1, 1, 1, 1, 1)
        return jnp.sqrt(alpha) * x / jnp.sqrt(1 - alpha) + self.error


def loss_of(model, region=None, key=0, **train):
    base = light.config("base", "sd15", **train).train
    loss = VideoLoss(model, None, FrozenConfigDict(base.to_dict()))
    pictures = np.zeros((CLIPS, FRAMES, 8, 8, 3), np.uint8)
    fields = dict.fromkeys(("steps", "guides", "cells", "visible", "joints", "seen"))
    batch = Batch(frames=pictures, skeletons=pictures, region=region, **fields)
    return float(loss({}, batch, jax.random.key(key))[0])


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_true_velocity_of_the_driving_frames_has_no_loss(offset):
    model = Knows()
    assert loss_of(model, noise_offset=offset) < 1e-10
    x, t = model.seen[0]
    assert x.shape == (CLIPS, FRAMES - 1, 2, 2, 4), "the reference is not generated"
    assert ((t >= 0) & (t < 1000) & (t == np.round(t))).all()
    plain = Knows()
    loss_of(plain, noise_offset=0.0)
    shift = (x - plain.seen[0][0]) / np.sqrt(1 - model.schedule.alpha(t)).reshape(-1, 1, 1, 1, 1)
    np.testing.assert_allclose(shift, shift[:, :1, :1, :1] + 0 * shift, atol=1e-4)
    assert (abs(shift).max() > 0.05) == (offset > 0), "one number per clip and channel"


def test_an_error_weighs_by_the_clipped_signal_to_noise_ratio():
    model = Knows(error=0.3)
    found = loss_of(model)
    weights = prediction.min_snr_weight(model.schedule.alpha(model.seen[0][1]), "v")
    assert found == pytest.approx(0.09 * float(np.mean(weights)), rel=1e-4)
    assert len(np.unique(weights)) > 1


def test_a_region_is_that_of_the_driving_frames():
    region = np.zeros((CLIPS, FRAMES, 2, 2), np.float32)
    region[:, 0] = 100.0
    assert loss_of(Knows(error=0.3), region=region) == 0.0
    region[:, 1] = 3.0
    ones = loss_of(Knows(error=0.3))
    assert loss_of(Knows(error=0.3), region=region) == pytest.approx(ones, rel=1e-5)


def test_no_frame_is_skipped_where_the_reference_is_not_generated():
    error = np.linspace(0.1, 0.9, FRAMES - 1).reshape(1, -1, 1, 1, 1)
    assert loss_of(Knows(error=error), skip_reference=True) == loss_of(Knows(error=error))


def test_dropping_latents_of_a_reference_that_no_frame_has_is_refused():
    with pytest.raises(ValueError, match="'svd_xtend'.*this base has none: use 'joint'"):
        loss_of(Knows(), dropout="svd_xtend")


def test_noise_levels_of_the_other_base_are_refused():
    config = light.config("base", "sd15", sigmas="lognormal")
    with pytest.raises(ValueError, match="'lognormal', which are no noise levels.*'times'"):
        objectives.build(config, networks.build(config, training=True))


def test_times_of_training_are_whole_and_cover_the_schedule():
    train = light.config("base", "sd15").train
    times = np.asarray(video.noise_levels(train, jax.random.key(0), 2000))
    assert times.dtype == np.float32 and (times == np.round(times)).all()
    assert 0 <= times.min() < 10 and 990 <= times.max() < 1000
    assert abs(times.mean() - 499.5) < 25


@pytest.fixture(scope="module")
def full():
    made = light.run("full", "sd15")
    made.batch = light.batch(made.config)
    return made


def test_gradients_reach_the_zero_heads_first_and_then_every_control_network(full):
    loss = lambda p: full.loss(light.everything(full, p), full.batch, jax.random.key(7))[0]
    compiled = light.quick(jax.grad(loss), full.params)
    flat = lambda tree: traverse_util.flatten_dict(jax.device_get(tree), sep="/")
    first = flat(compiled(full.params))
    reached = {name for name, leaf in first.items() if np.any(leaf)}
    heads = {n for n in first if "controlnet_down_blocks" in n or "controlnet_mid_block" in n}
    assert reached and reached == heads

    moved = jax.tree.map(lambda p, g: p - 0.1 * np.sign(g), full.params, compiled(full.params))
    second = flat(compiled(moved))
    reached = {name.split("/")[0] for name, leaf in second.items() if np.any(leaf)}
    assert reached == {"controlnet", "motion_encoder", "point_encoder"}


def test_single_frames_learn_as_if_there_were_no_motion_modules():
    config = light.config("base", "sd15", spatial_only=True)
    assert "motion_modules" not in networks.build(config, training=True)
    assert "motion_modules" in networks.build(config)
    made = light.run("base", "sd15", trainable=("unet", "reference"), spatial_only=True)
    batch = light.batch(made.config)
    alone = light.denoised(made, made.params, batch)
    whole = light.run("base", "sd15", trainable=("motion_modules",))  # begin as the identity
    same = light.denoised(whole, whole.params | made.params, batch)
    np.testing.assert_allclose(same, alone, atol=1e-5 * np.abs(alone).max())


class Watched:
    """A model that notes how the latents lie that its U-Net gets."""

    def __init__(self, model, seen):
        self.model, self.seen = model, seen

    def __getattr__(self, name):
        return getattr(self.model, name)

    def denoise(self, params, x, t, conditioning):
        for leaf in (x, conditioning.pose_features):
            note = lambda found, shape=leaf.shape: self.seen.append(found.shard_shape(shape)[:2])
            jax.debug.inspect_array_sharding(leaf, callback=note)
        return self.model.denoise(params, x, t, conditioning)


@pytest.mark.parametrize("of", [jax.jit, pytest.param(jax.value_and_grad, marks=pytest.mark.full)])
def test_generated_frames_are_shared_out_though_a_batch_has_the_reference_too(of):
    """3 frames in a batch, of which 2 are generated, on a mesh that has 2 devices for them."""
    made = light.run("base", "sd15")
    batch, key = light.batch(made.config), jax.random.key(7)
    value = lambda loss: of(
        lambda params, batch: loss(light.everything(made, params), batch, key)[0]
    )
    expected = light.quick(value(made.loss), made.params, batch)(made.params, batch)

    kinds, some = (AxisType.Auto,) * 3, jax.devices()[:4]
    mesh = jax.make_mesh((2, 1, 2), sharding.AXES, axis_types=kinds, devices=some)
    seen = []
    share = sharding.share_frames(mesh)
    loss = replace(made.loss, model=Watched(made.loss.model, seen), share=share)
    placed = sharding.place_batch(mesh, batch, light.B, light.F)
    assert placed.frames.addressable_shards[0].data.shape[:2] == (1, 3)
    params = sharding.place(made.params, sharding.of_tree(mesh, made.params, smallest=0.0))
    found = light.quick(value(loss), params, placed)(params, placed)
    assert seen == [(1, 1)] * 2, "a clip and a frame on each device"
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(y).max())
    jax.tree.map(close, jax.device_get(found), jax.device_get(expected))


@pytest.mark.parametrize(
    "base, stage, frames, devices, fits",
    [
        ("sd15", "dispose", 17, 4, True),
        ("sd15", "dispose", 17, 17, False),
        ("sd15", "dispose", 16, 2, False),
        ("sd15", "vae", 16, 2, True),
        ("svd", "dispose", 16, 4, True),
        ("svd", "dispose", 17, 2, False),
    ],
)
def test_the_frames_that_are_generated_have_to_divide(base, stage, frames, devices, fits):
    config = {"svd": svd, "sd15": sd15}[base].get_config(f"size=tiny,stage={stage}")
    config.train.update({"frames": frames, "batch": 1})
    check = partial(sharding.check_shares, config, (1, 1, devices))
    if fits:
        return check()
    with pytest.raises(ValueError, match=f"frames is {frames}.*: not a multiple of .*, {devices}"):
        check()
