"""Make what the examples animate: a drawn person with a pose file, and the pose file of a dance.

  python -m assets.make_demo [FOLDER]

The persons come from the world that the bundled model learnt from, but from seeds that no training
uses. The dances are made here: no clip of that world moves like them, the dancers have other
proportions than the persons and other picture sizes, so that the demo shows poses being fitted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from assets.figure import LEFT, RIGHT, Body, Stance, keypoints
from dispose_jax.synthetic import scene

SIDE = 512  # of a picture


class DrawnPerson(NamedTuple):
    """Somebody of the drawn world: the person of that number among so many of a seed."""

    seed: int
    number: int
    people: int


class Example(NamedTuple):
    """A person, and the motion of somebody else as frames of so many pixels."""

    person: DrawnPerson
    dancer: Body
    stance: Callable[[float], Stance]  # at 0..1 of its loop
    frames: int  # at 30 a second
    width: int
    height: int


def dance(beat: float) -> Stance:
    """Two side steps with a bounce, a wave through open arms."""
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


def jumping_jacks(beat: float) -> Stance:
    """Two jumping jacks: arms from the sides to overhead while the feet leave the floor."""
    turn = 4 * np.pi * beat
    open_ = (1 - np.cos(turn)) / 2  # 0 closed, 1 open
    lift = 34 * np.sin(turn) ** 2  # in the air between the two
    upper = 0.35 + 2.2 * open_
    fore = upper + 0.25 * np.sin(turn)
    foot = lambda side: (360 + side * (34 + 62 * open_), 640 - lift)
    return Stance(
        pelvis=(360, 424 + 16 * open_ - lift),
        lean=0.04 * np.sin(turn / 2),
        shrug=0.0,
        nod=(0.25 * np.sin(turn / 2), -0.10 * open_),
        arms=((upper, fore), (upper, fore)),
        ankles=(foot(RIGHT), foot(LEFT)),
    )


# By folder in assets/. Persons stand with open arms; dancers are built otherwise than they.
EXAMPLES = {
    ".": Example(
        person=DrawnPerson(seed=7, number=23, people=40),
        dancer=Body(
            torso=206, neck=74, shoulders=68, hips=38, upper_arm=98, forearm=86, thigh=168,
            shin=166, head=46,
        ),
        stance=dance,
        frames=64,
        width=540,
        height=960,
    ),
    "second": Example(  # a child
        person=DrawnPerson(seed=11, number=13, people=24),
        dancer=Body(
            torso=150, neck=66, shoulders=54, hips=30, upper_arm=66, forearm=62, thigh=108,
            shin=110, head=50,
        ),
        stance=jumping_jacks,
        frames=64,
        width=720,
        height=720,
    ),
}  # fmt: skip


def draw(person: DrawnPerson) -> tuple[np.ndarray, np.ndarray]:
    """Picture (h, w, 3) uint8 and joints (18, 2) in pixels, NaN where one cannot be seen."""
    keys = jax.random.split(jax.random.key(person.seed), person.people)[person.number :][:1]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; arguments: of the command line."""
    parser = argparse.ArgumentParser(prog="python -m assets.make_demo", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    text = "to write to; by default the one that holds this program"
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help=text)
    folder = parser.parse_args(arguments).folder or Path(__file__).parent
    for name, example in EXAMPLES.items():
        write(folder / name, example)


def write(folder: Path, example: Example) -> None:
    """reference.png, reference.poses.json and driving.poses.json of an example."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, standing = draw(example.person)
    Image.fromarray(picture).save(folder / "reference.png", optimize=True)
    size = example.width, example.height
    beats = np.arange(example.frames) / example.frames
    frames = [keypoints(example.dancer, example.stance(beat)) for beat in beats]
    for name, entries in (
        ("reference.poses.json", [entry(standing, SIDE, SIDE)]),
        ("driving.poses.json", [entry(joints, *size) for joints in frames]),
    ):
        text = json.dumps(entries, separators=(",", ":"))
        (folder / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
