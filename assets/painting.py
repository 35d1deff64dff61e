"""The demo's figure as a picture, drawn over its keypoints: limbs, clothes, hair, face, a room.

Shapes are painted back to front on a canvas three times as large, then averaged down. A limb is a
tapered capsule lit as the round body that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from figure import Body

SCALE = 3  # canvas pixels per paper pixel
LIGHT = np.array([-0.50, -0.55, 0.67])  # towards the light: left, above, in front

SKIN = (236, 178, 142)
HAIR = (74, 40, 30)
SHIRT, STRIPE = (244, 238, 226), (198, 52, 58)
TROUSERS, CUFF = (44, 78, 128), (88, 126, 176)
SHOES, SOLE = (240, 190, 60), (250, 248, 240)

Texture = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (along, across) -> colour (..., 3)


class Canvas:
    """An RGB picture under construction; coordinates given to it are those of the paper."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.pixels = np.zeros((height * SCALE, width * SCALE, 3), np.float32)

    def grid(self, box=None) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
        """x, y in paper pixels of the canvas pixels in box, and where those are; of all if None.

        box: left, top, right, bottom; what lies outside the canvas is cut off.
        """
        left, top, right, bottom = box if box is not None else (0, 0, self.width, self.height)
        columns = slice(max(0, int(left * SCALE)), min(self.width * SCALE, int(right * SCALE) + 1))
        rows = slice(max(0, int(top * SCALE)), min(self.height * SCALE, int(bottom * SCALE) + 1))
        x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / SCALE
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / SCALE
        return *np.meshgrid(x, y), (rows, columns)

    def blend(self, color, opacity: np.ndarray, part=np.s_[:, :]) -> None:
        """Lay color, one or one per pixel, over a part of the canvas with opacity 0..1."""
        share = opacity[..., None].astype(np.float32)
        self.pixels[part] += share * (np.asarray(color, np.float32) - self.pixels[part])

    def fill(self, points, color, opacity: float = 1.0, blur: float = 0.0) -> None:
        """A polygon of one colour, its border soft by blur paper pixels."""
        points = np.asarray(points)
        reach = 4 * blur + 1
        _, _, part = self.grid((*(points.min(0) - reach), *(points.max(0) + reach)))
        shape = np.zeros([side.stop - side.start for side in part], np.float32)
        corner = (part[1].start, part[0].start)
        outline = np.rint((points * SCALE - corner) * 16).astype(np.int32)
        cv2.fillPoly(shape, [outline], 1.0, shift=4)
        if blur:
            shape = cv2.GaussianBlur(shape, (0, 0), blur * SCALE)
        self.blend(color, opacity * shape, part)

    def finish(self, height: int, width: int) -> np.ndarray:
        """The picture at its final size, uint8 (height, width, 3)."""
        small = cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
        return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def paint(
    points: dict[str, np.ndarray], body: Body, paper: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Keypoints of an upright figure on paper (height, width) -> picture uint8 (*size, 3)."""
    canvas = Canvas(*paper)
    joints = points["body"]
    _room(canvas, joints)
    _back_hair(canvas, joints, body)
    _limb(canvas, joints[[8, 11]] + (0, -2), (21.0, 21.0), _plain(TROUSERS))
    for hip in (8, 11):
        _leg(canvas, joints[hip], joints[hip + 1], joints[hip + 2])
    for shoulder, row in ((2, 1), (5, 0)):
        _arm(canvas, joints[shoulder : shoulder + 3], points["hands"][row])
    _torso(canvas, joints)
    _head(canvas, points, body)
    return canvas.finish(*size)


def _plain(color) -> Texture:
    return lambda along, across: np.broadcast_to(np.float32(color), (*along.shape, 3))


def _lit(color: np.ndarray, nx, ny, ambient: float = 0.62) -> np.ndarray:
    """Colour of a round body whose normal's x and y are given, (..., 3)."""
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
    facing = np.clip(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2], 0, 1)
    shade = (ambient + (1.12 - ambient) * facing) * (0.80 + 0.20 * nz)
    # Shadows turn bluish, lights warm.
    tint = np.stack([shade, shade**1.05, shade**0.92 * 0.98 + 0.02], -1)
    return color * tint


