"""How far work of minutes or hours is: a bar in a terminal, lines in a log (host code)."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from dispose_jax.counting import counted

EVERY = 60.0  # seconds between lines


class Bar:
    """Counts `done` up to `total` and tells of it on standard error: as a bar where that is a
    terminal, else, as in the log of a batch system, as a line every minute.

    unit: the singular of what is counted. title: what lines, and with `titled` the bar too, begin
    with. hidden: nothing is told.
    """

    def __init__(
        self, title: str, total: int, unit: str, *, titled: bool = True, hidden: bool = False
    ):
        self.title, self.total, self.unit, self.done = title, total, unit, 0
        desc = title if titled else None
        # None: no bar where standard error is no terminal.
        disable = True if hidden else None
        self._bar = tqdm(total=total, unit=unit, desc=desc, disable=disable, leave=False)
        self._is_log = self._bar.disable and not hidden
        self._told = time.monotonic(), 0  # when the last line was, and how much was done then

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self._bar.total = self.total
        self._bar.update(count)
        now = time.monotonic()
        before, then = self._told
        if not self._is_log or now - before < EVERY or self.done <= then:
            return
        left = (self.total - self.done) * (now - before) / (self.done - then)
        self._told = now, self.done
        print(
            f"{self.title}: {self.done} of {counted(self.total, self.unit)}, "
            f"{left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        self._bar.close()
