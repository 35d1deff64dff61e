"""Random bodies and random motions: sizes and angles -> where the rigid parts of a person are.

Parts of the synthetic world (`synthetic`), one person at a time (device code). Lengths are
fractions of the person's height until they are scaled; angles are radians. A limb's angle is
measured from hanging straight down, outwards positive. "Right" is the person's own right, which is
on the left of the picture.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dispose_jax.synthetic.shapes import PartPlacement

Array = jax.Array

# Rigid bodies. The face slides over the head when that turns; hands and feet keep to their limbs.
TORSO, HEAD, FACE = range(3)
UPPER_ARM, FOREARM, THIGH, SHIN = (3, 4), (5, 6), (7, 8), (9, 10)  # right, left
GROUND = 11
NUM_BODIES = 12
SIDES = (-1, 1)  # sign of x: right, left

# Lowest and highest size of a build, in heights of the person. Limbs are thicker than life, so that
# they are still some pixels wide in small pictures.
SIZES = {
    "torso": (0.25, 0.32),  # hips' middle to neck
    "neck": (0.10, 0.13),  # neck to nose
    "shoulders": (0.065, 0.115),  # half of the width between them
    "hips": (0.035, 0.065),
    "upper_arm": (0.125, 0.18),
    "forearm": (0.11, 0.16),
    "thigh": (0.19, 0.25),
    "shin": (0.19, 0.25),
    "head": (0.06, 0.085),  # half width
    "hand": (0.02, 0.055),
    "foot": (0.03, 0.055),
    "arm_radius": (0.026, 0.042),
    "leg_radius": (0.032, 0.052),
}

LIMBS = ("upper_arm", "forearm", "thigh", "shin")  # what proportions differ in most

# Each quantity is base + amplitude * sin(rate * frame + phase): lowest and highest base, amplitude.
MOTIONS = {
    "x": ((0, 0), (0, 0.07)),
    "y": ((0, 0), (0, 0.025)),
    "lean": ((-0.1, 0.1), (0, 0.15)),
    "width": ((0.88, 1.0), (0, 0.1)),  # of the torso: less when it is turned away
    "tilt": ((-0.12, 0.12), (0, 0.2)),
    "turn": ((-0.12, 0.12), (0, 0.25)),  # of the face, half widths of the head
    "nod": ((-0.08, 0.08), (0, 0.12)),
    **{f"{side}_shoulder": ((-0.1, 2.4), (0.1, 0.8)) for side in ("right", "left")},
    **{f"{side}_elbow": ((-1.2, 1.4), (0.1, 0.8)) for side in ("right", "left")},
    **{f"{side}_hip": ((-0.05, 0.25), (0, 0.35)) for side in ("right", "left")},
    **{f"{side}_knee": ((-0.35, 0.1), (0, 0.35)) for side in ("right", "left")},
    # Limbs that point out of the picture's plane look shorter.
    **{
        f"{side}_{limb}": ((0.9, 1.0), (0, 0.12))
        for limb in ("upper_arm", "forearm", "thigh", "shin")
        for side in ("right", "left")
    },
}
RATES = (0.15, 0.55)  # radians per frame
HEIGHTS = (0.68, 0.92)  # lowest and highest of a standing person, of the picture's

_EYE, _EAR = (0.36, 0.28), (0.9, 0.1)  # beside and above the nose, half widths of the head


class Dice:
    """Uniform numbers of one random call, handed out in order.

    A random call costs about a second of compile time, and a person has hundreds of choices.
    """

    def __init__(self, key: Array, count: int = 512):
        self._numbers = jax.random.uniform(key, (count,))
        self._used = 0

    def __call__(self, shape: tuple[int, ...] = (), low=0.0, high=1.0) -> Array:
        """Fresh numbers between low and high, which broadcast to the shape."""
        start, self._used = self._used, self._used + math.prod(shape)
        assert self._used <= len(self._numbers), "more choices than numbers: raise count"
        return low + (high - low) * self._numbers[start : self._used].reshape(shape)

    def named(self, ranges: dict[str, tuple[float, float]]) -> dict[str, Array]:
        """A number for each name, from its range."""
        low, high = np.array(list(ranges.values()), np.float32).T
        return dict(zip(ranges, self((len(ranges),), low, high)))


def _joint_bodies() -> np.ndarray:
    """Bodies that each joint is a point of, or is seen through: (18, NUM_BODIES) bool."""
    bodies = [(FACE,), (TORSO, HEAD)]
    for side in range(2):
        upper, fore = UPPER_ARM[side], FOREARM[side]
        bodies += [(TORSO, upper), (upper, fore), (fore,)]
    for side in range(2):
        bodies += [(TORSO, THIGH[side]), (THIGH[side], SHIN[side]), (SHIN[side],)]
    bodies += [(FACE,), (FACE,), (HEAD,), (HEAD,)]
    table = np.zeros((18, NUM_BODIES), bool)
    for joint, owners in enumerate(bodies):
        table[joint, list(owners)] = True
    return table


JOINT_BODIES = _joint_bodies()


@struct.dataclass
class Person:
    """A person's sizes and motion."""

    build: dict[str, Array]  # SIZES in picture heights, and "height", the person's own
    placement: PartPlacement  # (f, NUM_BODIES, ..)
    joints: Array  # (f, 18, 2) in picture heights


