"""Make what the demo animates: a drawn figure with its pose file, and the pose file of a dance.

  python assets/make_demo.py [folder]

Everything comes from this script, no third-party picture or motion is in it. The dancer has other
proportions than the figure, and another picture size, so that the demo shows poses being fitted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from figure import LEFT, RIGHT, Body, Stance, keypoints
from painting import paint
from PIL import Image

WIDTH, HEIGHT = 512, 512  # of the picture
PAPER = 1.1875  # it is drawn that much larger
STANDING = Body(
    torso=122, neck=50, shoulders=34, hips=19, upper_arm=62, forearm=56, thigh=90, shin=88,
    head=29, hand=33,
)  # fmt: skip
READY = Stance(
    pelvis=(304, 318),
    lean=0.0,
    shrug=0.0,
    nod=(0.0, 0.0),
    arms=((0.42, 0.30), (0.42, 0.30)),
    ankles=((277, 495), (331, 495)),
    spread=0.7,
)

DANCE_WIDTH, DANCE_HEIGHT = 540, 960
DANCER = Body(
    torso=212, neck=66, shoulders=66, hips=37, upper_arm=104, forearm=90, thigh=178, shin=172,
    head=37, hand=46,
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
        spread=0.65 + 0.35 * np.sin(2 * turn),
    )


def entry(points: dict[str, np.ndarray], width: int, height: int) -> dict:
    """One frame of a pose file; every point is sure."""
    triple = lambda xy: [v for x, y in xy for v in (round(float(x), 1), round(float(y), 1), 1)]
    person = {
        "pose_keypoints_2d": triple(points["body"]),
        "face_keypoints_2d": triple(points["face"]),
        "hand_left_keypoints_2d": triple(points["hands"][0]),
        "hand_right_keypoints_2d": triple(points["hands"][1]),
    }
    return {"people": [person], "canvas_height": height, "canvas_width": width}


def main(folder: Path) -> None:
    standing = keypoints(STANDING, READY)
    paper = (round(HEIGHT * PAPER), round(WIDTH * PAPER))
    picture = paint(standing, STANDING, paper, (HEIGHT, WIDTH))
    standing = {part: xy / PAPER for part, xy in standing.items()}
    Image.fromarray(picture).save(folder / "reference.png", optimize=True)
    frames = [keypoints(DANCER, dance(i / DANCE_FRAMES)) for i in range(DANCE_FRAMES)]
    for name, entries in (
        ("reference.poses.json", [entry(standing, WIDTH, HEIGHT)]),
        ("driving.poses.json", [entry(f, DANCE_WIDTH, DANCE_HEIGHT) for f in frames]),
    ):
        (folder / name).write_text(json.dumps(entries, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
