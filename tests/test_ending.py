"""Commands that read their own flags end as the others do, whatever names they print."""

import importlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "converters/convert.py",
    "converters/download.py",
    "dispose_jax/pose/extract.py",
    "dispose_jax/correspondence/query.py",
)
LONG = """
import time
from pathlib import Path
from dispose_jax import ending
from dispose_jax.media import output

def main():
    with output.replacing(WHERE) as place:
        Path(place).write_bytes(b"half")
        print("begun caf\\udce9")
        time.sleep(30)

raise SystemExit(ending.status_of(main))
"""

WORKING = """
import multiprocessing, os, signal, time
from dispose_jax import ending

def work(pipe):
    ending.follow_parent()
    pipe.send(os.getpid())
    pipe.recv()
    pipe.send("still here")
    time.sleep(30)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs,), daemon=True)
    worker.start()
    number = ours.recv()
    for told in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(number, told)
    ours.send("go on")
    print(number, ours.recv(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_no_half_file(tmp_path, number):
    program = LONG.replace("WHERE", repr(str(tmp_path / "a.txt")))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as run:
        assert run.stdout.readline() == b"begun caf\\udce9\n"  # said while it goes on
        run.send_signal(number)
        assert run.wait(20) == 130
        assert run.stderr.read() == b"error: interrupted\n"
    assert not [*tmp_path.iterdir()]


TWICE = """
import os, signal, time
from pathlib import Path
from dispose_jax import ending

def main():
    half = Path(WHERE, "half")
    half.touch()
    try:
        os.kill(os.getpid(), FIRST)
        time.sleep(30)
    finally:
        os.kill(os.getpid(), SECOND)
        time.sleep(0.1)  # what puts things in order takes a while
        half.unlink()

raise SystemExit(ending.status_of(main))
"""


@pytest.mark.usefixtures("foreground")
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_second_signal_finds_being_put_in_order_is(tmp_path, first, second):
    """As of a login that ends, with SIGTERM and SIGHUP, and of `timeout`, with SIGTERM twice."""
    program = TWICE.replace("WHERE", repr(str(tmp_path)))
    program = program.replace("FIRST", str(int(first))).replace("SECOND", str(int(second)))
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30)
    assert run.returncode == 130
    assert not [*tmp_path.iterdir()]


IN_TERMINAL = """
import fcntl, os, signal, termios, time
from pathlib import Path
from dispose_jax import ending

def main():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal of this session
    print("begun")
    Path(WHERE, "half").touch()
    try:
        time.sleep(30)
    finally:
        print("nobody hears this")
        Path(WHERE, "half").unlink()
        Path(WHERE, "end").touch()
    return 0

raise SystemExit(ending.status_of(main))
"""


@pytest.mark.usefixtures("foreground")
def test_a_command_whose_terminal_is_closed_ends_as_by_ctrl_c(tmp_path):
    terminal, inside = pty.openpty()
    command = [sys.executable, "-c", IN_TERMINAL.replace("WHERE", repr(str(tmp_path)))]
    streams = {"stdin": inside, "stdout": inside, "stderr": inside}
    run = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    os.close(inside)
    end = time.monotonic() + 20
    while not (tmp_path / "half").exists():
        assert time.monotonic() < end and run.poll() is None
        time.sleep(0.05)
    os.close(terminal)
    assert run.wait(20) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["end"]


def test_a_command_after_nohup_goes_on_without_its_terminal(tmp_path):
    program = LONG.replace("WHERE", repr(str(tmp_path / "a.txt"))).replace("30", "1")
    command = ["nohup", sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as run:
        assert run.stdout.readline() == b"begun caf\\udce9\n"
        run.send_signal(signal.SIGHUP)
        assert run.wait(20) == 0
    assert (tmp_path / "a.txt").read_bytes() == b"half"


UNHEARD = """
import sys
from pathlib import Path
from dispose_jax import ending

def main():
    for i in range(3):
        for stream in (sys.stdout, sys.stderr):
            print("said", i, file=stream)
    Path(WHERE).write_text("whole")
    return 0

