"""Find keypoints once and keep them: videos or pictures to pose files.

  python -m dispose_jax.pose.extract dance.mp4 --weights DIR --output dance.poses.json
  python -m dispose_jax.pose.extract a.mp4 b.mp4 ref.png --weights DIR

DIR holds DWPose's detector.onnx and whole_body.onnx, such as a converted bundle (extra: pip install
"dispose-jax[pose]"). Without --output every file gets NAME.poses.json beside it, which is where
dispose_jax.data.prepare looks; sample.py takes it with --poses, that of a picture with
--reference_pose. One that is there already stays, so that the same command goes on where it was
stopped. A source that cannot be read is told and left out; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dispose_jax import ending, settings
from dispose_jax.bars import Bar
from dispose_jax.counting import counted
from dispose_jax.media import image, output, video
from dispose_jax.pose import estimate, files

ENDING = ".poses.json"


def extract(source: Path, target: Path, models: estimate.Models) -> int:
    """Write the poses of every frame of a video or of a picture; returns the number of frames.

    One frame is in memory at a time, progress is told on standard error. Raises ValueError if the
    source cannot be read or the file cannot be written; then nothing is written.
    """
    if source.suffix.lower() in image.SUFFIXES:
        picture = image.read(source)
        frames, count, size = iter([picture]), 1, picture.shape[1::-1]
    else:
        info = video.probe(source)
        for warning in info.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        frames, count, size = video.iterate(source, 1), info.num_frames, (info.width, info.height)
    with closing(Bar(source.name, count, "frame")) as bar:
        progress = lambda done, _: bar.update(done - bar.done)
        pose = estimate.estimate(models, frames, num_frames=count, progress=progress)
    files.write(target, pose, width=size[0], height=size[1])
    return pose.num_frames


def targets(sources: Sequence[Path], named: Path | None) -> list[Path]:
    """Where the poses of each source go. Raises ValueError if two would go to one place, or one
    would replace what is read."""
    if named is not None and len(sources) > 1:
        raise ValueError(
            f"--output {named}: names one file for {len(sources)} sources; leave it out, and each "
            f"gets NAME{ENDING} beside it"
        )
    found = [named] if named is not None else [s.with_name(s.stem + ENDING) for s in sources]
    for i, (source, target) in enumerate(zip(sources, found)):
        if target in found[:i]:
            raise ValueError(
                f"{source}: its poses would go to {target}, as those of another source do; extract "
                "them one by one with --output"
            )
        if target.resolve() in {other.resolve() for other in sources}:
            raise ValueError(f"--output {target}: is a file to read; choose another name")
        output.prepare(target, ".json")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dispose_jax.pose.extract", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("sources", nargs="+", type=settings.path, metavar="VIDEO|PICTURE")
    parser.add_argument(
        "--weights", type=settings.path, required=True, help="folder with DWPose's files"
    )
    parser.add_argument("--output", type=settings.path, help="the pose file, of one source")
    options = parser.parse_args(settings.at_home(arguments))
    try:
        files_given = {"a source": options.sources, "--weights": options.weights}
        settings.refuse_addresses({**files_given, "--output": options.output})
        places = targets(options.sources, options.output)
        models = estimate.open_models(options.weights)
        pairs = zip(options.sources, places)
        todo = [pair for pair in pairs if options.output or not _stays(*pair)]
        failed = [not _done(*pair, models) for pair in todo]
    except (ValueError, OSError) as error:
        _complain(error)
        return 1
    return int(any(failed))


def _stays(source: Path, target: Path) -> bool:
    """Whether a source has its pose file already, of an earlier run or of another tool, which is
    told: it takes long to make and may have been corrected by hand."""
    if not target.exists():
        return False
    told = f"{target}: is there already and stays; delete it to find the keypoints again"
    if source.exists() and source.stat().st_mtime > target.stat().st_mtime:
        told = f"warning: {told}, as {source} was changed since"
    print(told)
    return True


def _done(source: Path, target: Path, models: estimate.Models) -> bool:
    """Whether the poses of a source were written; what is wrong with it is told, and does not keep
    the others of a long list from being looked at."""
    try:
        count = extract(source, target, models)
    except ValueError as error:
        _complain(error)
        return False
    print(f"{target}: {counted(count, 'frame')} of {source}")
    return True


def _complain(error: Exception) -> None:
    print(f"extract: {' '.join(str(error).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(ending.status_of(main))
