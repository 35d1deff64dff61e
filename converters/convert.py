"""Released PyTorch weights into a bundle, a bundle back into PyTorch files, and the doctor.

  python -m converters.convert check    weights
  python -m converters.convert to-flax  --from weights --to bundle
  python -m converters.convert to-torch --from bundle --to weights_again

`--config` names the model whose networks are meant (default configs/svd.py, the released sizes).
Nothing is ever downloaded; converters.download does that when asked.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from converters import checkpoints, doctor, files, releases, stated
from dispose_jax import ending, settings
from dispose_jax.media import output
from dispose_jax.models import bundle, evaluation_networks
from dispose_jax.models import networks as model_networks
from dispose_jax.models.network import Network
from dispose_jax.models.origins import source_of
from dispose_jax.pose import dwpose

PARTS = ("svd_encoder",)  # releases whose network is but a part of the file that is read
_DTYPES = ("float32", "float16", "bfloat16")


def all_networks(config) -> dict[str, Network]:
    """What can be converted: the networks of a config, what its ControlNet starts from, and those
    that give its training data flow or measure."""
    fixed = {name: evaluation_networks.build(name) for name in evaluation_networks.NAMES}
    start = {"svd_encoder": model_networks.svd_encoder(config)} if config.base == "svd" else {}
    return model_networks.build(config) | start | fixed


def to_flax(
    source: Path, target: Path, config, *, only: Sequence[str] = (), dtype=None
) -> Iterator[str]:
    """Convert every release found in a folder into a bundle; yields lines for people.

    only: names of releases (releases.RELEASES) that must be there; else whatever is found, but
    for those that hold a second version of a network. Raises ValueError if nothing is found,
    anything does not fit, or target cannot be written.
    """
    every = doctor.candidates(source)
    bundle.prepare(target)
    networks = all_networks(config)
    found = {name: paths[0] for name, paths in every.items()}
    rows = _wanted(source, found, networks, config, only)
    params, origins, fetched = {}, {}, _fetched(source)
    for row in rows:
        path = found[row.name]
        stated.check(row, path, networks, config.model)
        shapes = {name: networks[name].shapes for name in row.networks}
        notes: list[str] = []
        tensors = files.read(path, notes)
        converted, report = checkpoints.to_flax(row, tensors, shapes, str(path))
        for name, tree in converted.items():
            if name in params:
                raise ValueError(f"--only: two of the releases named hold the network {name}")
            params[name] = tree
            place = path.relative_to(source).as_posix()
            origins[name] = bundle.Origin(place, row.licence, fetched.get(place, ""))
        yield from (*report.lines(), *(f"  {note}" for note in notes))
        yield from (f"  used in place of {spare}" for spare in every[row.name][1:])
    pose_files = {name: found[name] for name in dwpose.RELEASED_AS if name in found}
    for path in pose_files.values():
        files.checked_head(path)
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    bundle.write(target, params, described, origins, dtype=dtype, pose_files=pose_files)
    yield f"written: {target} with {', '.join([*params, *pose_files])}"
    for name in networks:
        if name not in params and not releases.is_optional(name):
            yield f"not in it: {name}, which comes from {source_of(config.base, name)}"


def _wanted(
    source: Path, found: Mapping[str, Path], networks: Mapping, config, only: Sequence[str]
) -> list[releases.Release]:
    """The releases to convert of those found in a folder: what `only` names, else all that are not
    second versions. Raises ValueError if one that is named is absent, or there are none."""
    rows = [_asked_for(name, networks, config.base) for name in only] or [
        row
        for row in doctor.rows(networks, config.base)
        if row.name in found and not row.only_if_asked
    ]
    absent = [row for row in rows if row.name not in found]
    if absent:
        raise ValueError(
            f"{source}: no {absent[0].file} in it; get it from {doctor.origin(absent[0])}"
        )
    if not rows and (source / bundle.DESCRIPTION).is_file():
        raise ValueError(f"{source}: is a bundle already, which --weights takes as it is")
    if not rows:
        raise ValueError(
            f"{source}: none of the released files in it; "
            f"python -m converters.convert check {quote(str(source))} --config "
            f"{quote(config.name)} says what is expected where"
        )
    return rows


def _fetched(folder: Path) -> dict[str, str]:
    """{file below a folder of weights: repository@commit} of those that converters.download got."""
    try:
        content = json.loads((folder / "downloads.json").read_text(encoding="utf-8"))
        return {
            place: f"{entry['repository']}@{entry['revision']}" if entry["revision"] else ""
            for place, entry in content.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # nobody has to keep it


def _asked_for(name: str, networks: Mapping, base: str) -> releases.Release:
    """The release of that name, if it is one for these networks. Raises ValueError if not."""
    row = releases.release(name)
    if row not in releases.serving(base):
        raise ValueError(f"--only {name}: a file for the base {row.base}, the config's is {base}")
    foreign = [network for network in row.networks if network not in networks]
    if foreign:
        raise ValueError(f"--only {name}: the config has no network {foreign[0]}")
    return row


def to_torch(sources: Sequence[Path], target: Path, config, *, dtype=None) -> Iterator[str]:
    """Write a bundle's networks as the released files; yields lines for people.

    A later source replaces networks of an earlier one. A file is written if all its networks are
    there; of several that hold networks of these names it is the one that they came from. Quirks
    of a bundle may be others than the config's, as names do not depend on them.
    Raises ValueError if no file can be written, or a network has no counterpart in PyTorch.
    """
    networks = all_networks(config)
    described = {folder: bundle.describe(folder) for folder in sources}
    owner = {name: folder for folder in sources for name in described[folder]["networks"]}
    came_from = {name: described[owner[name]]["networks"][name]["source"] for name in owner}
    rows = _files_of(came_from, config.base)
    claimed = {name for row in rows for name in row.networks}
    unknown = sorted(claimed - networks.keys())
    if unknown:
        raise ValueError(
            f"{owner[unknown[0]]}: holds the network {unknown[0]}, which {config.name} has not; "
            f"use --config {described[owner[unknown[0]]]['config']}"
        )
    pose_files = _pose_files(sources, target)
    places = (*(target / row.file for row in rows), *pose_files)
    taken = [place for place in places if place.exists()]
    if taken:
        raise ValueError(f"{taken[0]}: already exists; remove it or choose another folder")
    left = [_not_written(name, set(owner), config.base) for name in sorted(owner.keys() - claimed)]
    if not rows:
        raise ValueError(f"{sources[-1]}: no file can be written from it: {'; '.join(left)}")
    for row in rows:
        params = {}
        for name in row.networks:
            folder = owner[name]
            options = {"model": config.model, "quirks": described[folder]["quirks"]}
            if name == "motion_encoder":
                _check_motion_fields(folder, row.file, options)
            params |= bundle.load([folder], {name: networks[name].shapes}, **options)
        tables = {"positions": config.model.motion_modules.positions} if row.frame_codes else {}
        tensors = checkpoints.to_torch(row, params, str(sources[-1]), **tables)
        files.write(target / row.file, tensors, wrapper=row.wrapper, dtype=dtype)
        yield f"{target / row.file}: {len(tensors)} tensors of {' and '.join(row.networks)}"
        if row.name == "sd15_vae":
            yield "  the encoder only: a bundle holds no decoder of Stable Diffusion"
    for place, onnx in pose_files.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        with output.replacing(place) as partial, output.explained(place):
            shutil.copyfile(onnx, partial)
        yield f"{place}: copied"
    yield from (f"not written: {reason}" for reason in left)


def _files_of(came_from: Mapping[str, str], base: str) -> list[releases.Release]:
    """The files that networks can be written to, {name: the source that its bundle names}: of
    several that hold networks of one name the file that they came from, else the first."""
    rows, claimed = [], set()
    for row in sorted(releases.serving(base), key=lambda row: not _is_of(row, came_from)):
        if row.name in PARTS or row.file in {other.file for other in rows}:
            continue
        if came_from.keys() >= set(row.networks) and not claimed.intersection(row.networks):
            rows.append(row)
            claimed.update(row.networks)
    return rows


def _pose_files(sources: Sequence[Path], target: Path) -> dict[Path, Path]:
    """DWPose's files of bundles, {their place in a folder of weights: file}."""
    return {
        target / releases.POSE_FOLDER / released: onnx
        for name, released in dwpose.RELEASED_AS.items()
        if (onnx := bundle.pose_file(sources, name)) is not None
    }


