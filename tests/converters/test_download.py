"""The downloader: explicit, states sizes and licences, explains what stops it."""

import json
import shutil
from types import SimpleNamespace

import pytest

from converters import convert, doctor, download, hub, releases
from dispose_jax.pose import dwpose
from tests.converters import hub_server


@pytest.fixture(autouse=True)
def no_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def served(monkeypatch):
    """The hub on the loopback: every file that any base asks for, its name as content."""
    every = [row for row in releases.RELEASES if row.repository]
    content = {row.remote: row.remote.encode() * 20 for row in every}
    content |= {name: name.encode() for name in dwpose.RELEASED_AS.values()}
    with hub_server.serving(content) as (address, files):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield files


def fetched(files):
    return [path for method, path, _ in files.seen if method == "GET"]


def test_nothing_is_fetched_before_the_licences_are_accepted(served, tmp_path, capsys):
    target = tmp_path / "weights"
    assert download.main(["--to", str(target)]) == 0
    out = capsys.readouterr().out
    assert not fetched(served) and not target.exists()
    assert out.count("licence: ") == 10 and "research and education only" in out
    assert "mimicmotion: tencent/MimicMotion/MimicMotion_1-1.pth, 0.00 MB" in out
    assert "10 files, 0.01 MB in all" in out and "nothing was downloaded" in out


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_what_is_fetched_lies_where_the_doctor_looks(served, tmp_path, capsys, base):
    config, target = f"configs/{base}.py", tmp_path / "weights"
    arguments = ["--to", str(target), "--accept-licences", "--config", config]
    assert download.main(arguments) == 0
    wanted = {row.name for row in releases.serving(base) if row.is_expected}
    assert set(doctor.find(target)) == wanted | set(dwpose.RELEASED_AS)
    assert f"converters.convert check {target} --config {config}" in capsys.readouterr().out
    count = len(fetched(served))
    assert download.main(arguments) == 0  # all is there
    assert len(fetched(served)) == count


@pytest.mark.parametrize(
    "row", [row for row in releases.RELEASES if row.only_if_asked], ids=lambda row: row.name
)
def test_what_is_fetched_when_named_lies_where_the_doctor_looks_too(served, tmp_path, row):
    arguments = ["--to", str(tmp_path / "weights"), "--only", row.name, "--accept-licences"]
    assert download.main(arguments) == 0
    assert row.name in doctor.find(tmp_path / "weights")


def test_only_the_named_releases_are_fetched(served, tmp_path):
    target = tmp_path / "weights"
    arguments = ["--to", str(target), "--only", "dispose,svd_unet", "--accept-licences"]
    assert download.main(arguments) == 0
    assert [path.split("/")[-1] for path in fetched(served)] == [
        "DisPose.pth",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    assert set(doctor.find(target)) == {"dispose", "svd_unet", "svd_encoder"}


def test_the_commit_of_every_file_is_kept_for_the_bundle(served, tmp_path):
    target = tmp_path / "weights"
    arguments = ["--to", str(target), "--only", "dispose,cmp", "--accept-licences"]
    assert download.main([*arguments, "--revision", "dispose=v2"]) == 0
    asked = [path.split("/resolve/")[1].split("/")[0] for path in fetched(served)]
    assert asked == ["v2", "main"]
    noted = json.loads((target / download.FETCHED).read_text())
    assert noted["DisPose.pth"]["revision"] == hub_server.COMMIT
    assert convert._fetched(target)["DisPose.pth"] == f"lihxxx/DisPose@{hub_server.COMMIT}"
    assert convert._fetched(tmp_path) == {}


def test_a_gated_repository_is_explained_before_anything_is_fetched(served, tmp_path, capsys):
    served.gated = True
    target = tmp_path / "weights"
    assert download.main(["--to", str(target), "--only", "svd_vae"]) == 0
    told = "is gated: accept its licence on https://huggingface.co/stabilityai/stable-video-diffu"
    out = capsys.readouterr().out
    assert told in out and "`hf auth login`" in out
    assert download.main(["--to", str(target), "--only", "svd_vae", "--accept-licences"]) == 1
    assert told in capsys.readouterr().err and not fetched(served)


def test_a_disk_without_room_is_told_beforehand(served, tmp_path, capsys, monkeypatch):
    usage = SimpleNamespace(total=20, free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    arguments = ["--to", str(tmp_path / "weights"), "--only", "dispose", "--accept-licences"]
    assert download.main(arguments) == 1
    assert "are to come and 0.00 MB are free" in capsys.readouterr().err and not fetched(served)


def test_mistakes_and_no_network_are_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for arguments, message in (
        (["--only", "mimic"], "--only mimic: not one of mimicmotion, dispose"),
        (["--only", "cmp", "--revision", "dispose=v2"], "--revision dispose=v2: expected"),
        (["--only", "dispose", "--accept-licences"], "DisPose.pth: cannot be reached"),
    ):
        assert download.main(["--to", str(tmp_path / "weights"), *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "weights").exists()


def test_a_file_in_the_place_of_the_folder_is_told_before_a_server_is_asked(
    served, tmp_path, capsys
):
    (tmp_path / "weights").write_text("")
    assert download.main(["--to", str(tmp_path / "weights")]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: --to {tmp_path / 'weights'}: is a file; name a folder\n"
    assert not out and not served.seen


def test_without_a_server_no_size_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert download.main(["--to", str(tmp_path), "--only", "dispose,dwpose"]) == 0
    assert "3 files, 3 of unknown size\n" in capsys.readouterr().out


def test_a_file_with_an_address_of_its_own_has_no_revision():
    item = download.items("svd", ["raft"])[0]
    assert hub.address(item.repository, item.remote, "v2") == (
        "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth"
    )
