"""The key map between a Flax parameter tree and a PyTorch state dict, derived from the tree itself.

The Flax tree is the authority: for every leaf its torch key and axis order are computed, never
searched. The result is a dictionary, read in either direction. Names: module paths are joined with
dots, a trailing `_<digits>` becomes `.<digits>`; a short ordered list of (regex, replacement) rules
covers the rest.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dispose_jax.counting import counted

Path = tuple[str, ...]
Rule = tuple[str, str]  # regex, replacement: applied Flax -> torch only, in order

_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
_LEAF |= {"mean": "running_mean", "var": "running_var"}
_KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}


class ConversionError(ValueError):
    """A checkpoint does not fit the network; the message names the tensors."""


class Entry(NamedTuple):
    """Where one Flax leaf lives in a state dict."""

    key: str  # torch key
    axes: tuple[int, ...]  # Flax axes in torch order
    shape: tuple[int, ...]  # torch shape, may end in unit axes


def flatten(tree: Mapping, prefix: Path = ()) -> dict[Path, Any]:
    """Nested dict -> {path: leaf}."""
    flat = {}
    for name, value in tree.items():
        path = (*prefix, name)
        flat |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[Path, Any]) -> dict:
    """{path: leaf} -> nested dict."""
    tree: dict = {}
    for path, value in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def spell(path: Path) -> str:
    """Dotted name of a leaf before any rule: blocks_0/conv/kernel is blocks.0.conv.weight."""
    modules = [re.sub(r"_(\d+)$", r".\1", name) for name in path[:-1]]
    return ".".join([*modules, _LEAF.get(path[-1], path[-1])])


def derive(
    shapes: Mapping,
    rules: Iterable[Rule] = (),
    unit_axes: Mapping[str, int] | None = None,
    unit_axes_if_any: Mapping[str, int] | None = None,
):
    """Map every leaf of a tree of shapes to its place in the state dict: {path: Entry}.

    shapes: nested dict whose leaves have `.shape` (from jax.eval_shape: no weights are made).
    unit_axes: {regex on the torch key: number of trailing axes of length 1 that the torch tensor
    has and ours lacks}; unit_axes_if_any: of layers that not every size of the network has. Raises
    ConversionError if a rule or a pattern of unit_axes matches nothing, or two leaves get the same
    key.
    """
    rules, unit_axes = list(rules), dict(unit_axes or {})
    unused = {pattern for pattern, _ in rules} | set(unit_axes)
    unit_axes |= unit_axes_if_any or {}
    entries: dict[Path, Entry] = {}
    owner: dict[str, Path] = {}
    for path, leaf in flatten(shapes).items():
        key = spell(path)
        for pattern, replacement in rules:
            key, count = re.subn(pattern, replacement, key)
            if count:
                unused.discard(pattern)
        rank = len(leaf.shape)
        axes = _KERNEL_AXES[rank] if path[-1] == "kernel" else tuple(range(rank))
        shape = tuple(leaf.shape[axis] for axis in axes)
        matching = [pattern for pattern in unit_axes if re.search(pattern, key)]
        if path[-1] == "kernel":  # a unit axis is a property of a weight, not of its bias
            unused.difference_update(matching)
            shape += (1,) * sum(unit_axes[pattern] for pattern in matching)
        if key in owner:
            raise ConversionError(f"{'/'.join(path)} and {'/'.join(owner[key])} both map to {key}")
        owner[key] = path
        entries[path] = Entry(key, axes, shape)
    if unused:
        raise ConversionError(f"rules that match no tensor: {sorted(unused)}")
    return entries


def accounting(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], source: str
) -> None:
    """Raise ConversionError unless `found` holds exactly the expected keys in the expected shapes.

    The message lists `- expected, absent` and `+ present, unexpected`, ten of each, with the
    closest name.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    wrong = [k for k in expected if k in found and tuple(found[k].shape) != tuple(expected[k])]
    if not (missing or extra or wrong):
        return
    lacking = counted(len(missing), "tensor")
    counts = f"{lacking} missing, {len(extra)} unexpected, {len(wrong)} ill-shaped"
    lines = [f"{source}: {counts}"]
    for key in missing[:10]:
        lines.append(f"  - {key} {list(expected[key])}{_closest(key, expected[key], extra, found)}")
    lines += [f"  + {key} {list(found[key].shape)}" for key in extra[:10]]
    for key in wrong[:10]:
        lines.append(
            f"  ! {key} has shape {list(found[key].shape)}, expected {list(expected[key])}"
        )
    if len(wrong) > len(expected) / 2:
        lines.append("  this network in other sizes: does --config name the model of this file?")
    raise ConversionError("\n".join(lines))


def _closest(key: str, shape, extra: list[str], found: Mapping[str, Any]) -> str:
    """A hint: the unexpected key most like `key`, those of the same shape first."""
    same = [k for k in extra if tuple(found[k].shape) == tuple(shape)]
    match = difflib.get_close_matches(key, same or extra, n=1, cutoff=0.5)
    return f"  (closest present: {match[0]})" if match else ""


def to_flax(entries: Mapping[Path, Entry], tensors: Mapping[str, np.ndarray]) -> dict:
    """State dict tensors -> nested Flax dict of views: nothing copied, values bit-identical."""
    return unflatten({path: _from_torch(tensors[e.key], e) for path, e in entries.items()})


def to_torch(entries: Mapping[Path, Entry], params: Mapping) -> dict[str, np.ndarray]:
    """Nested Flax dict -> state dict tensors, views where the memory order allows; dtype kept."""
    flat = flatten(params)
    return {e.key: _to_torch(np.asarray(flat[path]), e) for path, e in entries.items()}


def _from_torch(tensor: np.ndarray, entry: Entry) -> np.ndarray:
    tensor = tensor.reshape(tensor.shape[: len(entry.axes)])  # drops declared unit axes
    return tensor.transpose(np.argsort(entry.axes))


def _to_torch(value: np.ndarray, entry: Entry) -> np.ndarray:
    value = value.transpose(entry.axes)
    return value[(..., *[None] * (len(entry.shape) - value.ndim))]
