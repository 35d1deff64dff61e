"""When the frames of a video are shown, and which of them are used (host code, NumPy).

Times are seconds in the file's own clock. What is here knows nothing of files and decoders.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

ROUNDING = 2e-3  # seconds; Matroska and WebM round each time to one thousandth
PAUSE = 1.0  # seconds; a frame that stays longer is a still, and no part of a rate
# Seconds; a longer pause between two frames is a fault of a clock that may start afresh within a
# file (as FFmpeg's dts_delta_threshold).
BREAK = 10.0
LONGEST = 3600.0  # seconds; a longer pause is a fault of any clock
# Seconds and usual intervals; a clock that goes back by both began again, as where files are
# joined. Frames that are only stored in another order go back by less: 16 at most (H.264).
BACK = 0.6, 16.5
# Seconds; a picture that is earlier than its sound by more is noticed (ITU-R BT.1359).
LEAD = 0.125

# Seconds; a moving picture's frames that are to stay for less than the first stay for the second.
HURRY, UNHURRIED = 0.011, 0.1
FEW_MISSING = 0.9  # share of frames that follow at the usual interval


def mended(
    times: np.ndarray, interval: float, *, may_pause: bool
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Times (n,) that never decrease, without faults of the clock: NaN, a new start, and pauses
    above BREAK, or above LONGEST where the clock may_pause and never goes back.

    A frame after such a fault follows the former one by the usual interval, which the given one
    stands for where times tell none. Returns also the leaps, (time, seconds beyond that) each.
    """
    steps = np.diff(times)
    short = steps[(steps > 0) & (steps <= BREAK)]
    usual = np.median(short) if len(short) else interval
    back = min(BREAK, max(BACK[0], BACK[1] * usual))
    longest = LONGEST if may_pause and not (steps < -back).any() else BREAK
    if not ((steps > 0) & (steps <= longest)).any():
        return np.arange(len(times)) * interval, []
    leaps = np.flatnonzero((steps > longest) | (steps < -back))
    found = [(float(times[i]), float(steps[i] - usual)) for i in leaps]
    first = times[0] if np.isfinite(times[0]) else 0.0
    believed = (steps <= longest) & (steps >= -back)  # which NaN is not
    steps = np.where(believed, steps, usual)
    # Sorted: AVI has the times of decoding, in another order than that of the pictures.
    return np.sort(first + np.concatenate([[0.0], np.cumsum(steps)])), found


def as_browsers(times: np.ndarray) -> np.ndarray:
    """Times (n,) of a GIF's frames as browsers show them: some programs write 0.01 s, by which
    they leave the speed to the browser."""
    steps = np.diff(times)
    steps = np.where(steps < HURRY, UNHURRIED, steps)
    return times[0] + np.concatenate([[0.0], np.cumsum(steps)])


def go_on(others: np.ndarray, times: np.ndarray) -> bool:
    """Whether other tracks' times (m,), such as those of sound, go on through each pause above
    BREAK of the times (n,): then the clock is right, and the picture stands still."""
    for i in np.flatnonzero(np.diff(times) > BREAK):
        within = np.sort(others[(others > times[i]) & (others < times[i + 1])])
        if np.diff(within, prepend=times[i], append=times[i + 1]).max() > BREAK:
            return False
    return True


def rate(times: np.ndarray, stated: Fraction | None) -> Fraction:
    """Frames a second of the times (n,), n >= 2, whose span is above 0.

    The stated rate, or a whole number or one over 1.001, where the times follow it within their
    rounding, be it with a frame missing here and there; else the average of the times without
    stills (unless most are), so that these do not slow down what moves.
    """
    steps = np.diff(times)
    usual = float(np.median(steps))
    for candidate in _candidates(stated, 1 / usual) if usual > 0 else ():
        interval, late = 1 / float(candidate), _drift(times, candidate)
        near = min(ROUNDING, interval / 4)  # any time is near to a turn of some 250 a second
        in_turn = np.abs(late - np.round(late / interval) * interval) <= near
        if in_turn.all() and (np.abs(steps - interval) <= near).mean() >= FEW_MISSING:
            return candidate
    moving = steps[steps <= PAUSE]
    if usual > PAUSE or not moving.any():
        moving = steps
    seconds = float(moving.sum())
    average = len(moving) / seconds
    for candidate in _candidates(stated, average):
        if abs(seconds - len(moving) / float(candidate)) <= ROUNDING:
            return candidate
    return Fraction(average).limit_denominator(100_000)


def steady(times: np.ndarray, fps: Fraction) -> bool:
    """Whether the frames follow each other as the rate says, within the rounding of times."""
    return bool(np.abs(_drift(times, fps)).max(initial=0) <= ROUNDING)


def varies(times: np.ndarray, fps: Fraction) -> bool:
    """Whether picking frames by number would miss the right one: some frame is shown a whole frame
    or more before or after its turn."""
    return bool(np.abs(_drift(times, fps)).max(initial=0) * float(fps) >= 1)


def numbers(times: np.ndarray, fps: Fraction, stride: int) -> np.ndarray:
    """Which frames are used: 0, stride, 2 stride, ... as released.

    Where the rate varies, the frames nearest to even times instead, none more than LEAD before its
    own: a still lasts until it is over. One may then be used twice.
    """
    if not varies(times, fps):
        return np.arange(0, len(times), stride)
    turns = round(float(times[-1] - times[0]) * float(fps))  # of the last frame
    wanted = times[0] + np.arange(0, turns + 1, stride) / float(fps)
    chosen = nearest(times, wanted)
    return np.where(times[chosen] - wanted > LEAD, chosen - 1, chosen)


def nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The number of the frame that is nearest in time to each wanted time, of its shape."""
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    if len(times) == 1:
        return np.zeros(np.shape(wanted), int)
    return np.where(wanted - times[after - 1] <= times[after] - wanted, after - 1, after)


def _candidates(stated: Fraction | None, about: float) -> list[Fraction]:
    """Rates that a camera may have meant by one of about so many frames per second."""
    film = Fraction(max(1, round(about * 1.001)) * 1000, 1001)
    return [*([stated] if stated else []), Fraction(max(1, round(about))), film]


def _drift(times: np.ndarray, fps: Fraction) -> np.ndarray:
    """Seconds by which each frame (n,) is late of its turn."""
    return times - times[0] - np.arange(len(times)) / float(fps)
