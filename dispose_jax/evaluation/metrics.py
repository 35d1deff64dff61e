"""The metrics of real videos: what each is, what it needs, and how clips' rows become a number.

The table alone; rows of frames and features are computed in `features` and `frame_metrics`, in
`measure`'s order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dispose_jax.evaluation import vbench


class Metric(NamedTuple):
    """One column. kind says what rows are and how they are averaged:

    "pair": one value for each pair of frames, the mean over all pairs of all videos; "frame": one
    for each frame of a video, averaged alike; "video": the rows' mean for each video, the mean over
    videos; "moving": yes or no for each video, the share; "frechet": rows are windows' features.
    """

    title: str
    better: str  # "higher" or "lower"
    kind: str
    rows: str  # what is computed of a clip or pair: a name of features.FEATURES, or below
    networks: tuple[str, ...] = ()
    unit: str = ""
    scale: float = 1.0  # of what is printed
    digits: int = 3
    ddof: int = 1
    about: str = ""

    @property
    def needs_real(self) -> bool:
        """Whether it compares with the truth."""
        return self.kind in ("pair", "frechet")


_LPIPS_VGG, _LPIPS_ALEX = ("vgg16", "lpips_vgg"), ("alexnet", "lpips_alex")
METRICS = {
    "l1": Metric(
        "L1",
        "lower",
        "pair",
        "l1",
        unit="1e-5 (paper)",
        scale=1e5,
        about="mean difference in grey levels over height x width (DisCo); depends on the size",
    ),
    "mae": Metric(
        "mean error",
        "lower",
        "pair",
        "mae",
        unit="0-1",
        digits=4,
        about="mean absolute difference over 255",
    ),
    "psnr": Metric(
        "PSNR",
        "higher",
        "pair",
        "psnr",
        unit="dB",
        digits=2,
        about="all channels together, 100 for equal frames, mean over frames (DisCo)",
    ),
    "ssim": Metric(
        "SSIM",
        "higher",
        "pair",
        "ssim",
        unit="0-1",
        about="grey, 7 x 7 uniform windows (DisCo)",
    ),
    "ssim_common": Metric(
        "SSIM (common)",
        "higher",
        "pair",
        "ssim_common",
        unit="0-1",
        about="each channel, 11 x 11 Gaussian windows",
    ),
    "lpips_vgg": Metric(
        "LPIPS VGG",
        "lower",
        "pair",
        "lpips_vgg",
        _LPIPS_VGG,
        "0-1",
        about="version 0.1, inputs in -1..1 as its authors meant",
    ),
    "lpips_alex": Metric(
        "LPIPS Alex",
        "lower",
        "pair",
        "lpips_alex",
        _LPIPS_ALEX,
        "0-1",
        about="version 0.1, inputs in -1..1 as its authors meant",
    ),
    "lpips_disco": Metric(
        "LPIPS (DisCo)",
        "lower",
        "pair",
        "lpips_disco",
        _LPIPS_VGG,
        "0-1",
        about="VGG with inputs in 0..1, a misuse that DisCo's numbers contain",
    ),
    "fid_fvd": Metric(
        "FID-FVD",
        "lower",
        "frechet",
        "resnet3d",
        ("resnet3d",),
        digits=2,
        about="3D ResNet-50, 112 x 112; FID-VID in DisCo",
    ),
    "fvd": Metric(
        "FVD",
        "lower",
        "frechet",
        "i3d",
        ("i3d",),
        digits=2,
        about="I3D logits, stretched bicubic 224 x 224, epsilon 1e-3 (DisCo)",
    ),
    "fvd_common": Metric(
        "FVD (common)",
        "lower",
        "frechet",
        "i3d_common",
        ("i3d",),
        digits=2,
        about="I3D logits, centre crop, epsilon 1e-5 (VideoGPT)",
    ),
    "cd_fvd": Metric(
        "CD-FVD",
        "lower",
        "frechet",
        "videomae",
        ("videomae",),
        digits=2,
        ddof=0,
        about="VideoMAE V2 features, centre crop; every window, where the published program draws "
        "some",
    ),
    "flickering": Metric(
        "temporal flickering",
        "higher",
        "video",
        "flickering",
        unit="0-100",
        scale=100,
        digits=2,
        about="1 minus the mean difference of neighbours; rewards stillness",
    ),
    "subject": Metric(
        "subject consistency",
        "higher",
        "frame",
        "dino",
        ("dino",),
        "0-100",
        100,
        2,
        about="DINO B/16, frame before and first frame; rewards stillness",
    ),
    "background": Metric(
        "background consistency",
        "higher",
        "frame",
        "clip_b32",
        ("clip_b32",),
        "0-100",
        100,
        2,
        about="CLIP B/32 in float32, frame before and first frame; rewards stillness",
    ),
    "dynamic": Metric(
        "dynamic degree",
        "higher",
        "moving",
        "flow",
        ("raft_things",),
        "0-100",
        100,
        2,
        about="share of videos that move, RAFT at 8 frames per second",
    ),
    "aesthetic": Metric(
        "aesthetic quality",
        "higher",
        "video",
        "aesthetic",
        ("clip_l14", "aesthetic"),
        "0-100",
        100,
        2,
        about="LAION's linear head on CLIP L/14",
    ),
}
STILL = ("flickering", "subject", "background")  # a copied picture scores 100


def parse(text: str) -> tuple[list[str], list[str]]:
    """--metrics: (names of METRICS, what is misspelt); "all" is every one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in ("all", *METRICS)]
    return [name for name in METRICS if name in names or "all" in names], unknown


def clip_value(metric: Metric, rows: np.ndarray, size: tuple[int, int]) -> float | None:
    """A clip's own number from its rows; None for a Fréchet metric, which a clip does not have.

    size: height and width of its frames, for motion's threshold.
    """
    if metric.kind == "frechet":
        return None
    if metric.kind == "moving":
        return float(vbench.is_moving(rows, size))
    if metric.kind == "frame":
        return float(vbench.consistency(rows).mean())
    return float(np.mean(rows, dtype=np.float64))


def set_value(
    metric: Metric, rows: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
) -> float:
    """The set's number from the clips' rows, by the rule of the metric's kind."""
    values = [clip_value(metric, *clip) for clip in zip(rows, sizes)]
    weights = None
    if metric.kind == "pair":
        weights = [len(clip) for clip in rows]
    elif metric.kind == "frame":
        weights = [len(clip) - 1 for clip in rows]
    return float(np.average(values, weights=weights))
