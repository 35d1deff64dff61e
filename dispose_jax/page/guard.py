"""In front of the server: gives every browser a cookie, and keeps each to its own files (ASGI).

Also told here: which page was opened and closed, and who uploaded what.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from dispose_jax.page.visitors import TooMuch, Visitors

COOKIE = "dispose_jax_visitor"
WORD = re.compile(r"[A-Za-z0-9_-]{32,64}")  # that is a cookie of ours
FILE = re.compile(r"/file[=/](.*)", re.DOTALL)
HEARTBEAT = re.compile(r"/heartbeat/([^/]+)/?")
UPLOAD = re.compile(r"/upload/?")
API = "/gradio_api"
# Whatever else the server's library offers there, such as recording, would take files past us.
OFFERED = re.compile(
    r"/(app_id|cancel|info|login_check|reset|startup-events|token|upload_progress|user"
    r"|queue/(join|data)|(api|call|run)/.*)/?"
)


def visitor_of(cookie: str) -> str:
    """The visitor that a Cookie header names; empty if none."""
    try:
        found = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found and WORD.fullmatch(found.value) else ""


class Guard:
    """The server's outermost layer. app: the rest of it."""

    def __init__(self, app, visitors: Visitors):
        self.app, self.visitors = app, visitors

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        visitor = visitor_of(headers.get(b"cookie", b"").decode("latin-1"))
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        inner = path.removeprefix(API)
        if path in ("", "/") and not visitor:
            await self.app(scope, receive, _with_cookie(send))
        elif match := FILE.fullmatch(inner):
            if self.visitors.may_read(visitor, match[1]):
                await self.app(scope, receive, send)
            else:
                await _refuse(send, 404, "no such file, or not one of yours")
        elif inner.startswith(("/proxy=", "/deep_link")) or b"deep_link" in parse_qs(
            scope["query_string"]
        ):
            await _refuse(send, 404, "not offered here")
        elif UPLOAD.fullmatch(inner):
            await self._upload(visitor, headers, scope, receive, send)
        elif match := HEARTBEAT.fullmatch(inner):
            await self._stay(visitor, match[1], scope, receive, send)
        elif path != inner and not OFFERED.fullmatch(inner):
            await _refuse(send, 404, "not offered here")
        else:
            await self.app(scope, receive, send)

    async def _upload(self, visitor: str, headers, scope, receive, send) -> None:
        """Let a file in if there is room for it, and remember whose it is."""
        length = headers.get(b"content-length", b"")
        if not visitor:
            await _refuse(send, 403, "this page needs cookies; allow them and reload it")
            return
        if not length.isdigit():
            await _refuse(send, 411, "an upload that does not say how long it is; send its length")
            return
        body, status, gone = bytearray(), 0, False

        async def coming():
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def noting(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                body.extend(message.get("body", b""))
                if status == 200 and not message.get("more_body"):
                    with suppress(ValueError):
                        paths = [p for p in json.loads(body) if isinstance(p, str)]
                        self.visitors.uploaded(visitor, paths)
            await send(message)

        try:
            with self.visitors.receiving(visitor, int(length)):
                await self.app(scope, coming, noting)
        except TooMuch as error:
            await _refuse(send, 413, str(error))
        except OSError as error:
            if status:
                raise
            await _refuse(send, 507, f"no place for this file: {error.strerror}; free space there")
        except Exception:
            if not gone:  # a page that is closed in the middle is no defect
                raise

    async def _stay(self, visitor: str, name: str, scope, receive, send) -> None:
        """The connection that a page holds while it is open."""
        opened = bool(visitor) and self.visitors.enter(visitor, name)
        try:
            await self.app(scope, receive, send)
        finally:
            if opened:
                # It may wait for the worker, which the server shall not do.
                asyncio.get_running_loop().run_in_executor(None, self.visitors.leave, name)


def _with_cookie(send):
    """send, with a cookie for a browser that has none."""
    value = secrets.token_urlsafe(32)
    cookie = f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax".encode()

    async def sending(message) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], (b"set-cookie", cookie)]}
        await send(message)

    return sending


async def _refuse(send, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
