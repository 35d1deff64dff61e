"""The command line on folders laid out as a user has them: convert, convert back, the doctor."""

import json
import shlex

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from converters import checkpoints, convert, doctor, files, releases
from dispose_jax import settings
from dispose_jax.models import bundle
from dispose_jax.models import networks as model_networks
from dispose_jax.pose import dwpose
from tests.converters import built

CONFIG = "configs/svd.py:size=tiny"
ROWS = [
    row
    for row in releases.serving("svd")
    if not row.only_if_asked and (row.for_training or not row.for_evaluation)
]
WRITTEN = [row for row in ROWS if row.name not in convert.PARTS]


@pytest.fixture(scope="module")
def traced():
    """Once for all tests."""
    return built.traced(settings.load(CONFIG))


@pytest.fixture(autouse=True)
def build_once(monkeypatch, traced):
    monkeypatch.setattr(convert, "all_networks", lambda config: traced)


@pytest.fixture(scope="module")
def released(tmp_path_factory, traced):
    """A folder of weights as downloaded: .pth, half precision in safetensors and .bin, ONNX."""
    folder = tmp_path_factory.mktemp("weights")
    params = model_networks.random(traced, 3, np.float16)
    # Its file is Stable Video Diffusion's whole U-Net, of which the encoder is taken.
    whole = {"unet": params["unet"] | params["svd_encoder"]}
    tensors = checkpoints.to_torch(releases.release("svd_unet"), whole, "random")
    files.write(folder / releases.release("svd_unet").file, tensors)
    for row in WRITTEN:
        place = {
            "svd_vae": row.file.replace(".safetensors", ".fp16.safetensors"),
            "sd15_text_encoder": row.file.replace("model.safetensors", "pytorch_model.bin"),
        }.get(row.name, row.file)
        tensors = checkpoints.to_torch(row, params, "random")
        if row.name == "sd15_vae":  # as released: with the decoder that is not used here
            tensors["decoder.conv_in.weight"] = np.ones((4, 4, 3, 3), np.float16)
        files.write(folder / place, tensors, wrapper=row.wrapper)
    for name in dwpose.RELEASED_AS.values():
        (folder / "dwpose").mkdir(exist_ok=True)
        (folder / "dwpose" / name).write_bytes(b"onnx " + name.encode())
    return folder


def run(capsys, *arguments):
    """Exit status, output, errors of the command."""
    status = convert.main([*map(str, arguments), "--config", CONFIG])
    return status, *capsys.readouterr()


def size_of(traced, *names):
    """How many tensors networks have."""
    return sum(len(jax.tree.leaves(traced[name].shapes)) for name in names)


def tensors_of(folder):
    found = doctor.find(folder)
    return {row.name: files.read(found[row.name]) for row in WRITTEN}


def test_released_files_become_a_bundle_and_come_back_bit_for_bit(
    capsys, tmp_path, released, traced
):
    status, out, err = run(capsys, "to-flax", "--from", released, "--to", tmp_path / "bundle")
    assert (status, err) == (0, "") and "not in it" not in out
    assert f"{size_of(traced, 'unet', 'pose_encoder')} tensors" in out
    assert "1 of networks not used here, e.g. decoder.conv_in.weight" in out
    description = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert description["config"] == CONFIG and description["base"] == "svd"
    assert description["networks"]["unet"]["source"] == "MimicMotion_1-1.pth"
    assert "Stability AI" in description["networks"]["unet"]["licence"]
    assert (tmp_path / "bundle" / "detector.onnx").read_bytes() == b"onnx yolox_l.onnx"

    status, out, err = run(
        capsys, "to-torch", "--from", tmp_path / "bundle", "--to", tmp_path / "again"
    )
    assert (status, err) == (0, "") and "the encoder only" in out
    assert "not written: svd_encoder, a part of stable-video-diffusion" in out
    before, after = tensors_of(released), tensors_of(tmp_path / "again")
    before["sd15_vae"].pop("decoder.conv_in.weight")
    for name, tensors in before.items():
        assert after[name].keys() == tensors.keys(), name
        for key, tensor in tensors.items():
            assert after[name][key].dtype == tensor.dtype
            np.testing.assert_array_equal(after[name][key], tensor)
    names = {path.name for path in (tmp_path / "again" / "dwpose").iterdir()}
    assert names == set(dwpose.RELEASED_AS.values())


