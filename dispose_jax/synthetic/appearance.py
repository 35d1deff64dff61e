"""Random looks: clothes, hair and faces for a build, and the room behind (device code).

Parts of the synthetic world (`synthetic`), one person at a time. Clothes are shapes a little wider
than the limb that they follow; colours of people are lively, those of rooms are not.
"""

from __future__ import annotations

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


def dress(dice: Dice, build: dict[str, Array]) -> Shapes:
    """The shapes of one person, back to front."""
    patterns = _patterns(dice)
    # Where sleeves, trouser legs and a skirt end, whether there is long hair, which arm is behind.
    sleeve, leg, skirt, long_hair, fringe, right_arm, left_arm, bulge = dice((8,))
    sleeves = (jnp.where(sleeve < 0.6, 0.3 + 0.7 * sleeve, 1.0), jnp.where(sleeve > 0.75, 0.95, -1))
    trousers = (jnp.where(leg < 0.3, 0.5, 1.0), jnp.where(leg < 0.3, -1, 0.9))
    arm, thigh, neck = build["arm_radius"], build["leg_radius"], build["neck"]
    torso, r = build["torso"], build["head"]
    parts = []

    def add(depth, body, start, end, radii, pattern, *, flatness=1.0, shading=_PLAIN_SHADING):
        parts.append((depth, body, (start, end), radii, flatness, shading, pattern))

    def along(length, share=1.0):
        """From a limb's start; nothing when the share is negative."""
        return (0.0, 0.0), (share * length, 0.0)

    for side in range(2):
        bone = build["thigh"], build["shin"]
        ankle, cloth = 0.6 * thigh, (1.12 + 0.3 * bulge) * thigh
        lift = 0.01 * side  # the left leg over the right one
        add(_LEG + lift, THIGH[side], *along(bone[0]), (thigh, 0.8 * thigh), "skin")
        add(_LEG + lift, SHIN[side], *along(bone[1]), (0.8 * thigh, ankle), "skin")
        toe = (bone[1] + 0.9 * build["foot"], SIDES[side] * -0.6 * build["foot"])
        heel = (bone[1] + 0.2 * build["foot"], 0.0)
        add(_LEG + 1 + lift, SHIN[side], heel, toe, (0.7 * thigh, 0.6 * thigh), "shoes")
        for body, length, share, radii in (
            (THIGH, bone[0], trousers[0], (cloth, 0.9 * cloth)),
            (SHIN, bone[1], trousers[1], (0.9 * cloth, 0.8 * cloth)),
        ):
            radii = tuple(jnp.where(share > 0, radius, -1.0) for radius in radii)
            end = along(length, share)
            add(_LEG + 2 + lift, body[side], *end, radii, "trousers", flatness=1.5)

        depth = jnp.where((right_arm, left_arm)[side] < 0.2, _ARM_BEHIND, _ARM) + side
        bone = build["upper_arm"], build["forearm"]
        wrist, cloth = 0.65 * arm, (1.2 + 0.4 * bulge) * arm
        add(depth, UPPER_ARM[side], *along(bone[0]), (arm, 0.85 * arm), "skin")
        add(depth + 0.1, FOREARM[side], *along(bone[1]), (0.85 * arm, wrist), "skin")
        palm, tip = (bone[1] + 0.3 * build["hand"], 0.0), (bone[1] + build["hand"], 0.0)
        add(depth + 0.2, FOREARM[side], palm, tip, (0.9 * arm, 0.5 * arm), "skin")
        for body, length, share in (
            (UPPER_ARM, bone[0], sleeves[0]),
            (FOREARM, bone[1], sleeves[1]),
        ):
            radii = tuple(jnp.where(share > 0, radius, -1.0) for radius in (cloth, 0.9 * cloth))
            add(depth + 0.3, body[side], *along(length, share), radii, "shirt", flatness=2.0)

    hips, shoulders = 1.25 * build["hips"] + 0.3 * thigh, build["shoulders"] + 0.3 * arm
    add(_TORSO, TORSO, (0.06 * torso, 0.0), (-0.05 * torso, 0.0), (hips, hips), "trousers")
    flat = {"flatness": 2.5, "shading": 0.15}
    add(
        _TORSO + 2,
        TORSO,
        (0.05 * torso, 0.0),
        (0.92 * torso, 0.0),
        (hips, shoulders),
        "shirt",
        **flat,
    )
    hem = (hips, hips * (1.2 + 0.8 * bulge))
    hem = tuple(jnp.where(skirt < 0.25, radius, -1.0) for radius in hem)
    skirt_end = (-(0.25 + skirt) * build["thigh"], 0.0)
    add(_TORSO + 1, TORSO, (0.1 * torso, 0.0), skirt_end, hem, "trousers", **flat)

    around = {"shading": 0.1}
    add(_HEAD, HEAD, (0.0, 0.0), (neck - 0.3 * r, 0.0), (0.45 * r, 0.45 * r), "skin", **around)
    lock = jnp.where(long_hair < 0.5, 1.15 * r, -1.0)
    crown = (neck + 0.35 * r, 0.0)
    lower = (neck - (0.2 + 2 * long_hair) * r, 0.0)
    add(_HAIR_BEHIND, HEAD, crown, lower, (1.15 * r, lock), "hair", **around)
    chin, brow = (neck - 0.25 * r, 0.0), (neck + 0.3 * r, 0.0)
    add(_HEAD + 1, HEAD, chin, brow, (0.8 * r, r), "skin", **around)
    add(
        _FACE,
        FACE,
        (neck - 0.3 * r, 0.0),
        (neck + 0.1 * r, 0.0),
        (0.5 * r, 0.6 * r),
        "skin",
        shading=0,
    )
    for sign in SIDES:
        eye = (neck + 0.28 * r, sign * 0.36 * r)
        add(_FACE + 1, FACE, eye, eye, (0.13 * r, 0.13 * r), "dark", shading=0)
    mouth = [(neck - 0.42 * r, sign * 0.2 * r) for sign in SIDES]
    add(_FACE + 1, FACE, *mouth, (0.08 * r, 0.08 * r), "lips", shading=0)
    line = neck + (0.75 + 0.3 * fringe) * r
    top = [(line, sign * 0.5 * r) for sign in SIDES]
    add(_FRINGE, HEAD, *top, (0.45 * r, 0.45 * r), "hair", **around)

    depth, body, ends, radii, flatness, shading, pattern = zip(*parts)
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
