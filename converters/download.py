"""Fetch the released weights, when asked and only then.

  python -m converters.download --to weights                      (says what, under which licences)
  python -m converters.download --to weights --accept-licences    (fetches it)

`--config` names the model whose files are meant (default configs/svd.py). Hugging Face needs the
extra: pip install "dispose-jax[download]". Stable Video Diffusion is gated: its licence is accepted
on its page, and the machine logged in with `hf auth login`. What only training or the evaluation
uses is fetched when named: --only raft, --only evaluation.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from converters import releases
from dispose_jax import settings
from dispose_jax.pose import dwpose

EVALUATION = "evaluation"  # --only: all networks that measure


class Item(NamedTuple):
    """One file to fetch: its name on the command line, where it is, where it goes."""

    name: str
    repository: str
    remote: str
    folder: str
    licence: str
    size: str = ""


def items(base: str, only: Sequence[str] = ()) -> list[Item]:
    """What sampling with a base needs, or the named releases ("dwpose" among them)."""
    every = {row.name: [_item(row)] for row in releases.RELEASES if row.repository}
    measuring = [row for row in releases.RELEASES if row.for_evaluation and row.repository]
    every[EVALUATION] = [_item(row) for row in measuring]
    every["dwpose"] = [
        Item(
            "dwpose",
            releases.POSE_REPOSITORY,
            released,
            releases.POSE_FOLDER,
            releases.POSE_LICENCE,
        )
        for released in dwpose.RELEASED_AS.values()
    ]
    unknown = [name for name in only if name not in every]
    if unknown:
        raise ValueError(f"--only {unknown[0]}: not one of {', '.join(every)}")
    expected = [row.name for row in releases.serving(base) if row.is_expected]
    return [item for name in only or [*expected, "dwpose"] for item in every[name]]


def _item(row: releases.Release) -> Item:
    return Item(row.name, row.repository, row.remote, row.download_to, row.licence, row.size)


def by_hand(only: Sequence[str]) -> list[str]:
    """What no program can fetch of the evaluation's files, one sentence each."""
    if EVALUATION not in only:
        return []
    rows = [row for row in releases.RELEASES if row.for_evaluation and not row.repository]
    return [f"{row.name}: by hand, {row.file} from {row.page}; {row.licence}" for row in rows]


def fetch(item: Item, target: Path) -> Path:
    """Download one file below target and return its path. Raises ValueError with what to do."""
    if item.repository.startswith("https://"):
        return _fetch_address(f"{item.repository}/{item.remote}", target / item.folder)
    try:
        import huggingface_hub
        from huggingface_hub.errors import GatedRepoError
    except ImportError:
        raise ValueError(
            'huggingface_hub is not installed; pip install "dispose-jax[download]", or get '
            f"{item.remote} from https://huggingface.co/{item.repository} by hand"
        ) from None
    try:
        path = huggingface_hub.hf_hub_download(
            item.repository, item.remote, local_dir=target / item.folder
        )
    except GatedRepoError:
        raise ValueError(
            f"{item.repository} is gated: accept its licence on "
            f"https://huggingface.co/{item.repository}, then `hf auth login`, then run this again"
        ) from None
    except Exception as error:  # network, disk, authentication: the library has many kinds
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{item.repository}/{item.remote}: not downloaded ({reason})") from None
    return Path(path)


def _fetch_address(address: str, folder: Path) -> Path:
    """Download a file; one whose name ends in the first digits of its SHA-256 is checked by them,
    and removed if wrong."""
    path = folder / address.rsplit("/", 1)[1]
    partial = path.with_name(f".{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=60) as answer, open(partial, "wb") as file:
            shutil.copyfileobj(answer, file)
        with open(partial, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        told = re.search(r"-([0-9a-f]{8})$", path.stem)
        if told and not digest.startswith(told[1]):
            raise ValueError(f"{address}: damaged on the way (SHA-256 {digest}); run this again")
        partial.replace(path)
    except OSError as error:
        raise ValueError(f"{address}: not downloaded ({error})") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m converters.download", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--to", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--config", default="configs/svd.py", help="file.py[:argument]")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--accept-licences", action="store_true")
    options = parser.parse_args(arguments)
    try:
        config = settings.load(options.config)
        only = tuple(filter(None, options.only.split(",")))
        wanted = items(config.base, only)
        for line in by_hand(only):
            print(line)
        for item in wanted:
            size = f", {item.size}" if item.size else ""
            print(f"{item.name}: {item.repository}/{item.remote}{size}")
            print(f"  licence: {item.licence}")
            if options.accept_licences:
                print(f"  -> {fetch(item, options.to)}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.accept_licences:
        print(f"next: python -m converters.convert check {options.to} --config {options.config}")
    else:
        print("nothing was downloaded; read the licences, then add --accept-licences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
