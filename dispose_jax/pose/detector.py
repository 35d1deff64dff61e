"""DWPose as sources need it: opened when first asked, and what it found kept (host code).

In a file, so that the same command need not look again, and for as long as the program runs, as one
dance may drive many figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dispose_jax.pose import detected, estimate
from dispose_jax.pose.dwpose import RELEASED_AS
from dispose_jax.types import Pose

RECENT = 100  # sources whose keypoints are remembered, about 1 MB each: a list may go round them
# By folder of the networks and digest, the one that was asked for last at the end.
_recent: dict[tuple[Path | None, str], Pose] = {}


class Detector:
    """DWPose, opened when first needed. What it finds is remembered, and kept in a file if one is
    named, and not looked for again."""

    def __init__(
        self,
        folder: Path | None,
        say: Callable[[str], None],
        progress: Callable[[int, int], None] | None = None,
        kept: Path | None = None,
    ):
        self.folder, self.say, self.progress, self.models = folder, say, progress, None
        self.kept = kept

    def open(self, source: Path, remedy: str) -> estimate.Models:
        """The networks; the error without any names source and what to do."""
        if self.models is None:
            if self.folder is None:
                raise ValueError(
                    f"{source}: its keypoints are not given and no weights folder holds DWPose's "
                    f"{' and '.join(RELEASED_AS)}; {remedy}"
                )
            self.models = estimate.open_models(self.folder)
        return self.models

    def find(
        self,
        frames: Iterable[np.ndarray],
        source: Path,
        flag: str,
        of: Callable[[], str],
        num_frames: int = 1,
    ) -> Pose:
        """Poses of num_frames frames (h, w, 3) uint8, taken as they come; the error without a
        detector names source and flag. of: gives the digest of what is looked at."""
        name = of()
        known = _recent.pop((self.folder, name), None)
        read = None if self.kept is None else detected.read(self.kept, name)
        pose = known if read is None else read
        if read is not None:
            self.say(f"{self.kept} has the keypoints of {source}")
        elif known is not None:
            self.say(f"the keypoints of {source} are known from an earlier clip")
        else:
            models = self.open(source, f"pass a pose file with {flag}")
            self.say(f"finding keypoints in {num_frames} frames of {source}")
            pose = estimate.estimate(models, frames, num_frames=num_frames, progress=self.progress)
            check_seen(pose, source)
        _recent[self.folder, name] = pose
        if len(_recent) > RECENT:
            del _recent[next(iter(_recent))]  # not asked for since longest
        if self.kept is not None and read is None:
            try:
                detected.keep(self.kept, name, pose)
            except OSError as error:  # no reason to stop
                self.say(f"warning: keypoints will be looked for again: {error}")
        return pose


def check_seen(pose: Pose, source: Path) -> None:
    """Raise ValueError if nobody is visible in any frame."""
    if not pose.visible.any():
        raise ValueError(f"{source}: no person is visible in it; use one that shows a person")
