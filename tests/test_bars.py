"""How far long work is, in a terminal and in a log."""

import io
import sys

import pytest

from dispose_jax import bars


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when they are added."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    return clock


def counted(bar, clock, seconds, times):
    for _ in range(times):
        clock.now += seconds
        bar.update()
    bar.close()


def test_a_log_of_hours_gets_a_line_a_minute_at_most(clock, capsys):
    counted(bars.Bar("sampling", 6, "step"), clock, 45, 6)
    told = capsys.readouterr()
    assert not told.out
    # After 90, 180 and 270 seconds; a step takes 45.
    assert told.err.splitlines() == [
        "sampling: 2 of 6 steps, 3 min left",
        "sampling: 4 of 6 steps, 2 min left",
        "sampling: 6 of 6 steps, 0 min left",
    ]


def test_what_is_left_is_told_by_the_latest_pace(clock, capsys):
    bar = bars.Bar("sampling", 10, "step")
    clock.now += 600  # the first step is compiled
    bar.update()
    counted(bar, clock, 60, 1)
    assert capsys.readouterr().err.splitlines() == [
        "sampling: 1 of 10 steps, 90 min left",
        "sampling: 2 of 10 steps, 8 min left",
    ]


def test_what_takes_less_than_a_minute_is_not_told(clock, capsys):
    counted(bars.Bar("decoding", 59, "frame"), clock, 1, 59)
    assert not capsys.readouterr().err


def test_a_total_may_change_on_the_way(clock, capsys):
    bar = bars.Bar("finding keypoints", 1, "frame")
    bar.update()
    bar.total = 3
    counted(bar, clock, 60, 1)
    assert capsys.readouterr().err == "finding keypoints: 2 of 3 frames, 0 min left\n"


def test_a_terminal_gets_a_bar_and_no_lines(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    counted(bars.Bar("dance.mp4", 2, "frame"), clock, 100, 2)
    assert "dance.mp4:" in terminal.getvalue() and "min left" not in terminal.getvalue()


def test_what_is_hidden_is_told_nowhere(clock, monkeypatch, capsys):
    counted(bars.Bar("sampling", 2, "step", hidden=True), clock, 100, 2)
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    counted(bars.Bar("sampling", 2, "step", hidden=True), clock, 100, 2)
    assert not capsys.readouterr().err and not terminal.getvalue()
