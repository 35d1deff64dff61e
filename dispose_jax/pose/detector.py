"""DWPose as sources need it: opened when first asked, and what it found kept (host code)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from dispose_jax.pose import detected, estimate
from dispose_jax.pose.dwpose import RELEASED_AS
from dispose_jax.types import Pose

Recent = dict[tuple[Path | None, str], Pose]  # keypoints by the networks' folder and the digest
RECENT = 100  # sources whose keypoints are remembered, about 1 MB each: a list may go round them


class Detector:
    """DWPose of a folder, opened when first needed.

    What it finds is not looked for again: it is kept in a file, if one is named, for the next time
    that the same command runs, and added to recent, {(folder, digest): keypoints} that were found
    in earlier clips, as one dance may drive many figures.
    """

    def __init__(
        self,
        folder: Path | None,
        say: Callable[[str], None],
        progress: Callable[[int, int], None] | None = None,
        kept: Path | None = None,
        recent: Recent | None = None,
    ):
        self.folder, self.say, self.progress, self.models = folder, say, progress, None
        self.kept, self.recent = kept, {} if recent is None else recent

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
        digest: str,
        num_frames: int = 1,
    ) -> Pose:
        """Poses of num_frames frames (h, w, 3) uint8, taken as they come.

        digest: of what is looked at (detected.digest). Raises ValueError where nobody is visible;
        without a folder it names source and flag.
        """
        pose = None if self.kept is None else detected.read(self.kept, digest)
        if pose is not None:
            self.say(f"{self.kept} has the keypoints of {source}")
            self._remember(digest, pose)
            return pose
        pose = self.recent.get((self.folder, digest))
        if pose is not None:
            self.say(f"the keypoints of {source} are known from an earlier clip")
        else:
            models = self.open(source, f"pass a pose file with {flag}")
            self.say(f"finding keypoints in {num_frames} frames of {source}")
            pose = estimate.estimate(models, frames, num_frames=num_frames, progress=self.progress)
            check_seen(pose, source)
        self._remember(digest, pose)
        self._keep(digest, pose)
        return pose

    def _remember(self, digest: str, pose: Pose) -> None:
        """Add keypoints to the recent ones, as the last; the first are the next to be forgotten."""
        self.recent.pop((self.folder, digest), None)
        self.recent[self.folder, digest] = pose
        if len(self.recent) > RECENT:
            self.recent.pop(next(iter(self.recent)), None)

    def _keep(self, digest: str, pose: Pose) -> None:
        """Add keypoints to the file, if there is one."""
        if self.kept is None:
            return
        try:
            detected.keep(self.kept, digest, pose)
        except OSError as error:  # no reason to stop
            self.say(f"warning: keypoints will be looked for again: {error}")


def check_seen(pose: Pose, source: Path) -> None:
    """Raise ValueError if nobody is visible in any frame."""
    if not pose.visible.any():
        raise ValueError(f"{source}: no person is visible in it; use one that shows a person")
