"""The small CMP that comes with the demo: its training data, and what it has learnt."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from assets import train_cmp
from configs import svd
from dispose_jax.data import inputs
from dispose_jax.models import bundle, networks
from dispose_jax.motion import field, tracks
from dispose_jax.networks.layers import BatchNorm

ASSETS = Path(__file__).parents[1] / "assets"
KEY = jax.random.key(1234)  # training and its own test draw from other keys


@pytest.fixture(scope="module")
def config():
    return svd.get_config("size=tiny")


@pytest.fixture(scope="module")
def cmp(config):
    """The network and the bundled weights, each tensor as large as the config says."""
    built = networks.build(config)["cmp"]
    belongs = {"model": config.model, "quirks": config.quirks}
    folder = ASSETS / config.bundled
    params = bundle.load([folder], {"cmp": built.shapes}, **belongs, verify=True)["cmp"]
    return built.module, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


@pytest.fixture(scope="module")
def batch(config):
    return train_cmp.make_batch(KEY, config.motion.cmp_size, 0.0)


def test_joints_guide_with_the_flow_under_them(batch):
    guided = np.asarray(batch.guided)
    assert 6 < guided.sum((1, 2)).mean() <= 18
    assert not np.asarray(batch.guidance)[~guided].any()
    on_person = guided & np.asarray(batch.mask)
    error = np.linalg.norm(batch.guidance - batch.flow, axis=-1)[on_person]
    # Joints are as inexact as a detector's, and some are behind something that moves otherwise.
    assert 0.2 < np.median(error) < 1.5


def test_points_guide_with_the_exact_flow(config, batch):
    more = train_cmp.make_batch(KEY, config.motion.cmp_size, 1.0)
    np.testing.assert_array_equal(more.flow, batch.flow)
    added = np.asarray(more.guided & ~batch.guided)
    assert added.sum((1, 2)).max() > 20
    np.testing.assert_array_equal(more.guidance[added], more.flow[added])
    joints = np.asarray(batch.guided)
    np.testing.assert_array_equal(more.guidance[joints], batch.guidance[joints])


def test_training_norms_use_the_batch_and_report_what_they_used():
    x = jax.random.normal(KEY, (2, 3, 4, 5)) * 3 + 7
    params = {"scale": jnp.full(5, 2.0), "bias": jnp.ones(5), "mean": jnp.zeros(5)}
    params["var"] = jnp.ones(5)
    seen = {}
    with train_cmp.batch_norms(seen):
        y = BatchNorm().apply({"params": params}, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 2, rtol=1e-4)
    (averages,) = seen.values()
    np.testing.assert_allclose(BatchNorm().apply({"params": params | averages}, x), y, atol=1e-5)


def test_the_bundled_cmp_moves_the_person_and_leaves_the_background(cmp, batch):
    network, params = cmp
    found = {name: float(x) for name, x in train_cmp.errors(network, params, batch).items()}
    assert found["CMP, person"] < 0.8 * found["zero flow, person"]
    assert found["CMP, background"] < 0.1 * found["zero flow, person"]


def test_the_demo_figure_moves_with_its_joints_before_a_still_wall(config, cmp):
    network, params = cmp
    names = ("reference.png", "reference.poses.json", None, "driving.poses.json")
    sources = inputs.Sources(*(name and ASSETS / name for name in names))
    config.sample.max_frames = 8
    clip = inputs.prepare(sources, config.sample, None, lambda _: None)
    side = config.motion.cmp_size
    guides = tracks.from_reference(clip.pose, clip.reference.shape[:2], side, "drop")
    picture = jnp.asarray(clip.reference, jnp.float32) / 127.5 - 1
    flow = np.asarray(field.dense(network, params, picture, guides, side))[1:]
    scale = np.array(clip.reference.shape[1::-1]) / side  # of CMP's square to the picture
    columns, rows = np.moveaxis((guides.pixels[1] * scale).astype(int), -1, 0)
    wanted, found = guides.vectors[1:] * scale, flow[:, rows, columns]
    size = np.linalg.norm(wanted, axis=-1)
    along = (wanted * found).sum(-1) / size
    # Long motions come out short (assets/README.md), but where the joint goes.
    assert (along > 0)[size > 4].mean() > 0.9
    height, width = clip.reference.shape[:2]
    wall = np.linalg.norm(flow[:, : height // 2, : width // 6], axis=-1)
    assert wall.mean() < 0.03 * size.mean()
