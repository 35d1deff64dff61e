"""Weights as they circulate: in parts, in variants, wrapped, compiled, merged, in fp8."""

import io
import json
import os
import time
import tracemalloc
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from converters import checkpoints, doctor, files, pth, releases, shards, unpickle
from converters.mapping import ConversionError
from tests.converters import hostile

NAME = "diffusion_pytorch_model"
ROW = releases.release("musepose_pose_guider")
CONFIG = SimpleNamespace(base="sd15", model={})


class Leaf:
    """A leaf of a tree of shapes."""

    def __init__(self, *shape):
        self.shape = shape


SHAPES = {"pose_encoder": {"conv_in": {"kernel": Leaf(3, 3, 3, 4), "bias": Leaf(4)}}}


def tensors(seed=0, **more):
    rng = np.random.default_rng(seed)
    found = {"conv_in.weight": rng.standard_normal((4, 3, 3, 3), np.float32)}
    return found | {"conv_in.bias": np.ones(4, np.float32), **more}


def split(folder, name="model", variant="", behind=False, index=True, ending="safetensors"):
    """A checkpoint in two parts with its index; returns what stands for it and what it holds."""
    content = tensors()
    shown = {True: f"{name}-{{}}{variant}", False: f"{name}{variant}-{{}}"}[behind]
    places = {}
    for i, (key, tensor) in enumerate(content.items(), 1):
        part = f"{shown.format(f'{i:05d}-of-00002')}.{ending}"
        files.write(folder / part, {key: tensor})
        places[key] = part
    path = folder / f"{name}.{ending}.index{variant}.json"
    if index:
        path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return path, content
    return folder / places["conv_in.weight"], content


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("index", [True, False])
def test_a_checkpoint_in_parts_is_read_as_one(tmp_path, ending, variant, behind, index):
    path, content = split(tmp_path, "model", variant, behind, index, ending)
    standing = [p for p in tmp_path.iterdir() if shards.whole_name(p) is not None]
    assert standing == [path] and shards.whole_name(path) == f"model{variant}.{ending}"
    found = files.read(path)
    assert found.keys() == content.keys()
    for key, tensor in content.items():
        np.testing.assert_array_equal(found[key], tensor)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    path, _ = split(tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    content = json.loads(path.read_text())
    for change, message in (
        (lambda: files.write(second, tensors()), "conv_in.weight is in two of its parts"),
        (lambda: files.write(second, {"x": np.ones(2)}), "its parts lack 1 tensor that it names"),
        (second.unlink, "1 of its 2 parts are missing, such as model-00002-of-00002"),
        (lambda: path.write_text("{"), "cannot be read as JSON"),
        (lambda: path.write_text("[]"), "no index of tensors"),
        (
            lambda: path.write_text(json.dumps(content | {"weight_map": {"a": "../x.bin"}})),
            "no index of tensors",
        ),
    ):
        change()
        with pytest.raises(ValueError, match=message):
            files.read(path)
    first = tmp_path / "model-00001-of-00002.safetensors"
    path.unlink()
    with pytest.raises(ValueError, match="1 of its 2 parts are missing"):
        files.read(first)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
@pytest.mark.parametrize("wrapper", [None, *pth.WRAPPERS])
def test_prefixes_and_wrappers_are_taken_off(tmp_path, prefix, wrapper):
    path = tmp_path / "pose_guider.pth"
    files.write(path, {prefix + key: t for key, t in tensors().items()}, wrapper=wrapper)
    params, report = checkpoints.to_flax(ROW, files.read(path), SHAPES, str(path))
    np.testing.assert_array_equal(params["pose_encoder"]["conv_in"]["bias"], np.ones(4))
    assert report.matched == 2


def test_parts_that_were_compiled_alone_are_read_and_doubles_refused():
    mixed = {"conv_in._orig_mod.weight": tensors()["conv_in.weight"], "conv_in.bias": np.ones(4)}
    params, _ = checkpoints.to_flax(ROW, mixed, SHAPES, "x.pth")
    assert params["pose_encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 4)
    double = tensors() | {"_orig_mod.conv_in.bias": np.ones(4)}
    with pytest.raises(ConversionError, match="conv_in.bias is there twice, compiled and not"):
        checkpoints.to_flax(ROW, double, SHAPES, "x.pth")


def nested(*entries):
    """The pickle of {name: state dict or a number}, each on a storage of its own name."""
    body = b"\x80\x02}"
    for name, content in entries:
        value = hostile.tensor(storage=name)[2:-1] if content is None else content
        body += b"X" + len(name).to_bytes(4, "little") + name.encode() + value + b"s"
    return body + b"."


@pytest.mark.parametrize(
    "averaged",
    ["params_ema", "ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model"],
)
@pytest.mark.parametrize("plain", ["state_dict", "model"])
def test_averaged_weights_are_read_by_any_of_their_names(tmp_path, plain, averaged):
    records = {f"data/{plain}": bytes(24), f"data/{averaged}": np.ones(6, "<f4").tobytes()}
    pickled = nested((plain, None), (averaged, None))
    path = hostile.write_zip(tmp_path / "x.pth", pickled, records)
    np.testing.assert_array_equal(files.read(path)["w"], np.ones((2, 3)))


def test_averaged_weights_are_preferred_and_that_is_said(tmp_path):
    values = {n: np.full(6, i, "<f4").tobytes() for i, n in enumerate(("model", "ema", "params"))}
    pickled = nested(("model", None), ("ema", None), ("step", b"K\x05"))
    records = {f"data/{name}": value for name, value in values.items()}
    path = hostile.write_zip(tmp_path / "x.pth", pickled, records)
    notes = []
    np.testing.assert_array_equal(files.read(path, notes)["w"], np.ones((2, 3)))
    assert notes == ["its entry ema is read, and not model beside it"]
    # What an average is kept in without tensors of its own is none.
    pickled = nested(("ema", b"}X\x05\0\0\0decayK\x01s"), ("params", None))
    path = hostile.write_zip(tmp_path / "y.pth", pickled, records)
    np.testing.assert_array_equal(files.read(path)["w"], np.full((2, 3), 2))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "ema_state_dict"])
