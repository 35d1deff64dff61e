"""What the page and its worker say to each other through a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CANCEL = "cancel"  # the message that ends what is going on
# What it tells: (kind, content).
READY, STAGE, PREPARED, PICTURE = "ready", "stage", "prepared", "picture"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
ENDS = (DONE, CANCELLED, FAILED)


@dataclass(frozen=True)
class Order:
    """What to prepare, and to animate unless only its preview is wanted.

    folder: of this visitor alone; sources are named from there, and results lie there. watched:
    pictures are sent while they form.
    """

    folder: Path
    config: object  # of configs/
    sources: object  # inputs.sources.Sources
    animate: bool
    watched: bool = True


class About(NamedTuple):
    """What an animator is, for the page."""

    random: tuple[str, ...]  # networks without weights
    detects: bool  # whether it finds keypoints itself


class Prepared(NamedTuple):
    """A clip that is ready to be animated."""

    preview: bytes  # JPEG: the first skeleton over the reference
    num_frames: int
    size: tuple[int, int]  # width and height of the video
    fps: float
    warnings: tuple[str, ...]
