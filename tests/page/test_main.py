"""The command: who may reach the page, and one sentence for what is wrong with a flag."""

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dispose_jax.page import __main__ as command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.0.0.2", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("", False),
    ],
)
def test_only_this_machine_reaches_a_local_address(host, local):
    assert command.is_local(host) == local


def test_accounts_are_given_or_read_from_a_file(tmp_path):
    (tmp_path / "people").write_text("\ufeffbob:pass:word\n\ncid:12345678\n", encoding="utf-8")
    assert command.accounts(["ann:12345678", f"@{tmp_path}/people"]) == [
        ("ann", "12345678"),
        ("bob", "pass:word"),
        ("cid", "12345678"),
    ]


@pytest.mark.parametrize("text", ["ann", "ann:", "ann:short", ":12345678", "", "@absent"])
def test_accounts_without_a_name_or_a_password_are_refused(text):
    with pytest.raises(ValueError, match="^--auth"):
        command.accounts([text])


def test_a_name_has_one_password(tmp_path):
    (tmp_path / "people").write_text("ann:87654321\n", encoding="utf-8")
    assert command.accounts(["ann:12345678", "ann:12345678"]) == [("ann", "12345678")]
    with pytest.raises(ValueError, match="^--auth: ann has two passwords"):
        command.accounts(["ann:12345678", f"@{tmp_path}/people"])


def test_a_place_where_nothing_can_listen_is_told_before_weights_are_read():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--host 127.0.0.1 --port {port}: cannot listen ther"):
            command.check_place("127.0.0.1", port)
    command.check_place("127.0.0.1", port)
    with pytest.raises(ValueError, match="--host 192.0.2.1 --port 7860: cannot listen there"):
        command.check_place("192.0.2.1", 7860)  # of no machine


def test_of_a_name_with_several_addresses_those_that_are_here_count(monkeypatch):
    kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    found = [(*kind, ("192.0.2.1", 0)), (*kind, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    command.check_place("name", 7860)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found[1] = (*kind, taken.getsockname())
        with pytest.raises(ValueError, match="--host name --port 7860: .*in use"):
            command.check_place("name", 7860)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_is_taken_as_browsers_write_it(monkeypatch, host):
    def checked(host, port):
        raise ValueError(f"asked for {host} {port}")

    given = SimpleNamespace(host=host, port=7860, auth=None)
    monkeypatch.setattr(command, "flags", SimpleNamespace(FLAGS=given))
    monkeypatch.setattr(command, "check_place", checked)
    with pytest.raises(ValueError, match="^asked for ::1 7860$"):
        command.main(None)


@pytest.mark.parametrize(("host", "named"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
def test_an_address_with_colons_stands_in_brackets_before_a_port(monkeypatch, host, named):
    pytest.importorskip("starlette")
    launched = {}
    blocks = SimpleNamespace(
        queue=lambda **_: blocks,
        launch=lambda **options: launched.update(options),
        local_url="",
        block_thread=lambda: None,
    )
    layout = SimpleNamespace(build=lambda page: blocks, THEME=None, CSS="")
    page = SimpleNamespace(visitors=SimpleNamespace(root=Path("here")))
    given = SimpleNamespace(FLAGS=SimpleNamespace(host=host, port=7860))
    monkeypatch.setattr(command, "flags", given)
    command._serve(layout, page, [])
    assert launched["server_name"] == named


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host=0.0.0.0"], "others can reach the page there; say who may use it with --auth"),
        (["--auth=ann:x"], "expected NAME:PASSWORD with 8 characters or more"),
        (["--weights=/absent"], "/absent: no such folder"),
        (["--config=configs/svd.py"], "needs --weights"),
        (["--port=0"], "port"),
    ],
)
@pytest.mark.full
def test_mistakes_end_it_with_one_sentence(flags, said):
    pytest.importorskip("gradio", reason="gradio is not installed (extra: page)")
    ran = subprocess.run(
        [sys.executable, "-m", "dispose_jax.page", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode in (1, 2) and said in ran.stderr
    assert "Traceback" not in ran.stderr


def test_nothing_but_the_layout_needs_gradio():
    for path in (ROOT / "dispose_jax").rglob("*.py"):
        if path.name != "layout.py":
            names = [
                alias.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            ]
            assert "gradio" not in names, path
