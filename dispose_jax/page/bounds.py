"""How large what visitors upload may be, told before anything of it is decoded as a whole."""

from __future__ import annotations

from pathlib import Path

from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, scanning

MOST_BYTES = 256 * 2**20  # of a file
MOST_POSE_BYTES = 32 * 2**20  # of a pose file, which takes many times that in memory
MOST_PIXELS = 2**24  # of a picture or a frame: 4096 x 4096
MOST_FRAMES = 3600  # of a driving video: two minutes at 30 a second


def check(sources: Sources) -> None:
    """Raise ValueError with one sentence for files beyond these bounds, or what decoding a video
    raises.

    Files that are no pictures, videos or pose files are left to those who read them.
    """
    for name, path in sources.files.items():
        most = MOST_POSE_BYTES if name in ("poses", "reference_pose") else MOST_BYTES
        _check_bytes(path, most)
    if isinstance(sources.reference, Path):
        _check_pixels(sources.reference, image.dimensions(sources.reference))
    if isinstance(sources.driving, Path):
        first = scanning.scan(sources.driving, 1)
        _check_pixels(sources.driving, (first.height, first.width))
        found = scanning.scan(sources.driving, MOST_FRAMES + 1)
        if len(found.times) > MOST_FRAMES:
            raise ValueError(
                f"{sources.driving}: more than {MOST_FRAMES} frames; cut out the part that you need"
            )


def _check_bytes(path: Path, most: int) -> None:
    """Raise ValueError for a file that is larger than this."""
    try:
        found = path.stat().st_size
    except OSError:
        return  # whoever reads it says so
    if found > most:
        raise ValueError(
            f"{path}: {found / 2**20:.0f} MiB, expected {most // 2**20} MiB at most; choose a "
            "smaller file"
        )


def _check_pixels(path: Path, size: tuple[int, int] | None) -> None:
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"{path}: {size[1]} x {size[0]} pixels, expected {MOST_PIXELS / 1e6:.0f} million at "
            "most; scale it down first"
        )
