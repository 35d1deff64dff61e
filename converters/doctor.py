"""Which expected file lies where, what it is, and what to do next: for a folder of released weights
or a bundle.

Looks at names, headers and shapes; reads values only to compare digests on request (host code).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from converters import checkpoints, files, hub, releases, shards, stated
from converters.releases import RELEASES, Release
from dispose_jax.counting import counted
from dispose_jax.models import bundle, origins
from dispose_jax.models.network import Network
from dispose_jax.pose import dwpose

_SUFFIXES = (".pth", ".tar", ".bin", ".safetensors", ".ckpt", ".pt")


class Finding(NamedTuple):
    """One expected or found thing. state: "ok", "missing", "optional", "wrong", "unused" or
    "unknown"."""

    name: str
    state: str
    detail: str


def find(folder: str | Path) -> dict[str, Path]:
    """Where each release lies under a folder: {name of the row or of the ONNX file: path}.

    A path that fits an earlier pattern of its row wins; of a checkpoint in parts it is the index,
    or the first part. Links are followed, each folder once. Raises ValueError if there is no such
    folder.
    """
    return {name: paths[0] for name, paths in candidates(folder).items()}


def candidates(folder: str | Path) -> dict[str, list[Path]]:
    """All files that could be each release, the one that is used first; otherwise as `find`."""
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder}: a file; give the folder that holds it")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected the downloaded weights")
    paths = {}
    for path in _walk(folder):
        whole = shards.whole_name(path)
        if whole is not None:
            paths[path] = path.absolute().with_name(whole).as_posix()
    found: dict[str, list[Path]] = {}
    for row in RELEASES:
        fitting = [p for place in row.places for p, name in paths.items() if re.search(place, name)]
        if fitting:
            found[row.name] = sorted(dict.fromkeys(fitting), key=_leads_nowhere)
    for name, released in dwpose.RELEASED_AS.items():
        fitting = [path for path in paths if path.name in (released, name)]
        if fitting:
            found[name] = sorted(fitting, key=_leads_nowhere)
    return found


def check_weights(folder: str | Path, networks: Mapping[str, Network], config) -> list[Finding]:
    """Every released file that the networks need: found or not, and how many tensors fit.

    networks: of the config (models/networks.py). Files of weights that no row expects are named
    too.
    """
    every, findings, needed = candidates(folder), [], rows(networks, config.base)
    found = {name: paths[0] for name, paths in every.items()}
    for row in needed:
        if row.name in found:
            findings.append(_examine(row, found[row.name], networks, config.model))
            findings += [
                Finding(row.name, "unused", f"{spare}: {found[row.name].name} is used in its place")
                for spare in every[row.name][1:]
            ]
        elif row.is_expected:
            detail = f"expected {Path(folder) / row.file}; from {origin(row)}"
            findings.append(Finding(row.name, "missing", detail))
    for name, released in dwpose.RELEASED_AS.items():
        if name in found:
            findings.append(_examine_onnx(name, found[name]))
        else:
            place = Path(folder) / releases.POSE_FOLDER / released
            detail = f"expected {place}; optional, not needed with pose files"
            findings.append(Finding(name, "missing", detail))
    measuring = [row.name for row in RELEASES if row.for_evaluation and row.name not in found]
    if measuring:
        detail = (
            f"only evaluate.py measures with {', '.join(measuring)}; "
            f"python -m converters.download --to {quote(str(folder))} --only {releases.EVALUATION}"
        )
        findings.append(Finding(releases.EVALUATION, "optional", detail))
    used = {path for paths in every.values() for path in paths}
    used |= {part for path in used if shards.is_split(path) for part in _parts(path)}
    others = [p for p in _walk(Path(folder)) if p not in used and p.suffix in _SUFFIXES]
    others = [path for path in others if shards.whole_name(path) is not None]
    usual = [row for row in needed if not row.only_if_asked] if others else []
    known = [(row, _shapes(row, networks)) for row in usual]
    findings += [_identify(path, known, Path(folder), found) for path in others]
    return findings


def check_bundle(
    folder: str | Path, networks: Mapping[str, Network], config, verify: bool = False
) -> list[Finding]:
    """Every network of the config in a bundle: whole, of the right shapes, or missing."""
    content = bundle.check(folder, config.model, config.quirks)
    findings = []
    for name, network in networks.items():
        entry = content["networks"].get(name)
        if entry is None and releases.is_optional(name):
            continue
        if entry is None:
            detail = f"comes from {origins.source_of(config.base, name)}"
            findings.append(Finding(name, "missing", detail))
            continue
        options = {"model": config.model, "quirks": config.quirks, "verify": verify}
        try:
            bundle.load([folder], {name: network.shapes}, **options)
        except ValueError as error:
            findings.append(Finding(name, "wrong", str(error)))
            continue
        detail = f"{entry['tensors']} tensors match, {entry['dtype']}, from {entry['source']}"
        findings.append(Finding(name, "ok", detail))
    return findings


def rows(networks: Mapping[str, Network], base: str) -> list[Release]:
    """The releases for a config's base whose networks it has, all of them."""
    serving = releases.serving(base)
    return [row for row in serving if all(name in networks for name in row.networks)]


def origin(row: Release) -> str:
    """Where to get a release."""
    return f"{releases.address(row)}; licence: {row.licence}"


