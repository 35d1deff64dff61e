"""How a command ends when it is told to, and what it has said by then (host code).

Without JAX, so that commands that do not need it start at once.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TextIO


def status_of(main: Callable[[], int]) -> int:
    """Run a command that reads its own flags and tells of mistakes itself; its exit status, 130 if
    it was interrupted."""
    say_at_once()
    try:
        with interruptible():
            return main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def say_at_once() -> None:
    """Let standard output take every text, pass it on line by line, and outlive its reader."""
    # Names of files may hold bytes that are not UTF-8. By lines, so that a log of a long run tells
    # how far it is, and what was said is there if the run is killed.
    if sys.stdout is not None:  # closed, as of a service: then nothing is said
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if not isinstance(stream.write, partial):  # a program may run two commands
            stream.write = partial(_write, stream, stream.write)


def _write(stream: TextIO, write: Callable[[str], int], text: str) -> int:
    """Write to a stream, which goes nowhere from when nobody reads it any more, as after
    `| head` or in a terminal that is closed: what a command makes is worth more than what it
    says."""
    try:
        return write(text)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return len(text)


def from_outside() -> tuple[signal.Signals, ...]:
    """The signals by which others end a program: SIGTERM, as of a batch system, and SIGHUP of a
    terminal that is closed, unless it is to be ignored, as after `nohup`."""
    is_kept_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGTERM,) if is_kept_up else (signal.SIGTERM, signal.SIGHUP)


def once(end: Callable[[int, object], None]) -> Callable[[int, object], None]:
    """A handler of these signals that ends the program at the first one and ignores later ones, so
    that what is put in order meanwhile is not broken off: a login that ends sends both, a terminal
    that is closed and `timeout` send one twice. Ctrl-C still breaks."""

    def handle(number: int, frame) -> None:
        if not handle.heard:
            handle.heard = True
            end(number, frame)

    handle.heard = False
    return handle


@contextmanager
def interruptible() -> Iterator[None]:
    """What ends a program from outside does so as Ctrl-C does, so that no half file stays.

    Python drops either if it comes while it collects garbage, where JAX has a callback: one in
    thirty did not end the program. Such a one is sent again.
    """
    usual, interrupt = sys.unraisablehook, once(signal.default_int_handler)
    before = {number: signal.signal(number, interrupt) for number in from_outside()}

    def tell(dropped) -> None:
        if dropped.exc_type is KeyboardInterrupt:
            interrupt.heard = False
            # A program in the background may have no Ctrl-C; training has its own SIGTERM.
            is_ours = signal.getsignal(signal.SIGTERM) is interrupt
            number = signal.SIGTERM if is_ours else signal.SIGINT
            # Not at once: it would be dropped, too.
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            usual(dropped)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        if sys.unraisablehook is tell:  # what main put over it is for the end of the program, too
            sys.unraisablehook = usual
        for number, handler in before.items():
            if signal.getsignal(number) is interrupt:
                signal.signal(number, handler)


def follow_parent(*_) -> None:
    """What a process that works for another does first: it ends with that one, and only then.

    A terminal sends Ctrl-C and SIGHUP, a batch system SIGTERM, to every process of a program; what
    follows from them is the parent's to say. Whatever arguments there are say nothing.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def workers(count: int) -> ProcessPoolExecutor:
    """So many processes that work for this one, as `follow_parent` says."""
    return ProcessPoolExecutor(count, _Workers(), initializer=follow_parent)


class _Worker(SpawnProcess):
    """A process that does not hear SIGTERM: where another was killed, and may have taken the lock
    of their common queue along, the pool ends the rest by it and would wait for ever."""

    def terminate(self) -> None:
        self.kill()


class _Workers(SpawnContext):  # JAX's threads do not survive a fork
    Process = _Worker