def test_no_file_that_is_there_is_replaced(capsys, tmp_path, released):
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "bundle")
    own = tmp_path / "mine" / "dwpose" / "yolox_l.onnx"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a finer one")
    status, out, err = run(
        capsys, "to-torch", "--from", tmp_path / "bundle", "--to", tmp_path / "mine"
    )
    assert (status, out) == (1, "") and f"{own}: already exists; remove it or choose" in err
    assert own.read_bytes() == b"a finer one" and len([*(tmp_path / "mine").rglob("*")]) == 2


def test_the_bundle_is_what_the_model_loads(capsys, tmp_path, released, traced):
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "b", "--dtype", "float32")
    config = settings.load(CONFIG)
    shapes = {name: network.shapes for name, network in traced.items()}
    params = bundle.load([tmp_path / "b"], shapes, model=config.model, quirks=config.quirks)
    expected = model_networks.random(traced, 3, np.float16)
    for name in shapes:
        ours, theirs = flatten_dict(params[name]), flatten_dict(expected[name])
        assert ours.keys() == theirs.keys()
        for path, value in theirs.items():
            assert ours[path].dtype == np.float32
            np.testing.assert_array_equal(ours[path], value.astype(np.float32))


def test_a_trained_control_replaces_the_released_one_on_export(capsys, tmp_path, released, traced):
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "base")
    names = ("controlnet", "motion_encoder", "point_encoder")
    trained = model_networks.random({n: traced[n] for n in names}, 4, np.float16)
    config = settings.load(CONFIG)
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    origins = dict.fromkeys(names, bundle.Origin("run 1", "ours"))
    bundle.write(tmp_path / "trained", trained, described, origins)
    both = f"{tmp_path / 'base'},{tmp_path / 'trained'}"
    assert run(capsys, "to-torch", "--from", both, "--to", tmp_path / "again")[0] == 0
    expected = checkpoints.to_torch(releases.release("dispose"), trained, "x")
    found = files.read(tmp_path / "again" / "DisPose.pth")
    assert all((found[key] == value).all() for key, value in expected.items())

    status, out, _ = run(
        capsys, "to-torch", "--from", tmp_path / "trained", "--to", tmp_path / "one"
    )
    assert status == 0 and [path.name for path in (tmp_path / "one").iterdir()] == ["DisPose.pth"]


def test_addresses_are_refused_and_never_become_local_folders(
    capsys, tmp_path, released, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("to-flax", "--from", released, "--to", "gs://bucket/b"),
        ("to-torch", "--from", f"{tmp_path},s3://bucket/b", "--to", tmp_path / "again"),
        ("check", "gs://bucket/b"),
    ):
        status, out, err = run(capsys, *arguments)
        assert status == 1 and out == ""
        assert "bucket/b: only paths of this machine can be used" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_part_of_the_files_makes_a_part_of_a_bundle_and_says_what_is_absent(
    capsys, tmp_path, released
):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "DisPose.pth").symlink_to(released / "DisPose.pth")
    status, out, _ = run(capsys, "to-flax", "--from", weights, "--to", tmp_path / "b")
    assert status == 0 and "not in it: unet, which comes from MimicMotion_1-1.pth" in out
    assert set(bundle.describe(tmp_path / "b")["networks"]) == {
        "controlnet",
        "motion_encoder",
        "point_encoder",
    }
    status, _, err = run(
        capsys, "to-flax", "--from", weights, "--to", tmp_path / "c", "--only", "dispose,cmp"
    )
    assert status == 1 and "no cmp/experiments" in err and "MOFA-Video-Hybrid" in err


def test_the_doctor_is_content_with_a_complete_folder_and_names_the_next_command(
    capsys, released, traced
):
    status, out, err = run(capsys, "check", released)
    assert (status, err) == (0, "")
    # Two of DWPose's, and the whole U-Net that the encoder was taken from.
    assert out.count("ok  ") == len(ROWS) + 3 and "missing" not in out
    (optional,) = [line for line in out.splitlines() if line.startswith("optional")]
    assert "lpips" in optional and f"--to {released} --only evaluation" in optional
    assert f"{size_of(traced, 'unet', 'pose_encoder')} tensors (float16)" in out
    assert "holds unet and pose_encoder" in out
    assert f"next: python -m converters.convert to-flax --from {released}" in out


