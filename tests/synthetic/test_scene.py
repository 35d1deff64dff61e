"""Drawn people: their keypoints, visibility and flow must be those of the pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dispose_jax.ops import gather
from dispose_jax.synthetic import scene, shapes
from dispose_jax.synthetic.bodies import FACE, GROUND, HEAD, JOINT_BODIES, LIMBS, Dice

CLIPS, FRAMES, HEIGHT, WIDTH = 6, 4, 96, 64


@pytest.fixture(scope="module")
def clip():
    drawn = scene.draw(
        jax.random.split(jax.random.key(5), CLIPS), FRAMES, (HEIGHT, WIDTH), apart=0.5
    )
    return jax.device_get(drawn)


def landing(clip):
    """Where the reference's pixels are in each frame, (b, f, h, w, 2) x, y in pixels."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    return (np.stack([column, row], -1) + clip.flow).astype(np.float32)


def warped(clip):
    """Every frame read where the reference's pixels went."""
    points = landing(clip).reshape(CLIPS, FRAMES, HEIGHT * WIDTH, 2)
    return np.asarray(gather.bilinear(clip.frames, points)).reshape(clip.frames.shape)


def test_following_the_flow_brings_back_the_reference_where_it_is_seen(clip):
    difference = np.abs(warped(clip) - clip.frames[:, :1]).mean(-1)[:, 1:]
    unmoved = np.abs(clip.frames - clip.frames[:, :1]).mean(-1)[:, 1:]
    moving = clip.seen[:, 1:] & clip.mask[:, :1] & (np.abs(clip.flow[:, 1:]).max(-1) > 2)
    assert moving.sum() > 1000
    # Soft edges and resampling blur some pixels; the texture itself is carried along.
    assert np.median(difference[moving]) < 0.04
    assert difference[moving].mean() < 0.35 * unmoved[moving].mean()


def test_the_room_stands_still_and_the_reference_has_no_flow(clip):
    assert np.abs(clip.flow[:, 0]).max() < 1e-4
    behind = ~clip.mask[:, 0]
    assert np.abs(np.moveaxis(clip.flow, 1, -1)[behind]).max() < 1e-4
    everywhere = ~clip.mask.any(1)
    edges = np.ptp(np.moveaxis(clip.frames, 1, -1), axis=-1).mean(-1)  # soft by one pixel
    assert np.mean(edges[everywhere] < 1e-5) > 0.9


def test_visible_joints_move_as_the_flow_at_their_pixels_says(clip):
    points = clip.keypoints * [WIDTH, HEIGHT]
    moved = points[:, 1:] - points[:, :1]
    cells = np.clip(np.floor(points[:, :1]), 0, [WIDTH - 1, HEIGHT - 1]).astype(int)
    cells = np.broadcast_to(cells, moved.shape)
    flow = np.asarray(gather.at_points(jnp.asarray(clip.flow[:, 1:]), jnp.asarray(cells)))
    reliable = np.broadcast_to(clip.visible[:, :1], moved.shape[:-1])
    error = np.linalg.norm(flow - moved, axis=-1)[reliable]
    assert len(error) > 100
    # A joint is not in the middle of its pixel, and a limb that turns moves both differently.
    assert np.median(error) < 0.3 and error.max() < 3
    assert np.linalg.norm(moved, axis=-1)[reliable].max() > 10


def test_a_joint_is_hidden_exactly_where_something_else_is_drawn_over_it():
    labels = np.full((3, 18, 10, 12), GROUND)  # one picture for each joint
    points = np.full((3, 18, 18, 2), [0.5, 0.25])  # column 6, row 2
    labels[1, :, 2, 6] = FACE
    labels[2, :, 2, 5] = HEAD  # beside it
    points = jnp.asarray(points)
    visible = np.asarray(scene.visible(points, jnp.asarray(labels)))
    assert not visible[0].any() and not visible[2].any()
    assert (visible[1] == JOINT_BODIES[:, FACE]).all()
    outside = points.at[..., 0].set(1.01)
    labels[:] = FACE
    assert not scene.visible(outside, jnp.asarray(labels)).any()


