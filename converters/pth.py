"""PyTorch's `.pth` files without PyTorch: both layouts read, the current one written (host code).

Current: a zip archive, uncompressed, of one pickle (`data.pkl`) and one record per storage. Before
PyTorch 1.6: one stream of five pickles, then the storages. The pickles are run by `unpickle`, which
executes nothing; every length, offset and stride in them is checked against the file.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters import unpickle
from dispose_jax.models import tensor_file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_PICKLE = 64 << 20  # bytes; a state dict of 1500 tensors needs 0.2 MB
_ALIGNMENT = 64  # of each record, as PyTorch writes them
# Entries that hold a state dict, the first one there is taken: what training averaged comes first.
WRAPPERS = ("params_ema", "ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")
WRAPPERS += ("state_dict", "model_state_dict", "model", "module", "params")
_DEEPEST_WRAPPER = 3


def read(path: Path, notes: list[str] | None = None) -> dict[str, np.ndarray]:
    """The state dict of a .pth file as {key: read-only view of the mapped file}.

    Dictionaries with an entry of WRAPPERS are unwrapped, the averaged weights before the others;
    what lies beside it (step, optimizer) is ignored. notes gets a sentence if there were several.
    Raises ValueError naming the file if it is truncated, damaged, hostile or holds no state dict.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
        is_zip = data[:4].tobytes() == b"PK\x03\x04"
        tree, storages = _read_zip(path, data) if is_zip else _read_stream(path, data)
        tree, note = _unwrapped(tree)
        if note and notes is not None:
            notes.append(note)
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}, not a dictionary of tensors")
        return {_name(key): _view(key, value, storages) for key, value in tree.items()}
    except unpickle.Refused as error:
        raise ValueError(
            f"{path}: refused, because it asks for {error}; "
            "get the file from its original place, or save only its state dict again"
        ) from None
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a usable PyTorch checkpoint: {error}") from None


def _unwrapped(tree: Any, path: tuple[str, ...] = ()) -> tuple[Any, str]:
    """The state dict within the dictionaries that training code puts around it, and a sentence on
    which of several it is."""
    holds = lambda part: (
        isinstance(part, dict) and any(type(value) is unpickle.Tensor for value in part.values())
    )
    if not isinstance(tree, dict) or len(path) > _DEEPEST_WRAPPER:
        return tree, ""
    # Before the tensors of tree itself, which may be the state of random numbers or a counter.
    others = [name for name in WRAPPERS if isinstance(tree.get(name), dict) and tree[name]]
    for name in others:
        found, note = _unwrapped(tree[name], (*path, name))
        if holds(found):
            rest = [*others, *(key for key in tree if key not in others and holds(tree[key]))]
            rest.remove(name)
            beside = f"its entry {name} is read, and not {', '.join(map(str, rest))} beside it"
            return found, note or (beside if rest else "")
    return tree, ""


