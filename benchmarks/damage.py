"""What each metric answers to known damage: a table and the figure of docs/evaluation.md.

  python -m benchmarks.damage --weights BUNDLE --output docs/metrics_damage.png

Drawn people are the true videos, so that nothing else differs. A metric whose networks the bundle
lacks has no row. One that changes by less than a fiftieth of its largest change does not react.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.measure import outputs
from dispose_jax.evaluation import measure, sequences
from dispose_jax.evaluation.metrics import METRICS
from dispose_jax.media import image
from dispose_jax.ops import levels
from dispose_jax.synthetic import scene

SIZE, FRAMES = (144, 128), 16
UNMOVED = 0.02  # of a metric's largest change
_CELL, _NAME, _LINE = (118, 30), 210, 34  # pixels
_WORSE, _BETTER, _SAME = (236, 128, 110), (120, 170, 230), (236, 236, 232)


def blurred(clip: np.ndarray, rng) -> np.ndarray:
    """Every frame by a Gaussian of 2 pixels."""
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in clip])


def noisy(clip: np.ndarray, rng) -> np.ndarray:
    """Independent noise of 15 grey levels."""
    return (clip + rng.normal(0, 15, clip.shape)).clip(0, 255).astype(np.uint8)


def frozen(clip: np.ndarray, rng) -> np.ndarray:
    """The first frame only."""
    return np.repeat(clip[:1], len(clip), axis=0)


def shuffled(clip: np.ndarray, rng) -> np.ndarray:
    """The same frames in another order."""
    return clip[rng.permutation(len(clip))]


def shifted(clip: np.ndarray, rng) -> np.ndarray:
    """Everything 4 pixels to the right."""
    return np.concatenate([np.repeat(clip[:, :, :1], 4, axis=2), clip[:, :, :-4]], axis=2)


DAMAGE = {
    "none": lambda clip, rng: clip,
    "blur": blurred,
    "noise": noisy,
    "frozen": frozen,
    "shuffled": shuffled,
    "shifted": shifted,
}


def run(weights: tuple[str, ...], clips: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """{metric: {damage: number as evaluate.py prints it}}."""
    keys = jax.random.split(jax.random.key(seed), clips)
    drawn = levels.to_uint8(jax.device_get(scene.draw(keys, FRAMES, SIZE).frames))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name, damage in {"real": DAMAGE["none"], **DAMAGE}.items():
            for i, clip in enumerate(drawn):
                frames = damage(clip, np.random.default_rng([seed, i]))
                sequences.write_frames(folder / name / f"{i}", iter(frames))
        for name in DAMAGE:
            request = measure.Request(
                fake=folder / name, real=folder / "real", weights=weights, fps=8, lenient=True
            )
            for metric, score in measure.run(measure.check(request)).fake.items():
                found.setdefault(metric, {})[name] = score.value * METRICS[metric].scale
    return found


def changes(metric: str, values: dict[str, float]) -> dict[str, float]:
    """How much worse each damage makes a metric (negative: better), in its largest change."""
    sign = 1 if METRICS[metric].better == "lower" else -1
    worse = {name: sign * (value - values["none"]) for name, value in values.items()}
    largest = max(map(abs, worse.values())) or 1.0
    return {name: 0.0 if abs(w / largest) < UNMOVED else w / largest for name, w in worse.items()}


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown; "=" where a metric does not react, "!" where damage looks like progress."""
    lines = [f"| metric | {' | '.join(DAMAGE)} |", "|---" * (1 + len(DAMAGE)) + "|"]
    for metric, values in found.items():
        change, digits = changes(metric, values), METRICS[metric].digits
        mark = {
            n: "" if n == "none" or c > 0 else " =" if c == 0 else " !" for n, c in change.items()
        }
        cells = [f"{values[name]:.{digits}f}{mark[name]}" for name in DAMAGE]
        lines.append(f"| {METRICS[metric].title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(found: dict[str, dict[str, float]]) -> np.ndarray:
    """The same as a picture: red is worse, blue looks better, grey does not react."""
    width, height = _NAME + _CELL[0] * len(DAMAGE), _LINE + _CELL[1] * len(found) + 28
    page = Image.new("RGB", (width, height), (250, 250, 248))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for j, name in enumerate(DAMAGE):
        pen.text((_NAME + _CELL[0] * j + 10, 10), name, (30, 30, 34), font)
    for i, (metric, values) in enumerate(found.items()):
        top, change = _LINE + _CELL[1] * i, changes(metric, values)
        pen.text((10, top + 7), METRICS[metric].title, (30, 30, 34), font)
        for j, name in enumerate(DAMAGE):
            strength, left = change[name], _NAME + _CELL[0] * j
            ink = _WORSE if strength > 0 else _BETTER
            share = 0.25 + 0.75 * abs(strength) if strength else 0
            fill = tuple(round(s + share * (c - s)) for s, c in zip(_SAME, ink))
            pen.rectangle((left, top, left + _CELL[0] - 3, top + _CELL[1] - 3), fill)
            text = f"{values[name]:.{METRICS[metric].digits}f}"
            pen.text((left + 10, top + 6), text, (30, 30, 34), font)
    legend = "red: worse   blue: looks better   grey: does not react"
    pen.text((10, height - 22), legend, (110, 110, 116), font)
    return np.asarray(page)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.damage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--weights", default="", help="bundles with the measuring networks")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("output/metrics_damage.png"))
    options = parser.parse_args()
    outputs(parser, options.output)
    try:
        found = run(tuple(filter(None, options.weights.split(","))), options.clips)
    except ValueError as error:
        sys.exit(f"damage: {error}")
    print(table(found))
    image.write_png(options.output, figure(found))


if __name__ == "__main__":
    main()
