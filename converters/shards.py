"""Checkpoints in several files: which file of a folder stands for all of them, and all of them read
as one.

Hugging Face's libraries split a large checkpoint into NAME-00001-of-00003.safetensors and so on,
with an index NAME.safetensors.index.json that says which tensor lies where; a variant (fp16) is
named before or behind the number (host code).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dispose_jax.counting import counted

_ENDINGS = r"safetensors|bin|pth|pt"
_INDEX = re.compile(rf"(.+?)\.({_ENDINGS})\.index(\.\w+)?\.json")
_PART = re.compile(rf"(.+?)-(\d{{5}})-of-(\d{{5}})((?:\.\w+)?)\.({_ENDINGS})")
_LARGEST_INDEX = 16 << 20  # bytes; one of 1500 tensors has 0.2 MB


def whole_name(path: Path) -> str | None:
    """What a checkpoint would be called in one file: of an index, or of the first part where there
    is no index. Any other file's own name; None for the other parts."""
    if match := _INDEX.fullmatch(path.name):
        return f"{match[1]}{match[3] or ''}.{match[2]}"
    if match := _PART.fullmatch(path.name):
        name = f"{match[1]}{match[4]}.{match[5]}"
        return name if int(match[2]) == 1 and _index_of(path, match) is None else None
    return path.name


def is_split(path: Path) -> bool:
    """Whether a file stands for a checkpoint in several files."""
    return bool(_INDEX.fullmatch(path.name) or _PART.fullmatch(path.name))


def parts(path: Path) -> list[Path]:
    """The files of a checkpoint that an index or a first part stands for.

    Raises ValueError naming what is missing, or if the index cannot be read.
    """
    if match := _PART.fullmatch(path.name):
        numbers = range(1, int(match[3]) + 1)
        name = f"{match[1]}-{{:05d}}-of-{match[3]}{match[4]}.{match[5]}"
        found = [path.with_name(name.format(number)) for number in numbers[:1000]]
    else:
        found = sorted({path.with_name(name) for name in _weight_map(path).values()})
    absent = [part.name for part in found if not part.is_file()]
    if absent:
        raise ValueError(
            f"{path}: {len(absent)} of its {len(found)} parts are missing, such as {absent[0]}; "
            "get them too"
        )
    return found


def read(path: Path, read_part: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Every tensor of all parts. Raises ValueError if one lies in two parts, or if the index names
    tensors that its parts lack."""
    tensors: dict[str, np.ndarray] = {}
    for part in parts(path):
        found = read_part(part)
        twice = next((key for key in found if key in tensors), None)
        if twice is not None:
            raise ValueError(f"{path}: {twice} is in two of its parts, {part.name} among them")
        tensors |= found
    if _INDEX.fullmatch(path.name):
        absent = [key for key in _weight_map(path) if key not in tensors]
        if absent:
            raise ValueError(
                f"{path}: its parts lack {counted(len(absent), 'tensor')} that it names, "
                f"such as {absent[0]}; get index and parts from one place"
            )
    return tensors


def _index_of(path: Path, match: re.Match) -> Path | None:
    """The index that lists a part, if it lies beside it."""
    stem, variant, ending = match[1], match[4], match[5]
    names = [f"{stem}{variant}.{ending}.index.json", f"{stem}.{ending}.index{variant}.json"]
    plain, dot, last = stem.rpartition(".")  # NAME.fp16-00001-of-00002.safetensors
    names += [f"{plain}.{ending}.index.{last}.json"] if dot else []
    return next((p for name in names if (p := path.with_name(name)).is_file()), None)


def _weight_map(path: Path) -> dict[str, str]:
    """{tensor: file beside the index}."""
    try:
        if path.stat().st_size > _LARGEST_INDEX:
            raise ValueError(f"{path}: too large for an index of tensors")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); get it again") from None
    found = content.get("weight_map") if isinstance(content, dict) else None
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or not all(isinstance(n, str) and n and Path(n).name == n for n in names):
        raise ValueError(f"{path}: no index of tensors; expected a weight_map of file names in it")
    return found
