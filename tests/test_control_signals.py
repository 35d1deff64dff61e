"""Control signals of a clip: what moves them, and what a recipe leaves out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from dispose_jax import control_signals
from dispose_jax.correspondence import dift, keypoints
from dispose_jax.models import networks
from tests import small

F = 4
KNEE = 9


@cache
def recipe() -> tuple[control_signals.Recipe, dict]:
    """The small configuration's recipe and random weights for it."""
    made = small.build("full")
    module = lambda name: made.networks[name].module
    sizes, numbers = made.config.model.dift, made.config.dift
    features = dift.Dift(
        vae=module("dift_vae"),
        unet=module("dift_unet"),
        text_encoder=module("dift_text_encoder"),
        tokens=dift.token_ids(numbers.prompt),
        timestep=numbers.timestep,
        up_block=numbers.up_block,
        ensemble=numbers.ensemble,
        chunk=numbers.ensemble,
        latent_scale=sizes.scale,
    )
    both = control_signals.Recipe(module("cmp"), features, 9, 2.0, 64, "released", chunk=2)
    parts = {name: made.networks[name] for name in both.networks}
    return both, networks.random(parts, seed=1)


def signals(pose, changed=None, key=0):
    both, params = recipe()
    reference = small.pictures(1)[0]
    made = control_signals.for_sampling(changed or both, params, reference, pose, small.key(key))
    return jax.device_get(made)


@pytest.fixture(scope="module")
def made():
    return signals(small.pose(F))


def test_every_signal_has_a_frame_for_the_reference_that_does_not_move(made):
    assert made.sparse_flow.shape == made.dense_flow.shape == (1, F, *small.SIZE, 2)
    assert not made.sparse_flow[:, 0].any() and not made.dense_flow[:, 0].any()
    assert made.sparse_flow[:, 1:].any((0, 2, 3, 4)).all()
    assert made.dense_flow[:, 1:].any((0, 2, 3, 4)).all()
    cells, visible = keypoints.cells(small.pose(F), small.SIZE)
    np.testing.assert_array_equal(made.cells, cells[None])
    np.testing.assert_array_equal(made.visible, visible[None])
    hidden = ~small.pose(F).visible[0, 0]
    assert made.point_features.shape == (1, 18, 8)
    np.testing.assert_array_equal((made.point_features[0] == 0).all(-1), hidden)


def test_a_moved_joint_changes_the_frames_it_moves_in(made):
    pose = small.pose(F)
    body = pose.body.copy()
    body[2, 0, KNEE] += [0.0, 0.1]  # frame 2 only, downwards
    moved = signals(pose.replace(body=body))
    changed = lambda name: (getattr(moved, name) != getattr(made, name)).any((0, 2, 3, 4))
    np.testing.assert_array_equal(changed("sparse_flow"), [False, False, True, True])
    np.testing.assert_array_equal(changed("dense_flow"), [False, False, True, False])
    # A filter of sum 1 spreads a step, so the field's sum tells how far the joint went.
    more = (moved.sparse_flow - made.sparse_flow)[0].sum((1, 2))
    pixels = 0.1 * small.SIZE[0]
    np.testing.assert_allclose(more[2], [0, pixels], atol=1e-3)
    np.testing.assert_allclose(more[3], [0, -pixels], atol=1e-3)
    np.testing.assert_array_equal(moved.point_features, made.point_features)


def test_frames_completed_at_a_time_do_not_matter(made):
    both, _ = recipe()
    alone = replace(both, dift=None, chunk=1)
    np.testing.assert_allclose(signals(small.pose(F), alone).dense_flow, made.dense_flow, atol=1e-4)


def test_a_recipe_makes_what_it_has_networks_for(made):
    both, _ = recipe()
    assert both.networks == ("cmp", "dift_vae", "dift_unet", "dift_text_encoder")
    bare = replace(both, cmp=None, dift=None)
    assert bare.networks == ()
    plain = signals(small.pose(F), bare)
    assert plain.dense_flow is None and plain.point_features is None
    np.testing.assert_array_equal(plain.sparse_flow, made.sparse_flow)
    np.testing.assert_array_equal(plain.cells, made.cells)


def test_the_key_draws_the_noise_of_the_features_and_nothing_else(made):
    other = signals(small.pose(F), key=1)
    assert np.abs(other.point_features - made.point_features).max() > 1e-3
    same = replace(other, point_features=made.point_features)
    jax.tree.map(np.testing.assert_array_equal, same, made)
    jax.tree.map(np.testing.assert_array_equal, signals(small.pose(F)), made)