def _limb(canvas: Canvas, joints, radii, texture: Texture, bulge: float = 0.0, cut=False) -> None:
    """A round limb through joints, as thick there as radii say and thicker by bulge in between.

    Segments melt into one body where they meet. The texture gets the place along the limb, one unit
    per segment, and across it, -1..1. cut: the last end is flat, as a sleeve's.
    """
    joints, widest = np.float32(joints), max(radii) + bulge
    low, high = joints.min(0) - widest, joints.max(0) + widest
    x, y, part = canvas.grid((*low, *high))
    best, flat_end = np.full(x.shape, np.inf, np.float32), np.ones(x.shape, bool)
    total, normal_x, normal_y = 0.0, 0.0, 0.0
    place, side = np.zeros_like(x), np.zeros_like(x)
    for i, (a, b) in enumerate(zip(joints[:-1], joints[1:])):
        length = np.hypot(*(b - a)) + 1e-6
        axis = (b - a) / length
        reach = ((x - a[0]) * axis[0] + (y - a[1]) * axis[1]) / length
        along = np.clip(reach, 0, 1)
        radius = radii[i] + (radii[i + 1] - radii[i]) * along + bulge * np.sin(np.pi * along)
        nx = (x - a[0] - along * length * axis[0]) / radius
        ny = (y - a[1] - along * length * axis[1]) / radius
        distance = nx**2 + ny**2
        weight = np.exp(-6 * np.minimum(distance, 4))
        total = total + weight
        normal_x, normal_y = normal_x + weight * nx, normal_y + weight * ny
        nearer = distance < best
        place = np.where(nearer, i + along, place)
        side = np.where(nearer, ny * axis[0] - nx * axis[1], side)
        best = np.minimum(best, distance)
        if cut and i == len(joints) - 2:
            flat_end = reach < 1
    inside = ((best < 1) & flat_end).astype(np.float32)
    color = _lit(texture(place, side), normal_x / total, normal_y / total)
    canvas.blend(color, inside, part)


def _ellipse(canvas: Canvas, centre, radii, color, opacity=1.0, lit=False, blur=0.0) -> None:
    """An ellipse, flat or lit as a ball."""
    reach = np.array(radii) + 4 * blur + 1
    x, y, part = canvas.grid((*(centre - reach), *(centre + reach)))
    nx, ny = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    inside = (nx**2 + ny**2 < 1).astype(np.float32) * opacity
    if blur:
        inside = cv2.GaussianBlur(inside, (0, 0), blur * SCALE)
    color = np.float32(color)
    canvas.blend(_lit(color, nx, ny) if lit else color, inside, part)


def _curve(canvas: Canvas, points, width: float, color, opacity=1.0) -> None:
    """A smooth stroke through points, thinner towards its ends."""
    points = np.float64(points)
    steps = np.linspace(0, 1, 40)
    fit = [
        np.polyfit(np.linspace(0, 1, len(points)), points[:, i], len(points) - 1) for i in (0, 1)
    ]
    path = np.stack([np.polyval(f, steps) for f in fit], -1)
    way = np.gradient(path, axis=0)
    normal = np.stack([-way[:, 1], way[:, 0]], -1) / np.hypot(way[:, 0], way[:, 1])[:, None]
    half = 0.5 * width * (0.25 + 0.75 * np.sin(np.pi * steps))[:, None]
    outline = np.concatenate([path + half * normal, (path - half * normal)[::-1]])
    canvas.fill(outline, color, opacity)


def _room(canvas: Canvas, joints: np.ndarray) -> None:
    """A wall with panels and the light of a window, a wooden floor, the figure's shadow."""
    x, y, _ = canvas.grid()
    horizon = 0.78 * canvas.height
    wall = (
        np.stack([150 + 0 * x, 176 - 0.02 * y, 178 - 0.05 * y], -1) * (1.08 - 0.0011 * x)[..., None]
    )
    groove = np.exp(-(((x + 8) % 53 - 26) ** 2) / 1.2)[..., None]
    wall = wall * (1 - 0.22 * groove)
    rail = np.exp(-((y - 0.60 * canvas.height) ** 2) / 10)[..., None]
    wall = wall * (1 - 0.25 * rail)
    depth = np.clip((y - horizon) / (canvas.height - horizon), 0, 1)
    plank = (x - canvas.width / 2) / (0.35 + depth) / 34 + 0.5
    tone = 1 + 0.10 * np.sin(np.floor(plank) * 12.9)
    grain = 1 + 0.03 * np.sin(plank * 40 + np.sin(y * 0.35 + np.floor(plank) * 5) * 2)
    gap = 1 - 0.35 * (np.abs(plank % 1 - 0.5) > 0.475)
    floor = np.float32([186, 132, 88]) * (tone * grain * gap * (0.78 + 0.3 * depth))[..., None]
    canvas.pixels[:] = np.where((y < horizon)[..., None], wall, floor)
    skirting = (np.abs(y - horizon + 6) < 6).astype(np.float32)
    canvas.blend((226, 222, 212), skirting)
    canvas.blend((60, 50, 50), 0.45 * np.exp(-((y - horizon - 1) ** 2) / 6) * (y > horizon))
    for pane in range(4):  # sun through a window with four panes, slanted
        column, row = pane % 2, pane // 2
        left, top = 248 + 52 * column, 60 + 88 * row
        corners = np.array([[0, 0], [44, 14], [44, 92], [0, 78]]) + (left, top + 14 * column)
        canvas.fill(corners, (255, 240, 200), 0.38, blur=2.0)
    for ankle in (joints[10], joints[13]):
        _ellipse(canvas, ankle + (12, 30), (44, 9), (50, 32, 24), opacity=0.55, blur=5)


