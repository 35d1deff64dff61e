"""Makes `.pth` files of any content, well-formed or not, without PyTorch."""

import pickle
import zipfile
from pathlib import Path

import numpy as np

from converters import pth

MAGIC = 0x1950A86A20F9469CFC6C


def state(tensors: dict[str, np.ndarray]) -> bytes:
    """The pickle of a state dict, storages numbered from 0."""
    opcodes = pth._pickle_state(tensors, {key: value.dtype for key, value in tensors.items()})
    return b"\x80\x02" + opcodes + b"."


def tensor(storage="0", kind="FloatStorage", count=6, offset=0, shape=(2, 3), stride=(3, 1)):
    """The pickle of {"w": a tensor} with any description, on storage `storage`."""
    number = lambda n: b"J" + n.to_bytes(4, "little", signed=True)
    numbers = lambda values: b"(" + b"".join(number(n) for n in values) + b"t"
    string = lambda text: b"X" + len(text).to_bytes(4, "little") + text.encode()
    pid = b"(" + string("storage") + f"ctorch\n{kind}\n".encode()
    pid += string(storage) + string("cpu") + number(count) + b"tQ"
    args = b"(" + pid + number(offset) + numbers(shape) + numbers(stride) + b"\x89Nt"
    return b"\x80\x02}" + string("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + args + b"Rs."


def write_zip(path: Path, pickled: bytes, records: dict[str, bytes], **options) -> Path:
    """A checkpoint in the current layout; records are named below the archive's folder."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in records.items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_legacy(path: Path, pickled: bytes, storages: dict[str, tuple[int, bytes]], **system):
    """A checkpoint in the layout before PyTorch 1.6; storages: key -> (elements, bytes)."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} | system
    parts = [pickle.dumps(part, 2) for part in (MAGIC, 1001, system)]
    parts += [pickled, pickle.dumps(list(storages), 2)]
    for count, data in storages.values():
        parts += [count.to_bytes(8, "little", signed=True), data]
    path.write_bytes(b"".join(parts))
    return path
