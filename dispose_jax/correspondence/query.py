"""Find a point of one picture in another by diffusion features (paper, Figure 7).

  python -m dispose_jax.correspondence.query REFERENCE POINT TARGET --output sheet.png
  python -m dispose_jax.correspondence.query ref.png 310,95 other.png --weights bundle \\
      --config configs/svd.py --explain --reference_pose ref.json

POINT is X,Y in pixels of the reference. --explain also looks for some of its joints. The sheet
shows the points in the reference, where each was found, and how alike every place of the target is
to POINT.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from dispose_jax import control_signals, ending, settings, weights
from dispose_jax.correspondence import dift, nearest
from dispose_jax.correspondence.nearest import Match
from dispose_jax.inputs.reference import framed, given_keypoints, target_size
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import image, montage, output
from dispose_jax.models import networks
from dispose_jax.ops.levels import to_float

_JOINTS = {"right shoulder": 2, "right wrist": 4, "left shoulder": 5, "left wrist": 7, "nose": 0}
_INKS = (
    (230, 60, 50),
    (40, 120, 220),
    (40, 160, 80),
    (200, 140, 20),
    (140, 70, 190),
    (20, 160, 170),
)
_SIDE, _GAP = 448, 8  # pixels of the sheet: height of a picture, between pictures


def query(
    config, given: Sequence[str], reference: np.ndarray, points: np.ndarray, target: np.ndarray
) -> list[Match]:
    """Where points (k, 2) of the reference, in fractions, are found in the target.

    Pictures (h, w, 3) uint8, sides multiples of 64; given: as weights.choose gives. One draw of the
    noise serves both pictures, so that equal pictures have equal features. Raises ValueError if the
    config has no keypoint correspondence.
    """
    built = networks.build(config, networks.compute_dtype(config.sample.dtype))
    recipe = control_signals.build(config, built)
    if recipe.dift is None:
        raise ValueError(f"{config.name}: its variant has no keypoint correspondence, so no DIFT")
    own = {name: built[name] for name in recipe.dift_networks}
    params = weights.Weights(given, own, config).load(own)
    read = jax.jit(dift.features, static_argnums=0)
    key = jax.random.key(config.seed)
    floats = map(to_float, (reference, target))
    one, other = (read(recipe.dift, params, picture, key) for picture in floats)
    return [nearest.find(one, tuple(point), other) for point in points]


def sheet(
    reference: np.ndarray, points: np.ndarray, target: np.ndarray, matches: Sequence[Match]
) -> np.ndarray:
    """Reference with the points, target with the matches, target with the first one's cosines."""
    cosines = matches[0].map
    low, high = float(cosines.min()), float(cosines.max())
    level = np.uint8(255 * (cosines - low) / max(high - low, 1e-8))
    shape = target.shape[1], target.shape[0]
    heat = np.asarray(Image.fromarray(level).resize(shape, Image.Resampling.BILINEAR))[..., None]
    faded = target // 3 + np.uint8([160, 90, 0]) * (heat / 255)
    found = np.array([match.xy for match in matches])
    panels = (
        _marked(reference, points),
        _marked(target, found),
        _marked(faded.clip(0, 255).astype(np.uint8), found[:1]),
    )
    gap = montage.empty(_GAP, _SIDE)
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)


def _marked(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A picture _SIDE high with a ring around each point."""
    h, w = picture.shape[:2]
    panel = Image.fromarray(picture).resize((max(1, round(w * _SIDE / h)), _SIDE))
    canvas = ImageDraw.Draw(panel)
    for i, (x, y) in enumerate(points):
        x, y = x * panel.width, y * _SIDE
        for radius, ink in ((9, (255, 255, 255)), (7, _INKS[i % len(_INKS)])):
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=3)
    return np.asarray(panel)


def _point(text: str, picture: np.ndarray, path: str) -> np.ndarray:
    """X,Y in pixels as fractions of a picture."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"POINT {text}: expected X,Y in pixels, such as 310,95") from None
    h, w = picture.shape[:2]
    if not (0 <= x < w and 0 <= y < h):
        raise ValueError(f"POINT {text}: outside of {path}, which is {w} x {h} pixels")
    return np.array([(x + 0.5) / w, (y + 0.5) / h])


def _joints(path: str | None, reference: str, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Some joints that are seen of the person who would be animated, by name, in fractions of the
    picture; path: the pose file of that picture, which was read from reference."""
    if path is None:
        raise ValueError("--explain looks for joints: give --reference_pose FILE")
    sources = Sources(Path(reference), Path(path), None, None)
    pose, notes = given_keypoints(sources, *picture.shape[:2])
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return {name: pose.body[0, 0, i] for name, i in _JOINTS.items() if pose.visible[0, 0, i]}


def run(options: argparse.Namespace) -> Path:
    """Find and draw; returns the sheet's path."""
    path = output.prepare(options.output, ".png")
    config = settings.load(options.config)
    raw = image.read(options.reference)
    wanted = {"point": _point(options.point, raw, options.reference)}
    if options.explain:
        wanted |= _joints(options.reference_pose, options.reference, raw)
    at_size = lambda picture: framed(picture, target_size(picture, config.sample), 0)
    reference, target = at_size(raw), at_size(shown := image.read(options.target))
    scale, offset = map(np.array, reference.move)
    points = np.stack([*wanted.values()]) * scale + offset
    kept = ((points >= 0) & (points <= 1)).all(1)
    if not kept[0]:
        raise ValueError(f"POINT {options.point}: cut off where the picture is brought to size")
    names, points = [name for name, k in zip(wanted, kept) if k], points[kept]
    given = weights.choose(options.weights.split(",") if options.weights else None, config)
    matches = query(config, given, reference.picture, points, target.picture)
    scale, offset = map(np.array, target.move)
    for name, match in zip(names, matches):
        x, y = (np.array(match.xy) - offset) / scale * shown.shape[1::-1]
        print(f"{name}: {x:.0f},{y:.0f} in {options.target}, cosine {match.similarity:.3f}")
    image.write_png(path, sheet(reference.picture, points, target.picture, matches))
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dispose_jax.correspondence.query", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("reference")
    parser.add_argument("point", help="X,Y in pixels of the reference")
    parser.add_argument("target")
    parser.add_argument("--output", type=settings.path, default=Path("output/correspondence.png"))
    parser.add_argument("--config", default="configs/svd.py:size=small", help="file.py[:argument]")
    parser.add_argument(
        "--weights",
        type=settings.filled,
        help="bundles, a later one overriding an earlier one; or 'random'",
    )
    parser.add_argument("--explain", action="store_true", help="look for some joints too")
    parser.add_argument(
        "--reference_pose", type=settings.filled, help="pose file of the reference, for --explain"
    )
    options = parser.parse_args(settings.at_home(arguments))
    try:
        settings.refuse_addresses({f"--{name}": value for name, value in vars(options).items()})
        print(f"wrote {run(options)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(ending.status_of(main))