def _leg(canvas: Canvas, hip, knee, ankle) -> None:
    """Trousers with a seam and a turned-up cuff, a shoe."""
    out = np.sign(ankle[0] - canvas.width / 2)
    toe = ankle + (out * 8, 29)
    _limb(canvas, [ankle + (out * 1, 24), toe], (11.5, 12.5), _plain(SOLE))
    _limb(canvas, [ankle + (0, 17), toe + (0, -5)], (10.5, 11.5), _plain(SHOES), bulge=0.5)
    for lace in (0.15, 0.4, 0.65):
        at = ankle + (out * 5 * lace, 16) + lace * np.array([out * 3, 10])
        _curve(canvas, [at + (-6, 0), at + (0, 1.5), at + (6, 0)], 2.2, SOLE)

    def denim(along, across):
        weave = 1 + 0.05 * np.sin(along * 240) * np.sin(across * 40)
        seam = 1 - 0.25 * (np.abs(across * out + 0.75) < 0.05)
        worn = 1 + 0.14 * np.exp(-((across + 0.25) ** 2) / 0.12)
        return np.float32(TROUSERS) * (weave * seam * worn)[..., None]

    _limb(canvas, [hip + (0, -4), knee, ankle + (0, 6)], (21.5, 15.0, 12.5), denim, bulge=1.2)
    for dy in (-5, 1):  # folds at the knee
        start = knee + (-9 * out, dy)
        _curve(
            canvas, [start, start + (out * 7, 2.5), start + (out * 14, 1)], 1.6, (26, 50, 92), 0.45
        )
    _limb(canvas, [ankle + (-8, 6), ankle + (8, 6)], (6.5, 6.5), _plain(CUFF))


def _knit(wave: np.ndarray) -> np.ndarray:
    """The shirt's stripes, one per unit."""
    stripe = np.clip(6 * (np.cos(2 * np.pi * wave) - 0.25), 0, 1)[..., None]
    return np.float32(SHIRT) * (1 - stripe) + np.float32(STRIPE) * stripe


def _torso(canvas: Canvas, joints: np.ndarray) -> None:
    """A striped shirt with folds and a hem."""
    x, y, _ = canvas.grid()
    neck, pelvis = joints[1], joints[[8, 11]].mean(0)
    # Half widths down the body, in those of the shoulders, at depths from the neck in lengths of
    # the torso.
    shoulders, length = joints[5, 0] - neck[0], pelvis[1] - neck[1]
    depths = [-0.13, -0.10, -0.045, 0.03, 0.10, 0.22, 0.45, 0.62, 0.8, 0.97, 1.12]
    halves = [0.30, 0.62, 1.12, 1.28, 1.27, 1.16, 1.02, 0.95, 1.02, 1.14, 1.16]
    depth = (y - neck[1]) / length
    across = (x - neck[0]) / (np.interp(depth, depths, halves) * shoulders)
    cloth = _knit(
        7.6 * (depth + 0.022 * (1 - across**2) + 0.012 * np.sin(across * 2.4 + depth * 9))
    )
    fold = 1 - 0.10 * np.exp(-((across - 0.55 + 0.5 * (1 - depth)) ** 2) / 0.006) * (depth > 0.4)
    fold = fold - 0.10 * np.exp(-((across + 0.60 - 0.35 * (1 - depth)) ** 2) / 0.006) * (
        depth > 0.5
    )
    border = 1.03 + 0.03 * (1 - across**2)
    inside = (np.abs(across) < 1) & (depth > -0.13) & (depth < border)
    # A chest is flatter than a cylinder.
    color = _lit(cloth * fold[..., None], 0.85 * across**3, 0.25 * depth - 0.15)
    canvas.blend(
        (20, 30, 50), 0.35 * np.exp(-((depth - border) ** 2) / 0.0006) * (np.abs(across) < 1)
    )
    canvas.blend(color, inside.astype(np.float32))
    canvas.blend((120, 96, 84), 0.5 * inside * np.exp(-((depth - border + 0.02) ** 2) / 0.0002))


