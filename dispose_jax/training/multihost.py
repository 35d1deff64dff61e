"""What the processes of one run do together; with a single process all of it is trivial.

Each process runs the same program on its own devices. One of them, the lead, writes and speaks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Result = TypeVar("Result")

SHUTDOWN_SECONDS = 30  # that a process which ends waits for the others


def start(
    coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
    """Join the other processes; to be called before any device is touched.

    coordinator: "host:port" of process 0, with the number of processes and which this one is.
    detect: let JAX find all three out, which it can on TPU pods, with SLURM and with Open MPI. With
    neither there is one process. Raises ValueError for flags that do not fit each other, and if the
    processes cannot find each other.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if detect and any(given):
        raise ValueError("--distributed finds the processes itself; leave --coordinator and so on")
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together: give all three, or "
            "--distributed on a TPU pod or with SLURM"
        )
    if coordinator is not None:
        if num_processes < 1 or not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id is {process_id}: expected 0 to --num_processes - 1, which is "
                f"{num_processes - 1}"
            )
        if not coordinator.rpartition(":")[0] or not coordinator.rpartition(":")[2].isdecimal():
            raise ValueError(
                f"--coordinator is {coordinator!r}: expected host:port, such as node0:1234"
            )
    if not (detect or any(given)):
        return
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"could not connect to the other processes: {reason}") from error


def is_lead() -> bool:
    return jax.process_index() == 0


def by_lead(function: Callable[[], Result]) -> Result | None:
    """What the lead's call gives, None in the others, which wait for it.

    Raises the lead's ValueError or OSError there and a ValueError elsewhere, so that all end.
    """
    if jax.process_count() == 1:
        return function()
    result = problem = None
    if is_lead():
        try:
            result = function()
        except (ValueError, OSError) as error:
            problem = error
    failed = bool(ask(problem is not None))
    if problem is not None:
        raise problem
    if failed:
        raise ValueError("the first process of this run had to stop; its message says why")
    return result


def ask(flag: bool):
    """Begin to ask whether the flag is up in any process; bool() of the result waits for the
    answer, which is the same everywhere."""
    if jax.process_count() == 1:
        return flag
    everywhere, any_of = _asking()
    flags = np.full(jax.local_device_count(), flag)
    return any_of(jax.make_array_from_process_local_data(everywhere, flags))


def on_host(tree):
    """A sharded tree as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@cache
def _asking():
    """Where flags live, one on every device, and the compiled question."""
    devices = np.array(jax.devices())
    mesh = Mesh(devices, ("all",), axis_types=(AxisType.Auto,))
    answer = NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec("all")), jax.jit(jnp.any, out_shardings=answer)
