"""benchmarks.use_of_signals measures what it says, on a model whose error is known."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import use_of_signals
from configs import svd
from dispose_jax.diffusion.samplers import Ddim
from dispose_jax.evaluation.ablation import clips
from dispose_jax.types import Conditioning, ControlSignals

F, SIDE = 3, 64
LEVELS = jnp.array([100, 700])


@dataclass(frozen=True)
class Follows:
    """A model of latents that are zero, so that what it sees tells the target; it errs by the first
    component of the dense field at each latent."""

    schedule: Ddim = Ddim()
    generates_reference = False

    def encode(self, params, frames):
        return jnp.zeros((*frames.shape[:2], SIDE // 8, SIDE // 8, 8))

    def latents(self, posterior, key):
        return posterior[..., :4]

    def condition_reference(self, params, reference, key):
        return Conditioning(context=jnp.ones((len(reference), 1, 1)))

    def condition_frames(self, params, skeletons, signals):
        return {"motion": signals.dense_flow[:, :, ::8, ::8, :1]}

    def denoise(self, params, x, t, conditioning):
        alpha = self.schedule.alpha(t).reshape(-1, 1, 1, 1, 1)
        return jnp.sqrt(alpha) * x / jnp.sqrt(1 - alpha) + conditioning.motion


@pytest.fixture(scope="module")
def clip():
    return clips.draw(svd.get_config("size=tiny"), 1, F)["same"][0]


def signals(flow: np.ndarray) -> ControlSignals:
    """flow (f, h, w) of the first component."""
    dense = jnp.stack([flow, 0 * flow], -1)[None]
    none = jnp.zeros((1, F, 18, 2), int)
    return ControlSignals(dense, dense, none, none[..., 0] > 0, jnp.zeros((1, 18, 4)))


def test_the_loss_is_the_error_inside_the_figure(clip):
    told = use_of_signals.inputs(clip, clip)
    inside = told["share"].repeat(8, 1).repeat(8, 2)
    loss = lambda flow: use_of_signals.losses(
        Follows(), {}, told, signals(flow), LEVELS, jax.random.key(0)
    )
    weight = Ddim().weight(LEVELS)
    np.testing.assert_allclose(loss(np.full(inside.shape, 0.5)), 0.25 * weight, rtol=1e-4)
    np.testing.assert_allclose(loss(np.where(inside > 0, 0, 3.0)), 0, atol=1e-6)
    assert told["share"][0].max() == 0 < told["share"][1:].max() <= 1  # none of the reference


def test_bases_are_given_less_than_the_signals_are_made_of(clip):
    config = svd.get_config("size=tiny")
    thin = use_of_signals.thinned(clip, config.skeleton)
    drawn = lambda one: (one.skeletons > 0).any(-1)
    assert 0.3 < drawn(thin).sum() / drawn(clip).sum() < 0.8
    assert (drawn(thin) & ~drawn(clip)).sum() == 0
    soft = use_of_signals.blurred(clip, config.skeleton)
    assert np.abs(soft.reference.mean((0, 1)) - clip.reference.mean((0, 1))).max() < 3
    assert soft.reference.std() < 0.95 * clip.reference.std()
    for changed in (thin, soft):
        assert changed.pose is clip.pose and changed.truth is clip.truth


def test_the_table_has_the_rise_over_the_full_model():
    rng = np.random.default_rng(0)
    loss = rng.random(20)
    columns = (use_of_signals.BASE, *use_of_signals.SPOILT)
    row = {name: loss + 1e-3 * i for i, name in enumerate(columns)}
    head, _, line = use_of_signals.table({"all": row | {use_of_signals.FULL: loss}})
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == head.count("|") - 1
    assert cells[:3] == ["all", f"{loss.mean():.4f}", "+0.0 (+0.0 to +0.0)"]
    assert cells[3] == "+10.0 (+10.0 to +10.0)"
