"""Files written whole or not at all: what processes that were killed left, and names of others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dispose_jax.media import output

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dead():
    """The number of a process that has ended."""
    return subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip()


def forget(*paths):
    """As if nothing had been written to them for long."""
    for path in paths:
        os.utime(path, (0, 0))


KILLED = """
import os, signal
from pathlib import Path
from dispose_jax.media import output
with output.replacing_folder("b") as folder, output.replacing("a.bin") as place:
    place.touch()
    (folder / "part").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="only Linux tells")
def test_what_a_killed_process_of_this_machine_left_is_removed_at_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and left[0].startswith(".a.") and left[1].startswith(".b.partial-")
    # Of a process that lives, and of one of our number before us.
    rest = left[0].partition("-")[2]
    busy, before = (tmp_path / f".a.{n}-{rest}" for n in (os.getppid(), os.getpid()))
    busy.touch(), before.touch()
    output.write_bytes(tmp_path / "a.bin", b"1")
    with output.replacing_folder(tmp_path / "b"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a.bin", "b", busy.name}


@pytest.mark.parametrize("hidden", ["boot_id", "pid"])
def test_a_system_that_does_not_tell_which_it_is_counts_as_another_each_time(monkeypatch, hidden):
    """As in containers that hide it, whose names and numbers of processes may be the same."""
    read = {"boot_id": (Path, "read_text"), "pid": (os, "readlink")}[hidden]

    def refuse(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(*read, refuse)
    assert len({output._system() for _ in range(3)}) == 3


def test_what_a_killed_process_left_is_removed_when_the_file_is_written_again(tmp_path, dead):
    """One of another machine or container, whose processes are not known here."""
    left = [tmp_path / f".a.{number}-0123abcd-4567abcd.bin" for number in (dead, f"{dead}0000000")]
    others = [f".b.{dead}-0123abcd-4567abcd.bin", ".a.mine.bin", f".a.{dead}-0123abcd-4567abcd.txt"]
    others = [tmp_path / name for name in others]
    for path in (*left, *others):
        path.touch()
    output.write_bytes(tmp_path / "a.bin", b"1")
    assert all(path.exists() for path in left), "one may be written at this moment, elsewhere"
    forget(*left, *others)
    output.write_bytes(tmp_path / "a.bin", b"2")
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_hidden_files_and_folders_of_the_users_own_stay(tmp_path, dead):
    """Dated copies above all, whose names begin with a number."""
    names = (f".a.{dead}-05-01.json", f".a.{dead}.json", ".a.2023-backup.json", f".b.{dead}-kept")
    own = [tmp_path / name for name in names]
    for folder in own[2:]:
        folder.mkdir()
        (folder / "kept").touch()
        forget(folder / "kept")
    for path in own[:2]:
        path.touch()
    forget(*own)
    output.write_bytes(tmp_path / "a.json", b"{}")
    output.write_bytes(tmp_path / "b", b"1")
    assert all(path.exists() for path in own)


def test_what_a_process_of_our_number_left_in_another_container_is_removed(tmp_path):
    left = tmp_path / f".a.{os.getpid()}-0123abcd-4567abcd.bin"
    left.touch()
    forget(left)
    output.write_bytes(tmp_path / "a.bin", b"1")
    assert not left.exists()


NAME = "from pathlib import Path; from dispose_jax.media import output; import os\n"
NAME += "os.getpid = lambda: 1; print(output.temporary(Path('a.bin')))"


def test_processes_of_equal_numbers_write_to_files_of_their_own():
    """As of two containers that share a folder: the first process of each is 1."""
    command = [sys.executable, "-c", NAME]
    names = {subprocess.run(command, capture_output=True, text=True).stdout for _ in range(2)}
    assert len(names) == 2 and all(name.startswith(".a.1-") for name in names)


def test_a_folder_that_a_killed_process_left_is_removed_when_it_is_made_again(tmp_path, dead):
    left = tmp_path / f".a.partial-{dead}-0123abcd-4567abcd"
    busy = tmp_path / f".a.partial-{dead}-0123abcd-89ababcd"
    for folder in (left, busy):
        folder.mkdir()
        (folder / "part").touch()
    forget(left / "part", left, busy)  # another machine still writes to a file in the other
    with output.replacing_folder(tmp_path / "a"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a", busy.name}


def test_a_link_to_a_folder_stays_and_leads_to_the_new_one(tmp_path):
    """As of somebody who keeps weights on a larger disk."""
    (tmp_path / "disk" / "here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "here")
    with output.replacing_folder(tmp_path / "link") as partial:
        assert partial.parent == tmp_path / "disk"
        (partial / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "here").iterdir()] == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}


def test_what_no_folder_can_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="file is no folder that can be written to"):
        output.prepare_folder(tmp_path / "file" / "new" / "deep")
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path / "mine")
    with pytest.raises(ValueError, match="new: .*mine is no folder that can be written to"):
        output.prepare_folder(tmp_path / "mine" / "deep" / "new")
    # As of a container, to which a folder is given.
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "mine")
    with pytest.raises(ValueError, match="mine: is the root of a disk.*such as .*mine/new"):
        with output.replacing_folder(tmp_path / "mine"):
            pytest.fail("the work began")
    assert output.prepare_folder(tmp_path / "other" / "new") == tmp_path / "other" / "new"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "mine"}
