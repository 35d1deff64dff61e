"""Rounded shapes that move rigidly, painted with exact labels and exact flow (device code).

Shapes belong to bodies; a body is placed by an affine map per frame, and everything on it, outline
and texture, is given in the body's own coordinates. A pixel of the reference can therefore be
followed exactly. Lengths are in picture heights, x right and y down; what the shapes stand for is
not known here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array
Size = tuple[int, int]  # height, width

NUM_WAVES = 2  # of a texture


@struct.dataclass
class PartPlacement:
    """Where bodies are: picture point = origin + coordinates @ axes. The last body is the ground,
    at the identity."""

    origin: Array  # (f, g, 2)
    axes: Array  # (f, g, 2, 2): rows are the body's first and second axis

    def points(self, body: Array, coordinates: Array) -> Array:
        """Material points in every frame: body (n,) integer, coordinates (n, 2) -> (f, n, 2)."""
        moved = (coordinates[..., None] * self.axes[:, body]).sum(-2)
        return self.origin[:, body] + moved


@struct.dataclass
class Shapes:
    """Tapered capsules, back to front, with their looks; s of them."""

    body: Array  # (s,) int32: which body each lies on
    ends: Array  # (s, 2, 2): the axis' ends, body coordinates
    radii: Array  # (s, 2): at the ends; negative: the shape is absent
    flatness: Array  # (s,): 1 for half circles at the ends, more for flatter ones
    color: Array  # (s, 3) in 0..1
    shading: Array  # (s,): how much darker the rim is than the middle, 0..1
    wave: Array  # (s, NUM_WAVES, 2): of the texture, radians per picture height
    phase: Array  # (s, NUM_WAVES)
    tint: Array  # (s, NUM_WAVES, 3): added at a wave's crest, subtracted in its trough
    contrast: Array  # (s, NUM_WAVES): 1 for a sine, more for stripes with edges


def pixel_centres(size: Size, aspect: Array) -> Array:
    """Centres of the pixels (h, w, 2) of a picture that is aspect wide and 1 high."""
    height, width = size
    y = (jnp.arange(height) + 0.5) / height
    x = (jnp.arange(width) + 0.5) / width * aspect
    return jnp.stack(jnp.broadcast_arrays(x, y[:, None]), -1)


def paint(
    shapes: Shapes, placement: PartPlacement, ground: Array, aspect: Array
) -> tuple[Array, Array]:
    """Shapes on a ground (h, w, 3): pictures (f, h, w, 3) in 0..1 and labels (f, h, w) int32.

    A label is the body that the pixel's centre lies on. Edges are soft over one pixel.
    """
    height, width = ground.shape[:2]
    points = pixel_centres((height, width), aspect)
    pixel = jnp.sqrt(aspect / (height * width))  # its side; pixels need not be square
    num_bodies = placement.origin.shape[1]
    planes = jnp.moveaxis(ground, -1, 0)  # one plane per colour: three times as fast on a CPU
    labels = jnp.full((height, width), num_bodies - 1, jnp.int32)

    def picture(origin: Array, inverse: Array) -> tuple[Array, Array]:
        def lay(below, shape: Shapes):
            planes, labels = below
            u, v = _coordinates(points, origin[shape.body], inverse[shape.body])
            distance, rim = _outline(shape, u, v)
            cover = jnp.clip(0.5 - distance / pixel, 0, 1)
            color = _texture(shape, u, v) * (1 - shape.shading * rim)
            planes = planes + cover * (color - planes)
            return (planes, jnp.where(distance < 0, shape.body, labels)), None

        return jax.lax.scan(lay, (planes, labels), shapes)[0]

    planes, labels = jax.vmap(picture)(placement.origin, _inverse(placement.axes))
    return jnp.clip(jnp.moveaxis(planes, 1, -1), 0, 1), labels


def flow(placement: PartPlacement, labels: Array, aspect: Array) -> Array:
    """Where the points in the middle of frame 0's pixels go: (f, h, w, 2) pixels, frame 0 zero.

    labels (h, w): frame 0's, as `paint` gives them.
    """
    height, width = labels.shape
    points = pixel_centres(labels.shape, aspect)
    inverse = _inverse(placement.axes[0])
    u, v = _coordinates(points, placement.origin[0][labels], inverse[labels])
    # What a body does to its coordinates, minus where they were: 6 numbers, read per pixel.
    origin = placement.origin - placement.origin[:1]
    axes = placement.axes - placement.axes[:1]
    table = jnp.concatenate([origin, axes[..., 0, :], axes[..., 1, :]], -1)  # (f, g, 6)
    move = table[:, labels]
    moved = move[..., :2] + u[..., None] * move[..., 2:4] + v[..., None] * move[..., 4:]
    return moved * jnp.array([width, height]) / jnp.stack([aspect, jnp.ones_like(aspect)])


def seen(flow: Array, labels: Array) -> Array:
    """Which points of frame 0 are uncovered and inside the picture in each frame: (f, h, w) bool.

    flow (f, h, w, 2) of frame 0's pixels, labels (f, h, w) of all frames.
    """
    f, height, width = labels.shape
    row = jnp.arange(height)[:, None] + jnp.rint(flow[..., 1]).astype(jnp.int32)
    column = jnp.arange(width) + jnp.rint(flow[..., 0]).astype(jnp.int32)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
    landed = labels[jnp.arange(f)[:, None, None], row, column]
    return inside & (landed == labels[0])


def wave(angle: Array) -> Array:
    """A sine made of two parabolas, within 0.06 of it: sines would cost more than all the rest."""
    turn = angle * (1 / (2 * jnp.pi))
    turn = 2 * (turn - jnp.floor(turn)) - 1  # -1..1 per period
    return -4 * turn * (1 - jnp.abs(turn))


def _coordinates(points: Array, origin: Array, inverse: Array) -> tuple[Array, Array]:
    """Body coordinates u, v of picture points (..., 2)."""
    x, y = points[..., 0] - origin[..., 0], points[..., 1] - origin[..., 1]
    u = x * inverse[..., 0, 0] + y * inverse[..., 1, 0]
    return u, x * inverse[..., 0, 1] + y * inverse[..., 1, 1]


def _inverse(axes: Array) -> Array:
    """Inverses of 2 x 2 matrices (..., 2, 2)."""
    (a, b), (c, d) = jnp.moveaxis(axes, (-2, -1), (0, 1))
    rows = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    return rows / (a * d - b * c)[..., None, None]


def _outline(shape: Shapes, u: Array, v: Array) -> tuple[Array, Array]:
    """Signed distance to one shape's outline, negative inside; 0..1 from its axis to its rim."""
    start, way = shape.ends[0], shape.ends[1] - shape.ends[0]
    length = jnp.hypot(*way)
    is_disc = length < 1e-6  # both ends are one, so any direction will do
    length = jnp.where(is_disc, 1, length)
    way = jnp.where(is_disc, jnp.array([1.0, 0.0]), way / length)
    u, v = u - start[0], v - start[1]
    reach = u * way[0] + v * way[1]
    along = jnp.clip(reach, 0, jnp.where(is_disc, 0, length))
    radius = shape.radii[0] + (shape.radii[1] - shape.radii[0]) * along / length
    beside = u * way[1] - v * way[0]
    distance = jnp.hypot((reach - along) * shape.flatness, beside)
    rim = jnp.clip((distance / jnp.maximum(radius, 1e-6)) ** 2, 0, 1)
    return distance - radius, rim


def _texture(shape: Shapes, u: Array, v: Array) -> Array:
    """Colour planes (3, h, w) of one shape, anywhere."""
    color = shape.color[:, None, None]
    for i in range(NUM_WAVES):
        crest = wave(u * shape.wave[i, 0] + v * shape.wave[i, 1] + shape.phase[i])
        crest = jnp.clip(crest * shape.contrast[i], -1, 1)
        color = color + shape.tint[i, :, None, None] * crest
    return color
