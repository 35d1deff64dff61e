"""Metrics of generated frames: right on cases whose answer is known."""

import numpy as np
import pytest

from dispose_jax.evaluation.ablation import metrics
from dispose_jax.evaluation.ablation.metrics import EXACT_PSNR, METRICS, Truth

SIDE = 64


@pytest.fixture(scope="module")
def truths(sets):
    """Drawn people, true to the pixel."""
    return [clip.truth for clip in sets["same"]]


def shifted(frames, x, y):
    """Frames moved by so many pixels, their border repeated."""
    margin = max(abs(x), abs(y))
    wide = np.pad(frames, [(0, 0), (margin, margin), (margin, margin), (0, 0)], mode="edge")
    return wide[:, margin - y : margin - y + SIDE, margin - x : margin - x + SIDE]


def test_the_truth_has_no_error(truths):
    for truth in truths:
        found = metrics.measure(truth.frames, truth)
        perfect = {"figure_psnr": EXACT_PSNR, "picture_psnr": EXACT_PSNR, "pck": 1.0}
        assert found == {name: perfect.get(name, 0.0) for name in METRICS}


@pytest.mark.parametrize(("x", "y"), [(3, 2), (-5, 1), (0, -7)])
def test_a_shift_is_found_as_the_distance_of_the_joints(truths, x, y):
    for truth in truths:
        away = (truth.points > 16).all(-1) & (truth.points < SIDE - 16).all(-1)
        truth = truth._replace(visible=truth.visible & away)  # its patch stays in the picture
        found = metrics.measure(shifted(truth.frames, x, y), truth)
        assert found["joint_error"] == pytest.approx(np.hypot(x, y), abs=0.05)
        assert found["pck"] == (np.hypot(x, y) <= 0.05 * metrics.heights(truth.mask).min())


def test_a_plain_picture_shows_no_joint(truths):
    steps = np.arange(-8, 9)
    guess = np.hypot(*np.meshgrid(steps, steps)).mean()
    for truth in truths:
        away = (truth.points > 8).all(-1) & (truth.points < SIDE - 9).all(-1)
        truth = truth._replace(visible=truth.visible & away)
        found = metrics.measure(np.full_like(truth.frames, 90), truth)
        assert found["joint_error"] == pytest.approx(guess, rel=1e-4) and found["pck"] == 0


def test_errors_of_pixels_against_plain_numpy(truths):
    rng = np.random.default_rng(0)
    truth = truths[0]
    noise = rng.integers(-40, 40, truth.frames.shape)
    found = np.clip(truth.frames + noise, 0, 255).astype(np.uint8)
    found[1] = truth.frames[1]  # one frame without any error
    scores = metrics.measure(found, truth)
    error = (found / 255 - truth.frames / 255).astype(np.float64)
    psnr = lambda values: -10 * np.log10(np.square(values).mean()) if values.any() else 100
    figure = [error[i][truth.mask[i]] for i in range(len(error))]
    expected = {
        "figure_l1": np.mean([np.abs(values).mean() for values in figure]),
        "figure_psnr": np.mean([psnr(values) for values in figure]),
        "picture_l1": np.abs(error).mean(),
        "picture_psnr": np.mean([psnr(values) for values in error]),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-4), name


def test_colours_are_compared_at_visible_joints_and_between_them():
    frames = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    points = np.full((1, 18, 2), 5.5, np.float32)
    points[0, 3], points[0, 4] = (20.5, 30.5), (40.5, 30.5)  # a forearm
    visible = np.zeros((1, 18), bool)
    visible[0, [3, 4]] = True
    truth = Truth(frames, np.ones((1, SIDE, SIDE), bool), points, visible)
    found = frames.copy()
    found[0, 29:32, 29:32] = 255  # the middle of the forearm
    found[0, 30, 20] = 255  # a ninth of the elbow's square
    found[0, 5, 5] = 255  # hidden joints
    assert metrics.measure(found, truth)["identity"] == pytest.approx((1 + 1 / 9) / 3)


def test_flicker_is_of_what_stands_still_and_counts_against_the_truths_own():
    frames = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    mask = np.zeros((3, SIDE, SIDE), bool)
    mask[0, :, :8], mask[1, :, 8:16] = True, True
    truth = Truth(frames, mask, np.zeros((3, 18, 2), np.float32), np.zeros((3, 18), bool))
    found = frames.copy()
    found[1, :, :16] = 255  # only people's places change, until the last frame
    pairs = SIDE * (48 + 56)  # pixels outside both masks
    expected = SIDE * 8 / pairs  # from frame 1 to 2, columns 0 to 7 are room
    assert metrics.measure(found, truth)["flicker"] == pytest.approx(expected)
    brighter = np.stack([frames[0], frames[1] + 51, frames[2]])
    assert metrics.measure(brighter, truth._replace(frames=brighter))["flicker"] == 0


def test_what_cannot_be_measured_is_no_number(truths):
    truth = truths[0]
    nobody = truth._replace(mask=truth.mask & False, visible=truth.visible & False)
    scores = metrics.measure(truth.frames, nobody)
    absent = {name for name, value in scores.items() if np.isnan(value)}
    assert absent == {"figure_l1", "figure_psnr", "identity", "joint_error", "pck"}
