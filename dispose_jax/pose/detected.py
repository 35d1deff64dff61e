"""Keypoints that were detected, kept so that nobody detects them twice (host code).

One file holds those of several sources, each under a digest of what was looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dispose_jax.media import output
from dispose_jax.types import Pose

LEAVES = ("body", "body_score", "hands", "hands_score", "face", "face_score")


def digest(source: Path | np.ndarray, frames: Iterable[int] = ()) -> str:
    """SHA-256 of a file's or an array's content, and of the numbers of the frames looked at."""
    if isinstance(source, Path):
        with open(source, "rb") as file:
            found = hashlib.file_digest(file, "sha256")
    else:
        found = hashlib.sha256(f"{source.shape} {source.dtype}".encode())
        found.update(np.ascontiguousarray(source).tobytes())
    found.update(np.array(list(frames), np.int64).tobytes())
    return found.hexdigest()


def read(path: Path, of: str) -> Pose | None:
    """The keypoints kept of a digest; None if there are none, or the file is not whole."""
    try:
        with safe_open(path, "numpy") as file:
            return Pose(**{leaf: file.get_tensor(f"{of}.{leaf}") for leaf in LEAVES})
    except (OSError, SafetensorError):
        return None


def keep(path: Path, of: str, pose: Pose) -> None:
    """Add keypoints to those kept. Raises OSError with one sentence, the file is then as before."""
    tensors = {}
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        pass  # none yet, or not whole: then it is written anew
    own = {f"{of}.{leaf}": np.ascontiguousarray(getattr(pose, leaf)) for leaf in LEAVES}
    output.write_bytes(path, save(tensors | own))
