"""What tells a run to stop while it learns: SIGTERM of a batch system, SIGHUP of a terminal that is
closed, and Ctrl-C of whoever has seen enough."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

import jax

from dispose_jax import ahead, ending
from dispose_jax.training.run import Run

Result = TypeVar("Result")


@contextmanager
def told_to_stop(run: Run) -> Iterator[None]:
    """While inside, these signals let the step end, save, and stop; a second Ctrl-C breaks, as does
    the first of them in a `breaking`."""

    def stop(number: int, _) -> None:
        if run.breaks or (run.stopped and number == signal.SIGINT):
            raise KeyboardInterrupt
        run.stopped = True

    numbers = (signal.SIGINT, *ending.from_outside())
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def breaking(run: Run) -> Iterator[None]:
    """While inside, where nothing is to be saved yet, being told to stop raises KeyboardInterrupt.

    Of several processes one that ended now would be waited for: these stop after their first step.
    """
    run.breaks = jax.process_count() == 1
    try:
        if run.breaks and run.stopped:
            raise KeyboardInterrupt
        yield
    finally:
        run.breaks = False


def heard(work: Callable[[], Result]) -> Result:
    """What some work gives that has no line of Python for minutes, as of the compiler: it is done
    on a thread, as Python hears signals between its own lines alone.

    What JAX keeps for each thread, such as the precision of products within a `with`, is not known
    there.
    """
    made: Future[Result] = Future()

    def make() -> None:
        try:
            made.set_result(work())
        except BaseException as error:  # raised where the result is missed
            made.set_exception(error)

    threading.Thread(target=make, name=ahead.NAME).start()
    return made.result()
