"""Guidance points: in the middle of what moves, far from its edges, as many as fit."""

import numpy as np
import pytest
from scipy import ndimage

from dispose_jax.motion import field, watershed

HEIGHT, WIDTH = 96, 144
OPTIONS = {"kernel": 15, "bg_ratio": 1 / 1600, "max_points": None}
DISC, DISC_RADIUS = np.array([100, 40]), 20  # x, y and size of what moves


def rng(seed=0):
    return np.random.default_rng(seed)


def disc_flow(height=HEIGHT, width=WIDTH, vector=(6, -3)):
    """A disc that moves before a ground that stands."""
    y, x = np.mgrid[:height, :width]
    inside = np.hypot(x - DISC[0], y - DISC[1]) < DISC_RADIUS
    return inside[..., None] * np.array(vector, np.float32)


def test_a_moving_disc_is_told_at_its_centre():
    points = watershed.guide_points(disc_flow(), **OPTIONS, rng=rng())
    centre = np.abs(points - DISC).max(1)
    assert (centre <= 1).sum() == 1  # and no other within the neighbourhood but grid points
    grid = {tuple(p) for p in watershed.grid((HEIGHT, WIDTH), OPTIONS["bg_ratio"]).tolist()}
    inside = np.linalg.norm(points - DISC, axis=1) < DISC_RADIUS - 2
    assert all(tuple(p) in grid for p in points[inside & (centre > 1)].tolist())


def test_where_nothing_moves_apart_there_is_only_the_grid():
    grid = watershed.grid((HEIGHT, WIDTH), OPTIONS["bg_ratio"])
    for flow in (np.zeros((HEIGHT, WIDTH, 2)), np.full((HEIGHT, WIDTH, 2), 7.0)):
        points = watershed.guide_points(flow.astype(np.float32), **OPTIONS, rng=rng())
        assert sorted(points.tolist()) == sorted(grid.tolist())


def test_the_grid_is_centred_and_has_the_share_of_pixels_asked_for():
    for size in ((96, 144), (384, 384), (50, 333)):
        points = watershed.grid(size, 1 / 100)
        assert len(points) == pytest.approx(size[0] * size[1] / 100, rel=0.15)
        for axis, length in ((0, size[1]), (1, size[0])):
            places = np.unique(points[:, axis])
            assert set(np.diff(places)) == {10}
            before, after = places[0], length - 1 - places[-1]
            assert 0 <= before < 10 and 0 <= after < 10
    assert watershed.grid((20, 30), 1e-4).tolist() == [[15, 10]]  # coarser than the picture


def test_distances_are_exact():
    for density in (1e-3, 1e-1):
        edges = rng(3).random((HEIGHT, WIDTH)) < density
        exact = ndimage.distance_transform_edt(~edges)
        np.testing.assert_array_equal(watershed.edge_distance(edges), exact.astype(np.float32))


def test_maxima_are_those_of_their_neighbourhood_ties_included():
    height = np.rint(8 * rng(4).random((HEIGHT, WIDTH))).astype(np.float32)
    for kernel in (1, 3, 7):
        ours = watershed.peaks(height, kernel)
        highest = ndimage.maximum_filter(height, kernel, mode="constant", cval=-1)
        np.testing.assert_array_equal(
            ours[:, ::-1], np.argwhere((height == highest) & (height > 0))
        )


def test_points_on_the_border_do_not_count():
    points = np.array([[0, 5], [1, 1], [9, 3], [8, 6], [8, 7], [4, 0]])
    assert watershed.without_border(points, (8, 10)).tolist() == [[1, 1], [8, 6]]


def test_of_points_in_a_row_some_survive_and_all_of_them_apart():
    line = np.stack([np.arange(0, 60, 2), np.full(30, 9)], -1)
    outcomes = set()
    for seed in range(20):
        kept = watershed.drop_ties(line, 15, rng(seed))
        assert len(kept) and np.diff(kept[:, 0]).min(initial=7) >= 7
        outcomes.add(tuple(kept[:, 0]))
    assert len(outcomes) > 10
    near, far = np.array([[5, 5], [11, 11]]), np.array([[5, 5], [12, 5]])
    assert len(watershed.drop_ties(near, 15, rng())) == 1  # 6 < 7 in both axes
    assert len(watershed.drop_ties(far, 15, rng())) == 2


def test_a_picture_twice_as_long_as_400_pixels_is_read_at_every_second_pixel():
    flow = disc_flow(120, 801)
    points = watershed.guide_points(flow, **OPTIONS, rng=rng())
    grid = {tuple(p) for p in watershed.grid((120, 801), OPTIONS["bg_ratio"]).tolist()}
    others = np.array([p for p in points.tolist() if tuple(p) not in grid])
    assert (others % 2 == 0).all() and (np.abs(others - DISC).max(1) <= 2).sum() == 1


def test_the_same_generator_gives_the_same_points_and_the_cap_chooses_at_random():
    options = OPTIONS | {"max_points": 8}
    flow = disc_flow()
    everything = watershed.guide_points(flow, **OPTIONS, rng=rng(1)).tolist()
    one = watershed.guide_points(flow, **options, rng=rng(1))
    assert one.dtype == np.int32 and one.shape == (8, 2)
    assert all(point in everything for point in one.tolist())
    np.testing.assert_array_equal(one, watershed.guide_points(flow, **options, rng=rng(1)))
    assert (one != watershed.guide_points(flow, **options, rng=rng(2))).any()


def clip_flow(frames=4):
    """(f, h, w, 2): the disc goes farther with every frame, frame 0 is zero."""
    return np.stack([disc_flow(vector=(2 * n, -n)) for n in range(frames)])


GUIDES = {"side": 64, "kernel": 7, "bg_ratio": 1 / 400, "max_points": 40}


def test_guides_hold_the_flow_of_each_frame_in_pixels_of_the_square():
    flows = clip_flow()
    found = watershed.guides(flows, **GUIDES, rng=rng())
    assert found.pixels.shape == (4, 40, 2) and found.valid.shape == (4, 40)
    assert not found.valid[0].any() and found.valid[1:].sum() > 3 * 10
    x, y = np.moveaxis(found.pixels, -1, 0)
    # The nearest pixel of 144 x 96 that each pixel of 64 x 64 stands for.
    column, row = np.floor(x * WIDTH / 64).astype(int), np.floor(y * HEIGHT / 64).astype(int)
    for frame in (1, 2, 3):
        expected = flows[frame, row[frame], column[frame]] * [64 / WIDTH, 64 / HEIGHT]
        valid = found.valid[frame]
        np.testing.assert_allclose(found.vectors[frame][valid], expected[valid], rtol=1e-6)
        assert not found.vectors[frame][~valid].any()
    moving = np.abs(found.vectors[3]).max(-1) > 0
    np.testing.assert_allclose(
        found.vectors[3][moving], [[6 * 64 / 144, -3 * 64 / 96]] * moving.sum()
    )


def test_all_frames_are_told_at_the_points_of_the_last():
    flows = clip_flow()
    flows[1] = np.roll(flows[1], -50, axis=1)  # something else moves
    shared = watershed.guides(flows, **GUIDES, rng=rng())
    np.testing.assert_array_equal(shared.pixels[1], shared.pixels[3])
    np.testing.assert_array_equal(shared.valid[1], shared.valid[3])
    alone = watershed.guides(flows[[0, 3]], **GUIDES, rng=rng())
    np.testing.assert_array_equal(alone.pixels[1], shared.pixels[3])
    np.testing.assert_array_equal(alone.vectors[1], shared.vectors[3])


def test_guides_fill_a_fixed_number_of_places_and_never_one_pixel_twice():
    few = watershed.guides(clip_flow(), **GUIDES | {"max_points": 5}, rng=rng())
    assert few.valid[1:].all() and few.pixels.shape == (4, 5, 2)
    many = watershed.guides(clip_flow(), **GUIDES | {"max_points": 300}, rng=rng())
    assert not many.valid[:, 200:].any()
    _, mask = field.rasterise(many, (64, 64))
    np.testing.assert_array_equal(np.asarray(mask).sum((1, 2)), many.valid.sum(1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kernel": 14}, "14 pixels has no centre"),
        ({"bg_ratio": 0}, "bg_ratio 0: a share"),
        ({"max_points": 0}, "max_points 0"),
        ({"flow": np.zeros((5, 4, 3))}, r"shape \(5, 4, 3\); expected \(height"),
        ({"flow": np.full((5, 4, 2), np.nan)}, "not finite"),
    ],
)
def test_values_that_mean_nothing_are_refused(changed, message):
    options = {"flow": disc_flow()} | OPTIONS | changed
    with pytest.raises(ValueError, match=message):
        watershed.guide_points(options.pop("flow"), **options, rng=rng())


def test_guides_of_one_frame_are_refused():
    with pytest.raises(ValueError, match="two frames or more"):
        watershed.guides(clip_flow()[:1], **GUIDES, rng=rng())
    with pytest.raises(ValueError, match="side 0"):
        watershed.guides(clip_flow(), **GUIDES | {"side": 0}, rng=rng())
