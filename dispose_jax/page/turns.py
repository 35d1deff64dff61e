"""Whose turn it is: visitors' orders are worked on one after the other, by one worker.

The worker is a process that may end at any time; then the visitor whose turn it was is told so, and
another one is started for the next. No visitor's connection is needed for the queue to go on.
"""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from dispose_jax.page import messages
from dispose_jax.page.messages import About, Order, Prepared

WAITING, WORKING = "waiting", "working"
GRACE = 20.0  # seconds that a cancelled worker has until it is ended
MOST_WAITING = 8  # turns in the queue
HEARTBEAT = 1.0  # seconds after which a watcher is told anew
START = 300.0  # seconds that a worker has to be ready


class State(NamedTuple):
    """How far a turn is. phase: WAITING, WORKING or one of messages.ENDS."""

    phase: str = WAITING
    before: int = 0  # turns that come first
    stage: tuple[str, int, int] = ("", 0, 0)  # name, done, total
    prepared: Prepared | None = None
    picture: bytes | None = None  # JPEG, as it forms
    files: tuple[str, ...] = ()  # that can be had, in the folder of the order
    sentence: str = ""  # why it failed
    seconds: float = 0.0  # at work

    @property
    def has_ended(self) -> bool:
        return self.phase in messages.ENDS


@dataclass(eq=False)
class QueuedTurn:
    """A visitor's order in the queue."""

    order: Order
    number: int
    state: State = State()
    is_cancelled: bool = False
    started: float = 0.0  # by time.monotonic
    asked: float | None = None  # when the worker was told of the cancellation


class Turns:
    """The queue, the thread that works through it, and the worker.

    target(connection, *arguments) is what the worker's process runs, worker.serve. Raises
    ValueError with the worker's sentence if it cannot be started.
    """

    def __init__(self, target: Callable, *arguments, grace: float = GRACE):
        self._target, self._arguments, self._grace = target, arguments, grace
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._queue: deque[QueuedTurn] = deque()  # the first one is worked on
        self._process, self._connection, self._closing = None, None, False
        self.about: About = self._ready()
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)
        self._thread.start()

    def take(self, order: Order) -> QueuedTurn:
        """A turn at the end of the queue. Raises ValueError if that is too long."""
        turn = QueuedTurn(order, next(self._numbers))
        with self._changed:
            if len(self._queue) > MOST_WAITING:
                raise ValueError(f"{MOST_WAITING} others are waiting already; try again later")
            self._queue.append(turn)
            self._changed.notify_all()
        return turn

    def cancel(self, turn: QueuedTurn) -> None:
        """End a turn, whether it has begun or not; it has ended when its state says so."""
        with self._changed:
            turn.is_cancelled = True
            if turn in self._queue and turn is not self._queue[0]:
                self._queue.remove(turn)
                turn.state = turn.state._replace(phase=messages.CANCELLED)
            self._changed.notify_all()

    def watch(self, turn: QueuedTurn) -> Iterator[State]:
        """The states of a turn as they change, and every second, up to its end."""
        while True:
            yield (state := self.look(turn))
            if state.has_ended:
                return
            with self._changed:
                self._changed.wait_for(lambda: self.look(turn)[:-1] != state[:-1], HEARTBEAT)

    def look(self, turn: QueuedTurn) -> State:
        """The state of a turn now."""
        with self._changed:
            state = turn.state
            if state.phase == WORKING:
                return state._replace(seconds=time.monotonic() - turn.started)
            if state.phase == WAITING and turn in self._queue:
                return state._replace(before=self._queue.index(turn))
            return state

    def await_end(self, turn: QueuedTurn) -> None:
        """Return when a cancelled turn has ended."""
        with self._changed:
            self._changed.wait_for(lambda: turn.state.has_ended, self._grace + 5)

    def close(self) -> None:
        """End the worker, and all turns with it."""
        with self._changed:
            self._closing = True
            for turn in self._queue:
                turn.is_cancelled = True
            self._changed.notify_all()
        self._thread.join(10)

    def _run(self) -> None:
        """The thread: turn after turn until the page is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    break
                turn = self._queue[0]
                turn.started = time.monotonic()
                self._change(turn, phase=WORKING, stage=("starting", 0, 1))
            try:
                end = self._work(turn)
            except ValueError as error:
                end = messages.FAILED, str(error)
            except Exception as error:  # a defect, which shall not end the queue
                traceback.print_exc()
                end = messages.FAILED, f"an error that should not be ({type(error).__name__})"
            kind, content = end
            told = {"files": content} if kind == messages.DONE else {"sentence": content}
            with self._changed:
                self._queue.popleft()
                spent = time.monotonic() - turn.started
                self._change(turn, phase=kind, seconds=spent, **told)
            with suppress(ValueError):  # the next turn tries it too, and is told
                self._ready()
        with self._changed:
            for turn in self._queue:
                self._change(turn, phase=messages.CANCELLED)
        self._kill(patience=2)

    def _work(self, turn: QueuedTurn) -> tuple:
        """Let the worker do a turn; returns its last message."""
        self._ready()
        try:
            self._connection.send(turn.order)
            while True:
                if self._closing:
                    return messages.CANCELLED, ""
                if turn.is_cancelled:
                    if turn.asked is None:
                        turn.asked = time.monotonic()
                        self._connection.send(messages.CANCEL)
                    elif time.monotonic() - turn.asked > self._grace:
                        self._kill()  # the next turn starts another one
                        return messages.CANCELLED, ""
                if not self._connection.poll(0.1):
                    continue
                kind, content = self._connection.recv()
                if kind in messages.ENDS:
                    return kind, content
                names = {
                    messages.STAGE: "stage",
                    messages.PREPARED: "prepared",
                    messages.PICTURE: "picture",
                }
                with self._changed:
                    self._change(turn, **{names[kind]: content})
        except (EOFError, OSError):
            code = self._kill(patience=2)
            if turn.is_cancelled:
                return messages.CANCELLED, ""
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            return messages.FAILED, (
                f"the process that animates {how}, which happens when memory runs out; it is "
                "started again, so try once more, with a smaller size or fewer frames"
            )

    def _change(self, turn: QueuedTurn, **values) -> None:
        turn.state = turn.state._replace(**values)
        self._changed.notify_all()

    def _ready(self) -> About:
        """Start a worker unless there is one. Raises ValueError if it does not get ready."""
        if self._process is not None and self._process.is_alive():
            return self.about
        self._kill()
        # A fresh interpreter: JAX's threads do not live through a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = other, *self._arguments
        self._process = context.Process(target=self._target, args=arguments, daemon=True)
        self._process.start()
        other.close()  # so that its end is the end of the pipe
        try:
            end = time.monotonic() + START
            while not self._connection.poll(0.1):
                if self._closing or time.monotonic() > end:
                    raise EOFError
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            code = self._kill(patience=2)
            raise ValueError(
                f"the process that animates did not start (code {code}); the server's log says why"
            ) from None
        if kind == messages.FAILED:
            self._kill()
            raise ValueError(content)
        return content

    def _kill(self, patience: float = 0.0) -> int:
        """End the worker if there is one, at once or after so many seconds; its exit code."""
        if self._process is None:
            return 0
        self._connection.close()  # which ends an idle one
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        code, self._process = self._process.exitcode, None
        return code
