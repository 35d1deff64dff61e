"""Files written whole or not at all (host code).

Everything is written under a temporary name in the folder of its destination and renamed when
complete, so a crash or a full disk leaves neither half a file nor a damaged older one.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path

FORGOTTEN = 3600.0  # seconds without a change, after which a temporary file may be a dead process's


def _system() -> str:
    """What tells apart the systems whose numbers of processes mean different ones: machines, their
    starts, and containers, in each of which the first process is 1.

    Where Linux does not tell, or on another system, every process counts as one of its own: names
    of machines and containers repeat, and what one that lives is writing must not be removed.
    """
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        own = os.uname().nodename, start, os.readlink("/proc/self/ns/pid")
    except OSError:
        return os.urandom(4).hex()
    return hashlib.sha256(" ".join(own).encode()).hexdigest()[:8]


_HERE, _OURS = _system(), os.urandom(4).hex()
_MARK = re.compile(r"([0-9]+)-([0-9a-f]{8})-[0-9a-f]{8}")  # of any process, as of `_mark`


def prepare(path: str | os.PathLike, *suffixes: str) -> Path:
    """Check, before any long work, that a file can be written there; its folder is made if absent.

    suffixes: what the name may end in, such as ".mp4"; anything if none is given. Raises ValueError
    otherwise.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected the name of a file to write")
    if suffixes and path.suffix.lower() not in suffixes:
        found = f"ends in '{path.suffix}'" if path.suffix else "has no ending"
        raise ValueError(f"{path}: this output's name {found}, expected {' or '.join(suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot make its folder: {error.strerror}; choose another place for the output"
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: its folder is not writable; choose another place for the output")
    return path


def prepare_folder(folder: str | os.PathLike) -> Path:
    """Check, before any long work, that a whole folder can be written there; where it lies, links
    followed. Nothing is made.

    Raises ValueError for the root of a disk, which takes no other folder's place, and below what
    is no folder or not writable.
    """
    found = place(Path(folder))
    if os.path.ismount(found):
        raise ValueError(
            f"{folder}: is the root of a disk of its own, which no new folder can replace; name a "
            f"folder in it, such as {Path(folder) / 'new'}"
        )
    above = next(path for path in found.parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: {above} is no folder that can be written to; choose another")
    return found


def place(path: Path) -> Path:
    """Where a file lies, whatever leads there. Links in a circle, at which Path.resolve fails, are
    left to who opens it."""
    return Path(os.path.realpath(path))


def temporary(path: Path) -> Path:
    """The name under which this process writes a file before it takes its place."""
    return path.with_name(f".{path.stem}.{_mark()}{path.suffix}")


def _mark() -> str:
    """What temporary names of this process have, and of no other in the world."""
    return f"{os.getpid()}-{_HERE}-{_OURS}"


def try_out(path: str | os.PathLike) -> None:
    """Make and remove an empty file of that name's temporary one, before any long work.

    Raises OSError with one sentence for a name or place that takes no file.
    """
    with explained(path):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has this name")
        place = temporary(Path(path))
        try:
            place.touch()
        finally:
            place.unlink(missing_ok=True)


def free_bytes(folder: str | os.PathLike) -> float:
    """What a folder's disk has left; infinite where it does not tell, as disks in a network that
    report 0 bytes in all."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else inf


def check_room(path: str | os.PathLike, num_bytes: int) -> None:
    """Raise OSError with one sentence if the disk of a file's folder has not so many bytes left."""
    free = free_bytes(Path(path).parent)
    if free < num_bytes:
        raise OSError(
            f"{path}: needs {num_bytes / 2**20:.0f} MiB, and the disk has {free / 2**20:.0f} MiB "
            "left; free space there or choose another place"
        )


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name to write to, renamed to path if the block ends well and removed if not.

    The temporary file lies in the same folder (renaming is atomic only there) and keeps the ending
    of the name. Raises OSError with one sentence if the file cannot take its place.
    """
    path = Path(path)
    place = temporary(path)
    _remove_left_behind(place, path.suffix)
    try:
        yield place
        with explained(path):
            os.replace(place, path)
    finally:
        with suppress(OSError):  # what is wrong with the place has been said
            place.unlink(missing_ok=True)


def _remove_left_behind(place: Path, ending: str = "") -> None:
    """Delete what killed processes left under the temporary names that are like this one but for
    their process; ending: of these names."""
    start = place.name.removesuffix(_mark() + ending)
    for left in place.parent.glob(f"{glob.escape(start)}*{glob.escape(ending)}"):
        # Nothing else: a hidden file or folder may be the user's, such as .a.2024-05-01.json.
        mark = _MARK.fullmatch(left.name.removeprefix(start).removesuffix(ending))
        if left == place or not mark:
            continue
        number, system = int(mark[1]), mark[2]
        with suppress(OSError):  # another process may be quicker
            if system == _HERE:  # of our own number: one before us
                is_dead = number == os.getpid() or not is_alive(number)
            else:  # not known here, but it would have written since
                is_dead = time.time() - _last_change(left) > FORGOTTEN
            if is_dead:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _last_change(path: Path) -> float:
    """When a file was written to, or a folder or something directly in it."""
    inside = path.iterdir() if path.is_dir() else ()
    return max(file.stat().st_mtime for file in (path, *inside))


def is_alive(process: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def replacing_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """An empty temporary folder to fill, renamed to folder if the block ends well, else removed.

    A folder of that name is there until the new one is whole, and then removed; a link to a folder
    stays, and what it leads to is replaced. Raises ValueError as `prepare_folder` does, OSError
    with one sentence if the folder cannot be made or take its place.
    """
    folder = prepare_folder(folder)
    temporary, old = (
        folder.with_name(f".{folder.name}.{kind}-{_mark()}") for kind in ("partial", "old")
    )
    _remove_left_behind(temporary)
    try:
        with explained(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with explained(folder):
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(temporary, folder)
            except BaseException:
                if old.exists():
                    os.replace(old, folder)
                raise
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turn an OSError of the block into an OSError whose message is one sentence about path."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"{path}: cannot write this file: {reason}; nothing was kept of it,"
            " so free space there or choose another place and run again"
        ) from error


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a whole file. Raises OSError with one sentence, an older file then stays as it was."""
    with replacing(path) as temporary, explained(path):
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write JSON for people to read: indented, keys in the order given, numbers finite."""
    write_bytes(path, as_json(content, indent=2))


def as_json(content: object, **layout) -> bytes:
    """A line of JSON. Bytes of a file's name that are not UTF-8, which Python keeps as lone
    surrogates, are escaped, so that reading gives the same name."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, **layout)
    return f"{text}\n".encode(errors="backslashreplace")
