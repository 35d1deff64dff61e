"""A bundle: a folder of weights in our layout, with a `bundle.json` that says for which model.

    bundle.json             format, base, model, quirks, config; per network file, digest and source
    <network>.safetensors   keys are Flax paths joined with "/", element types those of the source
    detector.onnx           DWPose's two networks as they are released, optional
    whole_body.onnx

Written to a temporary folder and renamed when whole. Read as views of the mapped files, so that
weights need memory once, on the device. Converting from PyTorch's files is done elsewhere (host
code).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from dispose_jax import plain
from dispose_jax.media import output
from dispose_jax.models import sharing, tensor_file
from dispose_jax.models.origins import source_of
from dispose_jax.types import Params

FORMAT = 1
DESCRIPTION = "bundle.json"


class Origin(NamedTuple):
    """Where a network's weights come from."""

    source: str  # file name, or the run that trained it
    licence: str
    revision: str = ""  # repository and commit that the file was downloaded from, if known


class ModelDescription(NamedTuple):
    """The model that a bundle's weights were made for; its fields are plain JSON (plain.py)."""

    base: str  # "svd" or "sd15"
    model: Mapping
    quirks: Mapping
    config: str  # the argument that gives this model, e.g. "configs/svd.py:size=tiny"


def write(
    folder: str | Path,
    networks: Mapping[str, Params],
    description: ModelDescription,
    origins: Mapping[str, Origin],
    *,
    dtype=None,
    pose_files: Mapping[str, Path] | None = None,
    replace: bool = False,
) -> None:
    """Write a bundle, whole or not at all.

    networks: {name: nested dict of arrays}, written tensor by tensor, floating ones cast to dtype
    if given. pose_files: {name in pose/dwpose.py: file to copy}. Raises ValueError as `prepare`
    does unless it may be replaced, OSError if it cannot be written (disk full).
    """
    if not replace:
        prepare(folder)
    tensors = {name: _named(params) for name, params in networks.items()}
    num_bytes = sum(tensor_file.num_bytes(named, dtype) for named in tensors.values())
    num_bytes += sum(path.stat().st_size for path in (pose_files or {}).values())
    with output.replacing_folder(folder) as partial:
        output.check_room(output.place(Path(folder)), num_bytes)
        with output.explained(folder):
            described = {}
            for name, named in tensors.items():
                described[name] = _write_network(partial, name, named, origins[name], dtype)
            for name, source in (pose_files or {}).items():
                shutil.copyfile(source, partial / name)
            content = {"format": FORMAT, **description._asdict(), "networks": described}
            text = json.dumps(plain.values(content), indent=1)
            (partial / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def prepare(folder: str | Path) -> None:
    """Check, before any long work, that a new bundle can be written there. Raises ValueError if
    the folder already holds something, or no folder can be made there."""
    place = output.prepare_folder(folder)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise ValueError(f"{folder}: already exists; remove it or choose another name")


def _named(params: Params) -> dict[str, np.ndarray]:
    """A network's tensors as its file names them."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {key: np.asarray(leaf) for key, leaf in flat.items()}


def _write_network(
    folder: Path, name: str, tensors: Mapping[str, np.ndarray], origin: Origin, dtype
) -> dict:
    """Write one network's file; its entry in the description."""
    file = folder / f"{name}.safetensors"
    digest = tensor_file.write(file, tensors, dtype)
    dtypes = {str(tensor_file.target_dtype(t.dtype, dtype)) for t in tensors.values()}
    return {
        "file": file.name,
        "sha256": digest,
        "bytes": file.stat().st_size,
        "tensors": len(tensors),
        "dtype": ", ".join(sorted(dtypes)),
        **origin._asdict(),
    }


def describe(folder: str | Path) -> dict:
    """The content of a folder's bundle.json, checked for form. Raises ValueError with the
    remedy."""
    folder = Path(folder)
    file = folder / DESCRIPTION
    if not file.is_file():
        found, weights = "no such folder", "WEIGHTS"
        if folder.is_dir():
            found, weights = f"no {DESCRIPTION} in it", quote(str(folder))
        elif folder.is_file():
            found, weights = "a file, no folder", quote(str(folder.parent))
        remedy = f"python -m converters.convert to-flax --from {weights} --to BUNDLE"
        raise ValueError(f"{folder}: {found}, so it is no weights bundle; make one with {remedy}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); convert the weights again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file}: bundle format {found!r}, this program reads format {FORMAT}")
    networks = content.get("networks")
    required = ("base", "model", "quirks", "config")
    if not isinstance(networks, dict) or any(field not in content for field in required):
        raise ValueError(f"{file}: lacks one of {', '.join(required)}, networks; convert again")
    if not all(isinstance(content[field], dict) for field in ("model", "quirks")):
        raise ValueError(f"{file}: its model or quirks are no list of settings; convert again")
    for name, entry in networks.items():
        _check_entry(file, name, entry)
    return content


def _check_entry(file: Path, name: str, entry: Any) -> None:
    """Raise ValueError unless an entry of a description has every field and its own file."""
    fields = {"file": str, "sha256": str, "bytes": int, "tensors": int, "dtype": str, "source": str}
    entry = entry if isinstance(entry, dict) else {}
    if not all(isinstance(entry.get(field), kind) for field, kind in fields.items()):
        raise ValueError(f"{file}: entry {name} lacks one of {', '.join(fields)}")
    if entry["file"] != f"{name}.safetensors" or Path(name).name != name:
        raise ValueError(f"{file}: entry {name} names the file {entry['file']!r}")


def check(folder: str | Path, model: Mapping, quirks: Mapping) -> dict:
    """The description of a bundle made for this model with these quirks; else ValueError with every
    difference."""
    content = describe(folder)
    found = {"model": content["model"], "quirks": content["quirks"]}
    different = plain.differences(found, plain.values({"model": model, "quirks": quirks}))
    if different:
        raise ValueError(
            f"{folder}: its weights belong to another model ({different}); "
            f"use --config {content['config']}, or weights made for this config"
        )
    return content


def load(
    folders: Sequence[str | Path],
    networks: Iterable[str] | Mapping[str, Any],
    *,
    model: Mapping,
    quirks: Mapping,
    dtype=None,
    verify: bool = False,
) -> Params:
    """Params {network: nested dict of arrays} of the networks asked for; a later folder replaces an
    earlier one.

    networks: names, or {name: tree of what has `.shape`} (from jax.eval_shape) to check every
    tensor against. model, quirks: the config's, which the bundles must have been made for. Arrays
    are read-only views of the mapped files; floating ones are cast, one at a time, to dtype if
    given. verify: compare digests too. Raises ValueError naming the folder, file or network, and
    what to do.
    """
    params = {}
    for name, (folder, entry) in owners(folders, networks, model=model, quirks=quirks).items():
        file = folder / entry["file"]
        tensors = _read_network(file, entry, verify)
        if isinstance(networks, Mapping):
            _compare(file, tensors, traverse_util.flatten_dict(networks[name], sep="/"))
        cast = lambda t: t.astype(tensor_file.target_dtype(t.dtype, dtype), copy=False)
        params[name] = _nest({key: cast(tensor) for key, tensor in tensors.items()})
    return params


def owners(
    folders: Sequence[str | Path], networks: Iterable[str], *, model: Mapping, quirks: Mapping
) -> dict[str, tuple[Path, dict]]:
    """Which folder holds each network: {name: (folder, its entry)}, the last one that has it.

    A bundle of another model may give the networks that serve any base, if their sizes are equal
    (sharing.py). Reads the descriptions only. Raises ValueError as `load` does.
    """
    if not folders:
        raise ValueError("--weights names no folder; give at least one bundle")
    contents = {Path(folder): describe(folder) for folder in folders}
    found = {}
    for name in networks:
        having = [folder for folder, content in contents.items() if name in content["networks"]]
        if not having:
            for folder in contents:
                check(folder, model, quirks)
            base = next(iter(contents.values()))["base"]
            raise ValueError(
                f"{', '.join(map(str, contents))}: no {name}.safetensors, which this run needs; it "
                f"comes from {source_of(base, name)}"
            )
        folder = having[-1]
        if name not in sharing.offers(contents[folder], model, quirks):
            check(folder, model, quirks)
        found[name] = folder, contents[folder]["networks"][name]
    return found


def pose_file(folders: Sequence[str | Path], name: str) -> Path | None:
    """The last folder's DWPose file of that name (pose/dwpose.py), None if no folder has it."""
    found = [Path(folder) / name for folder in folders if (Path(folder) / name).is_file()]
    return found[-1] if found else None


def _read_network(file: Path, entry: Mapping, verify: bool) -> dict[str, np.ndarray]:
    """The tensors of one file, if it is the one that the description means."""
    remedy = "copy the bundle again or convert again"
    if not file.is_file():
        raise ValueError(f"{file}: missing, though {DESCRIPTION} lists it; {remedy}")
    size = file.stat().st_size
    if size != entry["bytes"]:
        raise ValueError(f"{file}: {size} bytes, expected {entry['bytes']}; {remedy}")
    if verify:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise ValueError(f"{file}: its SHA-256 is not the one in {DESCRIPTION}; {remedy}")
    tensors = tensor_file.read(file)
    if len(tensors) != entry["tensors"]:
        raise ValueError(f"{file}: {len(tensors)} tensors, expected {entry['tensors']}; {remedy}")
    return tensors


def _compare(file: Path, tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError unless the file holds exactly the tensors wanted, by their `.shape`."""
    found = {key: tensor.shape for key, tensor in tensors.items()}
    expected = {key: tuple(leaf.shape) for key, leaf in wanted.items()}
    wrong = [f"- {key} {list(expected[key])}" for key in expected if key not in found]
    wrong += [f"+ {key} {list(found[key])}" for key in found if key not in expected]
    wrong += [
        f"{key} has shape {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if wrong:
        raise ValueError(
            f"{file}: {len(wrong)} tensors do not fit this config (- absent, + unexpected): "
            f"{'; '.join(wrong[:6])}; use the config it was made for"
        )


def _nest(flat: Mapping[str, Any]) -> dict:
    """Flax's unflatten_dict, but that a path through another tensor is an error of one sentence."""
    tree: dict = {}
    for key, value in flat.items():
        *modules, leaf = key.split("/")
        node = tree
        for name in modules:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ValueError(f"the tensor {key} lies inside another tensor; convert again")
        node[leaf] = value
    return tree
