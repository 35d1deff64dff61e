"""From what a user names to what the animator animates (host code).

A reference picture, and a driving video, a pose file in its place, or both (then the video's
keypoints are those of the file): paths, or arrays in their place. Every mistake ends in this
package with a sentence that names the file or flag.
"""

from __future__ import annotations

from fractions import Fraction

from dispose_jax.clip import Clip, Skeletons
from dispose_jax.inputs import driving, reference
from dispose_jax.inputs.sources import Sources
from dispose_jax.pose import draw, follow, retarget
from dispose_jax.pose.detector import Detector


def prepare(sources: Sources, sample, skeleton, detector: Detector) -> Clip:
    """Read, fit and draw everything.

    sample: `config.sample`, of which resolution, height, width, shown_height, stride, max_frames,
    fps, audio, person and draw_others are read. skeleton: `config.skeleton`. Both are checked
    (limits.py). Raises ValueError for anything that cannot be animated.
    """
    sources.check_complete()
    picture = reference.read(sources.reference)
    size = reference.target_size(picture, sample)
    frame = reference.framed(picture, size, sample.shown_height)
    reference_pose, notes = reference.keypoints(sources, picture, frame, detector)
    drawn_others = sample.draw_others and draw.STYLES[skeleton.style].people == "all"
    given = driving.read(sources, sample.stride, sample.max_frames, detector)
    given = driving.follow_person(given, sources, sample.person, others=drawn_others)
    video_size, target_size = (given.width, given.height), frame.upright.shape[1::-1]
    fitted = retarget.to_reference(
        skeleton.fit, reference_pose, given.pose, video_size=video_size, target_size=target_size
    )
    fps = given.fps / given.stride
    sound, silence = driving.sound_at(given.sound, fps, sample)
    pose = fitted.pose if drawn_others else follow.alone(fitted.pose)
    skeletons = Skeletons(
        pose,
        frame.shown,
        size,
        canvas=skeleton.canvas,
        style=draw.style_of(skeleton),
        video_size=video_size,
    )
    return Clip(
        reference=frame.picture,
        pose=pose,
        skeletons=skeletons,
        look=dict(skeleton),
        shown=frame.shown,
        fps=Fraction(sample.fps).limit_denominator(1001) or fps,
        fit=fitted.fit,
        warnings=[*notes, *given.warnings, *fitted.warnings, *silence],
        sound=sound,
    )


def measure(sources: Sources, sample) -> tuple[int, int, int]:
    """Frames n, height and width of the video to come, without looking for anybody.

    Arguments and errors as of `prepare`.
    """
    sources.check_complete()
    size = reference.target_size(reference.read(sources.reference), sample)
    return driving.count(sources, sample.stride, sample.max_frames), *size
