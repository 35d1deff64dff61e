"""Pictures of the progress: what sampling would give, of networks that lie in shares on a mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dispose_jax import sampling
from dispose_jax.models import networks
from dispose_jax.training import objectives, previews, sharding
from tests import small
from tests.training import light

FRAMES = 4


def in_shares(params):
    """Parameters on a mesh that shares them out over two devices, and the mesh's whole arrays."""
    kinds, some = (AxisType.Auto,) * 3, jax.devices()[:2]
    mesh = jax.make_mesh((1, 2, 1), sharding.AXES, axis_types=kinds, devices=some)
    shares = sharding.place(params, sharding.of_tree(mesh, params, smallest=0.0))
    split = [x for x in jax.tree.leaves(shares) if not x.is_fully_replicated]
    assert len(split) > 50
    return shares, NamedSharding(mesh, PartitionSpec())


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_a_clip_is_sampled_as_the_command_does_with_networks_in_shares(base):
    quirks = {"time_context_order": "per_clip"} if base == "svd" else {}
    made = small.build("base", base=base, **quirks)
    model, params, sample = made.model, made.params, made.config.sample
    sample.steps = 2
    alone = jax.devices()[:1]
    reference, *skeletons = small.pictures(1 + FRAMES)
    pictures = reference, np.stack(skeletons)
    conditioning = sampling.condition(model, params, *pictures, None, small.key(0), devices=alone)
    noise = sampling.initial_noise(model, small.key(1), FRAMES, small.LATENTS, FRAMES)
    sampler = sampling.Sampler(2, noise.shape[1], 0, sample.guidance_scale)
    expected = sampling.sample(model, params, conditioning, noise, sampler, devices=alone)

    shares, whole = in_shares(params)
    found = previews.denoised(model, sample, shares, conditioning, noise, whole)
    assert found.shape == noise.shape and not np.allclose(found, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["base", pytest.param("full", marks=pytest.mark.full)])
def test_a_sheet_has_a_row_of_every_frame_that_was_made(variant):
    config = light.config(variant)
    config.sample.update({"steps": 1, "decode_chunk": 2})
    built = networks.build(config, training=True)
    objective = objectives.build(config, built)
    params = networks.random({name: built[name] for name in objective.networks}, seed=1)
    shares, whole = in_shares(params)
    sheet = objective.show(shares, light.batch(config), jax.random.key(0), whole)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    height = 128 * (light.F - 1)  # rows of pictures 256 wide, twice as wide as they are high
    assert height < sheet.shape[0] < height + 200