def test_joints_are_sometimes_hidden_and_mostly_visible(clip):
    assert 0.6 < clip.visible.mean() < 1
    inside = ((clip.keypoints > 0) & (clip.keypoints < 1)).all(-1)
    assert not clip.visible[~inside].any()


def test_visible_joints_lie_on_the_person(clip):
    cells = np.floor(clip.keypoints * [WIDTH, HEIGHT]).astype(int)
    for index in np.argwhere(clip.visible):
        b, f, _ = index
        column, row = cells[tuple(index)]
        assert clip.mask[b, f, row, column]


def test_a_face_that_is_seen_is_around_its_nose_and_a_small_part_of_the_person(clip):
    nose, cells = clip.visible[..., 0], np.floor(clip.keypoints[..., 0, :] * [WIDTH, HEIGHT])
    assert not (clip.face & ~clip.mask).any() and nose.any()
    assert clip.face.sum() < 0.2 * clip.mask.sum()
    for b, f in np.argwhere(nose):
        row, column = np.nonzero(clip.face[b, f])
        middle = np.array([column.mean(), row.mean()])
        assert np.linalg.norm(middle - cells[b, f]) < 0.08 * HEIGHT


def test_seen_pixels_lie_on_the_person_in_both_frames(clip):
    column, row = np.moveaxis(np.rint(landing(clip)).astype(int), -1, 0)
    b, f, *_ = np.indices(clip.seen.shape)
    seen = clip.seen & clip.mask[:, :1]
    landed = clip.mask[b[seen], f[seen], row[seen], column[seen]]
    assert landed.all() and seen.sum() > 1000


def test_the_key_alone_decides(clip):
    again = jax.device_get(
        scene.draw(jax.random.split(jax.random.key(5), CLIPS), FRAMES, (HEIGHT, WIDTH), apart=0.5)
    )
    jax.tree.map(np.testing.assert_array_equal, clip, again)
    other = scene.draw(
        jax.random.split(jax.random.key(6), CLIPS), FRAMES, (HEIGHT, WIDTH), apart=0.5
    )
    assert np.abs(other.frames - clip.frames).mean() > 0.05
    assert np.abs(other.keypoints - clip.keypoints).mean() > 0.01


def test_people_and_rooms_of_a_batch_differ(clip):
    for values in (clip.frames[:, 0], clip.keypoints[:, 0]):
        flat = values.reshape(CLIPS, -1)
        distance = np.abs(flat[:, None] - flat[None]).mean(-1)
        assert distance[~np.eye(CLIPS, dtype=bool)].min() > 0.01


def test_pictures_use_their_range(clip):
    assert clip.frames.min() >= -1 and clip.frames.max() <= 1
    assert clip.frames.std() > 0.3
    assert 0.05 < clip.mask.mean() < 0.4


def test_people_are_as_tall_as_is_asked_for():
    """The same people at twice the height have twice the limbs; their rooms stay."""
    keys = jax.random.split(jax.random.key(2), CLIPS)
    joints = {
        heights: np.asarray(scene.scenes(keys, FRAMES, 1.0, heights=heights).joints)
        for heights in ((0.4, 0.4), (0.8, 0.8), (0.68, 0.92))
    }
    limb = lambda joints: np.linalg.norm(joints[:, :, 3] - joints[:, :, 2], axis=-1)
    half, whole, usual = (limb(found) for found in joints.values())
    np.testing.assert_allclose(whole, 2 * half, rtol=1e-4)
    np.testing.assert_array_equal(usual, limb(np.asarray(scene.scenes(keys, FRAMES, 1.0).joints)))
    assert (usual / whole).min() > 0.68 / 0.8 - 1e-3 and (usual / whole).max() < 0.92 / 0.8 + 1e-3
    assert np.ptp(usual / whole) > 0.05


def test_a_reference_apart_has_its_own_stance():
    moved = []
    for apart in (0.0, 1.0):
        drawn = scene.draw(
            jax.random.split(jax.random.key(2), CLIPS), FRAMES, (HEIGHT, WIDTH), apart=apart
        )
        steps = np.linalg.norm(np.diff(np.asarray(drawn.keypoints), axis=1), axis=-1).mean((0, 2))
        assert steps[1:].max() < 0.06  # the rest of the clip is one motion
        moved.append(steps[0])
    assert moved[1] > 2 * moved[0]


