"""The downloader: explicit, states licences, explains what stops it."""

import hashlib
import sys
from types import ModuleType

import pytest

from converters import doctor, download, releases
from dispose_jax.pose import dwpose


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for huggingface_hub that writes the file asked for."""
    module, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    errors.GatedRepoError = type("GatedRepoError", (Exception,), {})
    module.calls = []

    def fetch(repository, remote, local_dir):
        module.calls.append(f"{repository}/{remote}")
        if repository in module.gated:
            raise errors.GatedRepoError("403")
        path = local_dir / remote
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return str(path)

    module.hf_hub_download, module.errors, module.gated = fetch, errors, ()
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return module


def test_nothing_is_fetched_before_the_licences_are_accepted(hub, tmp_path, capsys):
    assert download.main(["--to", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert hub.calls == [] and not list(tmp_path.iterdir())
    assert out.count("licence: ") == 10 and "research and education only" in out
    assert "nothing was downloaded" in out


@pytest.mark.parametrize("base", ["svd", "sd15"])
def test_what_is_fetched_lies_where_the_doctor_looks(hub, tmp_path, capsys, base):
    config = f"configs/{base}.py"
    arguments = ["--to", str(tmp_path), "--accept-licences", "--config", config]
    assert download.main(arguments) == 0
    wanted = {row.name for row in releases.serving(base) if row.is_expected}
    assert set(doctor.find(tmp_path)) == wanted | set(dwpose.RELEASED_AS)
    assert f"converters.convert check {tmp_path} --config {config}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "row", [row for row in releases.RELEASES if row.only_if_asked], ids=lambda row: row.name
)
def test_what_is_fetched_when_named_lies_where_the_doctor_looks_too(hub, tmp_path, row):
    arguments = ["--to", str(tmp_path), "--only", row.name, "--accept-licences"]
    assert download.main(arguments) == 0
    assert row.name in doctor.find(tmp_path)


def test_only_the_named_releases_are_fetched(hub, tmp_path):
    arguments = ["--to", str(tmp_path), "--only", "dispose,svd_unet", "--accept-licences"]
    assert download.main(arguments) == 0
    assert [call.split("/")[-1] for call in hub.calls] == [
        "DisPose.pth",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    assert set(doctor.find(tmp_path)) == {"dispose", "svd_unet"}


def test_a_file_with_an_address_of_its_own_is_fetched_and_its_digest_checked(
    monkeypatch, tmp_path, capsys
):
    content = b"weights"
    name = f"raft_large_X-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / name).write_bytes(content)
    item = download.items("svd", ["raft"])[0]
    assert item.repository == "https://download.pytorch.org/models"
    served = {f"{item.repository}/{name}": tmp_path / name}
    monkeypatch.setattr(
        download.urllib.request, "urlopen", lambda address, timeout: open(served[address], "rb")
    )
    target = tmp_path / "weights"
    path = download.fetch(item._replace(remote=name), target)
    assert path == target / name and path.read_bytes() == content
    assert doctor.find(target) == {"raft": path}
    path.unlink()
    (tmp_path / name).write_bytes(b"weightz")
    with pytest.raises(ValueError, match="damaged on the way"):
        download.fetch(item._replace(remote=name), target)
    served[f"{item.repository}/{name}"] = tmp_path / "nowhere"
    with pytest.raises(ValueError, match="not downloaded"):
        download.fetch(item._replace(remote=name), target)
    assert not list(target.iterdir())


def test_a_gated_repository_is_explained(hub, tmp_path, capsys):
    hub.gated = ("stabilityai/stable-video-diffusion-img2vid-xt-1-1",)
    arguments = ["--to", str(tmp_path), "--only", "svd_vae", "--accept-licences"]
    assert download.main(arguments) == 1
    err = capsys.readouterr().err
    assert "is gated: accept its licence on https://huggingface.co/stabilityai" in err


def test_unknown_names_and_a_missing_library_are_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments, message in (
        (["--only", "mimic"], "--only mimic: not one of mimicmotion, dispose"),
        (["--only", "dispose", "--accept-licences"], 'pip install "dispose-jax[download]"'),
    ):
        assert download.main(["--to", str(tmp_path), *arguments]) == 1
        assert message in capsys.readouterr().err
