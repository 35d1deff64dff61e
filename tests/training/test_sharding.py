"""Which array lies where, which meshes are refused, and that no mesh changes a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from dispose_jax.models.control_path import map_frames
from dispose_jax.networks.pose_encoder import PoseNet
from dispose_jax.training import sharding
from tests.training import toy

EVERYTHING = 0.0  # MiB: no tensor is too small to be shared out


def mesh(data=0, fsdp=1, frames=1, train=()):
    config = toy.config(**dict(train))
    config.train.mesh.update({"data": data, "fsdp": fsdp, "frames": frames})
    return sharding.make_mesh(config)


def test_all_devices_share_out_the_clips_unless_told_otherwise():
    assert dict(mesh().shape) == {"data": 8, "fsdp": 1, "frames": 1}
    assert dict(mesh(fsdp=2, frames=2).shape) == {"data": 2, "fsdp": 2, "frames": 2}
    assert dict(mesh(1, 8).shape) == {"data": 1, "fsdp": 8, "frames": 1}


@pytest.mark.parametrize(
    "axes, train, message",
    [
        ((3, 1, 1), {}, "data=3, fsdp=1, frames=1: 3 devices, there are 8; set"),
        ((0, 3, 1), {}, "data=2, fsdp=3, frames=1: 6 devices, there are 8"),
        ((0, 16, 1), {}, "data=1, fsdp=16, frames=1: 16 devices, there are 8"),
        ((0, 1, 1), {"batch": 12}, "batch is 12: .* 8 x 1 shares .* choose a multiple of 8"),
        ((2, 4, 1), {"accumulate": 2}, "batch is 8: .* choose a multiple of 16"),
        ((2, 1, 4), {"frames": 6}, "frames is 6: not a multiple of train.mesh.frames, 4"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_with_the_numbers(axes, train, message):
    with pytest.raises(ValueError, match=message):
        mesh(*axes, train)


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((3, 3, 16, 32), PartitionSpec(None, None, None, "fsdp")),  # the largest axis
        ((64, 32), PartitionSpec("fsdp")),
        ((64, 9), PartitionSpec("fsdp")),
        ((9, 6), PartitionSpec()),  # no axis divides by four
        ((), PartitionSpec()),
    ],
)
def test_a_parameter_is_shared_out_along_its_largest_axis_that_divides(shape, expected):
    rule = sharding.of_parameter(mesh(2, 4), shape, 4, EVERYTHING)
    assert rule.is_equivalent_to(jax.sharding.NamedSharding(rule.mesh, expected), len(shape))


def test_small_parameters_are_whole_on_every_device():
    over, under = (512, 512), (511, 512)  # float32: one MiB, and just less
    rule = lambda shape: sharding.of_parameter(mesh(2, 4), shape, 4, 1.0).is_fully_replicated
    assert not rule(over) and rule(under)
    assert sharding.of_parameter(mesh(), over, 4, EVERYTHING).is_fully_replicated


def test_clips_are_shared_over_data_and_fsdp_and_frame_axes_over_frames():
    spec = lambda *shape: sharding.of_clips(mesh(2, 2, 2), shape, 4).spec
    assert spec(8, 4, 16, 16, 3) == PartitionSpec(("data", "fsdp"), "frames")
    assert spec(8, 1, 16, 16, 3) == spec(8) == PartitionSpec(("data", "fsdp"))


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)])
def test_what_is_placed_is_what_was_given(axes):
    where, rng = mesh(*axes), np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 16, 32)), "bias": rng.normal(size=5)}
    placed = sharding.place(params, sharding.of_tree(where, params, EVERYTHING))
    for name, value in params.items():
        np.testing.assert_array_equal(placed[name], value.astype(np.float32))
    kernel = placed["kernel"].addressable_shards[0].data
    assert kernel.shape == (3, 16, 32 // axes[1])
    batch = {"clip": rng.normal(size=(8, 4, 2)).astype(np.float32), "one": np.arange(8)}
    clips = sharding.place_batch(where, batch, 8, 4)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(clips), batch)
    shape = clips["clip"].addressable_shards[0].data.shape
    assert shape == (8 // (axes[0] * axes[1]), 4 // axes[2], 2)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_one_process_makes_all_clips(axes):
    assert sharding.rows(mesh(*axes), 16) == tuple(range(16))


def test_a_process_makes_the_clips_that_its_devices_work_on(monkeypatch):
    """As if devices 2, 3, 6, 7 were this process's: not neighbours in the mesh."""
    mine = set(np.array(jax.devices())[[2, 3, 6, 7]])
    whole = jax.sharding.NamedSharding.devices_indices_map
    held = lambda self, shape: {d: i for d, i in whole(self, shape).items() if d in mine}
    monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", held)
    assert sharding.rows(mesh(8), 16) == (4, 5, 6, 7, 12, 13, 14, 15)
    assert sharding.rows(mesh(2, 1, 4), 4) == (0, 1, 2, 3)  # frames of every clip


@pytest.fixture(scope="module")
def problem():
    """A pose encoder, and the gradient of its error on 8 clips of 4 frames without any mesh."""
    net, rng = PoseNet(8, (4, 4, 8, 8)), np.random.default_rng(0)
    clips = rng.normal(size=(8, 4, 32, 64, 3)).astype(np.float32)
    target = rng.normal(size=(8, 4, 4, 8, 8)).astype(np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), clips)["params"]
    params = jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes)

    def loss(params, clips, target, chunk):
        encode = lambda skeletons: net.apply({"params": params}, skeletons)
        return jnp.square(map_frames(encode, clips, chunk) - target).mean()

    expected = jax.device_get(jax.jit(jax.grad(loss), static_argnums=3)(params, clips, target, 9))
    return loss, params, (clips, target), expected


@pytest.mark.parametrize(
    "axes, chunk", [((8, 1, 1), 4), ((2, 4, 1), 2), ((2, 4, 1), 4), ((2, 2, 2), 3)]
)
def test_gradients_through_frames_in_chunks_are_the_same_on_every_mesh(problem, axes, chunk):
    """XLA's partitioner gave others where frames were a batch axis before the clips."""
    loss, params, batch, expected = problem
    where = mesh(*axes)
    layout = sharding.of_tree(where, params, EVERYTHING)
    arguments = sharding.place(params, layout), *sharding.place_batch(where, batch, 8, 4)
    gradient = jax.jit(jax.grad(loss), static_argnums=3, out_shardings=layout)(*arguments, chunk)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
    jax.tree.map(close, jax.device_get(gradient), expected)
