"""A pickle interpreter that can only build containers, numbers, strings and descriptions of
tensors.

PyTorch's `.pth` files hold a pickle, and a pickle is a program. This one runs it without Python's
unpickler: the opcodes that containers need, and a list of the few names a checkpoint may mention.
Nothing is imported, nothing is called; any other name or opcode is an error (host code).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_DTYPE_NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8")
_DTYPE_NAMES += ("uint8", "bool")
_MAX_OPCODES = 500_000  # a state dict of 1500 tensors needs 60 thousand
_MAX_RANK = 32  # of a tensor, as NumPy's
_MAX_COPIED = 200_000  # items that calls copy, in all: a list may be handed to many calls


class Storage(NamedTuple):
    """A run of numbers elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int  # elements
    view: tuple | None = None  # legacy files: (view key, first element, elements) of a part of it


class Tensor(NamedTuple):
    """A strided view of a storage, unchecked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(str):
    """An allowed global, kept as its name."""


class Refused(ValueError):
    """The pickle asks for something a checkpoint does not need."""


class _Mark:
    """Where the arguments of a container start on the stack."""


def _rebuild_tensor(*args) -> Tensor:
    """torch._utils._rebuild_tensor(_v2): storage, offset, size, stride, then things that hold no
    numbers."""
    if len(args) < 4 or not isinstance(args[0], Storage):
        raise Refused("a tensor that names no storage")
    storage, offset, shape, strides = args[:4]
    if not _tuples(shape, strides) or len(shape) > _MAX_RANK or len(strides) > _MAX_RANK:
        raise Refused("a tensor without a list of sizes and strides")
    numbers = [offset, *shape, *strides]
    if not all(type(n) is int for n in numbers) or len(shape) != len(strides):
        raise Refused("a tensor whose size, stride or offset are not integers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(*args) -> Tensor:
    """torch._utils._rebuild_parameter: the tensor, then two things that hold no numbers."""
    if not args or not isinstance(args[0], Tensor):
        raise Refused("a parameter without a tensor")
    return args[0]


def _ordered_dict(*args) -> dict:
    """collections.OrderedDict, empty or (Python 2) from a list of pairs."""
    pairs = args[0] if args else []
    if not isinstance(pairs, list) or not all(_tuples(p) and len(p) == 2 for p in pairs):
        raise Refused("an ordered dictionary made of something else than pairs")
    return {_key(key): value for key, value in pairs}


def _size(*args) -> tuple:
    """torch.Size of a list of numbers."""
    if len(args) != 1 or not _tuples(args[0]) or len(args[0]) > _MAX_RANK:
        raise Refused("a size that is no short list")
    return tuple(args[0])


def _device(*args) -> str:
    """torch.device: a short name and perhaps a small number."""
    if not 1 <= len(args) <= 2 or type(args[0]) is not str or len(args[0]) > 32:
        raise Refused("a device without a name")
    if any(type(n) is not int or not 0 <= n < 1024 for n in args[1:]):
        raise Refused("a device whose number is none")
    return ":".join(str(arg) for arg in args)


def _other_tensor(*args):
    """torch._utils._rebuild_tensor_v3 is written for types without a storage of their own."""
    raise Refused("tensors of a type that no release has, such as fp8")


def _tuples(*values) -> bool:
    return all(isinstance(value, (tuple, list)) for value in values)


def _key(key):
    if not isinstance(key, (str, int, float, bool)) and key is not None:
        raise Refused(f"a dictionary key of type {type(key).__name__}")
    return key


# What REDUCE may do: global name -> our own function of plain values.
_CALLS: dict[str, Callable] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_tensor_v3": _other_tensor,
    "torch Size": _size,
    "torch device": _device,
}
_ALLOWED = {
    *_CALLS,
    "torch.storage UntypedStorage",
    *(f"torch {name}" for name in STORAGES),
    *(f"torch.cuda {name}" for name in STORAGES),
    *(f"torch {name}" for name in _DTYPE_NAMES),
}


def load(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """Interpret one pickle from the file's position, leaving it just behind: a tree with Tensor
    leaves.

    storages: filled with those that the pickle mentions, by key. Raises Refused (a ValueError)
    naming what no checkpoint needs, or ValueError if the stream is damaged.
    """
    try:
        return _Machine({} if storages is None else storages).run(file)
    except Refused:
        raise
    except Exception as error:  # pickletools and a damaged stream fail in many ways
        raise ValueError(f"its pickle is damaged ({type(error).__name__}: {error})") from None


class _Machine:
    """The stack and the memo of one pickle. Containers are built, never walked: nesting costs no
    recursion."""

    def __init__(self, storages: dict[str, Storage]):
        self.stack: list = []
        self.memo: dict[int, Any] = {}
        self.storages = storages
        self.copied = 0

    def run(self, file: BinaryIO):
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPCODES:
                raise Refused(f"a pickle of more than {_MAX_OPCODES} instructions")
            name = opcode.name
            if name in _PUSH:
                self.stack.append(argument)
            elif name == "STOP":
                return self.stack.pop()
            elif name in _OPS:
                _OPS[name](self, argument)
            else:
                raise Refused(f"the pickle instruction {name}, which no checkpoint needs")
        raise ValueError("it has no end")

    def push(self, value):
        self.stack.append(value)

    def above_mark(self) -> list:
        """What lies above the topmost mark, which is removed too."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _Mark:
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise ValueError("a container without its start")

    def top(self, count: int) -> tuple:
        """The last count values, removed."""
        if len(self.stack) < count:
            raise ValueError("the stack is empty")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def extend(self, items):
        if not isinstance(self.stack[-1], list):
            raise Refused("an append to something that is not a list")
        self.stack[-1].extend(items)

    def update(self, items):
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused("an entry for something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def name(self, text: str):
        """GLOBAL and STACK_GLOBAL: an allowed name, never the object."""
        if text not in _ALLOWED:
            dotted = text.replace(" ", ".", 1)[:100]
            if text.startswith("torch float8"):
                raise Refused(f"weights in {dotted} (fp8), which are too coarse to convert")
            raise Refused(f"the Python object {dotted}, and only tensors are read")
        self.push(Name(text))

    def stack_name(self):
        module, name = self.top(2)
        self.name(f"{module} {name}")

    def call(self):
        name, args = self.top(2)
        if not isinstance(name, Name) or name not in _CALLS or not isinstance(args, tuple):
            raise Refused("a call of something that makes no tensor")
        self.copied += sum(len(arg) for arg in args if isinstance(arg, (list, tuple)))
        if self.copied > _MAX_COPIED:
            raise Refused("more copies of its lists than any checkpoint makes")
        self.push(_CALLS[name](*args))

    def persistent(self):
        """The id of a storage: ('storage', type, key, device, elements[, view])."""
        (pid,) = self.top(1)
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("a reference to something that is not a storage")
        _, kind, key, _, count, *view = pid
        kind = kind.split()[-1] if isinstance(kind, Name) else ""
        kind = "ByteStorage" if kind == "UntypedStorage" else kind  # of types without their own
        if kind not in STORAGES or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("a storage without type, name and length")
        storage = Storage(key, STORAGES[kind], count, view[0] if view else None)
        if self.storages.setdefault(key, storage)[:3] != storage[:3]:
            raise Refused(f"storage {key} in two types or lengths")
        self.push(storage)

    def build(self):
        """BUILD sets attributes: on a state dict its version numbers, which hold no weights."""
        target, _ = self.top(2)
        if not isinstance(target, dict):
            raise Refused("attributes for something that is not a dictionary")
        self.push(target)


_PUSH = {"NONE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"}
_PUSH |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
_PUSH |= {"BINBYTES", "SHORT_BINBYTES"}
_OPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_Mark),
    "POP": lambda m, _: m.top(1),
    "POP_MARK": lambda m, _: m.above_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.push(m.top(1)),
    "TUPLE2": lambda m, _: m.push(m.top(2)),
    "TUPLE3": lambda m, _: m.push(m.top(3)),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.above_mark()),
    "APPEND": lambda m, _: m.extend(m.top(1)),
    "APPENDS": lambda m, _: m.extend(m.above_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "SETITEM": lambda m, _: m.update(m.top(2)),
    "SETITEMS": lambda m, _: m.update(m.above_mark()),
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": lambda m, text: m.name(text),
    "STACK_GLOBAL": lambda m, _: m.stack_name(),
    "BINPERSID": lambda m, _: m.persistent(),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
