"""Small videos of somebody with their pose files, and a configuration that cuts clips out."""

import numpy as np

from configs import svd
from dispose_jax.media import video
from dispose_jax.pose import files
from tests.pose.poses import standing


def config(**data):
    """Clips of 4 frames of 64 x 128 at stride 2; data: values of config.data."""
    config = svd.get_config("size=tiny,variant=no_point")
    config.train.update({"frames": 4, "height": 64, "width": 128, "batch": 4, "guides": "flow"})
    small = {"clips_per_video": 3, "ref_window": 6, "flow_short_side": 128, "prefetch": 4}
    small["held_out"] = 0
    config.data.update({**small, "source": "", **data})
    return config


def pictures(num_frames: int, seed: int = 0, h: int = 80, w: int = 160) -> np.ndarray:
    """A textured square that drifts over a textured ground, (n, h, w, 3) uint8: flow can see it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2, h // 4, w // 4, 3), np.uint8)
    ground, square = coarse.repeat(4, 1).repeat(4, 2)
    frames = np.repeat(ground[None], num_frames, 0)
    for i in range(num_frames):
        frames[i, 20:60, 40 + 2 * i : 80 + 2 * i] = square[20:60, 40:80]
    return frames


def film(folder, name: str, num_frames: int = 24, *, seed: int = 0, pose=None):
    """Write a video and the pose file beside it; the pose of somebody standing unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    video.write(path, pictures(num_frames, seed), 24)
    pose = standing(num_frames, seed=seed) if pose is None else pose
    files.write(path.with_suffix(".poses.json"), pose, width=160, height=80)
    return path
