"""What is measured frame by frame against the truth without any network: L1, PSNR, SSIM.

Two families under one name are in use, and both are here: DisCo's evaluation code, whose numbers
the paper's Table 6 appears to be, and the common ones. Frames are uint8 RGB (host code).
"""

from __future__ import annotations

import cv2
import numpy as np

_PERFECT_PSNR = 100.0  # what DisCo prints for equal frames, whose ratio is infinite
_C1, _C2 = 0.01**2, 0.03**2  # of SSIM, for values in 0..1


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A generated frame (h, w, 3) uint8 at the true one's size (height, width), as DisCo does it:
    bilinear in 8 bits."""
    if frame.shape[:2] == tuple(size):
        return frame
    return cv2.resize(frame, size[::-1])


def mean_error(real: np.ndarray, fake: np.ndarray) -> float:
    """Mean absolute difference of two frames (h, w, 3) uint8, 0..1."""
    return float(np.abs(real.astype(np.int16) - fake).mean(dtype=np.float64)) / 255


def l1(real: np.ndarray, fake: np.ndarray) -> float:
    """L1 on the paper's scale: the mean difference in grey levels, divided by height x width.

    The division makes it depend on the resolution, hence numbers like 2.4e-05.
    """
    h, w = real.shape[:2]
    return 255 * mean_error(real, fake) / (h * w)


def psnr(real: np.ndarray, fake: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all three channels together, in dB; 100 for equal frames."""
    mse = np.square(real.astype(np.float64) - fake).mean()
    return _PERFECT_PSNR if mse == 0 else float(20 * np.log10(255 / np.sqrt(mse)))


def grey(frame: np.ndarray) -> np.ndarray:
    """RGB (..., 3) uint8 to uint8 grey with OpenCV's integer weights."""
    weighted = frame.astype(np.int32) @ np.array([9798, 19235, 3735], np.int32)
    return ((weighted + (1 << 14)) >> 15).astype(np.uint8)


def ssim(real: np.ndarray, fake: np.ndarray) -> float:
    """DisCo's SSIM: of grey frames, over 7 x 7 uniform windows that lie inside (scikit-image's
    defaults, with the sample covariance)."""
    mean = lambda x: cv2.boxFilter(x, -1, (7, 7), borderType=cv2.BORDER_REFLECT)[3:-3, 3:-3]
    pair = [grey(frame).astype(np.float64) / 255 for frame in (real, fake)]
    return float(_similarity(*pair, mean, 49 / 48).mean())


def ssim_common(real: np.ndarray, fake: np.ndarray) -> float:
    """The common SSIM: of each channel, over 11 x 11 Gaussian windows (sigma 1.5) that lie inside,
    then the mean (common_metrics_on_video_quality; Wang et al. 2004)."""
    tap = np.exp(-np.square(np.arange(11) - 5.0) / (2 * 1.5**2))
    tap /= tap.sum()
    mean = lambda x: cv2.sepFilter2D(x, -1, tap, tap)[5:-5, 5:-5]
    one, other = (frame.astype(np.float64) / 255 for frame in (real, fake))
    channels = zip(np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0))
    return float(np.mean([_similarity(a, b, mean, 1.0).mean() for a, b in channels]))


def _similarity(x: np.ndarray, y: np.ndarray, mean, correction: float) -> np.ndarray:
    """SSIM at every window of two planes (h, w) float64 in 0..1.

    mean(x): the windows' means; correction: from population to sample covariance.
    """
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    ux, uy = mean(x), mean(y)
    vx, vy = (correction * (mean(a * a) - u * u) for a, u in ((x, ux), (y, uy)))
    vxy = correction * (mean(x * y) - ux * uy)
    above = (2 * ux * uy + _C1) * (2 * vxy + _C2)
    below = (ux * ux + uy * uy + _C1) * (vx + vy + _C2)
    return above / below
