"""What a program is compiled for, as the arrays in it tell while it is traced.

The devices are those of the mesh on which an array lies, which JAX carries in its type; they need
not exist in this process.
"""

from __future__ import annotations

import jax
from jax.sharding import AbstractMesh

Array = jax.Array


def target(x: Array) -> tuple[str, str]:
    """Platform ("cpu", "gpu", "tpu") and kind of the devices that compute with x.

    The kind is "" for the default devices of this process, which compute what lies on no mesh.
    """
    device = mesh_of(x).abstract_device
    if device is None:
        return jax.default_backend(), ""
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform), device.device_kind


def mesh_of(x: Array) -> AbstractMesh:
    """The mesh that x lies on, also while traced; one without axes if it lies on none."""
    mesh = jax.typeof(x).sharding.mesh
    return jax.sharding.get_abstract_mesh() if mesh.empty else mesh
