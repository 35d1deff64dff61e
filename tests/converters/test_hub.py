"""A file from a server: resumed, checked, or refused; never half of it under its name."""

import hashlib
import shutil

import numpy as np
import pytest

from converters import hub
from tests.converters import hub_server

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
NAME = "a/weights.pth"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "PAUSE", 0.0)
    monkeypatch.setattr(hub, "CHUNK", 10_000)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(monkeypatch):
    with hub_server.serving({NAME: CONTENT, "small.json": b"{}"}) as (address, files):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield files


@pytest.fixture
def target(tmp_path):
    return tmp_path / "weights" / "weights.pth"


def look(revision="main", name=NAME):
    return hub.announced(hub.address("someone/model", name, revision))


def ranges(files):
    return [headers.get("Range") for method, _, headers in files.seen if method == "GET"]


def test_size_digest_and_commit_are_known_before_anything_is_fetched(server):
    remote = look()
    assert (remote.size, remote.commit) == (len(CONTENT), hub_server.COMMIT)
    assert remote.digest == hashlib.sha256(CONTENT).hexdigest()
    assert [method for method, *_ in server.seen] == ["HEAD"]


def test_a_file_is_fetched_whole_and_not_again(server, target):
    counts = []
    assert hub.fetch(look(), target, counts.append) == target
    assert target.read_bytes() == CONTENT and counts[-1] == len(CONTENT)
    hub.fetch(look(), target)
    assert ranges(server) == [None]
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


def test_a_connection_that_is_cut_goes_on_where_it_ended(server, target):
    server.cut_after = [120_000, 50_000, 1]
    hub.fetch(look(), target)
    assert target.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=120000-", "bytes=170000-", "bytes=170001-"]


def test_a_server_that_does_not_continue_sends_all_of_it_again(server, target):
    server.cut_after, server.no_ranges = [120_000], True
    hub.fetch(look(), target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_never_gets_further_is_given_up(server, target):
    server.cut_after, server.no_ranges = [120_000] * 20, True
    with pytest.raises(ValueError, match=r"0.12 MB of 0.30 MB came .*connection was cut"):
        hub.fetch(look(), target)
    assert len(ranges(server)) == 1 + hub.TRIES
    assert not target.exists()


def test_a_download_that_fails_leaves_its_part_for_the_next_run(server, target):
    server.cut_after = [100_000] + [0] * hub.TRIES
    with pytest.raises(
        ValueError, match=r"0.10 MB of 0.30 MB came .*same command again, and it goes"
    ):
        hub.fetch(look(), target)
    assert not target.exists()
    (partial,) = target.parent.iterdir()
    assert partial.stat().st_size == 100_000 and partial.name.startswith(".weights.pth.")
    server.cut_after, server.seen = [], []
    hub.fetch(look(), target)
    assert target.read_bytes() == CONTENT and ranges(server) == ["bytes=100000-"]
    assert not partial.exists()


def test_a_busy_server_is_asked_again(server, target):
    server.errors = [503, 429, 500]
    hub.fetch(look(), target)
    assert target.read_bytes() == CONTENT


def test_a_file_of_another_digest_is_removed(server, target):
    server.wrong_digest = True
    with pytest.raises(ValueError, match="not the file that was announced .*, and was removed"):
        hub.fetch(look(), target)
    assert not list(target.parent.iterdir())


def test_an_older_file_of_another_digest_is_replaced_only_by_a_good_one(server, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    server.wrong_digest = True
    with pytest.raises(ValueError):
        hub.fetch(look(), target)
    assert target.read_bytes() == b"old"
    server.wrong_digest = False
    hub.fetch(look(), target)
    assert target.read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_started_anew(server, target):
    remote = look()
    target.parent.mkdir(parents=True)
    partial = target.with_name(f".{target.name}.{remote.digest[:16]}.partial")
    partial.write_bytes(CONTENT + b"more")
    with pytest.raises(ValueError, match="was removed"):
        hub.fetch(remote, target)
    hub.fetch(remote, target)
    assert target.read_bytes() == CONTENT


def test_the_token_goes_to_the_hub_and_not_to_its_store(server, target, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("mine\n")
    with hub_server.serving({NAME: CONTENT}) as (address, store):
        server.store, server.gated = address, True
        remote = look()
        assert remote.size == len(CONTENT)
        hub.fetch(remote, target)
    assert target.read_bytes() == CONTENT
    assert all(headers.get("Authorization") == "Bearer mine" for _, _, headers in server.seen)
    assert store.seen and not any("Authorization" in headers for _, _, headers in store.seen)


def test_a_user_without_a_home_has_the_token_of_the_environment(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(hub.Path, "home", no_home)
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert hub.token() == ""
    monkeypatch.setenv("HF_TOKEN", "mine\n")
    assert hub.token() == "mine"


def test_what_may_not_or_cannot_be_had_is_told_apart(server):
    for revision, name, message in (
        ("main", "b.pth", "no such file in it"),
        ("v3", NAME, "no such revision in it"),
    ):
        with pytest.raises(ValueError, match=message):
            look(revision, name)
    assert look("v2").size == len(CONTENT)
    server.gated = True
    with pytest.raises(hub.Gated, match="not without permission"):
        look()


def test_names_with_the_first_digits_of_a_digest_are_checked_by_them(monkeypatch, target):
    digest = hashlib.sha256(CONTENT).hexdigest()[:8]
    for given in (digest, "0123abcd"):
        with hub_server.serving({f"raft-{given}.pth": CONTENT}) as (address, files):
            files.wrong_digest = True  # its ETag is no digest of ours
            remote = hub.Remote(f"{address}/resolve/main/raft-{given}.pth", None, given, "")
            if given == digest:
                hub.fetch(remote, target)
                assert target.read_bytes() == CONTENT
                shutil.rmtree(target.parent)
            else:
                with pytest.raises(ValueError, match="was removed"):
                    hub.fetch(remote, target)


def test_small_files_are_checked_as_git_counts_them(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"hello\n")
    remote = hub.Remote("http://x", 6, "ce013625030ba8dba906f756967f9e9ca394464a", "")
    assert hub._fits(path, remote)
    path.write_bytes(b"hallo\n")
    assert not hub._fits(path, remote)
