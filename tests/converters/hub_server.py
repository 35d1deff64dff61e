"""A server on the loopback that behaves like the hub's: announces sizes and digests, sends on to a
store, continues ranges, and fails as connections do."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c" * 40


class Files:
    """What a server holds and how it misbehaves; `seen`: the requests (method, path, headers)."""

    def __init__(self, content):
        self.content = content  # {path below the repository's revision: bytes}
        self.store = None  # address of another server that the files come from
        self.cut_after = []  # bytes after which the next answers end
        self.wrong_digest = self.gated = self.no_ranges = False
        self.errors = []  # status codes of the next answers to GET
        self.seen = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        files = self.server.files
        files.seen.append((self.command, self.path, dict(self.headers)))
        _, _, rest = self.path.partition("/resolve/")
        revision, _, name = unquote(rest).partition("/")
        content = files.content.get(name)
        if files.gated and self.headers.get("Authorization") != "Bearer mine":
            return self.refuse(401, "GatedRepo")
        if content is None or revision not in ("main", "v2", "store"):
            return self.refuse(404, "RevisionNotFound" if content else "EntryNotFound")
        if send and files.errors:
            return self.refuse(files.errors.pop(0), "")
        digest = hashlib.sha256(content).hexdigest()
        digest = "0" * 64 if files.wrong_digest else digest
        if files.store:
            self.send_response(302)
            self.send_header("X-Linked-Size", len(content))
            self.send_header("X-Linked-ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Location", f"{files.store}/resolve/store/{name}")
            self.send_header("Content-Length", 0)
            return self.end_headers()
        start = 0
        if "Range" in self.headers and not files.no_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.refuse(416, "")
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", len(content) - start)
        self.end_headers()
        if send:
            end = len(content)
            if files.cut_after:
                end = min(end, start + files.cut_after.pop(0))
                self.close_connection = True
            self.wfile.write(content[start:end])

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", 0)
        self.end_headers()


@contextmanager
def serving(content):
    """(address, Files) of a server with some files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files = Files(content)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
