"""Checkpoint files as {key: array}: safetensors and `.pth`, in one file or in parts, read as views
of the mapped file, written whole or not.

One door for both formats; what a file holds is decided by its first bytes, how it is written by its
name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from converters import pth, shards
from dispose_jax.media import output
from dispose_jax.models import tensor_file

# First bytes of what people have instead of a checkpoint, and what to say.
_NOT_CHECKPOINTS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<": "a web page, so the download went wrong; get it again",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"{": "JSON text, not a checkpoint",
}


def read(path: str | Path, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint as {key: read-only view}; bfloat16 by ml_dtypes.

    Of a checkpoint in parts, path is its index, or the first part where there is none. notes gets
    sentences about what was chosen of a file that holds several state dicts. Raises ValueError
    naming the file if it is missing, empty, truncated, damaged, hostile or something else.
    """
    path = Path(path)
    _refuse_absent(path)
    read_part = lambda part: _read_one(part, notes)
    return shards.read(path, read_part) if shards.is_split(path) else read_part(path)


def _read_one(path: Path, notes: list[str] | None) -> dict[str, np.ndarray]:
    """Every tensor of one file."""
    head = checked_head(path)
    if head[257:262] == b"ustar":
        raise ValueError(f"{path}: a tar archive; unpack it and give the file inside")
    # Pickles start with 0x80 and zips with PK; a safetensors header opens with its length, then a
    # brace.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return tensor_file.read(path)
    return pth.read(path, notes)


def checked_head(path: Path) -> bytes:
    """The first bytes of a file of weights, of whatever format. Raises ValueError naming the file
    if they are of what people have in place of one."""
    _refuse_absent(path)
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path}: an empty file; get it again")
    for start, what in _NOT_CHECKPOINTS.items():
        if head.startswith(start):
            raise ValueError(f"{path}: {what}")
    return head


def _refuse_absent(path: Path) -> None:
    """Raise ValueError if a file is not there, or a link that leads nowhere: a snapshot of Hugging
    Face's cache is made of links, which a copy of it alone keeps."""
    if path.is_symlink() and not path.exists():
        raise ValueError(
            f"{path}: a link to {os.readlink(path)}, which is not there; copy the files themselves "
            "(cp -rL), or get it again"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a safetensors or .pth checkpoint")


def write(
    path: str | Path, tensors: Mapping[str, np.ndarray], *, wrapper: str | None = None, dtype=None
) -> None:
    """Write tensors as the name asks: `.safetensors`, else PyTorch's zip; under a temporary name
    until whole.

    wrapper: entry of the `.pth` dictionary that holds the state dict. dtype: cast floating tensors.
    Raises OSError with one sentence if it cannot be written.
    """
    path = output.prepare(path)
    output.check_room(path, tensor_file.num_bytes(tensors, dtype))
    with output.replacing(path) as partial, output.explained(path):
        if path.suffix == ".safetensors":
            tensor_file.write(partial, tensors, dtype)
        else:
            pth.write(partial, tensors, wrapper=wrapper, dtype=dtype)
