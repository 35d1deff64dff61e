"""Clip after clip through one animator: seconds of the first and of others, memory per frame.

    python -m benchmarks.clips [--config configs/svd.py:size=small] [--weights DIR,...]

The figure that the demo animates dances to repetitions of its poses. Memory is the process's
largest resident set, each length in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from dispose_jax import Animator, weights
from dispose_jax.pose import files

LENGTHS = 32, 56, 32  # driving frames of the first clip and of those after it
SHORT, LONG = 100, 1000  # driving frames whose memory is compared
ASSETS = weights.ASSETS


def prepare(animator: Animator, num_frames: int):
    """A clip of so many driving frames, at stride 1."""
    dance = files.read(ASSETS / "driving.poses.json")
    numbers = np.arange(num_frames * animator.config.sample.stride) % dance.pose.num_frames
    return animator.prepare(
        ASSETS / "reference.png",
        reference_pose=ASSETS / "reference.poses.json",
        poses=dance._replace(pose=dance.pose.at(numbers)),
        fps=15,
    )


def seconds(animator: Animator) -> list[float]:
    """Of whole clips, one after another."""
    spent = []
    for num_frames in LENGTHS:
        start = time.perf_counter()
        count = sum(map(len, animator(prepare(animator, num_frames))))
        assert count == num_frames, f"{count} frames of {num_frames}"
        spent.append(time.perf_counter() - start)
    return spent


def peak_bytes(options, num_frames: int) -> int:
    """The largest resident set of a process that animates a clip of so many frames."""
    command = [sys.executable, "-m", "benchmarks.clips", f"--config={options.config}"]
    command += [f"--weights={options.weights}"] if options.weights else []
    done = subprocess.run(
        [*command, f"--only={num_frames}"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/svd.py:size=small")
    parser.add_argument("--weights", default="")
    parser.add_argument("--only", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundles = [Path(folder) for folder in filter(None, options.weights.split(","))]
    try:
        animator = Animator.load(bundles or None, config=options.config)
    except ValueError as error:
        parser.error(str(error))
    if options.only:
        for _ in animator(prepare(animator, options.only)):
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    spent = seconds(animator)
    for num_frames, taken in zip(LENGTHS, spent):
        ratio = f", {taken / spent[0]:.3f} of the first" if taken is not spent[0] else ""
        print(f"clip of {num_frames} frames: {taken:.2f} s{ratio}")
    short, long = (peak_bytes(options, num_frames) for num_frames in (SHORT, LONG))
    per_frame = (long - short) / (LONG - SHORT)
    print(
        f"peak of the process: {short / 2**20:.0f} MiB for {SHORT} frames, {long / 2**20:.0f} MiB"
    )
    print(f"  for {LONG}; {per_frame / 2**10:.1f} KiB for each frame more")


if __name__ == "__main__":
    main()
