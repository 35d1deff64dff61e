"""The directory of a run: what it is, written once, checked when it is continued (host code)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from dispose_jax import record, settings
from dispose_jax.data import output
from dispose_jax.models import bundle

CONFIG, ABOUT = "config.json", "run.json"
# May change when a run is continued: none of them changes a number beyond rounding.
FREE = (
    *("train.log_every", "train.save_every", "train.keep", "train.sample_every", "train.remat"),
    *("train.mesh.data", "train.mesh.fsdp", "train.mesh.frames", "train.mesh.smallest"),
    *("data.workers", "data.prefetch", "train.steps"),
)
FREE_SECTIONS = ("sample.",)


def prepare(workdir: Path, config, weights: Sequence[str]) -> None:
    """Make the directory, or check that it belongs to this run.

    Raises ValueError if it holds something else, or a run whose settings or weights differ.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir}: is a file; name a directory")
    about = {"weights": digests(weights)}
    with output.explained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / CONFIG).exists():
            _check(workdir, config, about)
            return
        if any(workdir.iterdir()):
            raise ValueError(f"--workdir {workdir}: holds something that is no run; name another")
        about |= {
            "command": sys.argv,
            "git": git_revision(),
            "versions": record.versions(),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "processes": jax.process_count(),
        }
        output.write_json(workdir / ABOUT, about)
        output.write_json(workdir / CONFIG, json.loads(config.to_json()))


def digests(folders: Sequence[str]) -> dict[str, dict[str, str]]:
    """SHA-256 of every network of every bundle, by folder; a word such as "random" has none."""
    found = {}
    for folder in folders:
        networks = {} if not Path(folder).is_dir() else bundle.describe(folder)["networks"]
        found[str(folder)] = {name: entry["sha256"] for name, entry in networks.items()}
    return found


def git_revision() -> str | None:
    """Commit of the checkout that runs, with "+" if files differ from it; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(settings.CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _check(workdir: Path, config, about: dict) -> None:
    """Raise ValueError unless the directory's run is this one."""
    try:
        known = json.loads((workdir / CONFIG).read_text())
        known_about = json.loads((workdir / ABOUT).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{workdir}: its {CONFIG} or {ABOUT} cannot be read ({error}); name another --workdir"
        ) from error
    old, new = (dict(settings.leaves(c)) for c in (known, json.loads(config.to_json())))
    changed = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name) and not _free(name)
    ]
    if list(known_about["weights"].values()) != list(about["weights"].values()):
        changed.append("the weights are others")
    if changed:
        raise ValueError(
            f"--workdir {workdir}: holds a run with other settings ({'; '.join(changed[:5])}); "
            "give the same ones to continue it, or name another directory"
        )


def _free(name: str) -> bool:
    return name in FREE or name.startswith(FREE_SECTIONS)