def _arm(canvas: Canvas, arm: np.ndarray, hand: np.ndarray) -> None:
    """A bare arm with a short striped sleeve, and a hand of five fingers over its keypoints."""
    shoulder, elbow, wrist = arm
    skin = _plain(SKIN)
    palm = hand[[5, 9, 13, 17]].mean(0)
    for finger in (4, 3, 2, 1, 0):
        chain = hand[1 + 4 * finger : 5 + 4 * finger]
        start = wrist if finger == 0 else palm
        radii = np.array([4.2, 3.0, 2.8, 2.6, 2.2]) + (0.3 if finger == 0 else 0.0)
        _limb(canvas, [start, *chain], radii, skin)
    _limb(canvas, [shoulder, elbow, wrist, palm], (9.0, 8.2, 5.8, 7.4), skin, bulge=0.8)
    axis = (elbow - shoulder) / np.hypot(*(elbow - shoulder))
    end = shoulder + 0.55 * (elbow - shoulder)
    sleeve = lambda along, across: _knit(2.4 * (along + 0.08 * (1 - across**2)) + 0.35)
    _limb(canvas, [end, end + 4 * axis], (11.0, 10.0), _plain((150, 100, 80)), cut=True)
    _limb(canvas, [shoulder + (0, 2), end], (11.3, 12.5), sleeve, bulge=0.5, cut=True)


def _head(canvas: Canvas, points: dict[str, np.ndarray], body: Body) -> None:
    """Neck, ears, face, fringe."""
    joints, size = points["body"], body.head
    nose, neck = joints[0], joints[1]
    skin = _plain(SKIN)
    _limb(canvas, [neck + (0, -2), nose + (0, size * 0.6)], (12.0, 11.5), skin)
    chin_shadow = [
        neck + (-12, -13),
        neck + (0, -6),
        neck + (12, -13),
        neck + (10, -22),
        neck + (-10, -22),
    ]
    canvas.fill(chin_shadow, (150, 92, 74), 0.5, blur=1.5)
    _curve(canvas, [neck + (-15, -9), neck + (0, 6), neck + (15, -9)], 4.5, STRIPE)
    for ear in (joints[16], joints[17]):
        _ellipse(canvas, ear, (5.5, 8.5), SKIN, lit=True)
        _ellipse(canvas, ear + (0, 1), (2.6, 4.6), (196, 128, 100), opacity=0.7, blur=0.5)
    x, y, _ = canvas.grid()
    # Skull and jaw in one outline: a circle above, narrower towards the chin.
    centre = nose + (0, -0.22 * size)
    nx, ny = (x - centre[0]) / size, (y - centre[1]) / (1.22 * size)
    narrow = 1 - 0.22 * np.clip(ny, 0, 1) ** 1.6
    inside = ((nx / narrow) ** 2 + ny**2 < 1).astype(np.float32)
    canvas.blend(
        _lit(np.broadcast_to(np.float32(SKIN), (*x.shape, 3)), 0.8 * nx, 0.7 * ny, ambient=0.7),
        inside,
    )
    for side in (-1, 1):
        _ellipse(
            canvas,
            nose + (side * 0.52 * size, 0.16 * size),
            (6.5, 4.2),
            (236, 120, 110),
            0.45,
            blur=2,
        )
    for eye, side in ((joints[14], -1), (joints[15], 1)):
        _eye(canvas, eye, side, size)
    _curve(canvas, [nose + (-3, 1.5), nose + (0.5, 4), nose + (4, 1.5)], 1.8, (186, 112, 88), 0.9)
    _ellipse(canvas, nose + (-0.8, -2.5), (1.8, 3.5), (255, 226, 200), 0.55, blur=0.8)
    mouth = nose + (0, 0.42 * size)
    smile = [mouth + (-8.5, -2), mouth + (0, 2.2), mouth + (8.5, -2)]
    lower = [mouth + (-6, 0.3), mouth + (0, 6.5), mouth + (6, 0.3)]
    canvas.fill(smile + lower[::-1], (206, 84, 84), blur=0.5)
    _curve(canvas, smile, 1.8, (128, 44, 48))
    _fringe(canvas, nose, size)