def _read_zip(path: Path, data: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """The object of a zip archive and the bytes of the storages it mentions."""
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            raise ValueError("a zip archive without its end, so it was cut; get it again") from None
        except (NotImplementedError, RuntimeError, struct.error, EOFError):
            raise ValueError("a damaged zip archive; get it again") from None
        infos = {info.filename: info for info in archive.infolist()}
        if len(infos) != len(archive.infolist()):
            raise ValueError("its archive holds two records of one name")
        roots = [name.removesuffix("/data.pkl") for name in infos if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("a zip archive without a PyTorch checkpoint (data.pkl) in it")
        record = lambda name: _record(data, infos.get(f"{roots[0]}/{name}"), name)
        if f"{roots[0]}/constants.pkl" in infos:
            raise ValueError("a TorchScript program; a state dict is needed")
        if f"{roots[0]}/byteorder" in infos and record("byteorder").tobytes() != b"little":
            raise ValueError("written on a big-endian machine; save it again on a usual one")
        pickled = record("data.pkl")
        if pickled.size > _MAX_PICKLE:
            raise ValueError(f"its pickle has {pickled.size} bytes, more than {_MAX_PICKLE}")
        storages: dict[str, unpickle.Storage] = {}
        tree = unpickle.load(io.BytesIO(pickled.tobytes()), storages)
        return tree, {k: _storage(s, record(f"data/{k}")) for k, s in storages.items()}


def _record(data: np.ndarray, info: zipfile.ZipInfo | None, name: str) -> np.ndarray:
    """The bytes of an uncompressed record of a zip archive, without copying."""
    if info is None:
        raise ValueError(f"its archive lacks the record {name}")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"its record {name} is compressed or encrypted, which PyTorch never does")
    header = data[info.header_offset : info.header_offset + 30].tobytes()
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise ValueError(f"its record {name} does not start where the archive says")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = info.header_offset + 30 + lengths
    if start + info.file_size > data.size:
        raise ValueError(f"its record {name} is cut")
    return data[start : start + info.file_size]


def _storage(storage: unpickle.Storage, raw: np.ndarray) -> np.ndarray:
    """The bytes of a storage, if there are as many as its pickle says."""
    if raw.size != storage.count * storage.dtype.itemsize:
        expected = f"{storage.count} elements of {storage.dtype}"
        raise ValueError(f"storage {storage.key} has {raw.size} bytes, expected {expected}")
    return raw


def _read_stream(path: Path, data: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    """The object of a legacy stream and the bytes of the storages it mentions."""
    if data[0] != 0x80:
        raise ValueError("neither a zip archive nor a pickle")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if unpickle.load(stream) != _LEGACY_MAGIC:
            raise ValueError("a pickle, but not one that PyTorch wrote")
        if (version := unpickle.load(stream)) != _LEGACY_VERSION:
            raise ValueError(f"its layout has version {version}, expected {_LEGACY_VERSION}")
        system = unpickle.load(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise ValueError("written on a big-endian machine; save it again on a usual one")
        storages: dict[str, unpickle.Storage] = {}
        tree = unpickle.load(stream, storages)
        keys = unpickle.load(stream)
        position = stream.tell()
    keys = [*map(str, keys)] if isinstance(keys, list) else []
    if set(keys) != set(storages):
        raise ValueError("its list of storages differs from those its tensors use")
    raw = {}
    for key in keys:  # each: number of elements as int64, then the elements
        storage = storages[key]
        count = int.from_bytes(data[position : position + 8].tobytes(), "little", signed=True)
        size = storage.count * storage.dtype.itemsize
        if count != storage.count:
            raise ValueError(f"storage {key} holds {count} elements, expected {storage.count}")
        position += 8 + size
        if position > data.size:
            raise ValueError(f"storage {key} is cut; get the file again")
        raw[key] = data[position - size : position]
    return tree, raw


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"it holds an entry {key!r}, and the names of tensors are strings")
    return str(key)


def _view(key: str, value: Any, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """A tensor as an array on its storage's bytes, if it stays inside."""
    if not isinstance(value, unpickle.Tensor):
        raise ValueError(f"its entry {key} is a {type(value).__name__}, not a tensor")
    storage, offset, shape, strides = value
    raw, size = storages[storage.key], storage.dtype.itemsize
    if storage.view is not None:  # legacy: (key, first element, elements) of a part of the storage
        part = storage.view if isinstance(storage.view, tuple) else ()
        if len(part) != 3 or not all(type(n) is int and n >= 0 for n in part[1:]):
            raise ValueError(f"{key} lies on a part of a storage without offset and length")
        if sum(part[1:]) > storage.count:
            raise ValueError(f"{key} lies on a part that leaves storage {storage.key}")
        raw = raw[part[1] * size : sum(part[1:]) * size]
    if min((offset, *shape, *strides)) < 0 or len(shape) > 32:
        raise ValueError(f"{key} has an impossible offset, shape {shape} or stride {strides}")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * size > raw.size:
        raise ValueError(f"{key} of shape {shape} and stride {strides} leaves its storage")
    if math.prod(shape) * size > max(raw.size, 1 << 26):  # a stride of 0 may repeat, not explode
        raise ValueError(f"{key} of shape {shape} repeats its storage beyond reason")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    steps = tuple(stride * size for stride in strides)
    return np.ndarray(shape, storage.dtype, raw, offset * size, steps)


def write(path: Path, tensors: Mapping[str, np.ndarray], *, wrapper=None, dtype=None) -> None:
    """Write {key: array} so that torch.load(path, weights_only=True) gives the state dict.

    wrapper: name of a dictionary entry to put it under. Arrays may be views in any memory order;
    floating ones are cast to dtype if given. The caller chooses a temporary name.
    """
    targets = {key: tensor_file.target_dtype(value.dtype, dtype) for key, value in tensors.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        state = _pickle_state(tensors, targets)
        pickled = _pickle_entry(wrapper, state) if wrapper else state
        _add(archive, "data.pkl", b"\x80\x02" + pickled + b".")
        _add(archive, "byteorder", b"little")
        for i, (key, value) in enumerate(tensors.items()):
            value = tensor_file.cast(key, value, targets[key])
            _add(archive, f"data/{i}", tensor_file.raw_bytes(value))
        _add(archive, "version", b"3\n")


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """One record, aligned by padding in the extra field as PyTorch does, so that it can be
    mapped."""
    info = zipfile.ZipInfo(f"archive/{name}")  # its fixed date makes equal weights equal files
    start = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -start % _ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    archive.writestr(info, data)


def _pickle_state(tensors: Mapping[str, np.ndarray], targets: Mapping[str, np.dtype]) -> bytes:
    """Opcodes that push an OrderedDict of tensors whose storages are numbered in order."""
    kinds = {dtype: name for name, dtype in unpickle.STORAGES.items()}
    out = [_EMPTY_ORDERED_DICT, b"("]
    for i, (key, value) in enumerate(tensors.items()):
        if targets[key] not in kinds:
            raise ValueError(f"{key} has type {targets[key]}, which .pth files cannot hold")
        strides = np.cumprod((1, *value.shape[:0:-1]), dtype=object)[::-1] if value.ndim else ()
        out += [_string(key), b"ctorch._utils\n_rebuild_tensor_v2\n("]
        out += [b"(", _string("storage"), f"ctorch\n{kinds[targets[key]]}\n".encode()]
        out += [_string(str(i)), _string("cpu"), _integer(value.size), b"tQ"]
        out += [_integer(0), _integers(value.shape), _integers(strides), b"\x89"]
        out += [_EMPTY_ORDERED_DICT, b"tR"]
    return b"".join([*out, b"u"])


_EMPTY_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def _pickle_entry(name: str, value: bytes) -> bytes:
    return b"}" + _string(name) + value + b"s"


def _string(text: str) -> bytes:
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _integer(number: int) -> bytes:
    raw = int(number).to_bytes(8, "little", signed=True)
    return b"\x8a\x08" + raw


def _integers(numbers) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
