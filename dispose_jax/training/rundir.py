"""The directory of a run: what it is, who works in it, whether it may be continued (host code)."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import jax

from dispose_jax import provenance, settings
from dispose_jax.data import records
from dispose_jax.media import output
from dispose_jax.training import metrics

CONFIG, ABOUT, LOCK, BUNDLE = "config.json", "run.json", ".lock", "bundle"
SEE_SECONDS = 20  # that a shared disk may take to show one process what another wrote
# May change when a run is continued: none of them changes a number beyond rounding. Except
# train.steps, so that a run can be prolonged: a cosine of the learning rate then gets longer too.
FREE = (
    *("train.log_every", "train.save_every", "train.keep", "train.sample_every", "train.remat"),
    *("train.mesh.data", "train.mesh.fsdp", "train.mesh.frames", "train.mesh.smallest"),
    *("train.validate_every", "data.workers", "data.prefetch", "train.steps"),
)
# Of sampling, but told to the networks in training too: these must not change.
TOLD = ("sample.conditioning_fps", "sample.motion_bucket", "sample.control_scale")


def claim(workdir: Path, config, weights: Mapping[str, str]) -> IO:
    """Make the directory, or check that it belongs to this run, and note that it is worked in.

    weights: {network: digest} of those that come from bundles. A prepared set may have moved, but
    has to be the same one. Of a run that ended before its first measurement, as one that did not
    fit the device's memory, nothing has to be the same, where locks tell that it has ended. Returns
    an open file: closing it frees the directory. Raises ValueError if it holds something else, a
    run whose settings or weights differ, or one that is going on.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir}: is a file; name a directory")
    with output.explained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        # A run that was killed on its first line leaves these.
        left = {ABOUT, LOCK, *(path.name for path in workdir.glob(".*.json"))}
        if not (workdir / CONFIG).exists() and not left.issuperset(
            p.name for p in workdir.iterdir()
        ):
            raise ValueError(f"--workdir {workdir}: holds something that is no run; name another")
        lock, is_held = _lock(workdir)
        try:
            starts, prepared = [], _set(config)
            if (workdir / CONFIG).exists():
                # Without a lock one that has learnt nothing yet may be going on.
                may_change = is_held and not _has_learnt(workdir)
                starts = _check(workdir, config, weights, prepared, may_change)
            about = {"weights": weights, "set": prepared, "starts": [*starts, _start()]}
            output.write_json(workdir / ABOUT, about)
            output.write_json(workdir / CONFIG, json.loads(config.to_json(), parse_constant=str))
        except BaseException:
            lock.close()
            raise
    return lock


def see(workdir: Path) -> None:
    """Wait until this process, too, sees the directory that the first one claimed.

    Raises ValueError if it does not: saving would wait for ever for files that never come.
    """
    end = time.monotonic() + SEE_SECONDS
    while not (workdir / CONFIG).exists():
        if time.monotonic() > end:
            raise ValueError(
                f"--workdir {workdir}: {CONFIG}, which the first process wrote there, is not seen "
                "by another one; name a directory that all processes share"
            )
        time.sleep(0.5)


def _set(config) -> str | None:
    """The digest of the prepared set that a config trains on."""
    is_set = config.data.source not in ("", "synthetic") and Path(config.data.source).is_dir()
    return records.digest(config.data.source) if is_set else None


def _lock(workdir: Path) -> tuple[IO, bool]:
    """The directory's lock, held until the file is closed or the process ends in whatever way, and
    whether it is held: not on a file system without locks."""
    file = open(workdir / LOCK, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"--workdir {workdir}: another process is training in it; wait for it, or name another"
        ) from None
    except OSError:
        return file, False
    return file, True


def _start() -> dict:
    """What a start of the run ran on."""
    return {"command": sys.argv, **provenance.program(), "processes": jax.process_count()}


def _check(
    workdir: Path, config, weights: Mapping, prepared: str | None, may_change: bool
) -> list[dict]:
    """The starts of the directory's run. Raises ValueError unless it is this one, or may change."""
    try:
        known = dict(settings.leaves(json.loads((workdir / CONFIG).read_text(encoding="utf-8"))))
        about = json.loads((workdir / ABOUT).read_text(encoding="utf-8"))
        known_weights, starts = dict(about["weights"]), list(about["starts"])
        known_set = about.get("set")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{workdir}: its {CONFIG} or {ABOUT} cannot be read ({error}); name another --workdir"
        ) from error
    new = dict(settings.leaves(json.loads(config.to_json(), parse_constant=str)))
    if new["data.source"] == "synthetic":  # where learning never meets those that are held out
        known["data.held_out"] = new["data.held_out"]
    if known_set and known_set == prepared:
        known["data.source"] = new["data.source"]  # wherever it lies now
    names = [name for name in sorted({*known, *new}) if not _free(name)]
    changed = [
        f"{name} was {known[name]!r}, is {new[name]!r}"
        for name in names
        if name in known and name in new and known[name] != new[name]
    ]
    if other := [name for name in names if (name in known) != (name in new)]:
        changed.insert(0, f"it was begun by a version that differs in {', '.join(other[:5])}")
    if known_set and prepared and known_set != prepared:
        changed.append(f"the prepared set {config.data.source} is another one or was changed")
    for name in sorted({*known_weights, *weights}):
        if known_weights.get(name) != weights.get(name):
            changed.append(f"the weights of {name} are others")
    if changed and not may_change:
        raise ValueError(
            f"--workdir {workdir}: holds a run with other settings ({'; '.join(changed[:5])}); "
            f"give the same ones{f' to the version in its {ABOUT}' if other else ''} to continue "
            "it, or name another directory"
        )
    return starts


def _has_learnt(workdir: Path) -> bool:
    """Whether there is anything that other settings would not go with."""
    saved = (path.name.isdecimal() for path in workdir.glob("checkpoints/*"))
    # Its result alone is what a finished run may have been cleared down to.
    return any((workdir / name).exists() for name in (metrics.FILE, BUNDLE)) or any(saved)


def _free(name: str) -> bool:
    return name in FREE or (name.startswith("sample.") and name not in TOLD)
