"""A page in the browser to animate from.

python -m dispose_jax.page                                        # the bundled small model
python -m dispose_jax.page --config configs/svd.py --weights BUNDLE
python -m dispose_jax.page --weights BUNDLE --host 0.0.0.0 --auth ann:PASSWORD
"""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from dispose_jax import cli, ending, settings, weights
from dispose_jax.page import bounds, controls, worker
from dispose_jax.page.guard import Guard
from dispose_jax.page.turns import Turns
from dispose_jax.page.visitors import UPLOADS, Visitors, own_root

SHORTEST_PASSWORD = 8


def is_local(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def accounts(given: Sequence[str]) -> list[tuple[str, str]]:
    """Names and passwords of NAME:PASSWORD, or of @FILE with such lines. Raises ValueError, also
    for a name with two passwords."""
    made: dict[str, str] = {}
    for text in given:
        lines = [text]
        if text.startswith("@"):
            try:
                lines = Path(text[1:]).read_text(encoding="utf-8-sig").split()
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"--auth {text}: cannot read this file: {error}") from error
        for line in lines:
            name, _, password = line.partition(":")
            if not name or len(password) < SHORTEST_PASSWORD:
                raise ValueError(
                    f"--auth: expected NAME:PASSWORD with {SHORTEST_PASSWORD} characters or more, "
                    "or @FILE with one such line for each person"
                )
            if made.setdefault(name, password) != password:
                raise ValueError(f"--auth: {name} has two passwords; give each person one")
    return [*made.items()]


def check_place(host: str, port: int) -> None:
    """Raise ValueError with one sentence if no server can listen there, before weights are read."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        errors = [error for place in places if (error := _obstacle(*place)) is not None]
        # A name may have an address that this machine lacks beside others, as localhost has ::1.
        taken = [error for error in errors if error.errno != errno.EADDRNOTAVAIL]
        if taken or len(errors) == len(places):
            raise (taken or errors)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"--host {host} --port {port}: cannot listen there: {reason}; choose another"
        ) from error


def _obstacle(family: int, kind: int, protocol: int, _: str, address: tuple) -> OSError | None:
    """What keeps a server from one of the places of getaddrinfo."""
    try:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        return error
    return None


def main(_) -> None:
    given = flags.FLAGS
    people = accounts(given.auth or [])
    given.host = given.host.removeprefix("[").removesuffix("]")  # as in a browser's address
    if not is_local(given.host) and not people:
        raise ValueError(
            f"--host {given.host}: others can reach the page there; say who may use it with "
            "--auth NAME:PASSWORD"
        )
    check_place(given.host, given.port)
    overrides, _ = settings.take_overrides(settings.at_home(sys.argv))
    configs = controls.at_speeds(given.config, overrides)
    first = next(iter(configs.values()))
    chosen = weights.choose(given.weights, first)
    # The worker goes from folder to folder.
    folders = [f if f == weights.RANDOM else str(Path(f).resolve()) for f in chosen]
    end = ending.once(lambda *_: sys.exit(0))
    for number in ending.from_outside():
        signal.signal(number, end)
    try:
        with own_root() as root:
            os.environ["GRADIO_TEMP_DIR"] = str(root / UPLOADS)
            tempfile.tempdir = str(root)  # what the server's library leaves elsewhere goes with it
            try:
                from dispose_jax.page import layout
            except ImportError as error:
                raise ValueError(
                    "the page needs gradio: pip install 'dispose-jax[page]'"
                ) from error
            print("starting ...")
            turns = Turns(worker.serve, first, tuple(folders))
            try:
                visitors = Visitors(root, turns, layout.example_files())
                _serve(layout, layout.Page(configs, turns, visitors), people)
            finally:
                turns.close()
    finally:
        tempfile.tempdir = None


def _serve(layout, page, people: list[tuple[str, str]]) -> None:
    """Until the program is told to end."""
    from starlette.middleware import Middleware

    given = flags.FLAGS
    blocks = layout.build(page).queue(default_concurrency_limit=None, max_size=64)
    try:
        blocks.launch(
            # An address with colons stands in brackets wherever a port follows.
            server_name=f"[{given.host}]" if ":" in given.host else given.host,
            server_port=given.port,
            auth=people or None,
            max_file_size=bounds.MOST_BYTES,
            allowed_paths=[str(page.visitors.root)],
            app_kwargs={"middleware": [Middleware(Guard, visitors=page.visitors)]},
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,  # which browsers would keep
            theme=layout.THEME,
            css=layout.CSS,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ValueError(f"--host {given.host} --port {given.port}: {error}") from error
    print(f"open {blocks.local_url} in a browser; Ctrl+C ends it", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    sys.argv[0] = "dispose_jax.page"  # in messages, rather than __main__.py
    flags.DEFINE_string("config", "configs/svd.py:size=small", "Configuration file, its argument.")
    flags.DEFINE_list("weights", None, "Bundle folders, later ones win; or 'random'.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; others than this need --auth.")
    flags.DEFINE_integer("port", 7860, "Port to listen at.", 1, 65535)
    flags.DEFINE_list("auth", None, "NAME:PASSWORD of those who may use it, or @FILE with lines.")
    cli.program(main)
