"""Make what the demo animates: a drawn person with a pose file, and the pose file of a dance.

  python -m assets.make_demo [folder]

The person comes from the world that the bundled model learnt from, but from a seed that no training
uses. The dance is made here: no clip of that world moves like it, the dancer has other proportions
than the person and another picture size, so that the demo shows poses being fitted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from assets.figure import LEFT, RIGHT, Body, Stance, keypoints
from dispose_jax.synthetic import scene

SIDE = 512  # of the picture
SEED, PERSON, PEOPLE = 7, 23, 40  # of the people of that seed, one that stands with open arms

DANCE_WIDTH, DANCE_HEIGHT = 540, 960
DANCER = Body(
    torso=206, neck=74, shoulders=68, hips=38, upper_arm=98, forearm=86, thigh=168, shin=166,
    head=46,
)  # fmt: skip
DANCE_FRAMES = 64  # at 30 frames a second; the motion closes into a loop


def dance(beat: float) -> Stance:
    """The dance at 0..1 of its loop: two side steps with a bounce, a wave through open arms."""
    turn = 2 * np.pi * beat
    sway = np.sin(turn)
    pelvis_x = 270 + 24 * sway
    pelvis_y = 497 + 12 * np.cos(2 * turn)
    arms = []
    for side in (RIGHT, LEFT):
        wave = turn + (0.0 if side == RIGHT else np.pi)
        upper = 1.75 + 0.55 * np.sin(wave)
        fore = upper + 0.15 + 0.75 * np.sin(wave - 0.9)
        arms.append((upper, fore))
    ankles = []
    for side in (RIGHT, LEFT):
        # Weight is on the foot that the hips sway to; the other one swings up and out.
        free = max(0.0, -side * sway) ** 1.5
        ankles.append((270 + side * (66 + 52 * free), 846 - 62 * free))
    return Stance(
        pelvis=(pelvis_x, pelvis_y),
        lean=-0.10 * sway,
        shrug=0.10 * np.sin(turn - 0.5),
        nod=(0.18 * np.sin(turn - 0.3), 0.06 * np.cos(2 * turn)),
        arms=(arms[0], arms[1]),
        ankles=(ankles[0], ankles[1]),
    )


def person() -> tuple[np.ndarray, np.ndarray]:
    """Picture (h, w, 3) uint8 and joints (18, 2) in pixels, NaN where one cannot be seen."""
    keys = jax.random.split(jax.random.key(SEED), PEOPLE)[PERSON : PERSON + 1]
    clip = jax.device_get(scene.draw(keys, 1, (SIDE, SIDE)))
    picture = np.clip(np.rint(127.5 * clip.frames[0, 0] + 127.5), 0, 255).astype(np.uint8)
    seen = clip.visible[0, 0][:, None]
    return picture, np.where(seen, SIDE * clip.keypoints[0, 0], np.nan)


def entry(joints: np.ndarray, width: int, height: int) -> dict:
    """One frame of a pose file without hands and face; joints (18, 2), NaN for absent ones."""
    sure = np.isfinite(joints).all(-1)
    rows = [
        (round(float(x), 1), round(float(y), 1), 1) if one else (0, 0, 0)
        for (x, y), one in zip(joints, sure)
    ]
    people = [{"pose_keypoints_2d": [value for row in rows for value in row]}]
    return {"people": people, "canvas_height": height, "canvas_width": width}


def main(folder: Path) -> None:
    picture, standing = person()
    Image.fromarray(picture).save(folder / "reference.png", optimize=True)
    frames = [keypoints(DANCER, dance(i / DANCE_FRAMES)) for i in range(DANCE_FRAMES)]
    for name, entries in (
        ("reference.poses.json", [entry(standing, SIDE, SIDE)]),
        ("driving.poses.json", [entry(f, DANCE_WIDTH, DANCE_HEIGHT) for f in frames]),
    ):
        (folder / name).write_text(json.dumps(entries, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
