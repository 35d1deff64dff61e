"""The layer in front of the server, with a server that only notes what reaches it."""

import asyncio
import json
from contextlib import contextmanager

import pytest

from dispose_jax.page.guard import COOKIE, Guard, visitor_of
from dispose_jax.page.visitors import TooMuch

ANN, BOB = "a" * 43, "b" * 43


class Visitors:
    """Ann owns /files/ann, everybody has 5 MB."""

    def __init__(self):
        self.taken, self.here, self.coming = [], [], []

    def may_read(self, visitor, path):
        return (visitor, path) == (ANN, "/files/ann")

    @contextmanager
    def receiving(self, visitor, size):
        if size > 5_000_000:
            raise TooMuch("5 MB at most")
        self.coming.append((visitor, size))
        yield
        self.coming.remove((visitor, size))

    def uploaded(self, visitor, paths):
        self.taken.append((visitor, paths))

    def enter(self, visitor, name):
        self.here.append(name)
        return True

    def leave(self, name):
        self.here.remove(name)


@pytest.fixture
def people():
    return Visitors()


@pytest.fixture
def ask(people):
    """ask(path, visitor) -> status, headers, body, and whether the server was reached."""

    def ask(path, visitor="", query="", body=b"[]", status=200, fails=None, **headers):
        reached, sent = [], []

        async def app(scope, receive, send):
            reached.append((scope["path"], *people.coming))
            if fails:
                raise fails
            await send({"type": "http.response.start", "status": status, "headers": []})
            half = len(body) // 2
            await send({"type": "http.response.body", "body": body[:half], "more_body": True})
            await send({"type": "http.response.body", "body": body[half:]})

        async def send(message):
            sent.append(message)

        given = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        if visitor:
            given.append((b"cookie", f"other=1; {COOKIE}={visitor}".encode()))
        scope = {"type": "http", "path": path, "headers": given, "query_string": query.encode()}

        async def run():
            await Guard(app, people)(scope, None, send)
            await asyncio.get_running_loop().shutdown_default_executor()

        asyncio.run(run())
        content = b"".join(message.get("body", b"") for message in sent)
        ask.reached = reached
        return sent[0]["status"], dict(sent[0]["headers"]), content, bool(reached)

    return ask


def test_a_browser_without_a_cookie_gets_one_on_the_page_alone(ask):
    cookie = ask("/")[1][b"set-cookie"].decode()
    assert "HttpOnly" in cookie and "SameSite" in cookie
    assert len(visitor_of(cookie)) == 43
    assert ask("/")[1][b"set-cookie"] != cookie.encode()
    assert b"set-cookie" not in ask("/", ANN)[1]
    assert b"set-cookie" not in ask("/config")[1]


@pytest.mark.parametrize("header", ["", "a", f"{COOKIE}=", f"{COOKIE}=../../x", f'{COOKIE}="a b"'])
def test_only_cookies_of_ours_name_a_visitor(header):
    assert visitor_of(header) == ""


@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/file="])
def test_files_are_given_to_their_owner_alone(ask, route):
    assert ask(f"{route}/files/ann", ANN)[0] == 200
    for visitor in (BOB, ""):
        status, _, body, reached = ask(f"{route}/files/ann", visitor)
        assert (status, reached) == (404, False)
        assert "not one of yours" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/gradio_api/proxy=http://x", ""),
        ("/gradio_api/deep_link", "session_hash=1"),
        ("/", "deep_link=a"),
        ("/gradio_api/process_recording", ""),
        ("/gradio_api/vibe-code/", ""),
        ("/gradio_api/stream/x/1/2/playlist.m3u8", ""),
    ],
)
def test_other_ways_to_files_are_closed(ask, path, query):
    assert ask(path, ANN, query)[::3] == (404, False)


def test_uploads_are_noted_as_whose_they_are(ask, people):
    body = b'["/files/x/a.png"]'
    status, _, sent, _ = ask("/gradio_api/upload", ANN, body=body, content_length=b"5000")
    assert (status, sent) == (200, body)
    assert people.taken == [(ANN, ["/files/x/a.png"])]
    assert ask.reached == [("/gradio_api/upload", (ANN, 5000))] and not people.coming


def test_refused_uploads_are_nobody_s(ask, people):
    ask("/gradio_api/upload", ANN, body=b"too large", status=413, content_length=b"5")
    ask("/gradio_api/upload", ANN, body=b"no json", content_length=b"5")
    assert not people.taken


@pytest.mark.parametrize(
    ("visitor", "length", "status"),
    [("", b"5", 403), (ANN, b"90000000", 413), (ANN, b"", 411), (ANN, b"-5", 411)],
)
def test_what_is_too_much_or_nobody_s_does_not_reach_the_server(ask, visitor, length, status):
    found = ask("/gradio_api/upload", visitor, content_length=length)
    assert found[::3] == (status, False)


def test_a_page_closed_while_it_uploads_is_no_defect_and_any_other_end_is(people):
    headers = [(b"cookie", f"{COOKIE}={ANN}".encode()), (b"content-length", b"5")]
    scope = {"type": "http", "path": "/gradio_api/upload", "headers": headers, "query_string": b""}

    async def reading(scope, receive, send):
        message = await receive()
        raise RuntimeError(message["type"])

    async def closed():
        return {"type": "http.disconnect"}

    async def part():
        return {"type": "http.request", "body": b"x", "more_body": True}

    asyncio.run(Guard(reading, people)(scope, closed, None))
    with pytest.raises(RuntimeError, match="http.request"):
        asyncio.run(Guard(reading, people)(scope, part, None))


def test_a_full_disk_is_told(ask, people):
    full = OSError(28, "No space left on device")
    status, _, body, _ = ask("/gradio_api/upload", ANN, fails=full, content_length=b"5")
    assert status == 507 and "No space left on device" in json.loads(body)["detail"]
    assert not people.taken


def test_a_page_is_there_while_its_connection_stands(ask, people, monkeypatch):
    seen = []
    enter = people.enter
    monkeypatch.setattr(people, "enter", lambda *who: seen.append(who) or enter(*who))
    ask("/gradio_api/heartbeat/abc", ANN)
    assert seen == [(ANN, "abc")] and people.here == []


def test_everything_else_passes(ask):
    assert ask("/gradio_api/queue/join", BOB)[3] and ask("/assets/x.js")[3]
