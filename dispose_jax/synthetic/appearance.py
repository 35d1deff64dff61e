"""Random looks: clothes, hair and faces for a build, and the room behind (device code).

Parts of the synthetic world (`synthetic`), one person at a time. Clothes are shapes a little wider
than the limb that they follow; colours of people are lively, those of rooms are not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dispose_jax.synthetic.bodies import (
    FACE,
    FOREARM,
    HEAD,
    SHIN,
    SIDES,
    THIGH,
    TORSO,
    UPPER_ARM,
    Dice,
)
from dispose_jax.synthetic.shapes import NUM_WAVES, Shapes, wave

Array = jax.Array

PATTERNS = ("skin", "hair", "shirt", "trousers", "shoes", "dark", "lips")  # each a colour, a weave
ROOM_WAVES, PANELS = 3, 2
_PLAIN_SHADING = 0.25

# What lies over what. An arm is either in front of everything or behind the torso.
_HAIR_BEHIND, _ARM_BEHIND, _LEG, _TORSO, _HEAD, _FACE, _FRINGE, _ARM = np.arange(8) * 10.0


@struct.dataclass
class Room:
    """A wall and a floor with smooth patterns, and some rectangles on the wall."""

    colors: Array  # (2, 2, 3): wall, floor; each from its upper to its lower border
    horizon: Array  # ()
    wave: Array  # (ROOM_WAVES, 2) radians per picture height
    phase: Array  # (ROOM_WAVES,)
    tint: Array  # (2, ROOM_WAVES, 3)
    contrast: Array  # (ROOM_WAVES,)
    panel: Array  # (PANELS, 4): middle x, y and half width, height
    panel_color: Array  # (PANELS, 3)


class _Part(NamedTuple):
    """A shape of a person: on which body part, from where to where, how it looks."""

    depth: float | Array  # what lies over what
    body: int
    ends: tuple  # of its axis, two points
    radii: tuple  # at the ends; a negative one leaves the shape out
    pattern: str  # one of PATTERNS
    flatness: float = 1.0
    shading: float = _PLAIN_SHADING


def dress(dice: Dice, build: dict[str, Array]) -> Shapes:
    """The shapes of one person, back to front."""
    patterns = _patterns(dice)
    # Where sleeves, trouser legs and a skirt end, whether there is long hair, which arm is behind.
    sleeve, leg, skirt, long_hair, fringe, *behind, bulge = dice((8,))
    parts = []
    for side in range(2):
        parts += _leg(build, side, leg, bulge)
        parts += _arm(build, side, sleeve, bulge, behind[side])
    parts += _torso(build, skirt, bulge)
    parts += _head(build, long_hair, fringe)

    depth, body, ends, radii, pattern, flatness, shading = zip(*parts)
    order = jnp.argsort(jnp.stack([jnp.asarray(d, jnp.float32) for d in depth]))
    gather = np.array([PATTERNS.index(name) for name in pattern])
    numbers = lambda x: jnp.asarray(x, jnp.float32)
    stacked = Shapes(
        body=jnp.array(body, jnp.int32),
        ends=numbers(ends),
        radii=numbers(radii),
        flatness=numbers(flatness),
        shading=numbers(shading),
        **{name: value[gather] for name, value in patterns.items()},
    )
    return jax.tree.map(lambda x: x[order], stacked)


def _along(length, share=1.0) -> tuple:
    """The ends of what covers a share of a limb, from its start."""
    return (0.0, 0.0), (share * length, 0.0)


def _where(there: Array, *radii) -> tuple:
    """Radii of what is there in some people only."""
    return tuple(jnp.where(there, radius, -1.0) for radius in radii)


def _leg(build: dict[str, Array], side: int, draw: Array, bulge: Array) -> list[_Part]:
    """A leg, its shoe and trouser leg, which is short or long by a draw of 0..1."""
    thigh, bone = build["leg_radius"], (build["thigh"], build["shin"])
    ankle, cloth = 0.6 * thigh, (1.12 + 0.3 * bulge) * thigh
    depth = _LEG + 0.01 * side  # the left leg over the right one
    toe = (bone[1] + 0.9 * build["foot"], SIDES[side] * -0.6 * build["foot"])
    heel = (bone[1] + 0.2 * build["foot"], 0.0)
    upper, lower = jnp.where(draw < 0.3, 0.5, 1.0), jnp.where(draw < 0.3, -1, 0.9)
    above = _where(upper > 0, cloth, 0.9 * cloth)
    below = _where(lower > 0, 0.9 * cloth, 0.8 * cloth)
    return [
        _Part(depth, THIGH[side], _along(bone[0]), (thigh, 0.8 * thigh), "skin"),
        _Part(depth, SHIN[side], _along(bone[1]), (0.8 * thigh, ankle), "skin"),
        _Part(depth + 1, SHIN[side], (heel, toe), (0.7 * thigh, 0.6 * thigh), "shoes"),
        _Part(depth + 2, THIGH[side], _along(bone[0], upper), above, "trousers", flatness=1.5),
        _Part(depth + 2, SHIN[side], _along(bone[1], lower), below, "trousers", flatness=1.5),
    ]


def _arm(
    build: dict[str, Array], side: int, draw: Array, bulge: Array, behind: Array
) -> list[_Part]:
    """An arm, its hand and sleeve, whose length follows from a draw of 0..1; behind: another draw,
    of whether the arm is behind the torso."""
    arm, bone = build["arm_radius"], (build["upper_arm"], build["forearm"])
    wrist, cloth = 0.65 * arm, (1.2 + 0.4 * bulge) * arm
    depth = jnp.where(behind < 0.2, _ARM_BEHIND, _ARM) + side
    palm, tip = (bone[1] + 0.3 * build["hand"], 0.0), (bone[1] + build["hand"], 0.0)
    upper, lower = jnp.where(draw < 0.6, 0.3 + 0.7 * draw, 1.0), jnp.where(draw > 0.75, 0.95, -1)
    above, below = (_where(share > 0, cloth, 0.9 * cloth) for share in (upper, lower))
    return [
        _Part(depth, UPPER_ARM[side], _along(bone[0]), (arm, 0.85 * arm), "skin"),
        _Part(depth + 0.1, FOREARM[side], _along(bone[1]), (0.85 * arm, wrist), "skin"),
        _Part(depth + 0.2, FOREARM[side], (palm, tip), (0.9 * arm, 0.5 * arm), "skin"),
        _Part(depth + 0.3, UPPER_ARM[side], _along(bone[0], upper), above, "shirt", flatness=2.0),
        _Part(depth + 0.3, FOREARM[side], _along(bone[1], lower), below, "shirt", flatness=2.0),
    ]


def _torso(build: dict[str, Array], skirt: Array, bulge: Array) -> list[_Part]:
    """Hips and shirt, and a skirt by a draw of 0..1."""
    torso = build["torso"]
    hips = 1.25 * build["hips"] + 0.3 * build["leg_radius"]
    shoulders = build["shoulders"] + 0.3 * build["arm_radius"]
    flat = {"flatness": 2.5, "shading": 0.15}
    belt, shirt = (0.06 * torso, -0.05 * torso), (0.05 * torso, 0.92 * torso)
    hanging = 0.1 * torso, -(0.25 + skirt) * build["thigh"]
    hem = _where(skirt < 0.25, hips, hips * (1.2 + 0.8 * bulge))
    upright = lambda ends: tuple((end, 0.0) for end in ends)
    return [
        _Part(_TORSO, TORSO, upright(belt), (hips, hips), "trousers"),
        _Part(_TORSO + 2, TORSO, upright(shirt), (hips, shoulders), "shirt", **flat),
        _Part(_TORSO + 1, TORSO, upright(hanging), hem, "trousers", **flat),
    ]


def _head(build: dict[str, Array], long_hair: Array, fringe: Array) -> list[_Part]:
    """Neck, head, hair and face; hair by two draws of 0..1."""
    neck, r = build["neck"], build["head"]
    around = {"shading": 0.1}
    lock = jnp.where(long_hair < 0.5, 1.15 * r, -1.0)
    crown, lower = (neck + 0.35 * r, 0.0), (neck - (0.2 + 2 * long_hair) * r, 0.0)
    chin, brow = (neck - 0.25 * r, 0.0), (neck + 0.3 * r, 0.0)
    throat = (0.0, 0.0), (neck - 0.3 * r, 0.0)
    face = (neck - 0.3 * r, 0.0), (neck + 0.1 * r, 0.0)
    eyes = [(neck + 0.28 * r, sign * 0.36 * r) for sign in SIDES]
    mouth = tuple((neck - 0.42 * r, sign * 0.2 * r) for sign in SIDES)
    line = neck + (0.75 + 0.3 * fringe) * r
    top = tuple((line, sign * 0.5 * r) for sign in SIDES)
    eye_radii = 0.13 * r, 0.13 * r
    return [
        _Part(_HEAD, HEAD, throat, (0.45 * r, 0.45 * r), "skin", **around),
        _Part(_HAIR_BEHIND, HEAD, (crown, lower), (1.15 * r, lock), "hair", **around),
        _Part(_HEAD + 1, HEAD, (chin, brow), (0.8 * r, r), "skin", **around),
        _Part(_FACE, FACE, face, (0.5 * r, 0.6 * r), "skin", shading=0),
        *(_Part(_FACE + 1, FACE, (eye, eye), eye_radii, "dark", shading=0) for eye in eyes),
        _Part(_FACE + 1, FACE, mouth, (0.08 * r, 0.08 * r), "lips", shading=0),
        _Part(_FRINGE, HEAD, top, (0.45 * r, 0.45 * r), "hair", **around),
    ]


def _patterns(dice: Dice) -> dict[str, Array]:
    """Colours and weaves of PATTERNS: fields of Shapes with one entry for each."""
    count = len(PATTERNS)
    colors = _color(dice, (count,), saturation=(0.35, 1.0), value=(0.3, 1.0))
    tone, grey = dice((2,))
    skin = jnp.array([0.96, 0.78, 0.65]) * (1 - tone) + jnp.array([0.36, 0.22, 0.15]) * tone
    hair = jnp.array([0.1, 0.07, 0.05]) * (1 - grey) + jnp.array([0.85, 0.65, 0.4]) * grey
    fixed = {"skin": skin, "hair": hair, "dark": jnp.full(3, 0.06), "lips": skin * 0.6}
    for name, color in fixed.items():
        colors = colors.at[PATTERNS.index(name)].set(color)
    # Clothes have broad stripes or a weave, skin hardly any. A person has few of them: pictures as
    # small as 64 pixels must show them, and a small autoencoder keep them.
    lively = np.array([0.03, 0.08, 0.4, 0.25, 0.0, 0.0, 0.0])[:, None, None]
    turn = dice((count, NUM_WAVES), 0, 2 * np.pi)
    turn = turn.at[:, 0].set(jnp.rint(turn[:, 0] * 2 / np.pi) * 0.5 * np.pi)  # along or across
    rate = dice((count, NUM_WAVES, 1), 25, 75)
    return {
        "color": colors,
        "wave": rate * jnp.stack([jnp.cos(turn), jnp.sin(turn)], -1),
        "phase": dice((count, NUM_WAVES), 0, 2 * np.pi),
        "tint": lively * dice((count, NUM_WAVES, 1)) * dice((count, NUM_WAVES, 3), -1, 1),
        "contrast": dice((count, NUM_WAVES), 1, 4),
    }


def room(dice: Dice) -> Room:
    """A random room."""
    colors = _color(dice, (2, 2), saturation=(0.0, 0.4), value=(0.25, 0.95))
    # Both borders of a surface are alike.
    colors = colors.at[:, 1].set(0.6 * colors[:, 0] + 0.4 * colors[:, 1])
    turn = dice((ROOM_WAVES,), 0, 2 * np.pi)
    rate = jnp.exp(dice((ROOM_WAVES, 1), 1, 3.2))
    low, high = np.float32([0, 0, 0.03, 0.03]), np.float32([1, 0.7, 0.25, 0.25])
    return Room(
        colors=colors,
        horizon=dice((), 0.6, 1.15),
        wave=rate * jnp.stack([jnp.cos(turn), jnp.sin(turn)], -1),
        phase=dice((ROOM_WAVES,), 0, 2 * np.pi),
        tint=dice((2, ROOM_WAVES, 1)) ** 2 * dice((2, ROOM_WAVES, 3), -0.08, 0.08),
        contrast=dice((ROOM_WAVES,), 1, 4),
        panel=dice((PANELS, 4), low, high),
        panel_color=_color(dice, (PANELS,), saturation=(0.0, 0.4), value=(0.25, 0.95)),
    )


def ground(room: Room, points: Array) -> Array:
    """The empty room at picture points (h, w, 2) -> (h, w, 3) in 0..1."""
    x, y = points[..., 0], points[..., 1]
    is_floor = y > room.horizon
    depth = jnp.where(is_floor, (y - room.horizon) / 0.4, y / room.horizon)[..., None]
    upper, lower = jnp.moveaxis(room.colors[is_floor.astype(jnp.int32)], -2, 0)
    color = upper + jnp.clip(depth, 0, 1) * (lower - upper)
    for i in range(PANELS):
        middle, half = room.panel[i, :2], room.panel[i, 2:]
        inside = (jnp.abs(x - middle[0]) < half[0]) & (jnp.abs(y - middle[1]) < half[1])
        color = jnp.where((inside & ~is_floor)[..., None], room.panel_color[i], color)
    for i in range(ROOM_WAVES):
        crest = wave(x * room.wave[i, 0] + y * room.wave[i, 1] + room.phase[i])
        crest = jnp.clip(crest * room.contrast[i], -1, 1)[..., None]
        color = color + crest * jnp.where(is_floor[..., None], *room.tint[::-1, i])
    return jnp.clip(color, 0, 1)


def _color(dice: Dice, shape: tuple[int, ...], *, saturation, value) -> Array:
    """Random colours (*shape, 3) of any hue; saturation and value from ranges."""
    hue, grey, bright = dice((*shape, 1)), dice((*shape, 1), *saturation), dice((*shape, 1), *value)
    ramp = jnp.clip(jnp.abs((hue * 6 + jnp.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return bright * (1 - grey * (1 - ramp))
