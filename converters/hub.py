"""Files of Hugging Face, or of any address, fetched so that an interruption costs nothing and a
damaged file never gets its final name.

What comes is kept as .NAME.DIGEST.partial beside its place and continued by the next run; only a
file of the announced size and digest is renamed. The token of `hf auth login` goes to the hub alone
(host code).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HUB = "https://huggingface.co"
TIMEOUT = 60  # seconds without a byte
TRIES = 5  # times in a row that nothing comes
PAUSE = 1.0  # seconds before the second of them
CHUNK = 1 << 20


class Remote(NamedTuple):
    """A file as its server announces it."""

    address: str
    size: int | None  # bytes
    digest: str  # SHA-256, or the SHA-1 of a small file as Git counts it; "": not announced
    commit: str  # of the repository; "": it has none


class Gated(ValueError):
    """The file is there, but its licence has to be accepted first."""


def address(repository: str, remote: str, revision: str = "main") -> str:
    """Where a file of a repository is; a repository that is an address itself has no revisions."""
    if "://" in repository:
        return f"{repository}/{urllib.parse.quote(remote)}"
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    place = urllib.parse.quote(revision, safe="")
    return f"{endpoint}/{repository}/resolve/{place}/{urllib.parse.quote(remote)}"


def announced(url: str, depth: int = 0) -> Remote:
    """What the server says of a file, without fetching it; depth: times it was sent on so far.

    Raises Gated if the licence is to be accepted, ValueError with the reason for anything else.
    """
    request = urllib.request.Request(url, method="HEAD", headers=_headers(url))
    try:
        with _open(request, follow=False) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        if not 300 <= error.code < 400:
            raise _refused(url, error) from None
        headers = error.headers  # the hub says all before it sends on to its store
        onward = urllib.parse.urljoin(url, headers.get("Location") or "")
        same = urllib.parse.urlsplit(onward).netloc == urllib.parse.urlsplit(url).netloc
        if "X-Linked-Size" not in headers and same and onward != url and depth < TRIES:
            return announced(onward, depth + 1)  # a repository that was renamed
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    digest = headers.get("X-Linked-ETag") or headers.get("ETag") or ""
    digest = digest.removeprefix("W/").strip('"').lower()
    if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", digest) or "X-Repo-Commit" not in headers:
        digest = ""  # other servers' tags are no digests
    # PyTorch's names end in the first digits of their files' digests.
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", urllib.parse.urlsplit(url).path)
    digest = digest or (named[1] if named else "")
    commit = headers.get("X-Repo-Commit") or ""
    return Remote(url, int(size) if size.isdecimal() else None, digest, commit)


def fetch(
    remote: Remote, target: Path, progress: Callable[[int], None] = lambda count: None
) -> Path:
    """Download a file to target, going on where an earlier run stopped; returns target.

    progress gets the number of bytes there are so far. Raises ValueError if it could not be had,
    with what to do; a part that came stays for the next run, a file of another digest does not.
    """
    if target.is_file() and _fits(target, remote):
        return target
    partial = target.with_name(f".{target.name}.{remote.digest[:16] or 'new'}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not remote.digest:
            partial.unlink(missing_ok=True)  # nothing tells whether it is the same file
        _fill(remote, partial, progress)
        if not _fits(partial, remote):
            partial.unlink()
            raise ValueError(
                f"{remote.address}: what came is not the file that was announced (its size or "
                "digest differs), and was removed; run this again"
            )
        partial.replace(target)
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def token() -> str:
    """The user's token, as `hf auth login` keeps it; "" without one."""
    if os.environ.get("HF_TOKEN"):
        return os.environ["HF_TOKEN"].strip()
    try:
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        found = (home / "token").read_text(encoding="utf-8")
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: a user without a home
        return ""
    return found.strip()