def test_flow_weights_are_converted_where_they_lie_and_missed_by_nobody(capsys, tmp_path, released):
    without = tmp_path / "weights"
    without.mkdir()
    for entry in released.iterdir():
        if not entry.name.startswith("raft"):
            (without / entry.name).symlink_to(entry)
    status, out, _ = run(capsys, "check", without)
    assert status == 0 and "next: python -m converters.convert" in out
    assert "raft" not in {line.split()[1] for line in out.splitlines()}
    status, out, _ = run(capsys, "to-flax", "--from", without, "--to", tmp_path / "b")
    assert status == 0 and "raft" not in out
    status, out, _ = run(capsys, "check", tmp_path / "b")
    assert status == 0 and "raft" not in out and "next: python sample.py" in out

    alone = tmp_path / "flow"
    alone.mkdir()
    (alone / releases.release("raft").file).symlink_to(released / releases.release("raft").file)
    options = ("to-flax", "--from", alone, "--to", tmp_path / "c", "--only", "raft")
    status, out, _ = run(capsys, *options)
    assert status == 0 and set(bundle.describe(tmp_path / "c")["networks"]) == {"raft"}
    both = f"{tmp_path / 'b'},{tmp_path / 'c'}"
    assert run(capsys, "to-torch", "--from", both, "--to", tmp_path / "again")[0] == 0
    written = files.read(tmp_path / "again" / releases.release("raft").file)
    for key, tensor in files.read(alone / releases.release("raft").file).items():
        np.testing.assert_array_equal(written[key], tensor)


def test_a_tilde_after_an_equals_sign_is_the_home_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _, _, err = run(capsys, "to-flax", "--from=~/weights", "--to=~/bundle")
    assert f"{tmp_path}/weights: no such folder" in err


def test_the_doctor_says_what_is_missing_wrong_or_unknown(capsys, tmp_path, released):
    weights = tmp_path / "weights"
    (weights / "else").mkdir(parents=True)
    (weights / "DisPose.pth").write_bytes((released / "DisPose.pth").read_bytes()[:-1000])
    (weights / "else" / "mm.pth").symlink_to(released / "MimicMotion_1-1.pth")
    files.write(weights / "lora.safetensors", {"a": np.zeros(3, np.float32)})
    status, out, _ = run(capsys, "check", weights)
    lines = {line.split()[1]: line for line in out.splitlines()}
    assert status == 1
    assert lines["dispose"].startswith("wrong") and "cut" in lines["dispose"]
    assert lines["mimicmotion"].startswith("missing")
    assert str(weights / "MimicMotion_1-1.pth") in lines["mimicmotion"]
    assert "huggingface.co/tencent/MimicMotion" in lines["mimicmotion"]
    assert "100% of the tensors of MimicMotion_1-1.pth; move it there" in lines["mm.pth"]
    assert "1 tensor of no release known here" in lines["lora.safetensors"]
    assert "replace the files marked wrong" in out
    (weights / "DisPose.pth").unlink()
    out = run(capsys, "check", weights)[1]
    assert "next: python -m converters.download" in out and "--only mimicmotion,dispose" in out


def test_the_doctor_reads_a_bundle_too(capsys, tmp_path, released, traced):
    folder = tmp_path / "b"
    run(capsys, "to-flax", "--from", released, "--to", folder)
    status, out, _ = run(capsys, "check", folder, "--verify")
    assert (
        status == 0
        and out.count("tensors match") == len(traced)
        and "next: python sample.py" in out
    )
    (folder / "vae.safetensors").write_bytes(b"short")
    status, out, _ = run(capsys, "check", folder)
    assert status == 1 and "wrong    vae" in out and "5 bytes, expected" in out


def test_bad_requests_end_in_one_sentence_and_write_nothing(capsys, tmp_path, released):
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    tensors = dict(files.read(released / "DisPose.pth"))
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:1]
    files.write(broken / "DisPose.pth", tensors)
    target = tmp_path / "b"
    cases = {
        "nowhere: no such folder": ("to-flax", "--from", tmp_path / "nowhere", "--to", target),
        "none of the released files": ("to-flax", "--from", empty, "--to", target),
        "! conv_in.weight has shape [1, ": ("to-flax", "--from", broken, "--to", target),
        "already exists": ("to-flax", "--from", released, "--to", released),
        "DisPose.pth: a file; give the folder": (
            "to-flax",
            "--from",
            broken / "DisPose.pth",
            "--to",
            target,
        ),
        "no release 'x'": ("to-flax", "--from", released, "--to", target, "--only", "x"),
        "no bundle.json in it": ("to-torch", "--from", empty, "--to", target),
    }
    for message, arguments in cases.items():
        status, _, err = run(capsys, *arguments)
        assert status == 1 and message in err and err.startswith("error: "), message
        assert not target.exists() and not list(tmp_path.glob(".*"))


