"""Memory that does not grow with a video: 8 frames of full HD, and counting many."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media import films

ROOT = Path(__file__).parents[2]
CHOSEN = """
chosen = video.choose(path, 2, 8)
count = sum(1 for _ in video.frames(path, chosen.numbers))
assert count == 8
"""
COUNTED = "assert video.probe(path).num_frames == 60"


@pytest.fixture(scope="module")
def full_hd(tmp_path_factory):
    """60 frames of full HD, 373 MB as pictures."""
    frame = films.cornered(1080, 1920)
    path = tmp_path_factory.mktemp("hd") / "a.mp4"
    with av.open(str(path), "w") as container:
        track = films.track(container, frame, 30, None, "libx264", {"preset": "ultrafast"}, 12, {})
        films.encode(container, track, (np.roll(frame, 8 * i, 1) for i in range(60)))
    return path


@pytest.mark.parametrize("work", [CHOSEN, COUNTED])
def test_frames_are_read_one_by_one(full_hd, work):
    program = f"""
import resource
from dispose_jax.media import video
path = {str(full_hd)!r}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{work}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150_000  # kilobytes: the decoder's own pictures
