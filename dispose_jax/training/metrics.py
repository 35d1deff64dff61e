"""What is measured while training: a line per measurement in metrics.jsonl, TensorBoard, a bar.

Scalars stay on the device until they are written, so that steps need not wait for each other.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from dispose_jax.media import output

FILE, BOARD = "metrics.jsonl", "tensorboard"
VALIDATION = "validation_loss"  # of clips that are held out, in lines of steps that have one


def read(file: Path) -> list[dict]:
    """The lines of a run's FILE; one that was cut off, as by a full disk, is left out. Raises
    OSError if it cannot be read."""
    lines = []
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines


class Metrics:
    """Measurements of a run that starts or continues after `start` of `total` steps.

    folder: the run's directory, None where nothing is to be written (all processes but one). clips:
    of a step. flops: of a step, useful ones. Lines of steps after `start` are dropped: they return.
    """

    def __init__(self, folder: Path | None, start: int, total: int, clips: int, flops: float):
        self._clips, self._flops, self._pending = clips, flops, []
        self._folder, self._board, self._seconds = folder, None, time.perf_counter()
        self._bar = tqdm(total=total, initial=start, unit="step", disable=None if folder else True)
        if folder is not None:
            self._rewind(folder / FILE, start)
            self._board = _tensorboard(folder, start)

    def add(self, step: int, scalars: dict[str, jax.Array]) -> None:
        """Remember a step's scalars, still on the device."""
        self._pending.append((step, scalars))
        self._bar.update(step - self._bar.n)

    def write(self, **more: float) -> dict[str, float]:
        """Wait for the steps added, write their means with speeds and what else is given.

        Returns what was written, {} if nothing was added. Raises FloatingPointError naming the
        first step with a loss, what else is given included, or a gradient that was not finite.
        """
        if not self._pending:
            return {}
        steps = [step for step, _ in self._pending]
        rows = jax.device_get([scalars for _, scalars in self._pending])
        self._pending = []
        for step, row in [*zip(steps, rows), (steps[-1], more)]:
            wrong = [f"{name} {float(v)}" for name, v in row.items() if not math.isfinite(v)]
            if wrong:
                raise FloatingPointError(f"step {step}: {', '.join(wrong)}")
        now = time.perf_counter()
        speed = len(steps) / (now - self._seconds)
        self._seconds = now
        line = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        line |= {"steps_per_second": speed, "clips_per_second": speed * self._clips}
        line |= {"tflops_per_second": speed * self._flops / 1e12, **more}
        self._log(steps[-1], line)
        return line

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no part of the steps' time; the steps added are waited for."""
        jax.block_until_ready([scalars for _, scalars in self._pending])
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def close(self) -> None:
        self._bar.close()
        if self._board is not None:
            with suppress(OSError):  # each measurement was flushed, or its error told
                self._board.close()

    def _log(self, step: int, line: dict[str, float]) -> None:
        """Show a line of measurements, and write it down where this process does."""
        shown = f"loss {line['loss']:.4f}, {line['tflops_per_second']:.3g} TFLOP/s"
        if VALIDATION in line:
            shown = f"validation loss {line[VALIDATION]:.4f}, {shown}"
        self._bar.set_postfix_str(shown)
        if self._folder is None:
            return
        if self._bar.disable:  # no terminal: lines instead of a bar
            left = (self._bar.total - step) / line["steps_per_second"]
            rate = f"{line['steps_per_second']:.3g} steps/s, {left / 60:.0f} min left"
            print(f"step {step}/{self._bar.total}: {shown}, {rate}", file=sys.stderr, flush=True)
        with output.explained(self._folder / FILE), open(self._folder / FILE, "ab") as file:
            file.write(f"{json.dumps({'step': step, **line})}\n".encode())
        if self._board is not None:
            with output.explained(self._folder / BOARD):
                self._board.write(step, line)

    @staticmethod
    def _rewind(file: Path, start: int) -> None:
        """Drop the lines of later steps, and one that was cut off."""
        if file.exists():
            kept = [json.dumps(line) for line in read(file) if line["step"] <= start]
            output.write_bytes(file, "".join(f"{line}\n" for line in kept).encode())


class _Board:
    """A file of TensorBoard's events, written at once: a full disk shows where it happens.

    Earlier files' events of steps after `start` are hidden. Raises ImportError without tensorboardX
    (extra `train`).
    """

    def __init__(self, folder: Path, start: int):
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(folder / name))
        self._add(file_version="brain.Event:2")
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start + 1, session_log=session)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
        self._add(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _add(self, **fields) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())
        self._file.flush()


def _tensorboard(folder: Path, start: int) -> _Board | None:
    """Events in the run's directory if tensorboardX is installed, else None."""
    try:
        with output.explained(folder / BOARD):
            return _Board(folder / BOARD, start)
    except ImportError:
        return None
