"""What a run depended on: its fingerprint, latents kept until they are decoded, the JSON beside the
video (host code).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dispose_jax import settings
from dispose_jax.clip import Clip
from dispose_jax.inputs.sources import Sources
from dispose_jax.media import output
from dispose_jax.models import bundle

PACKAGES = ("dispose-jax", "jax", "jaxlib", "flax", "numpy")


def fingerprint(config, clip: Clip, folders: Iterable[str]) -> str:
    """Digest of all that latents depend on: config, reference, poses and the bundles in order."""
    digest = hashlib.sha256()
    values = json.loads(config.to_json())
    for key in ("decode_chunk", "decode_rest", "fps", "audio"):  # these come after the latents
        values["sample"].pop(key)
    digest.update(json.dumps(values, sort_keys=True).encode())
    for leaf in (clip.reference, *jax.tree.leaves(clip.pose)):
        digest.update(f"{leaf.shape} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    for folder in folders:
        digest.update((Path(folder) / bundle.DESCRIPTION).read_bytes())
    return digest.hexdigest()


def save_latents(path: Path, latents: np.ndarray, run: str) -> None:
    """Keep the latents of a run, named by its fingerprint. Raises OSError with one sentence."""
    output.write_bytes(path, save({"latents": latents}, metadata={"run": run}))


def saved_latents(path: Path, run: str) -> np.ndarray | None:
    """Latents that an earlier run with this fingerprint left; None if there are none, or not
    whole."""
    try:
        with safe_open(path, "numpy") as file:
            if (file.metadata() or {}).get("run") == run:
                return file.get_tensor("latents")
    except (OSError, SafetensorError):
        pass
    return None


def describe(
    config,
    clip: Clip,
    sources: Sources,
    files: dict[str, dict],
    weights: Iterable[str],
    seconds: dict[str, float],
) -> dict:
    """What a video was made of and with, as plain JSON. files: the sources' stamps before they were
    read; seconds: by stage."""
    return {
        **asked(config, sources, weights),
        "files": files,
        "frames": clip.num_frames,
        "size": list(clip.shown[::-1]),
        "fps": float(clip.fps),
        "sound": clip.sound is not None,
        "fit": clip.fit._asdict(),
        "warnings": clip.warnings,
        **program(),
        "seconds": seconds,
    }


def asked(config, sources: Sources, weights: Iterable[str]) -> dict:
    """The part of it that is known before anything is read."""
    return {
        "seed": config.seed,
        "weights": list(weights),
        "bundles": [digest(folder) for folder in weights],
        "sources": sources.as_dict(),
        "config": json.loads(config.to_json(), parse_constant=str),  # infinity
    }


def stamps(sources: Sources) -> dict[str, dict]:
    """Size and time of the last change of those sources that are files, by name; of those that are
    there."""
    found = {}
    for name, path in sources.files.items():
        with suppress(OSError):
            status = path.stat()
            found[name] = {"bytes": status.st_size, "modified": status.st_mtime}
    return found


def digest(folder: str) -> str | None:
    """SHA-256 of a bundle's description, which has those of its networks; None for random ones."""
    with suppress(OSError):
        return hashlib.sha256((Path(folder) / bundle.DESCRIPTION).read_bytes()).hexdigest()


def program() -> dict[str, object]:
    """What computes, and when: the time, the commit of the checkout, versions, and devices."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "git": git_revision(),
        "versions": versions(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def git_revision() -> str | None:
    """Commit of the checkout that runs, with "+" if files differ from it; None without git, and for
    a package that is installed, if only within another project's repository."""

    def git(*arguments: str) -> str:
        # Or status writes into the index, which a commit made meanwhile finds locked.
        command = ["git", "--no-optional-locks", "-C", str(settings.CHECKOUT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", settings.PACKAGE.name)  # fails unless they are tracked
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Versions of this program and of what computes for it."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout
