"""Guidance points of a flow against CMP's own sampler, step by step."""

import numpy as np
import pytest

from dispose_jax.motion import watershed
from tests.parity.cases import Case, assert_close, load_case

CASES = ["watershed_384grid", "watershed_ds2"]


def flow_of(case: Case) -> np.ndarray:
    """The flow (h, w, 2), enlarged as the case says."""
    flow = case.inputs["flow"]
    for axis in (0, 1):
        flow = flow.repeat(case.config["repeat"], axis)
    assert flow.shape == (case.config["height"], case.config["width"], 2)
    return flow


def rows_first(points: np.ndarray) -> np.ndarray:
    """(g, 2) x, y as the golden orders points: row, column, sorted."""
    return points[np.lexsort((points[:, 0], points[:, 1]))][:, ::-1]


def as_set(points: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, points.tolist()))


@pytest.mark.parametrize("name", CASES)
def test_edges_distances_and_maxima_equal_the_original(name):
    case = load_case(name)
    tolerance, kernel, every = case.about["tolerance"], case.config["nms_ks"], case.config["ds"]
    flow = flow_of(case)[::every, ::every]
    strength = watershed.edge_strength(flow)
    stride = -(-len(strength) // len(case.outputs["edge"]))
    same = lambda output, ours: assert_close(case, output, ours, tolerance[output], relative=False)
    same("edge", strength[::stride, ::stride])
    edges = watershed.motion_edges(flow)
    same("edge_binary", edges)
    distance = watershed.edge_distance(edges)
    same("distance", distance)
    points = watershed.peaks(distance, kernel)
    same("nms_points_with_border", points[:, ::-1])
    same("nms_points", watershed.without_border(points, distance.shape)[:, ::-1])


@pytest.mark.parametrize("name", CASES)
def test_the_grid_equals_the_original(name):
    case = load_case(name)
    points = watershed.grid((case.config["height"], case.config["width"]), case.config["bg_ratio"])
    tolerance = case.about["tolerance"]["grid_points"]
    reference = case.outputs["grid_points"]
    reference = reference[np.lexsort((reference[:, 1], reference[:, 0]))]
    ours = rows_first(points)
    assert_close(case, "grid_points", ours, tolerance, reference=reference, relative=False)


@pytest.mark.parametrize("name", CASES)
def test_all_but_ties_is_decided_and_ties_end_far_apart(name):
    case = load_case(name)
    every, kernel = case.config["ds"], case.config["nms_ks"]
    peaks = case.outputs["nms_points"][:, ::-1]
    isolated, contested = as_set(case.outputs["isolated_points"]), case.outputs["contested_points"]
    near = lambda points: [  # of each point, whether another is too close
        sum(np.abs(points - point).max(1) < (kernel - 1) // 2) > 1 for point in points
    ]
    assert not len(contested) or all(near(contested))
    chosen = set()
    for seed in range(12):
        kept = watershed.drop_ties(peaks, kernel, np.random.default_rng(seed))[:, ::-1]
        assert isolated <= as_set(kept) <= isolated | as_set(contested)
        assert not any(near(kept))
        chosen.add(frozenset(as_set(kept)))
        points = watershed.guide_points(
            flow_of(case),
            kernel=kernel,
            bg_ratio=case.config["bg_ratio"],
            max_points=None,
            rng=np.random.default_rng(seed),
        )
        assert len(as_set(points)) == len(points)
        whole = as_set(case.outputs["grid_points"]) | as_set(kept * every)
        assert as_set(points[:, ::-1]) == whole
    assert len(chosen) > 1 or not len(contested)  # the generator decides