def next_step(folder: str | Path, findings: Iterable[Finding], base: str, config: str) -> str:
    """What to do now, in a sentence. config: as it was named on the command line, base: its own."""
    states = {name: state for name, state, _ in findings}
    where, config = quote(str(folder)), quote(config)
    is_bundle = (Path(folder) / bundle.DESCRIPTION).is_file()
    rows_missing = [n for n, state in states.items() if state == "missing"]
    required = [name for name in rows_missing if name not in dwpose.RELEASED_AS]
    if "wrong" in states.values():
        return "replace the files marked wrong, then check again"
    if is_bundle:
        if set(required) & origins.RELEASED_IN[base].keys():
            return "convert the released files of the missing networks into a second bundle"
        if required:
            return (
                f"train {', '.join(required)}, which nobody has published: python train.py "
                f"--config {config} --weights {where} --workdir RUN; or use variant=base"
            )
        return f"python sample.py --config {config} --weights {where}"
    if required:
        names = ",".join(required)
        command = f"python -m converters.download --to {where} --config {config}"
        return f"{command} --only {names}, then check again"
    return f"python -m converters.convert to-flax --from {where} --to BUNDLE --config {config}"


def _examine(row: Release, path: Path, networks: Mapping[str, Network], model: Mapping) -> Finding:
    """Compare a file's tensors, and what is stated beside it, with its row's. model:
    `config.model`."""
    shapes = {name: networks[name].shapes for name in row.networks}
    notes: list[str] = []
    try:
        stated.check(row, path, networks, model)
        tensors = files.read(path, notes)
        _, report = checkpoints.to_flax(row, tensors, shapes, str(path), check_values=False)
    except ValueError as error:
        return Finding(row.name, "wrong", str(error))
    held = " and ".join(row.networks)
    said = "; ".join(line.strip() for line in (*report.lines(), *notes))
    return Finding(row.name, "ok", f"{said}; {_size(path)}; holds {held}")


def _examine_onnx(name: str, path: Path) -> Finding:
    """Whether a file of DWPose may be one; what is in it is for onnxruntime to read."""
    try:
        files.checked_head(path)
    except ValueError as error:
        return Finding(name, "wrong", str(error))
    return Finding(name, "ok", f"{path} ({_size(path)})")


def _shapes(row: Release, networks: Mapping[str, Network]) -> dict[str, tuple[int, ...]]:
    """{key in its file: shape} of a release."""
    maps = checkpoints.derive(row, {name: networks[name].shapes for name in row.networks})
    return {row.module + e.key: e.shape for entries in maps.values() for e in entries.values()}


def _identify(
    path: Path,
    known: list[tuple[Release, dict[str, tuple[int, ...]]]],
    folder: Path,
    found: Mapping[str, Path],
) -> Finding:
    """What a file that no row expects is, by its tensors.

    known: releases with the keys and shapes of each. Several have the same, as those of U-Nets.
    """
    try:
        tensors = {key: tensor.shape for key, tensor in files.read(path).items()}
    except ValueError as error:
        return Finding(path.name, "unknown", str(error))
    merged = checkpoints.merged(tensors)
    if merged:
        detail = f"{path}: a merged single file as ComfyUI loads it ({', '.join(merged)})"
        return Finding(path.name, "unknown", f"{detail}, which is not read; leave it where it is")
    shares, spelt, places = {}, 0.0, {}
    for row, shapes in known:
        fitting = sum(tensors.get(key) == shape for key, shape in shapes.items())
        shares[row.file] = max(fitting / len(shapes), shares.get(row.file, 0.0))
        spelt = max(spelt, len(shapes.keys() & tensors.keys()) / len(shapes))
        places[row.file] = found.get(row.name, folder / row.file)
    share = max(shares.values(), default=0.0)
    detail = f"{path}: {counted(len(tensors), 'tensor')} of no release known here"
    if share > 0.5:
        like = [file for file in shares if shares[file] == share]
        todo = "move it there if it is that one"
        if all(places[file].exists() for file in like):
            there = f"{places[like[0]]} is" if len(like) == 1 else "all of these are"
            todo = f"not used, as {there} there"
        detail = f"{path}: {share:.0%} of the tensors of {' or '.join(like)}; {todo}"
    elif spelt > 0.5:
        detail += ", with the names of one and other sizes"
    return Finding(path.name, "unknown", detail)


def _parts(path: Path) -> list[Path]:
    """The parts of a checkpoint, none if they are not all there: reading tells what is missing."""
    try:
        return shards.parts(path)
    except ValueError:
        return []


def _walk(folder: Path, seen: frozenset[Path] = frozenset()) -> Iterable[Path]:
    """All files below, through links but never round in a circle, and links that lead nowhere;
    hidden folders and what a disk keeps for itself are left out."""
    real = folder.resolve()
    if real in seen:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            if not entry.name.startswith(".") and entry.name != "lost+found":
                yield from _walk(folder / entry.name, seen | {real})
        elif entry.is_file() or _leads_nowhere(folder / entry.name):
            yield folder / entry.name


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _size(path: Path) -> str:
    parts = _parts(path) if shards.is_split(path) else []
    return hub.size(sum(part.stat().st_size for part in parts or [path]))
