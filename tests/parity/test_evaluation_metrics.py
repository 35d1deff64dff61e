"""Metrics without a network against the original programs' numbers."""

import numpy as np
import pytest

from dispose_jax.evaluation import frame_metrics, frechet, vbench
from tests.parity.cases import assert_close, load_case, record


def test_frame_metrics_equal_the_original_frame_by_frame():
    case = load_case("eval.image_metrics")
    real, fake = case.inputs["real"], case.inputs["fake"]
    np.testing.assert_array_equal(frame_metrics.grey(real), case.outputs["gray_real"])
    small = [frame_metrics.resized(frame, real.shape[1:3]) for frame in case.inputs["fake_small"]]
    np.testing.assert_array_equal(small, case.outputs["resized_small"])
    sides = {"": zip(real, fake), "_small": zip(real, small)}
    for end, pairs in sides.items():
        pairs = list(pairs)
        each = lambda metric, pairs=pairs: np.array([metric(*pair) for pair in pairs])
        assert_close(case, f"disco_ssim{end}", each(frame_metrics.ssim), 1e-6, relative=False)
        assert_close(case, f"disco_psnr{end}", each(frame_metrics.psnr), 1e-6, relative=False)
        wanted = case.outputs[f"disco_l1{end}"]
        off = np.abs(each(frame_metrics.l1) - wanted) / np.maximum(wanted, 1e-300)
        record(case.name, f"disco_l1{end}", off.max(), 1e-6)
    each = lambda metric: np.array([metric(*pair) for pair in zip(real, fake)])
    assert_close(case, "common_psnr", each(frame_metrics.psnr), 1e-3, relative=False)
    assert_close(case, "common_ssim", each(frame_metrics.ssim_common), 1e-6, relative=False)


def test_flickering_equals_the_original():
    case = load_case("eval.temporal_flickering")
    frames = case.inputs["frames"]
    static = np.repeat(frames[:1], 4, axis=0)
    blinking = np.stack([np.full_like(frames[0], 255 * (i % 2)) for i in range(4)])
    for output, clip in (("score", frames), ("score_static", static)):
        assert_close(case, output, [vbench.flickering(clip)], 1e-6, relative=False)
    assert_close(case, "score_black_white", [vbench.flickering(blinking)], 1e-6, relative=False)
    assert_close(case, "mae", vbench.differences(frames), 1e-4, relative=False)


@pytest.mark.parametrize("kind", ["full", "few", "lowrank", "logits", "constdim", "same"])
def test_frechet_distances_equal_the_exact_ones(kind):
    case = load_case("eval.frechet")
    real, fake = (case.inputs[f"{kind}.{side}"].astype(np.float64) for side in ("real", "fake"))
    for ddof in (0, 1):
        ours = frechet.distance(real, fake, ddof)
        unit = real.var(0, ddof=ddof).sum() + fake.var(0, ddof=ddof).sum()
        off = abs(ours - case.outputs[f"{kind}.ddof{ddof}"][0]) / unit
        record(case.name, f"{kind}.ddof{ddof}", off, 1e-6)