sys.exit(ending.status_of(main))
"""


@pytest.mark.parametrize("joined", ["", "2>&1"])
def test_a_command_whose_reader_has_gone_ends_its_work(tmp_path, joined):
    """As of `| head`."""
    program = UNHEARD.replace("WHERE", repr(str(tmp_path / "a.txt")))
    pipe = f'("$@" {joined}; echo $? > {tmp_path / "status"}) | :'
    command = ["sh", "-c", pipe, "sh", sys.executable, "-c", "input()\n" + program]
    # It begins to speak when `:` has ended.
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        time.sleep(0.5)
        _, heard = run.communicate(b"\n")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert (tmp_path / "status").read_text() == "0\n"
    assert heard.decode() == ("" if joined else "said 0\nsaid 1\nsaid 2\n")


def test_a_process_that_works_for_another_ends_with_it_and_not_before(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WORKING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], env=environment, stdout=subprocess.PIPE)
    number, _, said = done.stdout.decode().partition(" ")
    assert done.returncode == -signal.SIGKILL and said == "still here\n"
    end = time.monotonic() + 10
    while _is_alive(int(number)):
        assert time.monotonic() < end, "it goes on though nobody needs it"
        time.sleep(0.05)


KILLED = """
import os, time
from dispose_jax import ending

if __name__ == "__main__":
    pool = ending.workers(2)
    list(pool.map(abs, range(8)))  # both have started and are watched
    busy, killed = pool.submit(time.sleep, 60), pool.submit(os._exit, 1)
    print(type(killed.exception()).__name__, type(busy.exception()).__name__)
    pool.shutdown()
"""


def test_one_process_of_several_that_is_killed_ends_the_others(tmp_path):
    """Though they do not hear SIGTERM, by which the pool ends them."""
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, program]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=40)
    assert done.stdout.split() == [b"BrokenProcessPool"] * 2 and done.returncode == 0


def _is_alive(number: int) -> bool:
    """Whether there is such a process, other than one that has ended and is only listed."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True)
    return found.stdout.strip() not in ("", "Z")


@pytest.mark.parametrize("path", COMMANDS)
def test_commands_end_so(path):
    last = (ROOT / path).read_text(encoding="utf-8").splitlines()[-1]
    assert last.strip() == "sys.exit(ending.status_of(main))"


@pytest.mark.parametrize(
    "module, flag, arguments",
    [
        ("converters.download", "--to", ["--to="]),
        ("converters.convert", "folder", ["check", ""]),
        ("converters.convert", "--from", ["to-flax", "--from", "", "--to", "x"]),
        ("converters.convert", "--to", ["to-torch", "--from", "x", "--to", ""]),
        ("dispose_jax.pose.extract", "--weights", ["a.mp4", "--weights="]),
        ("dispose_jax.pose.extract", "VIDEO|PICTURE", ["", "--weights=x"]),
        ("dispose_jax.correspondence.query", "--weights", ["a", "1,1", "b", "--weights="]),
    ],
)
def test_an_empty_value_does_not_stand_for_the_folder_where_one_is(
    module, flag, arguments, capsys, tmp_path, monkeypatch
):
    """As of a shell's variable that is not set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(module).main(arguments)
    assert f"argument {flag}: is empty: give it a value, or leave it out" in capsys.readouterr().err


def test_a_folder_whose_name_is_no_text_is_looked_into(tmp_path):
    """Though Python cannot print such a name as it is."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    command = [sys.executable, "-m", "converters.convert", "check", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert b"next: python -m converters.download --to" in done.stdout
    assert b"caf\\udce9" in done.stdout and not done.stderr


@pytest.mark.parametrize("arguments", [["-m", "converters.download", "--to=x"], ["sample.py"]])
def test_a_command_needs_nobody_to_speak_to(arguments):
    command = ["sh", "-c", '"$@" >&-', "sh", sys.executable, *arguments, "--nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing" in done.stderr  # as with somebody
    assert "Traceback" not in done.stderr