def _is_of(row: releases.Release, came_from: Mapping[str, str]) -> bool:
    """Whether a release's networks came from its file. came_from: {network: source} of bundles."""
    sources = ["/" + came_from.get(name, "") for name in row.networks]
    return all(any(re.search(place, source) for place in row.places) for source in sources)


def _not_written(name: str, held: set[str], base: str) -> str:
    """Why a network that a bundle holds is in no file."""
    row = next((row for row in releases.serving(base) if name in row.networks), None)
    if row is None:
        return f"{name}, which no released file holds"
    if row.name in PARTS:
        return f"{name}, a part of {row.file}, whose rest a bundle does not hold"
    others = ", ".join(other for other in row.networks if other not in held)
    return f"{name}, because {Path(row.file).name} needs {others} too; add a bundle that has it"


def _check_motion_fields(folder: Path, file: str, options: dict) -> None:
    """Raise ValueError unless a bundle's motion encoder reads both fields, as the released one."""
    found = bundle.load([folder], ["motion_encoder"], **options)["motion_encoder"]
    absent = [field for field in ("sparse", "dense") if field not in found]
    if absent:
        raise ValueError(
            f"{folder}: its motion encoder was trained without the {absent[0]} field (an ablation "
            f"such as variant=no_cmp), so it cannot become {file}, which holds both; train "
            "variant=full to export it"
        )


