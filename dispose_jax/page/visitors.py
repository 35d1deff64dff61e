"""Who visits, which files are whose, and their end: a session is an open page, a visitor a browser.

A visitor is known by a cookie (guard.py), and reads nothing but what they uploaded themselves and
what was made for them. Everything lies below one folder and is deleted with the session.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dispose_jax.media import output
from dispose_jax.page.turns import QueuedTurn, Turns

IDLE = 3600.0  # seconds after which files of somebody without an open page are deleted
MOST_BYTES = 2**30  # that a visitor has uploaded
PREFIX = "dispose_jax_page_"
UPLOADS = "uploads"  # the folder of what was uploaded, below the root


@dataclass
class Session:
    """An open page: its folder, and the turn that it took last."""

    visitor: str
    folder: Path
    turn: QueuedTurn | None = None
    connections: int = 0  # that the page holds while it is open
    seen: float = field(default_factory=time.monotonic)
    taking: threading.Lock = field(default_factory=threading.Lock)  # held while it takes a turn

    @property
    def is_at_work(self) -> bool:
        return self.turn is not None and not self.turn.state.has_ended


@dataclass
class Upload:
    """Who uploaded a file, and when last."""

    owners: set[str]
    size: int
    seen: float = field(default_factory=time.monotonic)


class TooMuch(ValueError):
    """More than a visitor may upload."""


class Coming(NamedTuple):
    """An upload that is being received: whose, so many bytes, since when by time.time."""

    visitor: str
    size: int
    since: float


class Visitors:
    """All sessions and uploads. root: an empty folder of this process alone. Thread-safe."""

    def __init__(self, root: Path, turns: Turns, shared: Iterable[Path] = ()):
        self.root, self._turns = root.resolve(), turns
        self._shared = {path.resolve() for path in shared}  # that everybody may read
        self._sessions: dict[str, Session] = {}
        self._uploads: dict[Path, Upload] = {}
        self._coming: list[Coming] = []
        self._lock = threading.RLock()

    def session(self, visitor: str, name: str) -> Session:
        """The session of a page, a new one if it is not known, with its folder. Raises ValueError
        for a page of another browser, OSError where no folder can be made."""
        self._sweep()
        with self._lock:
            found = self._known(visitor, name)
            try:
                found.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise OSError(
                    f"no place for your files: {error.strerror}; free space there"
                ) from error
            return found

    def enter(self, visitor: str, name: str) -> bool:
        """A page was opened; whether it is to be told of with `leave`. What is wrong with it shows
        when something is asked; until then, as before a login, it has no folder."""
        self._sweep()
        with suppress(ValueError), self._lock:
            self._known(visitor, name).connections += 1
            return True
        return False

    def _known(self, visitor: str, name: str) -> Session:
        """The session of a page, seen now; it may have no folder yet."""
        fresh = Session(visitor, self.root / secrets.token_urlsafe(24))
        found = self._sessions.setdefault(name, fresh)
        if found.visitor != visitor:
            raise ValueError("this page belongs to another browser; reload it")
        found.seen = time.monotonic()
        return found

    def leave(self, name: str) -> None:
        """A connection of a page has ended; with the last one, delete its files."""
        with self._lock:
            session = self._sessions.get(name)
            if session is not None:
                session.connections -= 1
                is_last = session.connections <= 0
        if session is not None and is_last:
            self._delete(name)

    def _delete(self, name: str) -> None:
        """End a session's turn and delete its files."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is None:
            return
        if session.turn is not None:
            self._turns.cancel(session.turn)
            self._turns.await_end(session.turn)
        shutil.rmtree(session.folder, ignore_errors=True)
        with self._lock:
            if not any(other.visitor == session.visitor for other in self._sessions.values()):
                self._disown(session.visitor)

    def uploaded(self, visitor: str, paths: Iterable[str]) -> None:
        """Remember whose these files are."""
        with self._lock:
            for path in map(self._own, paths):
                if path is None:
                    continue
                with suppress(OSError):
                    size = path.stat().st_size
                    self._uploads.setdefault(path, Upload(set(), size)).owners.add(visitor)
                    self._uploads[path].seen = time.monotonic()

    @contextmanager
    def receiving(self, visitor: str, size: int) -> Iterator[None]:
        """While a request of so many bytes with files comes in: it counts with what was uploaded,
        whatever comes in beside it. What is left of it that is nobody's is deleted at its end.

        Raises TooMuch if the visitor may not upload so much more, OSError if the disk has no room.
        """
        with self._lock:
            held = sum(up.size for up in self._uploads.values() if visitor in up.owners)
            held += sum(other.size for other in self._coming if other.visitor == visitor)
            if held + size > MOST_BYTES:
                raise TooMuch(
                    f"{held / 2**20:.0f} MiB were uploaded from here, and {size / 2**20:.0f} MiB "
                    f"more would be over {MOST_BYTES // 2**20} MiB; reload the page to begin anew"
                )
            # What has come of the others is counted twice: too careful rather than a full disk.
            needed = size + sum(other.size for other in self._coming)
            if output.free_bytes(self.root) < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            coming = Coming(visitor, size, time.time())
            self._coming.append(coming)
        try:
            yield
        finally:
            with self._lock:
                self._coming.remove(coming)
                self._delete_strays()

    def _delete_strays(self) -> None:
        """Delete files and empty folders of uploads that broke off or were refused, which the
        server's library leaves."""
        # A second: clocks of disks are coarse.
        first = min((other.since for other in self._coming), default=math.inf) - 1
        for path in list((self.root / UPLOADS).rglob("*")):
            with suppress(OSError):
                if path.is_dir():
                    path.rmdir()
                elif path not in self._uploads and path.stat().st_mtime < first:
                    self._delete_upload(path)

    def may_read(self, visitor: str, path: str | os.PathLike) -> bool:
        """Whether a file is the visitor's own, or everybody's."""
        with suppress(OSError, ValueError):
            place = Path(path).resolve()
            with self._lock:
                upload = self._uploads.get(place)
                folders = [s.folder for s in self._sessions.values() if s.visitor == visitor]
            owned = upload is not None and visitor in upload.owners
            return owned or place in self._shared or any(f in place.parents for f in folders)
        return False

    def lend(self, session: Session, kind: str, path: Path) -> Path:
        """Make a file appear in a session's folder, in a folder of its kind and by its own name;
        its path from there. Raises OSError with one sentence where it cannot be."""
        place = Path(kind) / path.name
        try:
            shutil.rmtree(session.folder / kind, ignore_errors=True)
            (session.folder / kind).mkdir()
            (session.folder / place).symlink_to(path)
        except OSError as error:
            raise OSError(
                f"{place}: cannot be put where it is read: {error.strerror}; free space there"
            ) from error
        return place

    def _own(self, path: str) -> Path | None:
        """A path below the root; None for any other."""
        place = Path(path).resolve()
        return place if self.root in place.parents else None

    def _disown(self, visitor: str) -> None:
        """Delete what a visitor alone uploaded."""
        for path, upload in list(self._uploads.items()):
            upload.owners.discard(visitor)
            if not upload.owners:
                del self._uploads[path]
                self._delete_upload(path)

    def _delete_upload(self, path: Path) -> None:
        """Delete a file, and its own folder if that is empty then."""
        with suppress(OSError):
            path.unlink(missing_ok=True)
            if path.parent != self.root / UPLOADS:  # where others are about to come in
                path.parent.rmdir()

    def _sweep(self) -> None:
        """Delete what is left of visitors whose page was closed without a word."""
        long_ago = time.monotonic() - IDLE
        with self._lock:
            idle = [
                name
                for name, session in self._sessions.items()
                if not (session.connections or session.is_at_work) and session.seen < long_ago
            ]
            known = {session.visitor for session in self._sessions.values()}
            gone = {
                owner
                for upload in self._uploads.values()
                if upload.seen < long_ago
                for owner in upload.owners - known
            }
            for visitor in gone:
                self._disown(visitor)
        for name in idle:
            self._delete(name)


@contextmanager
def own_root() -> Iterator[Path]:
    """A folder for all files of this process, deleted at the end; those that killed ones left
    behind are deleted, too."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError), _held(old):
            shutil.rmtree(old, ignore_errors=True)
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    with ExitStack() as stack:
        with suppress(OSError):  # a file system without locks
            stack.enter_context(_held(root))
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process in whatever way, and is seen in every
    container. Raises OSError if another process holds it, or it is no folder."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
