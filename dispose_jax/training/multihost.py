"""What the processes of one run do together; with a single process all of it is trivial.

Each process runs the same program on its own devices. One of them, the lead, writes and speaks.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # no public name leads to what the processes tell each other
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Result = TypeVar("Result")

SHUTDOWN_SECONDS = 30  # that a process which ends waits for the others
ARRIVE_SECONDS = 60  # that one waits to learn whether the others met the same trouble
LOOK_SECONDS = 1.0  # between looks at whether another process has to end
_TROUBLE = "dispose_jax/trouble"  # folder of what made processes end, by their numbers


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
    threading.Thread(target=_listen, daemon=True).start()


class KnownToAll(ValueError):
    """An error that every process of the run raises at once, so that nobody waits for another."""


def is_lead() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def by_lead(function: Callable[[], Result]) -> Result | None:
    """What the lead's call gives, None in the others, which wait for it.

    Raises KnownToAll for the lead's ValueError or OSError, with its message there.
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
        raise KnownToAll(str(problem)) from problem
    if failed:
        raise KnownToAll("the first process of this run had to stop; its message says why")
    return result


def ask(flag: bool):
    """Begin to ask whether the flag is up in any process; bool() of the result waits for the
    answer, which is the same everywhere."""
    if jax.process_count() == 1:
        return flag
    everywhere, any_of = _asking()
    flags = np.full(jax.local_device_count(), flag)
    return any_of(jax.make_array_from_process_local_data(everywhere, flags))


@contextmanager
def ending_all() -> Iterator[None]:
    """If a ValueError or OSError leaves the block in one of several processes, all of them end.

    The others may wait for this one within a computation, where nothing else would reach them; each
    prints the error's message in one line and ends with exit code 1.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if jax.process_count() == 1 or isinstance(error, KnownToAll):
            raise
        text = " ".join(str(error).split())
        with suppress(jax.errors.JaxRuntimeError):  # the lead is gone, and JAX ends the others
            distributed.global_state.client.key_value_set(f"{_TROUBLE}/{jax.process_index()}", text)
        threading.Event().wait()  # for _listen, which ends this one too


def all_arrive(what: str) -> bool:
    """Whether every process calls this for the same thing before long; True with one process."""
    if jax.process_count() == 1:
        return True
    try:
        distributed.global_state.client.wait_at_barrier(what, 1000 * ARRIVE_SECONDS)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _listen() -> None:
    """End this process when one of the run says that it has to, with the message of its own trouble
    if it met one itself."""
    while True:
        time.sleep(LOOK_SECONDS)
        client = distributed.global_state.client
        if client is None:
            return  # the run is over
        try:
            if not client.key_value_dir_get(_TROUBLE):
                continue
            time.sleep(LOOK_SECONDS)  # a mistake that they share they meet within moments
            met = {int(Path(key).name): text for key, text in client.key_value_dir_get(_TROUBLE)}
        except jax.errors.JaxRuntimeError:
            return  # the run is over, or JAX itself ends it
        first = min(met)
        other = f"process {first} of this run had to stop: {met[first]}"
        message = met.get(jax.process_index(), other)
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
        # What follows from it is not told: connections break as the processes end, the lead last,
        # as the others hear of it through that one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        time.sleep((4 if is_lead() else 2) * LOOK_SECONDS)
        os._exit(1)


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
