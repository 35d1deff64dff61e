"""The tensors of a released file as networks, and networks as the tensors of a file.

Import is strict: a file must hold exactly the derived tensors, plus what its row in `releases`
names as constant, counter or unused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from converters import mapping
from converters.mapping import ConversionError
from converters.releases import Release
from dispose_jax.networks.temporal import position_code

# What wrappers of modules put before all names: several devices, Lightning, compilation.
PREFIXES = ("module.", "model.", "_orig_mod.")
# How ComfyUI and the original repositories of Stable Diffusion name networks within one file.
_MERGED = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


@dataclass
class Report:
    """What became of a file's tensors."""

    source: str
    matched: int
    dtypes: set[str]
    notes: dict[str, list[str]] = field(default_factory=dict)  # what -> keys

    def lines(self) -> list[str]:
        """For people."""
        text = [f"{self.source}: {self.matched} tensors ({', '.join(sorted(self.dtypes))})"]
        for why, keys in self.notes.items():
            text.append(f"  {len(keys)} {why}, e.g. {keys[0]}")
        return text


def derive(
    row: Release, shapes: Mapping[str, Mapping]
) -> dict[str, dict[mapping.Path, mapping.Entry]]:
    """Per network of a release the key map, with the file's prefixes. shapes: {network: tree with
    `.shape`}."""
    maps, owner = {}, {}
    for network, spelling, prefix in row.parts:
        entries = mapping.derive(shapes[network], *spelling)
        entries = {path: e._replace(key=prefix + e.key) for path, e in entries.items()}
        for entry in entries.values():
            if owner.setdefault(entry.key, network) != network:
                raise ConversionError(
                    f"{row.name}: {network} and {owner[entry.key]} both hold {entry.key}"
                )
        maps[network] = entries
    return maps


def to_flax(
    row: Release,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Mapping],
    source: str,
    *,
    check_values: bool = True,
) -> tuple[dict[str, dict], Report]:
    """A file's tensors as params {network: nested dict of views}, and what became of each tensor.

    shapes: {network: tree with `.shape`} of what the config builds. Raises ConversionError naming
    the tensors that are missing, unexpected, of another shape, not floating or (check_values) not
    finite.
    """
    maps = derive(row, shapes)
    expected = {e.key: e.shape for entries in maps.values() for e in entries.values()}
    _refuse_others(row, tensors, expected, source)
    tensors, respelt = _respell(row, tensors, expected, source)
    ignored = {"in another spelling": respelt} if respelt else {}
    rest = {}
    for key, tensor in tensors.items():
        why = None if key in expected else _ignored(row, key, tensor, expected, source)
        if why is None:
            rest[key] = tensor
        else:
            ignored.setdefault(why, []).append(key)
    mapping.accounting(expected, rest, source)
    if check_values:
        _check_values(rest, source)
    params = {network: mapping.to_flax(entries, rest) for network, entries in maps.items()}
    dtypes = {str(tensor.dtype) for tensor in rest.values()}
    return params, Report(source, len(rest), dtypes, ignored)


def to_torch(
    row: Release, params: Mapping[str, Mapping], source: str, *, positions: int = 128
) -> dict[str, np.ndarray]:
    """A release's state dict from params {network: nested dict}, counters written as 0.

    positions: frames that the tables of attention over frames are written for, which matters to the
    originals when they read the file. Raises ConversionError if a network does not fit its rules or
    holds values that are not finite.
    """
    tensors = {}
    for network, entries in derive(row, params).items():
        tensors |= mapping.to_torch(entries, params[network])
    _check_values(tensors, source)
    if row.counters:
        tensors |= {key: np.zeros((), np.int64) for key in _counters(tensors)}
    for pattern, replacement in row.copies:
        again = {key: re.sub(pattern, replacement, key) for key in tensors}
        tensors |= {other: tensors[key] for key, other in again.items() if other != key}
    if row.frame_codes:
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        dtype = next(iter(tensors.values())).dtype
        for key, channels in _frame_codes(shapes).items():
            tensors[key] = position_code(positions, channels).astype(dtype)
    return {row.module + key: tensor for key, tensor in tensors.items()}


def _respell(
    row: Release, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], source: str
):
    """Tensors under the keys used here, without prefixes of wrappers, and the other keys met."""
    tensors = _unprefixed(tensors, expected, source)
    spelt, respelt = {}, []
    for key, tensor in tensors.items():
        name = key
        for pattern, replacement in row.aliases:
            name = re.sub(pattern, replacement, name)
        if name != key:
            respelt.append(key)
            # Once a 1 x 1 convolution.
            if name in expected and tensor.shape == (*expected[name], 1, 1):
                tensor = tensor.reshape(expected[name])
        if name in spelt:
            raise ConversionError(f"{source}: {key} is there twice, in two spellings")
        spelt[name] = tensor
    return spelt, respelt


