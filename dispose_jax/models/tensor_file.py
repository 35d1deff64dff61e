"""The safetensors format: tensors as views of a mapped file, and a writer that needs one tensor at
a time.

Bundles and converters share it. The header is read and checked by the safetensors library (lengths,
holes, overlaps); the tensors are not copied, so that a file of several gigabytes costs no memory
until a tensor is used (host code).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file as {name: array}; the arrays are read-only views of the
    mapped file.

    Raises ValueError if the file is missing, truncated, not safetensors or of an unknown element
    type.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            layout = [(name, file.get_slice(name)) for name in file.offset_keys()]
            layout = [(name, part.get_dtype(), part.get_shape()) for name, part in layout]
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({_reason(error)}); copy or download it again"
        ) from None
    data = np.memmap(path, np.uint8, mode="r")
    offset = 8 + int(data[:8].view("<u8")[0])  # length of the header, then the header
    tensors = {}
    for name, code, shape in layout:  # by offset and without holes: the library has checked that
        if code not in DTYPES:
            raise ValueError(f"{path}: {name} has elements of type {code}, which is not supported")
        size = math.prod(shape) * DTYPES[code].itemsize
        view = data[offset : offset + size].view(np.ndarray).view(DTYPES[code])
        try:
            tensors[name] = view.reshape(shape)
        except ValueError as error:  # empty, and yet too large for an array
            raise ValueError(f"{path}: {name} has the shape {shape}: {_reason(error)}") from None
        offset += size
    return tensors


def write(path: str | Path, tensors: Mapping[str, np.ndarray], dtype=None) -> str:
    """Write {name: array} as safetensors and return the SHA-256 of the file.

    Arrays may be views in any memory order: each is made contiguous, and floating ones cast to
    dtype if given, only while it is written. Raises ValueError for a type that safetensors has not,
    and for numbers that are infinite in dtype. The caller chooses a temporary name if the file must
    appear whole or not at all.
    """
    targets = {name: target_dtype(value.dtype, dtype) for name, value in tensors.items()}
    unknown = [f"{name} ({target})" for name, target in targets.items() if target not in _CODES]
    if unknown:
        raise ValueError(f"{path}: safetensors has no element type for {', '.join(unknown[:3])}")
    # Wide elements first keep every tensor aligned to its element, since the header is padded to 8
    # bytes.
    order = sorted(tensors, key=lambda name: (-targets[name].itemsize, name))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        size = tensors[name].size * targets[name].itemsize
        shape, code = list(tensors[name].shape), _CODES[targets[name]]
        span = [offset, offset + size]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": span}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in (len(text).to_bytes(8, "little"), text):
            digest.update(chunk)
            file.write(chunk)
        for name in order:
            chunk = raw_bytes(cast(name, tensors[name], targets[name]))
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def target_dtype(source: np.dtype, dtype) -> np.dtype:
    """The type a tensor is stored in: dtype for floating tensors if given, its own otherwise."""
    is_float = jnp.issubdtype(source, jnp.floating)  # knows bfloat16 and float8, unlike NumPy
    return np.dtype(dtype) if dtype is not None and is_float else np.dtype(source)


def num_bytes(tensors: Mapping[str, np.ndarray], dtype=None) -> int:
    """What tensors take in a file, its header left out; dtype as of `write`."""
    return sum(t.size * target_dtype(t.dtype, dtype).itemsize for t in tensors.values())


def cast(name: str, value: np.ndarray, target: np.dtype) -> np.ndarray:
    """A tensor in the type it is stored in. Raises ValueError for numbers infinite there alone."""
    if target == value.dtype:
        return value
    with np.errstate(over="ignore"):
        stored = value.astype(target)
    if not np.isfinite(stored).all() and np.isfinite(value).all():
        raise ValueError(
            f"{name} has numbers up to {np.abs(value).max():.3g}, too large for {target}; store it "
            "in another type"
        )
    return stored


def raw_bytes(value: np.ndarray) -> memoryview:
    """The bytes of an array in C order, little-endian; no copy if it lies so already."""
    value = np.asarray(value)
    if value.dtype.byteorder == ">":
        value = value.astype(value.dtype.newbyteorder("<"))
    return memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8))


def _reason(error: Exception) -> str:
    """The library's words, in one line."""
    return " ".join(str(error).split())