def test_tensors_beside_a_state_dict_are_not_taken_for_it(tmp_path, wrapper):
    number = hostile.tensor(storage="rng")[len(b"\x80\x02}X....w") : -len(b"s.")]  # {"w": it}
    records = {"data/rng": bytes(24), f"data/{wrapper}": np.ones(6, "<f4").tobytes()}
    pickled = nested(("rng", number), (wrapper, None))
    path = hostile.write_zip(tmp_path / "x.pth", pickled, records)
    found = files.read(path)
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], np.ones((2, 3)))


def test_a_second_state_dict_of_any_name_is_not_passed_over_in_silence(tmp_path):
    records = {f"data/{name}": bytes(24) for name in ("model", "averaged")}
    pickled = nested(("averaged", None), ("model", None))
    path = hostile.write_zip(tmp_path / "x.pth", pickled, records)
    notes = []
    files.read(path, notes)
    assert notes == ["its entry model is read, and not averaged beside it"]


def test_the_doctor_says_which_of_several_state_dicts_is_read(tmp_path):
    state = hostile.state(tensors())[2:-1]
    records = {f"data/{i}": t.tobytes() for i, t in enumerate(tensors().values())}
    pickled = nested(("model", state), ("ema", state))
    path = hostile.write_zip(tmp_path / "pose_guider.pth", pickled, records)
    networks = {"pose_encoder": type("Network", (), {"shapes": SHAPES["pose_encoder"]})}
    finding = doctor._examine(ROW, path, networks, {})
    assert finding.state == "ok"
    assert "its entry ema is read, and not model beside it" in finding.detail


def test_fp8_is_refused_by_its_name(tmp_path):
    path = tmp_path / "model.safetensors"
    coarse = {key: t.astype(ml_dtypes.float8_e4m3fn) for key, t in tensors().items()}
    files.write(path, coarse)
    with pytest.raises(ConversionError, match=r"stored in float8_e4m3fn \(fp8\), too coarse"):
        checkpoints.to_flax(ROW, files.read(path), SHAPES, str(path), check_values=False)
    pickled = b"\x80\x02ctorch\nfloat8_e4m3fn\n."
    with pytest.raises(unpickle.Refused, match=r"torch.float8_e4m3fn \(fp8\)"):
        load(pickled)


