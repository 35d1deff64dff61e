"""Bundles of weights: written whole or not at all, read without guessing."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dispose_jax.models import bundle, tensor_file
from dispose_jax.models.bundle import ModelDescription, Origin

MODEL = {"unet": {"channels": (32, 64), "layers": 2}, "scale": 0.18215}
QUIRKS = {"residuals": "once"}
DESCRIBED = ModelDescription("svd", MODEL, QUIRKS, "configs/svd.py:size=tiny")
OPTIONS = {"model": MODEL, "quirks": QUIRKS}


def networks(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, 2, 5, 4)).astype(np.float16)
    return {
        "unet": {"conv_in": {"kernel": kernel, "bias": np.ones(4, np.float16)}},
        "vae": {"norm": {"scale": rng.standard_normal(6).astype(ml_dtypes.bfloat16)}},
        "cmp": {"head": {"0": {"kernel": rng.standard_normal((2, 3)).astype(np.float32).T}}},
    }


def write(folder, params=None, described=DESCRIBED, **options):
    params = params or networks()
    bundle.write(folder, params, described, dict.fromkeys(params, Origin("x", "none")), **options)
    return folder


def leaf(params):
    return params["unet"]["conv_in"]["kernel"]


def test_a_bundle_gives_back_every_bit_in_its_own_type(tmp_path):
    folder, expected = write(tmp_path / "b"), networks()
    found = bundle.load([folder], ["unet", "vae", "cmp"], **OPTIONS, verify=True)
    for name, tree in expected.items():
        for path, value in flatten_dict(tree).items():
            ours = flatten_dict(found[name])[path]
            assert ours.dtype == value.dtype and ours.tobytes() == value.tobytes()


def test_only_the_networks_asked_for_are_read(tmp_path):
    folder = write(tmp_path / "b")
    (folder / "vae.safetensors").unlink()
    assert set(bundle.load([folder], ["cmp", "unet"], **OPTIONS)) == {"cmp", "unet"}
    with pytest.raises(ValueError, match="vae.safetensors: missing, though bundle.json lists it"):
        bundle.load([folder], ["vae"], **OPTIONS)


def test_weights_stay_in_the_file_until_they_are_used_and_are_cast_one_by_one(tmp_path):
    folder = write(tmp_path / "b")
    kernel = leaf(bundle.load([folder], ["unet"], **OPTIONS))
    owner = kernel
    while not isinstance(owner, np.memmap):
        owner = owner.base
    assert not kernel.flags.writeable
    cast = leaf(bundle.load([folder], ["unet"], **OPTIONS, dtype="bfloat16"))
    np.testing.assert_array_equal(cast, leaf(networks()).astype(ml_dtypes.bfloat16))
    assert cast.dtype == ml_dtypes.bfloat16


def test_writing_in_another_type_is_the_same_as_casting(tmp_path):
    folder = write(tmp_path / "b", dtype="float32")
    kernel = leaf(bundle.load([folder], ["unet"], **OPTIONS))
    np.testing.assert_array_equal(kernel, leaf(networks()).astype(np.float32))
    assert bundle.describe(folder)["networks"]["unet"]["dtype"] == "float32"


def test_networks_of_a_later_folder_replace_those_of_an_earlier_one(tmp_path):
    base = write(tmp_path / "base")
    trained = write(tmp_path / "trained", {"unet": networks(1)["unet"]})
    params = bundle.load([base, trained], ["unet", "vae"], **OPTIONS)
    np.testing.assert_array_equal(leaf(params), leaf(networks(1)))
    params = bundle.load([trained, base], ["unet", "vae"], **OPTIONS)
    np.testing.assert_array_equal(leaf(params), leaf(networks(0)))


def test_an_absent_network_is_named_with_its_file_and_the_command_that_makes_it(tmp_path):
    folder = write(tmp_path / "b")
    with pytest.raises(ValueError) as error:
        bundle.load([folder], ["unet", "controlnet"], **OPTIONS)
    message = str(error.value)
    assert str(folder) in message and "no controlnet.safetensors" in message
    assert "DisPose.pth" in message and "converters.convert to-flax" in message


def test_another_model_or_other_quirks_are_errors_that_list_the_differences(tmp_path):
    folder = write(tmp_path / "b")
    other = {"unet": {"channels": (32, 128)}, "scale": 0.18215, "more": 1}
    with pytest.raises(ValueError) as error:
        bundle.load([folder], ["unet"], model=other, quirks={"residuals": "accumulated"})
    message = str(error.value)
    assert "model.unet.channels is [32, 64] there, [32, 128] here" in message
    assert "model.unet.layers is 2 there, absent here" in message
    assert "model.more is absent there, 1 here" in message
    assert "quirks.residuals is 'once' there, 'accumulated' here" in message
    assert "use --config configs/svd.py:size=tiny" in message


class Shape:
    def __init__(self, *shape):
        self.shape = shape


def test_tensors_are_compared_with_the_shapes_that_the_config_builds(tmp_path):
    folder = write(tmp_path / "b")
    fits = {"unet": {"conv_in": {"kernel": Shape(3, 2, 5, 4), "bias": Shape(4)}}}
    bundle.load([folder], fits, **OPTIONS)
    other = {"unet": {"conv_in": {"kernel": Shape(3, 2, 5, 8)}, "conv_out": {"bias": Shape(3)}}}
    with pytest.raises(ValueError) as error:
        bundle.load([folder], other, **OPTIONS)
    for part in (
        "unet.safetensors: 3 tensors do not fit",
        "- conv_out/bias [3]",
        "+ conv_in/bias [4]",
        "conv_in/kernel has shape [3, 2, 5, 4], expected [3, 2, 5, 8]",
    ):
        assert part in str(error.value)


def test_a_cut_or_changed_file_is_an_error_that_names_it(tmp_path):
    folder = write(tmp_path / "b")
    file = folder / "unet.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    with pytest.raises(ValueError, match=f"unet.safetensors: {len(data) - 10} bytes, expected"):
        bundle.load([folder], ["unet"], **OPTIONS)
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    bundle.load([folder], ["unet"], **OPTIONS)  # a digest costs a pass over the file
    with pytest.raises(ValueError, match="unet.safetensors: its SHA-256 is not the one"):
        bundle.load([folder], ["unet"], **OPTIONS, verify=True)
    file.write_bytes(b"\xff" * len(data))
    with pytest.raises(ValueError, match="unet.safetensors: not a whole safetensors file"):
        bundle.load([folder], ["unet"], **OPTIONS)


def change(folder, **fields):
    content = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(content | fields))


ENTRY = {"file": "unet.safetensors", "sha256": "", "bytes": 1, "tensors": 1}
ENTRY |= {"dtype": "float32", "source": "x"}
BAD_DESCRIPTIONS = {
    "bundle format 2, this program reads format 1": {"format": 2},
    "lacks one of base, model, quirks, config, networks": {"networks": 3},
    "entry unet lacks one of file, sha256, bytes, tensors": {"networks": {"unet": {}}},
    "bytes, tensors, dtype, source": {
        "networks": {"unet": {name: ENTRY[name] for name in ("file", "sha256", "bytes", "tensors")}}
    },
    "its model or quirks are no list of settings": {"model": []},
    "names the file '../../secret'": {"networks": {"unet": ENTRY | {"file": "../../secret"}}},
}


@pytest.mark.parametrize("message", BAD_DESCRIPTIONS)
def test_a_description_that_is_wrong_is_an_error(tmp_path, message):
    folder = write(tmp_path / "b")
    change(folder, **BAD_DESCRIPTIONS[message])
    with pytest.raises(ValueError) as error:
        bundle.load([folder], ["unet"], **OPTIONS)
    assert message in str(error.value) and "bundle.json" in str(error.value)


def test_a_folder_that_is_no_bundle_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder.*convert to-flax"):
        bundle.load([tmp_path / "absent"], ["unet"], **OPTIONS)
    with pytest.raises(ValueError, match="no bundle.json in it.*convert to-flax"):
        bundle.load([tmp_path], ["unet"], **OPTIONS)
    with pytest.raises(ValueError, match="--weights names no folder"):
        bundle.load([], ["unet"], **OPTIONS)
    for text in ("{not json", "[" * 100_000):
        (tmp_path / "bundle.json").write_text(text)
        with pytest.raises(ValueError, match="bundle.json: cannot be read"):
            bundle.load([tmp_path], ["unet"], **OPTIONS)
    with pytest.raises(ValueError, match="bundle.json: a file, no folder.*convert to-flax"):
        bundle.load([tmp_path / "bundle.json"], ["unet"], **OPTIONS)


def test_an_existing_folder_is_never_written_into(tmp_path):
    folder = write(tmp_path / "b")
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(ValueError, match="b: already exists"):
        write(folder, networks(1))
    assert sorted(file.name for file in folder.iterdir()) == before
    np.testing.assert_array_equal(
        leaf(bundle.load([folder], ["unet"], **OPTIONS)), leaf(networks())
    )


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    written = []

    def full(path, *args):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return tensor_file_write(path, *args)

    tensor_file_write = tensor_file.write
    monkeypatch.setattr(tensor_file, "write", full)
    with pytest.raises(OSError, match="b: cannot write this file: No space left on device"):
        write(tmp_path / "b")
    assert len(written) == 2 and not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    needed = sum(leaf.nbytes for leaf in flatten_dict(networks()).values())
    monkeypatch.setattr(tensor_file, "write", lambda *_: pytest.fail("something was written"))
    usage = shutil.disk_usage(tmp_path)
    for dtype, factor in ((None, 1), ("float64", 2)):
        free = needed * factor - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(OSError, match="b: needs 0 MiB, and the disk has 0 MiB left"):
            write(tmp_path / "b", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_does_not_tell_its_size_is_written_to(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(total=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert (write(tmp_path / "b") / bundle.DESCRIPTION).is_file()


def test_pose_files_are_copied_and_found_in_the_last_folder_that_has_them(tmp_path):
    (tmp_path / "yolo").write_bytes(b"onnx")
    one = write(tmp_path / "a", pose_files={"detector.onnx": tmp_path / "yolo"})
    two = write(tmp_path / "b")
    assert bundle.pose_file([one, two], "detector.onnx") == one / "detector.onnx"
    shutil.copy(one / "detector.onnx", two)
    assert bundle.pose_file([one, two], "detector.onnx") == two / "detector.onnx"
    assert bundle.pose_file([one, two], "whole_body.onnx") is None


def test_another_base_may_load_what_serves_any_base_and_nothing_else(tmp_path):
    folder = write(tmp_path / "b")
    other = {"model": {**MODEL, "unet": {"channels": (8,)}, "cmp": {"bins": 3}}, "quirks": QUIRKS}
    with pytest.raises(ValueError, match="weights belong to another model.*model.cmp"):
        bundle.load([folder], ["cmp"], **other)
    change(folder, model={**MODEL, "cmp": {"bins": 3}})
    assert set(bundle.load([folder], ["cmp"], **other)) == {"cmp"}
    with pytest.raises(ValueError, match="weights belong to another model.*model.unet.channels"):
        bundle.load([folder], ["cmp", "unet"], **other)
