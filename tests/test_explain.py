"""What the explain view shows: the right picture at the right place, on one scale for the clip."""

import os

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from dispose_jax import explain
from dispose_jax.correspondence import keypoints
from dispose_jax.media import image, video
from tests.pose.poses import standing

F, H, W = 6, 96, 64
SIGNALS = ("sparse_flow", "dense_flow", *explain.POINTS)


def make_run(**changes):
    """A clip whose parts have colours and motions of their own in every frame."""
    rng = np.random.default_rng(0)
    parts = {
        "reference": np.full((H, W, 3), (90, 120, 150), np.uint8),
        "skeletons": np.zeros((F, H, W, 3), np.uint8),
        "sparse_flow": 1e-3 * rng.standard_normal((F, H, W, 2)).astype(np.float32),
        "dense_flow": 10 * rng.standard_normal((F, H, W, 2)).astype(np.float32),
        "cells": np.tile(np.arange(18)[:, None] % [W // 16, H // 16], (F, 1, 1)).astype(np.int32),
        "visible": np.ones((F, 18), bool),
        "joints": np.arange(18.0)[:, None] % [W // 16, H // 16],
        "seen": np.ones(18, bool),
        "result": np.stack([np.full((H, W, 3), (40 * i, 7, 255 - 40 * i)) for i in range(1, F)]),
    }
    parts["result"] = parts["result"].astype(np.uint8)
    return explain.Explained(**{**parts, **changes})


def share_of(page, color):
    """Share of the pixels of a page that have a colour."""
    return (page == np.array(color)).all(-1).mean()


def test_each_row_shows_the_result_of_its_frame():
    page = explain.contact_sheet(make_run())
    rows = [np.flatnonzero((page == (40 * i, 7, 255 - 40 * i)).all(-1).any(1)) for i in range(1, F)]
    assert all(len(row) == explain.SHEET_SIDE for row in rows)
    assert all(a[-1] < b[0] for a, b in zip(rows[:-1], rows[1:]))


def test_the_sheet_spreads_its_frames_over_the_clip():
    page = explain.contact_sheet(make_run(), num_frames=3)
    shown = [i for i in range(1, F) if share_of(page, (40 * i, 7, 255 - 40 * i)) > 0.01]
    assert shown == [1, 3, 5]


def test_the_video_shows_every_frame_but_the_reference_in_order():
    pages = list(explain.frames(make_run()))
    assert len(pages) == F - 1
    for i, page in enumerate(pages, start=1):
        assert share_of(page, (40 * i, 7, 255 - 40 * i)) > 0.05
        assert page.shape[0] % 2 == 0 and page.shape[1] % 2 == 0


def test_absent_parts_have_no_column():
    whole = explain.contact_sheet(make_run())
    without = explain.contact_sheet(make_run(**dict.fromkeys((*SIGNALS, "result"))))
    assert share_of(without, (40, 7, 215)) == 0
    assert without.shape[1] < whole.shape[1] and without.shape[0] == whole.shape[0]


@pytest.mark.parametrize(
    ("variant", "titles"),
    [
        ("full", [*SIGNALS]),
        ("no_cmp", ["sparse_flow", *explain.POINTS]),
        ("no_motion", [*explain.POINTS]),
        ("no_point", ["sparse_flow", "dense_flow"]),
        ("base", []),
    ],
)
def test_only_what_controls_is_shown(variant, titles):
    control = ConfigDict(common.control(variant))
    run = make_run()
    shown = run.only(control)._asdict()
    assert [name for name in SIGNALS if shown[name] is not None] == titles
    explain.contact_sheet(run.only(control))


def test_the_foot_of_the_sheet_carries_the_note():
    plain = explain.contact_sheet(make_run())
    noted = explain.contact_sheet(make_run(), note="weights: random")
    changed = np.flatnonzero((plain != noted).any((1, 2)))
    assert len(changed) and changed.min() > plain.shape[0] - explain.LEGEND


@pytest.mark.parametrize(
    ("length", "text"), [(132.0, "130 px"), (97.4, "97 px"), (0.0123, "0.012 px"), (4.0, "4 px")]
)
def test_lengths_are_numbers_as_people_write_them(length, text):
    flow = np.zeros((F, H, W, 2), np.float32)
    flow[1:, ..., 0] = length
    _, dense, _ = explain._Panels(make_run(dense_flow=flow), 64).legend
    assert dense.endswith(f"full colour is {text}")


def test_sheet_and_video_are_written_and_readable(tmp_path):
    explain.write(tmp_path / "a.png", tmp_path / "a.mp4", make_run(), 15)
    page = image.read(tmp_path / "a.png")
    np.testing.assert_array_equal(page, explain.contact_sheet(make_run()))
    movie = video.read(tmp_path / "a.mp4", 1)
    assert len(movie.frames) == F - 1 and movie.info.fps == 15


def test_equal_vectors_have_equal_colours_in_all_frames():
    flow = np.zeros((8, 8, 2))
    flow[2, 3] = (0.0, 0.5)
    busy = flow.copy()
    busy[5, 5] = (2.0, 0.0)
    quiet_picture, busy_picture = explain.flow_picture(flow, 1.0), explain.flow_picture(busy, 1.0)
    np.testing.assert_array_equal(quiet_picture[2, 3], busy_picture[2, 3])
    assert (quiet_picture[2, 3] != 255).any()


def test_fields_that_are_a_thousand_times_weaker_look_the_same_on_their_own_scale():
    flow = np.random.default_rng(1).standard_normal((8, 8, 2))
    strong, weak = explain.flow_picture(flow, 2.0), explain.flow_picture(1e-3 * flow, 2e-3)
    assert np.abs(strong.astype(int) - weak).max() <= 1


def test_opposite_directions_differ_and_stillness_is_white():
    flow = np.zeros((1, 3, 2))
    flow[0, 0], flow[0, 1] = (1, 0), (-1, 0)
    right, left, still = explain.flow_picture(flow, 1.0)[0].astype(int)
    assert np.abs(right - left).max() > 150
    assert (still == 255).all()


def test_a_clip_without_motion_is_white_not_an_error():
    zeros = np.zeros((F, H, W, 2), np.float32)
    assert explain.clip_scale(zeros) == 0
    explain.contact_sheet(make_run(sparse_flow=zeros, dense_flow=zeros))
    assert (explain.flow_picture(zeros[0], 0.0) == 255).all()


def test_one_wild_frame_does_not_set_the_scale_of_the_clip():
    flows = np.zeros((12, 4, 4, 2))
    flows[..., 0] = 3.0
    flows[7] = 900.0
    assert explain.clip_scale(flows) == pytest.approx(3.0)


def test_joints_have_their_colour_on_their_cell():
    cells = np.zeros((F, 18, 2), np.int32)
    cells[2, 4] = (3, 5)  # column, row
    visible = np.zeros((F, 18), bool)
    visible[2, 4] = True
    run = make_run(cells=cells, visible=visible, seen=np.arange(18) == 4)
    shown = explain.correspondence(run, 2, H, W)
    np.testing.assert_array_equal(shown[16 * 5 + 8, 16 * 3 + 8], explain.JOINT_COLORS[4])


def test_joints_that_the_reference_hides_stay_hollow_and_hidden_ones_are_not_drawn():
    cells = np.full((F, 18, 2), (2, 4), np.int32)
    visible = np.zeros((F, 18), bool)
    seen = np.zeros(18, bool)
    bare = explain.correspondence(make_run(cells=cells, visible=visible, seen=seen), 2, H, W)
    assert (bare == bare[0, 0]).all()
    visible[2, 4] = True
    hollow = explain.correspondence(make_run(cells=cells, visible=visible, seen=seen), 2, H, W)
    inside = np.s_[16 * 4 + 4 : 16 * 4 + 12, 16 * 2 + 4 : 16 * 2 + 12]
    np.testing.assert_array_equal(hollow[inside], bare[inside])
    assert (hollow != bare).any()


def test_a_joint_beside_the_reference_is_drawn_with_the_feature_of_its_border():
    pose = standing(F)
    pose.body[0, 0, 4] = (-0.1, 0.6)  # a wrist that the crop cut off
    pose.body[2, 0, 4] = (0.4, 0.1)
    grid = (H // 16, W // 16)
    cells, visible = keypoints.cells(pose, (H, W))
    joints, seen = keypoints.places(pose, (H, W), grid)
    # The features are those of the sampler: the border's in the row of the joint.
    features = np.random.default_rng(0).standard_normal((*grid, 8)).astype(np.float32)
    feature = np.asarray(keypoints.embed(features, pose.at([0]), (H, W)))[4]
    row = joints[4, 1]
    low, share = int(row), row - int(row)
    expected = features[low, 0] * (1 - share) + features[low + 1, 0] * share
    np.testing.assert_allclose(feature, expected, atol=1e-6)
    only = np.arange(18) == 4
    run = make_run(cells=cells, visible=visible & only, joints=joints, seen=seen & only)
    shown = explain.correspondence(run, 2, H, W)
    column, row = cells[2, 4]
    inside = shown[16 * row + 4 : 16 * row + 12, 16 * column + 4 : 16 * column + 12]
    assert (inside == explain.JOINT_COLORS[4]).all()
    centre = round(16 * (joints[4, 1] + 0.5))
    ring = np.abs(shown[centre - 8 : centre + 8, :16].astype(int) - shown[0, -1]).max(-1) > 50
    assert ring.any()


def test_thin_strokes_survive_a_large_reduction():
    skeletons = np.zeros((F, 1024, 576, 3), np.uint8)
    skeletons[:, :, 300, 0] = 255
    run = make_run(
        reference=np.zeros((1024, 576, 3), np.uint8),
        skeletons=skeletons,
        **dict.fromkeys((*SIGNALS, "result")),
    )
    picture = next(explain.frames(run))[: -explain.LEGEND]
    red = (picture[..., 0] > 180) & (picture[..., 1] == 0)
    assert red.any(1).sum() == explain.VIDEO_SIDE


@pytest.mark.parametrize(
    ("name", "shape"),
    [("dense_flow", (F - 1, H, W, 2)), ("result", (F, H, W, 3)), ("cells", (F, 17, 2))],
)
def test_parts_that_do_not_fit_are_named(name, shape):
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        explain.contact_sheet(make_run(**{name: np.zeros(shape, np.uint8)}))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence():
    with explain.Strip((64, 64)) as strip:
        strip._file.close()
        strip._file = open("/dev/full", "r+b")
        with pytest.raises(OSError, match="a file in .*: cannot write this file: No space left"):
            strip.append(np.zeros((1, 64, 64, 3), np.uint8))