def _eye(canvas: Canvas, eye: np.ndarray, side: int, size: float) -> None:
    """White, iris, pupil, glint, lid with lashes, brow."""
    _ellipse(canvas, eye, (6.2, 4.4), (252, 250, 248))
    _ellipse(canvas, eye + (0, 0.2), (3.9, 4.3), (52, 104, 84))
    _ellipse(canvas, eye + (0, 1.6), (2.8, 2.2), (104, 166, 128), 0.8, blur=0.4)
    _ellipse(canvas, eye + (0, 0.2), (1.9, 2.1), (16, 14, 18))
    _ellipse(canvas, eye + (-1.4, -1.5), (1.2, 1.2), (255, 255, 255))
    lid = [eye + (-side * 6.6, 0.5), eye + (0, -6.4), eye + (side * 7.4, -1.2)]
    _curve(canvas, lid, 2.6, (44, 22, 20))
    _curve(
        canvas,
        [eye + (-side * 4, 4.6), eye + (side * 1, 5.2), eye + (side * 5, 3.6)],
        1.0,
        (170, 104, 84),
        0.8,
    )
    brow = [eye + (-side * 6.5, -8.5), eye + (side * 1, -11.6), eye + (side * 8.5, -8.6)]
    _curve(canvas, brow, 2.8, HAIR)


def _strands(along: np.ndarray) -> np.ndarray:
    """Brightness of hair over an angle or a position: bundles of two widths."""
    return 1 + 0.16 * np.sin(along * 23 + 0.8 * np.sin(along * 7)) + 0.10 * np.sin(along * 61)


def _back_hair(canvas: Canvas, joints: np.ndarray, body: Body) -> None:
    """The bob behind the face, down to the shoulders."""
    x, y, _ = canvas.grid()
    size = body.head
    centre = joints[0] + (0, -0.16 * size)
    nx, ny = (x - centre[0]) / (1.42 * size), (y - centre[1]) / (1.52 * size)
    flare = 1 + 0.10 * np.clip(ny, 0, 1)
    inside = (np.abs(nx / flare) ** 2.4 + np.abs(ny) ** 2.8 < 1) & (
        ny < 0.88 + 0.05 * np.sin(nx * 14)
    )
    color = np.float32(HAIR) * (0.80 * _strands(nx))[..., None]
    canvas.blend(_lit(color, 0.8 * nx, 0.5 * ny), inside.astype(np.float32))


def _fringe(canvas: Canvas, nose: np.ndarray, size: float) -> None:
    """Hair over the top of the head, parted on the side, and the locks beside the cheeks."""
    x, y, _ = canvas.grid()
    centre = nose + (0, -0.22 * size)
    nx, ny = (x - centre[0]) / (1.20 * size), (y - centre[1]) / (1.34 * size)
    part = -0.28
    sweep = np.where(nx < part, (part - nx) / 0.75, (nx - part) / 1.32)
    edge = (
        -0.62 + 0.62 * np.clip(sweep, 0, 1.2) ** 1.7
    )  # lower border of the hair, falling to the sides
    edge = edge + 0.025 * np.sin(nx * 26)
    locks = (np.abs(nx) > 0.80 - 0.05 * ny) & (ny < 0.62 - 0.3 * (np.abs(nx) - 0.85))
    inside = (np.abs(nx) ** 2.2 + np.abs(ny) ** 2.2 < 1) & ((ny < edge) | locks)
    angle = np.arctan2(nx - part, 1.15 + ny) * 1.6
    color = np.float32(HAIR) * _strands(angle)[..., None]
    shine = (
        np.exp(-((np.hypot(nx, ny + 0.1) - 0.72) ** 2) / 0.012)
        * (ny < -0.2)
        * np.clip(0.3 - nx, 0, 1)
    )
    color = color + np.float32([120, 84, 60]) * (0.55 * shine * _strands(angle * 1.7))[..., None]
    shadow = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 2.0 * SCALE)
    face = ((x - nose[0]) / size) ** 2 + ((y - centre[1]) / (1.22 * size)) ** 2 < 0.97
    canvas.blend((150, 88, 66), 0.45 * shadow * face)
    canvas.blend(_lit(color, 0.8 * nx, 0.8 * ny), inside.astype(np.float32))
