"""Visitors: each reads what is theirs, and it is deleted when they leave."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from dispose_jax.page import messages, visitors
from dispose_jax.page.turns import State
from dispose_jax.page.visitors import Visitors


class Turns:
    """Notes what is cancelled."""

    def __init__(self):
        self.cancelled = []

    def cancel(self, turn):
        self.cancelled.append(turn)

    def await_end(self, turn):
        turn.state = State(messages.CANCELLED)


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def shared(tmp_path):
    path = tmp_path / "assets" / "reference.png"
    path.parent.mkdir()
    path.write_text("for all")
    return path


@pytest.fixture
def place(tmp_path, turns, shared):
    (tmp_path / "root").mkdir()
    return Visitors(tmp_path / "root", turns, [shared])


def upload(place, visitor, name, content="x"):
    """A file that lies where uploads do."""
    path = place.root / "uploads" / name / "a.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    place.uploaded(visitor, [str(path)])
    return path


def test_everybody_reads_their_own_files_and_the_shared_ones(place, shared):
    own = place.session("ann", "1").folder / "animation.mp4"
    own.write_text("video")
    up = upload(place, "ann", "hash")
    place.session("bob", "2")
    for path in (own, up, shared):
        assert place.may_read("ann", path)
    assert [place.may_read("bob", path) for path in (own, up, shared)] == [False, False, True]
    assert not place.may_read("", own)


@pytest.mark.parametrize("path", ["/etc/passwd", "x\0y", "", "uploads", "../secret"])
def test_nobody_reads_anything_else(place, path):
    place.session("ann", "1")
    assert not place.may_read("ann", path)


def test_ways_round_do_not_lead_to_another_s_files(place):
    ann, bob = place.session("ann", "1").folder, place.session("bob", "2").folder
    (ann / "a.mp4").write_text("video")
    assert not place.may_read("bob", f"{bob}/../{ann.name}/a.mp4")
    (bob / "link").symlink_to(ann / "a.mp4")
    assert not place.may_read("bob", bob / "link")
    assert place.may_read("ann", f"{bob}/../{ann.name}/a.mp4")


def test_leaving_deletes_the_folder_and_the_uploads(place):
    session, up = place.session("ann", "1"), upload(place, "ann", "hash")
    place.leave("1")
    assert not session.folder.exists() and not up.exists() and not up.parent.exists()
    assert not place.may_read("ann", up)
    place.leave("1")  # once more is no mistake


def test_uploads_stay_while_another_page_of_the_browser_is_open(place):
    up = upload(place, "ann", "hash")
    place.session("ann", "1"), place.session("ann", "2")
    place.leave("1")
    assert up.exists()
    place.leave("2")
    assert not up.exists()


def test_what_two_uploaded_stays_until_both_left(place):
    place.session("ann", "1"), place.session("bob", "2")
    up = upload(place, "ann", "hash")
    assert upload(place, "bob", "hash") == up
    place.leave("1")
    assert place.may_read("bob", up) and up.exists() and not place.may_read("ann", up)


def test_a_page_that_connects_again_keeps_its_files(place):
    assert place.enter("ann", "1") and place.enter("ann", "1")
    folder = place.session("ann", "1").folder
    place.leave("1")
    assert folder.exists()
    place.leave("1")
    assert not folder.exists()


def test_leaving_cancels_the_turn_and_waits_for_its_end(place, turns):
    session = place.session("ann", "1")
    session.turn = SimpleNamespace(state=State())
    assert session.is_at_work
    place.leave("1")
    assert turns.cancelled == [session.turn] and not session.is_at_work


def test_a_page_belongs_to_one_browser(place):
    place.session("ann", "1")
    with pytest.raises(ValueError, match="belongs to another browser; reload it"):
        place.session("bob", "1")
    assert not place.enter("bob", "1")


def test_a_borrowed_file_keeps_its_name_in_a_folder_of_its_kind(place):
    session = place.session("ann", "1")
    for name in ("hash", "other"):
        path = place.lend(session, "driving", upload(place, "ann", name, name))
        assert str(path) == "driving/a.png"
        assert (session.folder / path).read_text() == name
    assert len(list((session.folder / "driving").iterdir())) == 1


def test_no_room_for_a_session_is_one_sentence(place):
    place.root.rmdir()
    assert place.enter("ann", "1")
    with pytest.raises(OSError, match="no place for your files: No such file or directory"):
        place.session("ann", "1")


def test_a_page_that_asks_nothing_as_before_a_login_has_no_folder(place):
    assert place.enter("ann", "1") and not list(place.root.iterdir())
    assert place.session("ann", "1").folder.is_dir()


def test_uploads_of_a_visitor_are_bounded_with_those_that_are_still_coming_in(place, monkeypatch):
    monkeypatch.setattr(visitors, "MOST_BYTES", 3 * 2**20)
    upload(place, "ann", "hash", "x" * 2**20)
    with place.receiving("ann", 2**20), place.receiving("bob", 3 * 2**20):
        with pytest.raises(visitors.TooMuch, match="2 MiB were uploaded .* and 2 MiB .* 3 MiB"):
            with place.receiving("ann", 2 * 2**20):
                pass
        with place.receiving("ann", 2**20):
            pass
    with place.receiving("ann", 2 * 2**20):  # the one that came in has ended
        pass


def test_uploads_find_room_on_the_disk_beside_those_that_are_still_coming_in(place, monkeypatch):
    disk = SimpleNamespace(total=4000, free=2000)
    monkeypatch.setattr(visitors.shutil, "disk_usage", lambda path: disk)
    with place.receiving("ann", 1500):
        with pytest.raises(OSError, match="No space left on device"):
            with place.receiving("bob", 600):
                pass
    with place.receiving("bob", 600):
        pass


def test_what_an_upload_that_broke_off_left_is_deleted(place):
    kept = upload(place, "ann", "hash")
    half, refused = place.root / "uploads" / "tmp1", place.root / "uploads" / "other" / "b.png"
    with pytest.raises(ConnectionError), place.receiving("ann", 10):
        half.write_text("half")
        refused.parent.mkdir()
        refused.write_text("beside one with an impossible name")
        (place.root / "uploads" / "third").mkdir()  # of that one
        raise ConnectionError
    assert list((place.root / "uploads").iterdir()) == [kept.parent] and kept.exists()


def test_an_upload_that_ends_leaves_those_alone_that_are_still_coming_in(place):
    with place.receiving("ann", 10):
        (place.root / "uploads").mkdir()
        half = place.root / "uploads" / "tmp1"
        with place.receiving("bob", 10):
            half.write_text("half")
        assert half.exists()
    assert not half.exists() and half.parent.exists(), "the next one is written there"


def test_only_files_below_the_root_are_taken_for_uploads(place, tmp_path):
    (tmp_path / "secret").write_text("x")
    place.uploaded("ann", [str(tmp_path / "secret"), f"{place.root}/../secret"])
    assert not place.may_read("ann", tmp_path / "secret")


def test_what_was_left_without_a_word_is_swept_up(place, monkeypatch):
    gone, open_one = place.session("ann", "1"), place.session("bob", "2")
    place.enter("bob", "2")
    up, kept = upload(place, "cid", "hash"), upload(place, "bob", "other")
    later = time.monotonic() + visitors.IDLE + 1
    monkeypatch.setattr(visitors.time, "monotonic", lambda: later)
    place.session("dan", "3")
    assert not gone.folder.exists() and not up.exists()
    assert open_one.folder.exists() and kept.exists()


HOLDING = """
import tempfile, time
from dispose_jax.page import visitors

tempfile.tempdir = FOLDER
with visitors.own_root() as root:
    print(root.name, flush=True)
    time.sleep(60)
"""


def test_folders_of_killed_processes_are_deleted_and_others_are_left(tmp_path, monkeypatch):
    """Whatever their numbers, which are the same in every container."""
    monkeypatch.setattr(visitors.tempfile, "tempdir", str(tmp_path))
    command = [sys.executable, "-c", HOLDING.replace("FOLDER", repr(str(tmp_path)))]
    (tmp_path / "dispose_jax_page_text").write_text("no folder")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        theirs = tmp_path / other.stdout.readline().strip()
        with visitors.own_root() as root:
            assert root.parent == tmp_path and (root.stat().st_mode & 0o777) == 0o700
            assert root != theirs and theirs.is_dir()
        assert not root.exists()
        other.kill()
    assert theirs.is_dir()
    with visitors.own_root():
        assert not theirs.exists()
