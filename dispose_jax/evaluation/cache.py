"""Features of clips that were computed before, in a folder beside the clips' own (host code).

The name of an entry is a digest of everything its values depend on: the clip's content, what was
computed of it, the weights. So nothing stale is ever read, and a second method's folder of videos
costs only its own features.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np

from dispose_jax.media import output

FORMAT = 4  # of the entries; counted up when a feature is computed differently


class Cache:
    """The entries beside one folder of clips: VIDEOS.features beside VIDEOS."""

    def __init__(self, clips: str | Path):
        clips = Path(os.path.abspath(clips))  # "." and ".." have no name of their own
        self._writes = True
        self.folder = clips.with_name(f"{clips.name}.features")

    def _path(self, kind: str, depends_on: list) -> Path:
        text = json.dumps([FORMAT, kind, *depends_on])
        return self.folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"

    def read(self, kind: str, depends_on: list) -> np.ndarray | None:
        """The stored array, None if there is none or it is damaged."""
        try:
            return np.load(self._path(kind, depends_on), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    def write(self, kind: str, depends_on: list, rows: np.ndarray) -> str | None:
        """Store an array, whole or not at all.

        Returns why it cannot, such as clips that may only be read; later arrays are then not tried.
        """
        if not self._writes:
            return None
        buffer = io.BytesIO()
        np.save(buffer, rows, allow_pickle=False)
        try:
            path = output.prepare(self._path(kind, depends_on))
            output.write_bytes(path, buffer.getvalue())
        except (ValueError, OSError) as error:
            self._writes = False
            return str(error)