def person(
    dice: Dice,
    frames: int,
    aspect: Array,
    apart: float,
    limbs: Array | None = None,
    heights: tuple[float, float] = HEIGHTS,
) -> Person:
    """Somebody of random build who moves for some frames in a picture that is aspect wide.

    apart: how likely the stance of frame 0 has nothing to do with the others. limbs: factors of
    the lengths of LIMBS; all else that is random stays, so the same dice give somebody of other
    proportions, as tall as before, in the same motion. heights: lowest and highest of somebody of
    middling proportions, of the picture's; above 0.9 some stand out of it.
    """
    build = dice.named(SIZES)
    height, left, above = dice((3,))
    low, high = heights
    height = low + (high - low) * height
    build = {name: size * height for name, size in build.items()} | {"height": height}
    if limbs is not None:
        build = _with_limbs(build, limbs)
    motion = _motion(dice, frames, apart)
    legs = build["thigh"] + build["shin"] + build["foot"]
    body = build["torso"] + build["neck"] + 1.3 * build["head"]
    # As much room to the sides as there is, and a little less than all of it above and below.
    x = aspect * (0.5 + 0.3 * (left - 0.5)) + motion["x"]
    y = body + (1 - legs - body) * (0.15 + 0.7 * above) + motion["y"]
    return _place(build, motion, jnp.stack([x, y], -1))


def _with_limbs(build: dict[str, Array], limbs: Array) -> dict[str, Array]:
    """The build with limbs of other lengths, scaled to stand as tall as it did."""
    standing = lambda build: sum(build[part] for part in ("thigh", "shin", "torso", "neck", "head"))
    longer = build | {name: build[name] * limbs[i] for i, name in enumerate(LIMBS)}
    share = standing(build) / standing(longer)
    return {name: size * share for name, size in longer.items()}


def _motion(dice: Dice, frames: int, apart: float) -> dict[str, Array]:
    """Every quantity of MOTIONS over time, (frames,)."""
    bases, sizes = np.array(list(MOTIONS.values()), np.float32).transpose(1, 2, 0)
    count = (len(MOTIONS),)
    base, other, size = dice(count, *bases), dice(count, *bases), dice(count, *sizes)
    rate, phase = dice(count, *RATES), dice(count, 0, 2 * np.pi)
    time = jnp.arange(frames)[:, None]
    base = jnp.where((dice() < apart) & (time == 0), other, base)
    values = base + size * jnp.sin(rate * time + phase)  # (frames, names)
    return dict(zip(MOTIONS, values.T))


def _place(build: dict[str, Array], motion: dict[str, Array], pelvis: Array) -> Person:
    """Bodies and joints, from the hips' middle (f, 2) outwards."""
    ones = jnp.ones(len(pelvis))
    bodies: list = [None] * NUM_BODIES

    def add(body: int, origin: Array, angle: Array, stretch: Array, width: Array = ones) -> None:
        """A body whose first axis has an angle from straight down, to the picture's right."""
        along = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
        # For a body that points up, the second axis points to the picture's right.
        across = jnp.stack([-along[:, 1], along[:, 0]], -1)
        bodies[body] = (origin, jnp.stack([along * stretch[:, None], across * width[:, None]], 1))

    def point(body: int, u, v=0.0) -> Array:
        origin, axes = bodies[body]
        return origin + u * axes[:, 0] + v * axes[:, 1]

    add(TORSO, pelvis, np.pi - motion["lean"], ones, motion["width"])
    neck = point(TORSO, build["torso"])
    add(HEAD, neck, np.pi - motion["tilt"], ones)
    origin, axes = bodies[HEAD]
    shift = build["head"] * jnp.stack([motion["nod"], motion["turn"]], -1)
    bodies[FACE] = (origin + (shift[..., None] * axes).sum(1), axes)

    arms, legs = [], []
    for side, sign, name in zip((0, 1), SIDES, ("right", "left")):
        shoulder = point(TORSO, build["torso"], sign * build["shoulders"])
        upper = motion[f"{name}_shoulder"]
        add(UPPER_ARM[side], shoulder, sign * upper, motion[f"{name}_upper_arm"])
        elbow = point(UPPER_ARM[side], build["upper_arm"])
        fore = upper + motion[f"{name}_elbow"]
        add(FOREARM[side], elbow, sign * fore, motion[f"{name}_forearm"])
        arms += [shoulder, elbow, point(FOREARM[side], build["forearm"])]
        hip = point(TORSO, 0.0, sign * build["hips"])
        thigh = motion[f"{name}_hip"]
        add(THIGH[side], hip, sign * thigh, motion[f"{name}_thigh"])
        knee = point(THIGH[side], build["thigh"])
        add(SHIN[side], knee, sign * (thigh + motion[f"{name}_knee"]), motion[f"{name}_shin"])
        legs += [hip, knee, point(SHIN[side], build["shin"])]
    bodies[GROUND] = (jnp.zeros_like(pelvis), jnp.broadcast_to(jnp.eye(2), (len(pelvis), 2, 2)))

    r = build["head"]
    nose = point(FACE, build["neck"])
    eyes = [point(FACE, build["neck"] + _EYE[1] * r, sign * _EYE[0] * r) for sign in SIDES]
    ears = [point(HEAD, build["neck"] + _EAR[1] * r, sign * _EAR[0] * r) for sign in SIDES]
    origin, axes = zip(*bodies)
    return Person(
        build=build,
        placement=PartPlacement(jnp.stack(origin, 1), jnp.stack(axes, 1)),
        joints=jnp.stack([nose, neck, *arms, *legs, *eyes, *ears], 1),
    )