def _unprefixed(
    tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], source: str
) -> dict[str, np.ndarray]:
    """Tensors without the prefixes that wrappers put before all keys, unless they are their own."""
    plain: dict[str, np.ndarray] = {}
    for key, tensor in tensors.items():
        name = key.replace("_orig_mod.", "")  # compiled parts have it in the middle
        if name in plain:
            raise ConversionError(f"{source}: {name} is there twice, compiled and not")
        plain[name] = tensor
    while plain:
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in plain)), None)
        if prefix is None or any(key.startswith(prefix) for key in expected):
            break
        plain = {key.removeprefix(prefix): tensor for key, tensor in plain.items()}
    return plain


def _refuse_others(
    row: Release, tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple], source: str
) -> None:
    """Raise ConversionError, with its name, for what people take for this file."""
    coarse = next((key for key, t in tensors.items() if str(t.dtype).startswith("float8")), None)
    if coarse is not None:
        raise ConversionError(
            f"{source}: {coarse} is stored in {tensors[coarse].dtype} (fp8), too coarse to convert;"
            " get the fp16 or the full file"
        )
    found = merged(tensors)
    if found:
        raise ConversionError(
            f"{source}: a merged single file as ComfyUI loads it ({', '.join(found)}), whose names "
            f"are others; get the separate files, here {row.file}"
        )
    if len(row.parts) > 1:
        bare = [e.removeprefix(row.parts[0].prefix) for e in expected]
        bare = [key for key in bare if key not in expected]
        if bare and sum(key in tensors for key in bare) > len(bare) / 2:
            raise ConversionError(
                f"{source}: the {row.parts[0].network} alone, as the merged file for ComfyUI's "
                f"MimicMotion nodes; {row.file} holds {' and '.join(row.networks)}, get that one"
            )


def merged(keys: Iterable[str]) -> list[str]:
    """The prefixes by which a file is a merged one of several networks; none for any other."""
    return [prefix for prefix in _MERGED if any(key.startswith(prefix) for key in keys)]


def _ignored(
    row: Release, key: str, tensor: np.ndarray, expected: Mapping[str, tuple], source: str
) -> str | None:
    """Why a tensor that belongs to no network may be there, or None if it may not."""
    if any(re.search(pattern, key) for pattern in row.constants):
        if not np.array_equal(np.ravel(tensor), np.arange(tensor.size)):
            raise ConversionError(f"{source}: {key} should count 0, 1, 2, ... and does not")
        return "constants"
    if row.counters and key in _counters(expected):
        return "counters"
    if row.frame_codes and (channels := _frame_codes(expected).get(key)):
        _check_frame_code(key, tensor, channels, source)
        return "constants"
    for pattern in row.unused:
        if re.search(pattern, key) and not any(re.search(pattern, other) for other in expected):
            return "of networks not used here"
    return None


def _counters(keys: Iterable[str]) -> list[str]:
    """The batch counters that belong to the norms among the keys."""
    end = ".running_mean"
    return [k.removesuffix(end) + ".num_batches_tracked" for k in keys if k.endswith(end)]


def _frame_codes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The tables of frame positions of the attentions among the keys, and their channels."""
    end = ".to_q.weight"
    return {
        key.removesuffix(end) + ".pos_encoder.pe": shape[1]
        for key, shape in shapes.items()
        if key.endswith(end)
    }


def _check_frame_code(key: str, tensor: np.ndarray, channels: int, source: str) -> None:
    """Raise ConversionError unless a tensor is the sinusoid of frame positions, of any length."""
    if tensor.ndim != 3 or tensor.shape[0] != 1 or tensor.shape[2] != channels:
        raise ConversionError(
            f"{source}: {key} has shape {list(tensor.shape)}, expected [1, frames, {channels}]"
        )
    frames = tensor.shape[1]
    # Angles were float32, which tells less the later the frame; then the file's own rounding.
    tolerance = 1e-4 + 1e-6 * frames
    if jnp.issubdtype(tensor.dtype, jnp.floating):
        tolerance += jnp.finfo(tensor.dtype).eps
    difference = np.abs(tensor.astype(np.float32) - position_code(frames, channels)).max(initial=0)
    if not difference <= tolerance:  # a difference that is not a number is none either
        raise ConversionError(
            f"{source}: {key} is not the sinusoid of frame positions that it should be; they "
            f"differ by up to {difference:.2g}"
        )


def _check_values(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Raise ConversionError naming a tensor that is not floating or not finite."""
    for key, tensor in tensors.items():
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise ConversionError(f"{source}: {key} has type {tensor.dtype}, weights are floating")
        if not np.isfinite(tensor).all():
            raise ConversionError(f"{source}: {key} holds values that are not finite")
