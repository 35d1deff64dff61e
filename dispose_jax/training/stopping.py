"""SIGTERM and Ctrl-C while a run learns: from a batch system, or whoever has seen enough."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

import jax

from dispose_jax import ahead
from dispose_jax.training.run import Run

Result = TypeVar("Result")

LISTEN_SECONDS = 0.2  # between looks at whether the run is told to stop while it compiles


@contextmanager
def told_to_stop(run: Run) -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C let the step end, save, and stop; a second Ctrl-C breaks."""

    def stop(number: int, _) -> None:
        if run.stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        run.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listening(run: Run, work: Callable[[], Result]) -> Result:
    """What some work gives. Raises KeyboardInterrupt if the run is told to stop meanwhile.

    Python hears signals between its own lines alone, of which the compiler has none for minutes: so
    it works on a thread. Of several processes one that ended now would be waited for: these stop
    after their first step.
    """
    if jax.process_count() > 1:
        return work()
    made: Future[Result] = Future()

    def make() -> None:
        try:
            made.set_result(work())
        except BaseException as error:  # raised where the result is missed
            made.set_exception(error)

    threading.Thread(target=make, name=ahead.NAME).start()
    while not made.done():
        wait([made], timeout=LISTEN_SECONDS)
        if run.stopped:
            raise KeyboardInterrupt
    return made.result()
