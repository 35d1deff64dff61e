"""What a visitor can choose, in which ranges, and the config that a choice stands for.

Everything comes from the config that the page was started with; a choice is checked here whatever
the browser was told.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from dispose_jax import limits, settings
from dispose_jax.media.image import GRID

SPEEDS = ("exact", "fast", "draft")  # of configs/, exact first
MOST_STEPS = 100
MOST_FRAMES = 600  # of a video to make
USUAL_FRAMES = 96  # that are asked for unless the config says it
FITS = limits.CHOICES["skeleton.fit"]


class Choice(NamedTuple):
    """What one visitor chose, as the browser sent it."""

    speed: str
    steps: int
    size: int  # short side in pixels
    fit: str  # how driving poses come to the reference's body
    frames: int  # of the video at most
    seed: int


def at_speeds(argument: str, overrides: Sequence[tuple[str, str | None]]) -> dict[str, object]:
    """The configs of "file.py:argument" with these values changed, at every speed its file has.

    The speed that the argument names is the first. A file that knows no speeds has its one config
    as "exact". Raises ValueError as settings.load.
    """
    file, _, rest = argument.partition(":")
    given = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    named = given.pop("speed", SPEEDS[0])
    words = [f"{name}={value}" for name, value in given.items()]
    made: dict[str, object] = {}
    for speed in (named, *(other for other in SPEEDS if other != named)):
        with suppress(ValueError):  # a config of somebody's own
            made[speed] = settings.load(f"{file}:{','.join([*words, f'speed={speed}'])}")
    made = made or {SPEEDS[0]: settings.load(argument)}
    for config in made.values():
        for name, text in overrides:
            settings.override(config, name, text)
        limits.check(config)
    return made


def sizes(config) -> list[int]:
    """Short sides that a model can be asked for, from half to twice the one that its config has;
    of a picture that is not square and whose sides are both fixed, that one alone."""
    height, width = config.sample.height, config.sample.width
    if height != width:
        return [min(height, width)]
    usual = height or config.sample.resolution
    lowest = max(GRID, -(-usual // (2 * GRID)) * GRID)
    return list(range(lowest, 2 * usual + 1, GRID))


def usual(configs: dict[str, object]) -> Choice:
    """What is chosen when the page opens: what the first config says."""
    speed, config = next(iter(configs.items()))
    sample = config.sample
    size = min(sample.height, sample.width) or sample.resolution
    frames = min(sample.max_frames or USUAL_FRAMES, MOST_FRAMES)
    return Choice(speed, sample.steps, size, config.skeleton.fit, frames, config.seed)


def config_of(configs: dict[str, object], choice: Choice):
    """The config of a choice. Raises ValueError with one sentence for an impossible one."""
    _among("Speed", choice.speed, tuple(configs))
    made = copy.deepcopy(configs[choice.speed])
    _among("Alignment", choice.fit, FITS)
    _among("Size", choice.size, tuple(sizes(made)))
    sample = made.sample
    sample.steps = _whole("Steps", choice.steps, 1, MOST_STEPS)
    sample.max_frames = _whole("Frames", choice.frames, 2, MOST_FRAMES)
    made.seed = _whole("Seed", choice.seed, *limits.RANGES["seed"])
    made.skeleton.fit = choice.fit
    if sample.height and sample.height == sample.width:
        if sample.shown_height == sample.height:
            sample.shown_height = int(choice.size)
        sample.height = sample.width = int(choice.size)
    elif not sample.height:
        sample.resolution = int(choice.size)
    limits.check(made)
    return made


def _whole(name: str, value, low: int, high: int) -> int:
    """A number of the browser, which may send 8 as 8.0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value != value or not low <= value <= high or value != int(value):
        found = "empty" if value is None else f"{value!r:.40}"
        raise ValueError(f"{name} is {found}: expected a whole number from {low} to {high}")
    return int(value)


def _among(name: str, value, choices: tuple) -> None:
    if not isinstance(value, (str, int, float)) or value not in choices:
        raise ValueError(f"{name} is {value!r:.40}: expected one of {', '.join(map(str, choices))}")
