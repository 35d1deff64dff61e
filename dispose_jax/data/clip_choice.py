"""Which frames of a video make its training clips (host code).

Training recipe: DisPose section 5.1 and MOFA-Video. What is made of the frames is in
clip_extraction.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from dispose_jax.media import image, timeline, video
from dispose_jax.pose import checks
from dispose_jax.types import Pose

Size = tuple[int, int]  # height, width

REFERENCES = ("near", "first")
FEWEST_JOINTS = 4  # of person 0 inside the picture, for a frame to show a person


@dataclass(frozen=True)
class Extraction:
    """How clips are cut out of a video; see configs/svd.py.

    frames: of a clip, the reference included. stride: every how-many-th frame, as a config has it
    for videos of less than 48 fps; see `for_rate`. reference: one of REFERENCES. flow_size: of the
    pictures whose flow is looked for, None without flow.
    """

    size: Size
    frames: int
    clips: int
    stride: int
    reference: str
    ref_window: int
    flow_size: Size | None
    seed: int

    def for_rate(self, fps: Fraction) -> Extraction:
        """The same with the stride for videos of a rate."""
        return replace(self, stride=video.stride_for(fps, self.stride))


def recipe(config) -> Extraction:
    """The recipe of a config. Raises ValueError for values that make no clips."""
    data, train = config.data, config.train
    size = train.height, train.width
    image.check_size(*size)
    if data.reference not in REFERENCES:
        raise ValueError(f"data.reference is {data.reference!r}: expected one of {REFERENCES}")
    if train.frames < 2:
        raise ValueError(f"train.frames is {train.frames}: a clip needs a reference and 1 more")
    scale = data.flow_short_side / min(size)
    return Extraction(
        size=size,
        frames=train.frames,
        clips=data.clips_per_video,
        stride=data.stride,
        reference=data.reference,
        ref_window=data.ref_window,
        flow_size=tuple(max(8, round(side * scale / 8) * 8) for side in size),
        seed=config.seed,
    )


def shows_person(pose: Pose) -> np.ndarray:
    """In which frames enough of person 0 is inside the picture, (f,) bool."""
    inside = ((pose.body[:, 0] >= 0) & (pose.body[:, 0] < 1)).all(-1)
    return (inside & pose.visible[:, 0]).sum(-1) >= FEWEST_JOINTS


def is_sound(num_frames: int, odd: Iterable[checks.Fault]) -> np.ndarray:
    """Which frames have poses that nothing is wrong with, (n,) bool."""
    return ~np.isin(np.arange(num_frames), [i for _, frames in odd for i in frames])


def choose(
    recipe: Extraction,
    path: Path,
    shows: np.ndarray,
    turns: np.ndarray,
    rng: np.random.Generator,
    odd: Sequence[checks.Fault] = (),
) -> list[np.ndarray]:
    """Frame numbers (f,) of each clip, the reference first.

    path: of the video, for messages. shows (n,): where a person is seen; turns (n,): when each
    frame is shown, counted in frames of the video's rate, so that a clip keeps its speed where the
    rate varies; odd: what is wrong with the poses of some frames. Starts are drawn without
    repetition from all of which every frame shows a person, none stands for two, and none from the
    first to the last, those between the clip's own included, is odd. A "near" reference is drawn
    from the frames within ref_window of the clip and with none odd between, as MusePose and
    ControlNeXt draw from the whole video: a distant one breaks the flow that starts there, and one
    behind a cut may show somebody else. Raises ValueError if no frames make a clip.
    """
    after_reference = recipe.frames - (recipe.reference == "near")
    steps = recipe.stride * np.arange(after_reference)
    needed = int(steps[-1]) + 1
    if len(shows) < needed:
        raise ValueError(
            f"{path}: {len(shows)} frames, a clip of {recipe.frames} at stride {recipe.stride} "
            f"needs {needed}; lower data.stride or train.frames to use it"
        )
    wanted = turns[:, None] + steps  # (n, after_reference)
    clips = timeline.nearest(turns, wanted)
    whole = (wanted[:, -1] < turns[-1] + 0.5) & (np.diff(clips, axis=1) > 0).all(1)
    clips = clips[whole & shows[clips].all(1)]
    sound = is_sound(len(shows), odd)
    unsound = np.concatenate([[0], np.cumsum(~sound)])
    clips = clips[unsound[clips[:, -1] + 1] == unsound[clips[:, 0]]]
    if not len(clips):
        why = f": {'; '.join(checks.sentences(odd))}" if odd else ""
        raise ValueError(
            f"{path}: no {recipe.frames} frames at stride {recipe.stride} show a person "
            f"throughout{why}"
        )
    chosen = []
    for row in rng.choice(len(clips), min(recipe.clips, len(clips)), replace=False):
        clip = clips[row]
        if recipe.reference == "near":
            first = max(0, clip[0] - recipe.ref_window)
            around = np.arange(first, min(len(shows), clip[-1] + recipe.ref_window + 1))
            # Behind a cut may be another place, person or light.
            joined = sound[around] & (unsound[around] == unsound[clip[0]])
            clip = np.concatenate([[rng.choice(around[shows[around] & joined])], clip])
        chosen.append(clip)
    return chosen


def flow_paths(indices: np.ndarray, stride: int, chained: bool) -> list[np.ndarray]:
    """Frame numbers along which flow is followed from the reference, indices[0], to the others.

    Chained flow goes from picture to picture: one path forwards in time and one backwards, with
    frames no further than stride apart between the reference and the clip.
    """
    if not chained:
        return [indices]
    reference, others = indices[0], np.unique(indices[1:])
    paths = []
    for part in (others[others > reference], others[others < reference][::-1]):
        if len(part):
            gap = np.sign(part[0] - reference) * stride
            between = np.arange(reference + gap, part[0], gap)
            paths.append(np.concatenate([[reference], between, part]))
    return paths
