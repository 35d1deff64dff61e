"""Put the networks of several bundles into one, in float16: how the bundled model is made.

  python -m assets.collect --to assets/svd_small runs/vae/bundle runs/cmp/bundle ...

Later bundles replace networks of earlier ones. All must belong to the same model.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from dispose_jax.models import bundle


def collect(folders: list[Path], target: Path) -> list[str]:
    """Write the bundle and return the names of its networks. Raises ValueError for bundles of
    different models, and for a target that is something else."""
    contents = [bundle.describe(folder) for folder in folders]
    first = contents[0]
    names = sorted({name for content in contents for name in content["networks"]})
    belongs = {"model": first["model"], "quirks": first["quirks"]}
    owners = bundle.owners(folders, names, **belongs)
    origins = {
        name: bundle.Origin(entry["source"], entry["licence"])
        for name, (_, entry) in owners.items()
    }
    if target.exists() and not (target / bundle.DESCRIPTION).is_file():
        raise ValueError(f"--to {target}: exists and is no bundle; name another folder")
    about = bundle.ModelDescription(first["base"], config=first["config"], **belongs)
    new = target.with_name(f".{target.name}.new")
    bundle.write(new, bundle.load(folders, names, **belongs), about, origins, dtype=np.float16)
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, required=True, help="folder to write, replaced")
    parser.add_argument("bundle", type=Path, nargs="+")
    args = parser.parse_args()
    try:
        names = collect(args.bundle, args.to)
    except ValueError as error:
        sys.exit(f"collect: {error}")
    size = sum(file.stat().st_size for file in args.to.iterdir()) / 1e6
    print(f"wrote {args.to}: {', '.join(names)}; {size:.1f} MB")


if __name__ == "__main__":
    main()
