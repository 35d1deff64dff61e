"""CMP's objective on drawn people, and what the bundled small CMP has learnt from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import svd
from dispose_jax import inputs
from dispose_jax.inputs.sources import Sources
from dispose_jax.models import bundle, networks
from dispose_jax.motion import field, tracks
from dispose_jax.networks.cmp import CMP
from dispose_jax.networks.norms import BatchNorm
from dispose_jax.pose.detector import Detector
from dispose_jax.synthetic.batches import HELD_OUT, DrawnBatches
from dispose_jax.training.losses import cmp
from dispose_jax.training.losses.cmp import CompletionLoss
from tests import small
from tests.drawn import drawn
from tests.training import light

ASSETS = Path(__file__).parents[3] / "assets"
KEY = jax.random.key(1234)


@pytest.fixture(scope="module")
def config():
    return svd.get_config("size=tiny,stage=cmp")


@pytest.fixture(scope="module")
def batch(config):
    """People whom no training has seen."""
    return next(DrawnBatches(config, people=HELD_OUT))


@pytest.fixture(scope="module")
def task(config, batch):
    return jax.device_get(cmp.make_task(batch, config.motion.cmp_size, None))


def test_joints_guide_with_the_flow_under_them(task):
    assert 6 < task.guided.sum((1, 2)).mean() <= 18
    assert not task.guidance[~task.guided].any()
    on_person = task.guided & task.figure
    error = np.linalg.norm(task.guidance - task.flow, axis=-1)[on_person]
    # A joint sits between pixels, and some are behind something that moves otherwise.
    assert np.median(error) < 0.5


def test_flows_of_one_picture_are_side_by_side(batch, task):
    frames = batch.flow.shape[1] - 1
    assert task.frames == frames > 1
    for clip in (0, len(batch.flow) - 1):
        for frame in range(frames):
            np.testing.assert_array_equal(
                task.flow[clip * frames + frame], batch.flow[clip, frame + 1]
            )
        np.testing.assert_allclose(task.image[clip], batch.frames[clip, 0] / 127.5 - 1, atol=1e-6)
        np.testing.assert_array_equal(task.figure[clip * frames], batch.figure[clip, 0])


def test_pixels_guide_some_clips_with_the_exact_flow(config, batch, task, monkeypatch):
    monkeypatch.setattr(cmp, "JOINT_DROPPED", 0.0)
    monkeypatch.setattr(cmp, "JOINT_NOISE", 0.0)
    more = jax.device_get(cmp.make_task(batch, config.motion.cmp_size, KEY))
    added = more.guided & ~task.guided
    counts = added.reshape(len(batch.flow), -1).sum(1)
    assert counts.max() > 5 and (counts == 0).any(), "in some clips, not in all"
    np.testing.assert_array_equal(more.guidance[added], task.flow[added])
    np.testing.assert_array_equal(more.guidance[task.guided], task.guidance[task.guided])


def test_joints_are_dropped_and_displaced_in_training_alone(config, batch, task, monkeypatch):
    monkeypatch.setattr(cmp, "POINTS", 0.0)
    noisy = jax.device_get(cmp.make_task(batch, config.motion.cmp_size, KEY))
    assert not (noisy.guided & ~task.guided).any()
    kept = noisy.guided.sum() / task.guided.sum()
    assert kept == pytest.approx(1 - cmp.JOINT_DROPPED, abs=0.06)
    displaced = (noisy.guidance - task.guidance)[noisy.guided]
    assert displaced.std() == pytest.approx(cmp.JOINT_NOISE, rel=0.15)


@dataclass(frozen=True)
class Answer:
    """Stands for CMP: scores of its own choice at half the side."""

    scores: object  # () -> (n, side/2, side/2, 2 bins)
    bins: int
    fmax: float

    def apply(self, _, *inputs, method):
        return inputs[0] if method is CMP.encode_image else self.scores()


def loss_of(config, batch, scores, bins=8, fmax=40.0, figure_weight=3.0):
    cmp = Answer(scores, bins, fmax)
    loss = CompletionLoss(cmp, config.motion.cmp_size, figure_weight)
    return loss({"cmp": {}}, batch, KEY)


def test_ignorance_costs_the_logarithm_of_the_bins_and_the_length_of_the_flow(config, batch, task):
    n, side = len(task.flow), config.motion.cmp_size
    value, parts = loss_of(config, batch, lambda: jnp.zeros((n, side // 2, side // 2, 16)))
    assert float(parts["entropy"]) == pytest.approx(2 * np.log(8), rel=1e-5)
    # Truth is read where scores are: the corners of both grids lie on each other.
    at = np.rint(np.linspace(0, side - 1, side // 2)).astype(int)
    flow, figure = task.flow[:, at[:, None], at], task.figure[:, at[:, None], at]
    weight = np.where(figure, 3.0, 1.0)
    length = (weight * np.abs(flow).sum(-1)).sum() / weight.sum()
    assert float(parts["distance"]) == pytest.approx(length, rel=1e-4)
    total = parts["entropy"] + cmp.DISTANCE_WEIGHT * parts["distance"]
    assert float(value) == pytest.approx(float(total), rel=1e-6)


def test_the_bin_of_the_true_flow_costs_nothing_and_any_other_much(config, batch, task):
    side, bins, fmax = config.motion.cmp_size, 8, 40.0
    at = np.rint(np.linspace(0, side - 1, side // 2)).astype(int)
    borders = np.linspace(-fmax, fmax, bins + 1)
    true = np.digitize(np.clip(task.flow[:, at[:, None], at], -39.9, 39.9), borders) - 1
    scores = 60.0 * (true[..., None] == np.arange(bins)).reshape(*true.shape[:-1], 2 * bins)
    _, parts = loss_of(config, batch, lambda: jnp.asarray(scores, jnp.float32))
    assert float(parts["entropy"]) < 1e-6
    assert float(parts["distance"]) < 2 * fmax / bins  # half a bin each way, x and y
    _, parts = loss_of(config, batch, lambda: jnp.asarray(-scores, jnp.float32))
    assert float(parts["entropy"]) > 100


def test_training_norms_use_the_batch_and_report_what_they_used():
    x = jax.random.normal(KEY, (2, 3, 4, 5)) * 3 + 7
    params = {"scale": jnp.full(5, 2.0), "bias": jnp.ones(5), "mean": jnp.zeros(5)}
    params["var"] = jnp.ones(5)
    seen = {}
    with cmp.batch_norms(seen):
        y = BatchNorm().apply({"params": params}, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 2, rtol=1e-4)
    (averages,) = seen.values()
    np.testing.assert_allclose(BatchNorm().apply({"params": params | averages}, x), y, atol=1e-5)


@pytest.mark.full
def test_with_stored_averages_cmp_answers_as_it_did_in_training(config, batch):
    network = networks.build(small.config("full"))["cmp"].module
    square = jnp.zeros((1, 64, 64, 3))
    params = drawn(network, square, square[..., :2], square[..., 0])
    some = jax.tree.map(lambda x: x[:2], batch)
    loss = CompletionLoss(network, config.motion.cmp_size, 1.0)
    averaged = cmp.with_averages(loss, params, [some])
    task = cmp.make_task(some, loss.side, jax.random.key(0))

    def training(params, task):
        with cmp.batch_norms({}):
            return cmp.logits(network, params, task)

    expected = light.quick(training, params, task)(params, task)
    found = light.quick(partial(cmp.logits, network), params, task)
    np.testing.assert_allclose(found(averaged, task), expected, atol=1e-3 * float(expected.std()))
    assert np.abs(found(params, task) - expected).max() > 0.1


@pytest.fixture(scope="module")
def bundled(config):
    """The network and the bundled weights, each tensor as large as the config says."""
    built = networks.build(config)["cmp"]
    belongs = {"model": config.model, "quirks": config.quirks}
    folder = ASSETS / svd.get_config("size=small").bundled[0]
    params = bundle.load([folder], {"cmp": built.shapes}, **belongs, verify=True)["cmp"]
    return built.module, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def test_the_bundled_cmp_moves_the_person_and_leaves_the_background(config, bundled, batch):
    found = cmp.errors(bundled[0], config.motion.cmp_size, bundled[1], batch)
    found = {name: float(x) for name, x in found.items()}
    assert found["CMP, person"] < 0.8 * found["zero flow, person"]
    assert found["CMP, background"] < 0.1 * found["zero flow, person"]


def test_the_demo_figure_moves_with_its_joints_before_a_still_wall(config, bundled):
    network, params = bundled
    names = ("reference.png", "reference.poses.json", None, "driving.poses.json")
    sources = Sources(*(name and ASSETS / name for name in names))
    config.sample.max_frames = 8
    clip = inputs.prepare(sources, config.sample, config.skeleton, Detector(None, lambda _: None))
    side = config.motion.cmp_size
    guides = tracks.from_reference(clip.pose, clip.reference.shape[:2], side, "drop")
    picture = jnp.asarray(clip.reference, jnp.float32) / 127.5 - 1
    flow = np.asarray(field.dense(network, params, picture, guides, side))[1:]
    scale = np.array(clip.reference.shape[1::-1]) / side  # of CMP's square to the picture
    valid = guides.valid[1:]
    columns, rows = np.moveaxis((guides.pixels[1] * scale).astype(int), -1, 0)
    wanted, found = guides.vectors[1:] * scale, flow[:, rows, columns]
    size = np.linalg.norm(wanted, axis=-1)
    along = (wanted * found).sum(-1)
    far = valid & (size > 0.06 * side)
    # Long motions come out short (assets/README.md), but where the joint goes.
    assert far.sum() > 10 and (along > 0)[far].mean() > 0.9
    height, width = clip.reference.shape[:2]
    wall = np.linalg.norm(flow[:, : height // 2, : width // 6], axis=-1)
    assert wall.mean() < 0.03 * size[valid].mean()


def test_the_nearest_joint_s_flow_is_that_of_the_closest_guided_pixel():
    side = 8
    guided = np.zeros((1, side, side), bool)
    guidance = np.zeros((1, side, side, 2), np.float32)
    for row, column, vector in ((1, 1, (3, 0)), (6, 6, (0, -2))):
        guided[0, row, column], guidance[0, row, column] = True, vector
    empty = np.zeros((1, side, side, 2), np.float32)
    made = cmp.Task(empty[..., :1], guidance, guided, empty, guided)
    found = np.asarray(cmp.nearest_joint(jax.tree.map(jnp.asarray, made)))[0]
    rows, columns = np.mgrid[:side, :side]
    first = (rows - 1) ** 2 + (columns - 1) ** 2 < (rows - 6) ** 2 + (columns - 6) ** 2
    second = (rows - 1) ** 2 + (columns - 1) ** 2 > (rows - 6) ** 2 + (columns - 6) ** 2
    assert (found[first] == (3, 0)).all() and (found[second] == (0, -2)).all()