def test_a_merged_file_of_comfyui_is_recognised_and_named(tmp_path):
    merged = {f"model.diffusion_model.{key}": t for key, t in tensors().items()}
    merged["first_stage_model.decoder.weight"] = np.ones(3, np.float32)
    with pytest.raises(
        ConversionError, match="a merged single file as ComfyUI loads it .*MusePose"
    ):
        checkpoints.to_flax(ROW, merged, SHAPES, "svd_xt.safetensors")
    files.write(tmp_path / "svd_xt.safetensors", merged)
    (finding,) = [doctor._identify(tmp_path / "svd_xt.safetensors", [], tmp_path, {})]
    assert finding.state == "unknown" and "as ComfyUI loads it" in finding.detail
    row = releases.release("mimicmotion")
    bare = {"conv_in.weight": 1, "pose.conv.weight": 1}
    expected = {"unet.conv_in.weight": (1,), "pose_net.scale": (1,)}
    tensor = dict.fromkeys(bare, np.ones(1, np.float32))
    with pytest.raises(ConversionError, match="the unet alone, as the merged file for ComfyUI's"):
        checkpoints._refuse_others(row, tensor, expected, "MimicMotionMergedUnet.safetensors")


@pytest.fixture
def folder(tmp_path):
    """A diffusers folder with a network in its full, half and unaveraged form, and one in parts."""
    vae = tmp_path / "sd-vae-ft-mse"
    vae.mkdir()
    for variant in ("", ".fp16", ".non_ema"):
        files.write(vae / f"{NAME}{variant}.safetensors", tensors())
    unet = tmp_path / "stable-diffusion-v1-5" / "unet"
    unet.mkdir(parents=True)
    split(unet, NAME)
    return tmp_path


def test_of_several_variants_the_full_one_is_used_and_parts_count_as_one(folder):
    found = doctor.find(folder)
    assert found["vae_ft_mse"].name == f"{NAME}.safetensors"
    assert found["sd15_unet"].name == f"{NAME}.safetensors.index.json"
    spare = [path.name for path in doctor.candidates(folder)["vae_ft_mse"][1:]]
    assert spare == [f"{NAME}.fp16.safetensors", f"{NAME}.non_ema.safetensors"]
    (folder / "sd-vae-ft-mse" / f"{NAME}.safetensors").unlink()
    assert doctor.find(folder)["vae_ft_mse"].name == f"{NAME}.fp16.safetensors"


def test_the_doctor_names_spares_and_never_sends_a_file_onto_another(folder):
    (folder / "MusePose").mkdir()
    for name in ("MusePose/pose_guider.pth", "copy.pth", "older/pose_guider_copy.pth"):
        files.write(folder / name, tensors())
    networks = {"pose_encoder": type("Network", (), {"shapes": SHAPES["pose_encoder"]})}
    findings = doctor.check_weights(folder, networks, CONFIG)
    details = {detail.split(":")[0]: (state, detail) for _, state, detail in findings}
    state, detail = details[str(folder / "copy.pth")]
    assert state == "unknown" and "not used, as" in detail and "move it" not in detail
    (folder / "MusePose" / "pose_guider.pth").unlink()
    details = [f.detail for f in doctor.check_weights(folder, networks, CONFIG)]
    assert any("copy.pth" in detail and "move it there" in detail for detail in details)
    (folder / "MusePose" / "pose_guider.pth").write_bytes(b"damaged")
    details = [f.detail for f in doctor.check_weights(folder, networks, CONFIG)]
    assert not any("move it there" in detail for detail in details)