def _fill(remote: Remote, partial: Path, progress: Callable[[int], None]) -> None:
    """Append to a partial file until it has its size; every try begins where the last one ended."""
    tries, reason = 0, "the connection was cut"
    while tries < TRIES:
        before = _held(partial)
        try:
            held = before
            if remote.size is None or held < remote.size:
                held = _append(remote, partial, progress)
            if remote.size is None or held >= remote.size:
                return
            tries = 0 if held > before else tries + 1
        except urllib.error.HTTPError as error:
            if error.code == 416:  # beyond its end: the part is of another file
                partial.unlink(missing_ok=True)
                tries += 1
                continue
            if error.code < 500 and error.code != 429:
                raise _refused(remote.address, error) from None
            tries, reason = tries + 1, f"the server answers {error.code}"
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            cause = getattr(error, "reason", error)
            tries, reason = tries + 1, " ".join(str(cause).split()) or reason
        if tries:
            time.sleep(min(2 ** (tries - 1), 8) * PAUSE)
    whole = f" of {size(remote.size)}" if remote.size is not None else ""
    raise ValueError(
        f"{remote.address}: {size(_held(partial))}{whole} came ({reason}); run the same command "
        "again, and it goes on from there"
    )


def _append(remote: Remote, partial: Path, progress: Callable[[int], None]) -> int:
    """Write what the server sends of what a partial file lacks; how many bytes it has then."""
    held = _held(partial)
    headers = _headers(remote.address) | ({"Range": f"bytes={held}-"} if held else {})
    with _open(urllib.request.Request(remote.address, headers=headers)) as answer:
        if held and answer.status != 206:
            held = 0  # a server that does not continue sends all of it
        with open(partial, "ab" if held else "wb") as file:
            while chunk := _read(answer):
                file.write(chunk)
                held += len(chunk)
                progress(held)
    return held


def _held(partial: Path) -> int:
    """Bytes of a partial file, 0 if there is none."""
    return partial.stat().st_size if partial.exists() else 0


def _read(answer) -> bytes:
    """Some bytes, none at the end or where the connection was cut."""
    try:
        return answer.read(CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial


def _fits(path: Path, remote: Remote) -> bool:
    """Whether a file has the size and the digest that were announced."""
    if remote.size is not None and path.stat().st_size != remote.size:
        return False
    if not remote.digest:
        return remote.size is not None
    is_git = len(remote.digest) == 40
    digest = hashlib.sha1(usedforsecurity=False) if is_git else hashlib.sha256()
    if is_git:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest().startswith(remote.digest)


def size(count: int | None) -> str:
    """A number of bytes for people."""
    if count is None:
        return "of unknown size"
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _headers(url: str) -> dict[str, str]:
    """Ours, with the token where it belongs and nowhere else."""
    headers = {"User-Agent": "dispose-jax", "Accept-Encoding": "identity"}
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", HUB)).netloc
    if token() and urllib.parse.urlsplit(url).netloc == endpoint:
        headers["Authorization"] = f"Bearer {token()}"
    return headers


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to another host without the token, or not at all."""

    def __init__(self, follow: bool):
        self.follow = follow

    def redirect_request(self, request, fp, code, message, headers, url):
        if not self.follow:
            return None
        onward = super().redirect_request(request, fp, code, message, headers, url)
        same = urllib.parse.urlsplit(url).netloc == urllib.parse.urlsplit(request.full_url).netloc
        if onward is not None and not same:
            onward.remove_header("Authorization")
        return onward


def _open(request: urllib.request.Request, follow: bool = True):
    return urllib.request.build_opener(_Redirects(follow)).open(request, timeout=TIMEOUT)


def _refused(url: str, error: urllib.error.HTTPError) -> ValueError:
    """What an answer of 400 and more means."""
    code = error.headers.get("X-Error-Code", "")
    if code == "GatedRepo" or error.code in (401, 403):
        return Gated(f"{url}: not without permission ({code or error.code})")
    missing = {
        "RepoNotFound": "no such repository",
        "RevisionNotFound": "no such revision in it",
        "EntryNotFound": "no such file in it",
    }
    return ValueError(f"{url}: {missing.get(code, f'the server answers {error.code}')}")
