"""Drawn people with exact poses and exact flow: data for tests and for small models (device code).

Random bodies with clothes, faces and hair move in front of random rooms. Everything follows from
the key, and nothing is copied from a picture. What a joint is attached to is known, so keypoints,
visibility and flow are exact, not estimated. Geometry and painting of the parts are in `shapes`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from dispose_jax.synthetic import appearance, shapes
from dispose_jax.synthetic.bodies import FACE, GROUND, HEIGHTS, JOINT_BODIES, Dice, person
from dispose_jax.synthetic.shapes import PartPlacement, Shapes, Size

Array = jax.Array


@struct.dataclass
class Scene:
    """A person in a room, before anything is painted; frame 0 is the reference."""

    shapes: Shapes
    placement: PartPlacement  # (f, ..)
    joints: Array  # (f, 18, 2) in picture heights
    room: appearance.Room
    aspect: Array  # (): width over height of what the picture shows

    def at(self, frames) -> Scene:
        """The same scene in some frames of each clip: a slice or a list; all leaves batched."""
        pick = lambda x: x[:, frames]
        placement = jax.tree.map(pick, self.placement)
        return self.replace(placement=placement, joints=pick(self.joints))


@struct.dataclass
class DrawnClip:
    """Pictures and what is true of them."""

    frames: Array  # (b, f, h, w, 3) float32 in -1..1
    keypoints: Array  # (b, f, 18, 2) x, y as fractions of width and height, perhaps outside 0..1
    visible: Array  # (b, f, 18) bool: inside the picture and not covered by another part
    flow: Array  # (b, f, h, w, 2) pixels, from the reference to each frame; frame 0 is zero
    seen: Array  # (b, f, h, w) bool: the reference's pixel can be seen in that frame
    mask: Array  # (b, f, h, w) bool: the person
    face: Array  # (b, f, h, w) bool: of the person, the face with its eyes and mouth


def scenes(
    keys: Array,
    frames: int,
    aspect,
    *,
    apart: float = 0.0,
    heights: tuple[float, float] = HEIGHTS,
    limbs: Array | None = None,
) -> Scene:
    """Random scenes, one of each key: every leaf gets a first axis of their number.

    aspect: width over height of the pictures, one or one each. apart: share of clips whose
    reference has a stance of its own, as when the driving person is not the reference. heights:
    see `bodies.person`. limbs (b, len(LIMBS)): factors of limb lengths, for other bodies in the
    same motions.
    """
    aspect = jnp.broadcast_to(jnp.asarray(aspect, jnp.float32), keys.shape)

    def scene(key: Array, aspect: Array, limbs: Array | None) -> Scene:
        dice = Dice(key)
        someone = person(dice, frames, aspect, apart, limbs, heights)
        return Scene(
            shapes=appearance.dress(dice, someone.build),
            placement=someone.placement,
            joints=someone.joints,
            room=appearance.room(dice),
            aspect=aspect,
        )

    return jax.vmap(scene)(keys, aspect, limbs)


def paint(scene: Scene, size: Size) -> tuple[Array, Array]:
    """Pictures (b, f, h, w, 3) in -1..1 and labels (b, f, h, w), for `flow`."""

    def one(scene: Scene):
        ground = appearance.ground(scene.room, shapes.pixel_centres(size, scene.aspect))
        return shapes.paint(scene.shapes, scene.placement, ground, scene.aspect)

    pictures, labels = jax.vmap(one)(scene)
    return 2 * pictures - 1, labels


def flow(scene: Scene, labels: Array) -> Array:
    """Exact flow from the reference to every frame (b, f, h, w, 2) in pixels; frame 0 is zero.

    labels (b, h, w): the reference's, from `paint`.
    """
    return jax.vmap(shapes.flow)(scene.placement, labels, scene.aspect)


def keypoints(scene: Scene) -> Array:
    """Joints as fractions of width and height, (b, f, 18, 2)."""
    aspect = scene.aspect[:, None, None]
    return jnp.stack([scene.joints[..., 0] / aspect, scene.joints[..., 1]], -1)


def visible(points: Array, labels: Array) -> Array:
    """Which joints (..., 18, 2) can be seen in pictures labelled (..., h, w): (..., 18) bool."""
    *_, height, width = labels.shape
    column, row = jnp.moveaxis(jnp.floor(points * jnp.array([width, height])), -1, 0)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    flat = labels.reshape(*labels.shape[:-2], height * width)
    body = jnp.take_along_axis(flat, index.astype(jnp.int32), axis=-1)
    return inside & jnp.asarray(JOINT_BODIES)[jnp.arange(len(JOINT_BODIES)), body]


@partial(jax.jit, static_argnames=("frames", "size", "heights"))
def draw(
    keys: Array,
    frames: int,
    size: Size,
    aspect=None,
    *,
    apart: float = 0.0,
    heights: tuple[float, float] = HEIGHTS,
) -> DrawnClip:
    """A random clip of each key: `frames` pictures of size (height, width), the reference included.

    aspect: width over height of what is shown, that of the size by default; another one squeezes
    the picture, as CMP's square does. apart, heights: see `scenes`.
    """
    aspect = size[1] / size[0] if aspect is None else aspect
    scene = scenes(keys, frames, aspect, apart=apart, heights=heights)
    pictures, labels = paint(scene, size)
    motion = flow(scene, labels[:, 0])
    points = keypoints(scene)
    return DrawnClip(
        frames=pictures,
        keypoints=points,
        visible=visible(points, labels),
        flow=motion,
        seen=jax.vmap(shapes.seen)(motion, labels),
        mask=labels != GROUND,
        face=labels == FACE,
    )


@partial(jax.jit, static_argnames=("frames", "heights"))
def driving(
    keys: Array,
    frames: int,
    aspect,
    limbs: Array,
    *,
    apart: float = 0.0,
    heights: tuple[float, float] = HEIGHTS,
) -> Array:
    """Keypoints (b, f, 18, 2), as `draw` gives them, of other bodies in the motions of the keys.

    limbs, aspect, apart, heights: see `scenes`.
    """
    drawn = scenes(keys, frames, aspect, apart=apart, heights=heights, limbs=limbs)
    return keypoints(drawn)