def check(folder: Path, config, named: str, *, verify: bool = False):
    """The doctor's findings on a folder of weights or a bundle, and the next step.

    named: what the config was called on the command line, its variant included.
    """
    networks = all_networks(config)
    if (folder / bundle.DESCRIPTION).is_file():
        findings = doctor.check_bundle(folder, networks, config, verify)
    else:
        findings = doctor.check_weights(folder, networks, config)
    return findings, doctor.next_step(folder, findings, config.base, named)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(settings.at_home(arguments))
    try:
        names = {"folder": "the folder", "source": "--from", "to": "--to"}
        given = vars(options)
        settings.refuse_addresses({flag: given.get(name) for name, flag in names.items()})
        config = settings.load(options.config)
        if options.command == "check":
            return _print_findings(
                *check(options.folder, config, options.config, verify=options.verify)
            )
        if options.command == "to-flax":
            only = tuple(dict.fromkeys(filter(None, options.only.split(","))))
            lines = to_flax(options.source, options.to, config, only=only, dtype=options.dtype)
        else:
            sources = [Path(part) for part in str(options.source).split(",") if part]
            lines = to_torch(sources, options.to, config, dtype=options.dtype)
        for line in lines:
            print(line)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _print_findings(findings: Sequence[doctor.Finding], following: str) -> int:
    """Print what `check` gives; the exit status is 1 if a file is wrong, or missing but for
    DWPose's, which nobody needs who has pose files."""
    for name, state, detail in findings:
        print(f"{state:8} {name:18} {detail}")
    print(f"next: {following}")
    missing = {f.name for f in findings if f.state == "missing"} - {*dwpose.RELEASED_AS}
    return int(bool(missing) or any(f.state == "wrong" for f in findings))


def _parser() -> argparse.ArgumentParser:
    """The three commands and their flags."""
    parser = argparse.ArgumentParser(prog="python -m converters.convert", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    about = {
        "check": "say which file is where, what it is and what to do next",
        "to-flax": "released files -> bundle",
        "to-torch": "bundle (or A,B: a later one overrides an earlier one) -> released files",
    }
    for command, text in about.items():
        sub = commands.add_parser(command, help=text)
        sub.add_argument("--config", default="configs/svd.py", help="file.py[:argument]")
        if command == "check":
            sub.add_argument("folder", type=settings.path)
            sub.add_argument("--verify", action="store_true", help="compare digests of a bundle")
            continue
        sub.add_argument("--from", dest="source", type=settings.path, required=True)
        sub.add_argument("--to", type=settings.path, required=True)
        sub.add_argument("--dtype", choices=_DTYPES, help="cast the weights; default: keep")
    commands.choices["to-flax"].add_argument(
        "--only",
        default="",
        help=f"releases that must be there, of {','.join(r.name for r in releases.RELEASES)}",
    )
    return parser


if __name__ == "__main__":
    sys.exit(ending.status_of(main))
