"""stage=pictures: the spatial layers of Stable Video Diffusion learn before there is time."""

from __future__ import annotations

import jax
import numpy as np
from flax import traverse_util

from configs import svd
from dispose_jax.models import networks
from dispose_jax.models.protocol import generated
from tests.training import light

TEMPORAL = ("temporal_", "time_mixer", "time_pos_embed")


def is_temporal(path: tuple[str, ...]) -> bool:
    return any(name.startswith(TEMPORAL) for name in path)


def test_pictures_move_all_spatial_layers_and_no_temporal_one():
    made = light.run("base", spatial_only=True)
    batch = light.batch(made.config)
    # Networks that start from nothing pass no gradient on; these are in the midst of learning.
    made.params = networks.random({"unet": made.networks["unet"]}, seed=4)
    step = light.steps(made, batch, 1)[0]
    before, after = (traverse_util.flatten_dict(tree) for tree in (step.params, step.after))
    moved = {path for path in before if np.any(before[path] != after[path])}
    assert not [path for path in moved if is_temporal(path)]
    left = {path for path in before if path not in moved and not is_temporal(path)}
    # A context of one vector is added, whatever the queries and keys of its attention are.
    assert all("attn2" in path or "norm2" in path for path in left), left


def test_what_pictures_teach_is_a_network_for_clips():
    config = light.config("base", spatial_only=True)
    learnt = networks.build(config, training=True)["unet"].shapes
    used = networks.build(config)["unet"].shapes
    assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape, learnt, used))


def test_every_picture_is_of_the_driven_person_and_none_sees_another():
    made = light.run("base", spatial_only=True)
    assert generated(made.loss.model, light.F) == light.F - 1
    batch = light.batch(made.config)
    assert made.loss.latents({"vae": {}}, batch, jax.random.key(0)).shape[1] == light.F - 1
    params = networks.random({"unet": made.networks["unet"]}, seed=4)
    first = light.denoised(made, params, batch)
    other = batch.skeletons.copy()
    other[:, -1] = 255 - other[:, -1]
    second = light.denoised(made, params, batch.replace(skeletons=other))
    np.testing.assert_array_equal(first[:, :-1], second[:, :-1])
    assert np.abs(first[:, -1] - second[:, -1]).max() > 1e-3


def test_the_stage_is_of_single_pictures_at_every_size():
    for size in ("full", "tiny", "small"):
        train = svd.get_config(f"size={size},stage=pictures").train
        assert train.spatial_only and train.frames == 2
        assert not svd.get_config(f"size={size},stage=base").train.spatial_only