def test_where_no_bundle_can_be_written_is_told_before_any_weight_is_read(
    capsys, tmp_path, released, monkeypatch
):
    monkeypatch.setattr(files, "read", lambda *_: pytest.fail("a file was read"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").touch()
    status, out, err = run(capsys, "to-flax", "--from", released, "--to", tmp_path / "b")
    assert (status, out) == (1, "") and "b: already exists" in err
    status, out, err = run(capsys, "to-flax", "--from", released, "--to", tmp_path / "b/mine/c")
    assert (status, out) == (1, "") and "mine is no folder that can be written to" in err


def test_a_list_may_end_in_a_comma_and_name_a_thing_twice(capsys, tmp_path, released):
    options = ("--to", tmp_path / "b", "--only", "cmp,cmp,")
    assert run(capsys, "to-flax", "--from", released, *options)[::2] == (0, "")
    options = ("--from", f"{tmp_path / 'b'},", "--to", tmp_path / "c")
    assert run(capsys, "to-torch", *options)[::2] == (0, "")


def test_a_bundle_is_not_converted_again(capsys, tmp_path, released):
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "b", "--only", "cmp")
    status, _, err = run(capsys, "to-flax", "--from", tmp_path / "b", "--to", tmp_path / "c")
    assert status == 1 and "b: is a bundle already" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "an empty file"),
    ],
)
def test_what_is_no_onnx_is_neither_called_good_nor_put_into_a_bundle(
    capsys, tmp_path, released, content, message
):
    weights = tmp_path / "weights"
    weights.mkdir()
    for entry in released.iterdir():
        if entry.name != "dwpose":
            (weights / entry.name).symlink_to(entry)
    (weights / "yolox_l.onnx").write_bytes(content)
    status, out, _ = run(capsys, "check", weights)
    assert status == 1 and f"yolox_l.onnx: {message}" in out and "wrong    detector.onnx" in out
    status, _, err = run(capsys, "to-flax", "--from", weights, "--to", tmp_path / "b")
    assert status == 1 and f"yolox_l.onnx: {message}" in err and not (tmp_path / "b").exists()


def test_the_next_command_can_be_copied_whatever_the_folder_is_called(capsys, tmp_path, released):
    weights = tmp_path / "my weights"
    weights.symlink_to(released)
    _, out, _ = run(capsys, "check", weights)
    command = shlex.split(out.split("next: ")[1])
    assert command[3:6] == ["to-flax", "--from", str(weights)] and command[-1] == CONFIG
    run(capsys, "to-flax", "--from", weights, "--to", tmp_path / "a b", "--only", "cmp")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "DisPose.pth").symlink_to(released / "DisPose.pth")
    _, out, _ = run(capsys, "check", tmp_path / "weights")
    command = shlex.split(out.split("next: ")[1])
    # With the config, as download names the next command with it in turn.
    assert command[:3] == ["python", "-m", "converters.download"] and CONFIG in command
    assert "mimicmotion," in command[command.index("--only") + 1]


def test_a_network_that_the_config_has_not_is_told_with_the_config_that_has_it(
    capsys, tmp_path, released, monkeypatch, traced
):
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "a", "--only", "cmp")
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "b", "--only", "dispose")
    without = {name: network for name, network in traced.items() if name != "controlnet"}
    monkeypatch.setattr(convert, "all_networks", lambda config: without)
    both = f"{tmp_path / 'a'},{tmp_path / 'b'}"
    status, _, err = run(capsys, "to-torch", "--from", both, "--to", tmp_path / "c")
    assert status == 1 and f"{tmp_path / 'b'}: holds the network controlnet" in err
    assert err.strip().endswith(f"use --config {CONFIG}")


def test_an_unknown_config_is_an_error(capsys, tmp_path):
    for name, message in (
        ("nowhere.py", "no such file"),
        ("configs/svd.py:size=huge", "size is one of full, tiny"),
    ):
        assert convert.main(["check", str(tmp_path), "--config", name]) == 1
        assert message in capsys.readouterr().err