def test_a_file_is_only_taken_for_what_its_sizes_fit_and_for_any_of_them(tmp_path):
    """U-Nets of several releases have the same names; those of other families have other sizes."""
    named = lambda name: (releases.release(name), {"a": (2, 3), "b": (4,)})
    known = [named("musepose_denoising_unet"), named("sd15_unet")]
    path = tmp_path / "denoising_unet-10000.pth"
    files.write(path, {"a": np.ones((2, 3)), "b": np.ones(4)})
    detail = doctor._identify(path, known, tmp_path, {}).detail
    both = "MusePose/denoising_unet.pth or stable-diffusion-v1-5/unet/diffusion_pytorch_model"
    assert f"100% of the tensors of {both}" in detail and "move it there if it is" in detail
    for row, _ in known:
        files.write(tmp_path / row.file, {"a": np.ones(1)})
    assert "not used, as all of these are" in doctor._identify(path, known, tmp_path, {}).detail
    files.write(path, {"a": np.ones((2, 5)), "b": np.ones(5)})
    detail = doctor._identify(path, known, tmp_path, {}).detail
    assert detail.endswith("no release known here, with the names of one and other sizes")


def test_links_that_lead_nowhere_are_named_and_only_used_if_there_is_nothing_else(folder):
    """As of a snapshot of Hugging Face's cache that was copied without what it links to."""
    vae = folder / "sd-vae-ft-mse"
    (vae / f"{NAME}.safetensors").unlink()
    (vae / f"{NAME}.safetensors").symlink_to("../../blobs/0a1b")
    assert doctor.find(folder)["vae_ft_mse"].name == f"{NAME}.fp16.safetensors"
    for variant in (".fp16", ".non_ema"):
        (vae / f"{NAME}{variant}.safetensors").unlink()
    (folder / "yolox_l.onnx").symlink_to("blobs/2c3d")
    found = doctor.find(folder)
    with pytest.raises(ValueError, match="safetensors: a link to ../../blobs/0a1b, which is not"):
        files.read(found["vae_ft_mse"])
    findings = {f.name: f for f in doctor.check_weights(folder, {}, CONFIG)}
    assert findings["detector.onnx"].state == "wrong"
    assert "a link to blobs/2c3d, which is not there" in findings["detector.onnx"].detail


def test_what_a_disk_keeps_for_itself_is_not_looked_into(folder, monkeypatch):
    (folder / "lost+found").mkdir()
    scan = os.scandir

    def scandir(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "vae_ft_mse" in doctor.find(folder)


def load(pickled):
    return unpickle.load(io.BytesIO(pickled))


def number(n):
    return b"J" + n.to_bytes(4, "little", signed=True)


GROWING = {
    "device": b"\x80\x02ctorch\ndevice\n(X\x04\0\0\0cuda"
    + b"2" * 0
    + b"q\0"
    # h0 h0 -> a device of a device, doubled again and again
    + b"tRq\1"
    + b"ctorch\ndevice\n(h\1h\1tRq\1" * 30
    + b".",
    "device of a tuple": b"\x80\x02ctorch\ndevice\n((X\x04\0\0\0cudattR.",
    "device number": b"\x80\x02ctorch\ndevice\n(X\x04\0\0\0cudaJ\xff\xff\xff\x7ftR.",
    "size": b"\x80\x02](" + b"K\1" * 100_000 + b"eq\0" + b"ctorch\nSize\n(h\0tR0" * 5_000 + b"K\1.",
    "dictionary": b"\x80\x02]("
    + b"".join(b"(" + number(i) + b"K\1t" for i in range(20_000))
    + b"eq\0"
    + b"ccollections\nOrderedDict\n(h\0tR" * 5_000
    + b"0.",
    "many": b"\x80\x02" + b"]" * 3_000_000 + b".",
}


@pytest.mark.parametrize("name", GROWING)
def test_small_pickles_do_not_grow(name):
    start = time.perf_counter()
    with pytest.raises(ValueError):
        load(GROWING[name])
    assert time.perf_counter() - start < 10
    if name != "many":  # counting its objects takes long
        tracemalloc.start()
        with pytest.raises(ValueError):
            load(GROWING[name])
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()


def test_devices_of_checkpoints_are_read():
    assert load(b"\x80\x02ctorch\ndevice\n(X\x04\0\0\0cudaK\1tR.") == "cuda:1"
    assert load(b"\x80\x02ctorch\ndevice\n(X\x03\0\0\0cputR.") == "cpu"
