"""Fetch the released weights from Hugging Face, when asked and only then.

  python -m converters.download --to weights                      (says what, under which licences)
  python -m converters.download --to weights --accept-licences    (fetches it)

Needs the extra: pip install "dispose-jax[download]". Stable Video Diffusion is gated: its licence
is accepted on its page, and the machine logged in with `hf auth login`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from converters import checkpoints


class Item(NamedTuple):
    """One file to fetch: its name on the command line, where it is, where it goes."""

    name: str
    repository: str
    remote: str
    folder: str
    licence: str


def items(only: Sequence[str] = ()) -> list[Item]:
    """What sampling needs, or the named releases ("dwpose" among them)."""
    every = {
        row.name: [Item(row.name, row.repository, row.remote, row.download_to, row.licence)]
        for row in checkpoints.RELEASES
    }
    every["dwpose"] = [
        Item(
            "dwpose",
            checkpoints.POSE_REPOSITORY,
            released,
            checkpoints.POSE_FOLDER,
            checkpoints.POSE_LICENCE,
        )
        for released in checkpoints.POSE_FILES.values()
    ]
    unknown = [name for name in only if name not in every]
    if unknown:
        raise ValueError(f"--only {unknown[0]}: not one of {', '.join(every)}")
    optional = {row.name for row in checkpoints.RELEASES if row.only_if_asked}
    names = only or [name for name in every if name not in optional]
    return [item for name in names for item in every[name]]


def fetch(item: Item, target: Path) -> Path:
    """Download one file below target and return its path. Raises ValueError with what to do."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m converters.download", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--to", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--accept-licences", action="store_true")
    options = parser.parse_args(arguments)
    try:
        wanted = items(tuple(filter(None, options.only.split(","))))
        for item in wanted:
            print(f"{item.name}: {item.repository}/{item.remote}\n  licence: {item.licence}")
            if options.accept_licences:
                print(f"  -> {fetch(item, options.to)}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.accept_licences:
        print(f"next: python -m converters.convert check {options.to}")
    else:
        print("nothing was downloaded; read the licences, then add --accept-licences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
