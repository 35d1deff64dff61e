"""Where arrays of a training run live: one mesh, and a rule each for clips and for parameters.

Axes of the mesh: "data" shares out clips, "fsdp" shares out clips and parameters, "frames" shares
out the frames of a clip. One device is the mesh (1, 1, 1); nothing else knows how many there are.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dispose_jax.counting import counted

AXES = ("data", "fsdp", "frames")
_CLIPS = ("data", "fsdp")


def make_mesh(config) -> Mesh:
    """The mesh of `config.train.mesh` over all devices of all processes; data 0 takes what is left.

    Raises ValueError if the devices do not divide into it, or a batch or clip not over it.
    """
    count = jax.device_count()
    data, fsdp, frames = sizes = mesh_shape(config.train, count)
    shape = f"data={data}, fsdp={fsdp}, frames={frames}"
    if data * fsdp * frames != count:
        raise ValueError(
            f"train.mesh is {shape}: {counted(data * fsdp * frames, 'device')}, there are {count}; "
            "set --config.train.mesh.data, .fsdp and .frames so that their product is that"
        )
    check_shares(config, sizes)
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_shape(train, count: int) -> tuple[int, int, int]:
    """Devices over data, fsdp and frames as `config.train` wants them, given so many devices."""
    mesh = train.mesh
    return mesh.data or max(1, count // (mesh.fsdp * mesh.frames)), mesh.fsdp, mesh.frames


def check_shares(config, sizes: tuple[int, int, int]) -> None:
    """Raise ValueError if a batch or a clip does not divide over a mesh of these sizes.

    Of a clip the frames that are generated have to: on SD1.5 all but the reference.
    """
    train, (data, fsdp, frames) = config.train, sizes
    parts = data * fsdp * train.accumulate
    if train.batch % parts:
        raise ValueError(
            f"train.batch is {train.batch}: it does not divide into {data} x {fsdp} shares of the "
            f"mesh (data x fsdp) times {train.accumulate} parts (train.accumulate); choose a "
            f"multiple of {parts}"
        )
    has_reference = config.base == "sd15" and train.objective == "video"
    shared = train.frames - 1 if has_reference else train.frames
    if shared % frames:
        besides = f", of which {shared} are generated" if has_reference else ""
        raise ValueError(
            f"train.frames is {train.frames}{besides}: not a multiple of train.mesh.frames, "
            f"{frames}"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_clips(mesh: Mesh, shape: tuple[int, ...], num_frames: int) -> NamedSharding:
    """Sharding of a batch's leaf (b, ...): clips over data and fsdp, a frame axis over frames, if
    it divides."""
    framed = len(shape) > 1 and shape[1] == num_frames and num_frames % mesh.shape["frames"] == 0
    return NamedSharding(mesh, PartitionSpec(_CLIPS, *("frames",) * framed))


def share_frames(mesh: Mesh) -> Callable:
    """A function for programs over the mesh: leaves (b, f, ..) of a tree are shared out as those of
    a batch are, b where it divides.

    For clips whose reference is not generated: with it their frames need not divide, so that such
    batches come whole, and are shared out from here on.
    """
    frames, clips = mesh.shape["frames"], mesh.shape["data"] * mesh.shape["fsdp"]

    def place(x):
        if len(x) % clips or x.shape[1] % frames:
            return x
        return jax.lax.with_sharding_constraint(x, of_clips(mesh, x.shape, x.shape[1]))

    return lambda tree: tree if frames == 1 else jax.tree.map(place, tree)


def of_parameter(mesh: Mesh, shape: tuple[int, ...], itemsize: int, smallest: float):
    """Sharding of a tensor: its largest axis that divides over fsdp; small ones are replicated.

    smallest: MiB below which a tensor is small.
    """
    count = mesh.shape["fsdp"]
    axes = [i for i, length in enumerate(shape) if length % count == 0]
    if count == 1 or not axes or np.prod(shape) * itemsize < smallest * 2**20:
        return replicated(mesh)
    largest = max(axes, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*(None,) * largest, "fsdp"))


def of_tree(mesh: Mesh, tree, smallest: float):
    """The sharding of every leaf of a tree of parameters, optimizer state or shapes of them."""
    rule = lambda x: of_parameter(mesh, x.shape, x.dtype.itemsize, smallest)
    return jax.tree.map(rule, tree)


def place(tree, shardings, dtype=None):
    """Put host arrays, the same in every process, on their devices, cast to dtype if given.

    One tensor at a time, and of it what each device holds: views of mapped files are read then.
    """

    def put(x, sharding):
        part = lambda index: np.asarray(x[index], dtype)
        return jax.make_array_from_callback(x.shape, sharding, part)

    return jax.tree.map(put, tree, shardings)


def rows(mesh: Mesh, clips: int) -> tuple[int, ...]:
    """Which clips of a batch of so many this process's devices work on, in ascending order.

    Neighbouring devices of a mesh need not belong to one process, and the frames of a clip may be
    shared out over several processes, each of which then makes that clip.
    """
    sharding = NamedSharding(mesh, PartitionSpec(_CLIPS))
    indices = sharding.addressable_devices_indices_map((clips,)).values()
    return tuple(sorted({i for (part,) in indices for i in range(*part.indices(clips))}))


def place_batch(mesh: Mesh, batch, clips: int, num_frames: int):
    """Put this process's clips, those of `rows`, on their devices, as part of all clips."""

    def put(x):
        x = np.asarray(x)
        sharding = of_clips(mesh, x.shape, num_frames)
        return jax.make_array_from_process_local_data(sharding, x, (clips, *x.shape[1:]))

    return jax.tree.map(put, batch)