@pytest.mark.parametrize("columns_per_unit", [40, 20])  # the latter squeezes the picture
def test_a_capsule_is_as_long_and_wide_as_it_says(columns_per_unit):
    size, aspect = (40, columns_per_unit * 3 // 2), jnp.float32(1.5)
    placement = shapes.PartPlacement(
        origin=jnp.array([[[0.3, 0.5], [0.0, 0.0]]]),
        axes=jnp.broadcast_to(jnp.eye(2), (1, 2, 2, 2)),
    )
    one = lambda *value: jnp.array([value], jnp.float32)
    capsule = shapes.Shapes(
        body=jnp.array([0]),
        ends=one([0.0, 0.0], [0.6, 0.0]),
        radii=one(0.1, 0.2),
        flatness=jnp.array([1.0]),
        color=one(1.0, 0.5, 0.0),
        shading=jnp.array([0.0]),
        wave=jnp.zeros((1, shapes.NUM_WAVES, 2)),
        phase=jnp.zeros((1, shapes.NUM_WAVES)),
        tint=jnp.zeros((1, shapes.NUM_WAVES, 3)),
        contrast=jnp.ones((1, shapes.NUM_WAVES)),
    )
    ground = jnp.zeros((*size, 3))
    pictures, labels = jax.jit(shapes.paint)(capsule, placement, ground, aspect)
    inside = np.asarray(labels[0] == 0)
    # From 0.3 - 0.1 to 0.9 + 0.2 across, 0.2 to both sides of the middle.
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    assert (rows[0], rows[-1]) == (12, 27)
    assert columns[0] == 0.2 * columns_per_unit and columns[-1] == 1.1 * columns_per_unit - 1
    pixel = 1 / (40 * columns_per_unit)
    area = inside.sum() * pixel  # two half discs and a trapezoid
    assert area == pytest.approx(np.pi / 2 * (0.1**2 + 0.2**2) + 0.6 * 0.3, rel=0.02)
    assert pictures[0].sum() / 1.5 * pixel == pytest.approx(area, rel=0.02)
    np.testing.assert_allclose(pictures[0, 20, columns_per_unit // 2], [1, 0.5, 0])


def test_dice_never_hand_out_a_number_twice():
    dice = Dice(jax.random.key(0), count=9)
    first, second = np.asarray(dice((2, 3))), np.asarray(dice((3,), 10, 20))
    assert len({*first.ravel(), *((second - 10) / 10)}) == 9
    assert (second >= 10).all() and (second < 20).all()
    with pytest.raises(AssertionError, match="raise count"):
        dice()


def test_another_body_moves_alike_with_other_limbs(clip):
    keys = jax.random.split(jax.random.key(5), CLIPS)
    aspect = WIDTH / HEIGHT
    moved = lambda limbs: np.asarray(
        scene.driving(keys, FRAMES, aspect, jnp.asarray(limbs), apart=0.5)
    )
    own = moved(np.ones((CLIPS, len(LIMBS)), np.float32))
    # Scaling to the same standing height costs a rounding.
    np.testing.assert_allclose(own, clip.keypoints, atol=1e-5)
    factors = np.random.default_rng(0).uniform(0.7, 1.4, (CLIPS, len(LIMBS))).astype(np.float32)
    other = moved(factors)

    def bones(points):  # (b, f, limb, side, 2) in picture heights
        ends = np.array(
            [[(2, 3), (5, 6)], [(3, 4), (6, 7)], [(8, 9), (11, 12)], [(9, 10), (12, 13)]]
        )
        points = points * [aspect, 1]
        return points[:, :, ends[..., 1]] - points[:, :, ends[..., 0]]

    mine, theirs = bones(own), bones(other)
    length = [np.linalg.norm(bone, axis=-1) for bone in (mine, theirs)]
    ratio = (length[1] / length[0]).mean((1, 3))  # (b, limb)
    np.testing.assert_allclose(ratio / ratio[:, :1], factors / factors[:, :1], rtol=1e-3)
    directions = [bone / long[..., None] for bone, long in zip((mine, theirs), length)]
    np.testing.assert_allclose(*directions, atol=1e-3)
