"""The command line on the second base's files, laid out as MusePose asks for them, beside files of
the first."""

import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from converters import checkpoints, convert, doctor, files, mapping, releases
from dispose_jax import settings
from dispose_jax.models import bundle
from dispose_jax.models import networks as model_networks
from tests.converters import built

CONFIG = "configs/sd15.py:size=tiny"
ROWS = [row for row in releases.serving("sd15") if row.is_expected]
TRAINED = ("controlnet", "motion_encoder", "point_encoder")
PLACES = {  # where they are not where our own download puts them
    **{row.name: f"pretrained_weights/{row.file}" for row in ROWS},
    "variations_image_encoder": "pretrained_weights/image_encoder/pytorch_model.bin",
    "vae_ft_mse": "pretrained_weights/sd-vae-ft-mse/diffusion_pytorch_model.bin",
}


@pytest.fixture(scope="module")
def config():
    return settings.load(CONFIG)


@pytest.fixture(scope="module")
def traced(config):
    """Once for all tests."""
    return built.traced(config)


@pytest.fixture(autouse=True)
def build_once(monkeypatch, traced):
    monkeypatch.setattr(convert, "all_networks", lambda config: traced)


@pytest.fixture(scope="module")
def params(traced):
    return model_networks.random(traced, 7, np.float16)


@pytest.fixture(scope="module")
def released(tmp_path_factory, params):
    """Both bases' weights in one folder; those of the first would be wrong for any config."""
    folder = tmp_path_factory.mktemp("weights")
    for row in ROWS:
        tensors = checkpoints.to_torch(row, params, "random", positions=128)
        files.write(folder / PLACES[row.name], tensors, wrapper=row.wrapper)
    for name in ("MimicMotion_1-1.pth", "DisPose.pth"):
        files.write(folder / name, {"a": np.zeros(3, np.float32)})
    return folder


BASE = {
    "unet": "denoising_unet",
    "motion_modules": "motion_module",
    "reference": "reference_unet",
    "pose_encoder": "pose_guider",
}


@pytest.fixture
def trained(tmp_path, config, params):
    """A bundle as training DisPose leaves it."""
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    origins = dict.fromkeys(TRAINED, bundle.Origin("run 1", "ours"))
    networks = {name: params[name] for name in TRAINED}
    bundle.write(tmp_path / "trained", networks, described, origins)
    return tmp_path / "trained"


def run(capsys, *arguments):
    """Exit status, output, errors of the command."""
    status = convert.main([*map(str, arguments), "--config", CONFIG])
    return status, *capsys.readouterr()


def test_released_files_become_a_bundle_and_come_back_bit_for_bit(capsys, tmp_path, released):
    folder = tmp_path / "bundle"
    status, out, err = run(capsys, "to-flax", "--from", released, "--to", folder)
    assert (status, err) == (0, "")
    for name in TRAINED:
        assert f"not in it: {name}, which comes from a training run" in out
    assert out.count("not in it") == len(TRAINED)
    description = json.loads((folder / "bundle.json").read_text())
    networks = description["networks"]
    assert description["base"] == "sd15"
    assert {"unet", "motion_modules", "reference", "pose_encoder", "vae"} < networks.keys()
    assert networks["motion_modules"]["source"] == "pretrained_weights/MusePose/motion_module.pth"
    assert "non-commercial" in networks["reference"]["licence"]
    assert networks["vae"]["licence"] == "MIT"

    status, _, err = run(capsys, "to-torch", "--from", folder, "--to", tmp_path / "again")
    assert (status, err) == (0, "")
    before, after = doctor.find(released), doctor.find(tmp_path / "again")
    assert before.keys() - {"mimicmotion", "dispose"} == after.keys()
    # The small model's autoencoder is a video's, whose convolutions over frames have three axes.
    written = files.read(after["vae_ft_mse"])
    assert written["decoder.time_conv_out.weight"].shape == (3, 3, 3, 1, 1)
    for row in ROWS:
        tensors, found = files.read(before[row.name]), files.read(after[row.name])
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            positions = slice(0, 32)  # the small model has a shorter table
            tensor = tensor[:, positions] if key.endswith(".pe") else tensor
            assert found[key].dtype == tensor.dtype
            np.testing.assert_array_equal(found[key], tensor, err_msg=f"{row.name} {key}")


def test_the_doctor_knows_the_base_and_that_nobody_has_published_dispose_for_it(
    capsys, tmp_path, released
):
    status, out, _ = run(capsys, "check", released)
    assert status == 0 and out.count("ok  ") == len(ROWS)
    assert "dispose" not in out and "mimicmotion" not in out
    assert f"to-flax --from {released} --to BUNDLE --config configs/sd15.py:size=tiny" in out
    assert convert.main(["check", str(released), "--config", f"{CONFIG},variant=base"]) == 0
    assert "--to BUNDLE --config configs/sd15.py:size=tiny,variant=base" in capsys.readouterr().out
    run(capsys, "to-flax", "--from", released, "--to", tmp_path / "bundle")
    status, out, _ = run(capsys, "check", tmp_path / "bundle")
    assert status == 1 and "next: train " in out and "variant=base" in out
    assert all(f"missing  {name:18} comes from a training run" in out for name in TRAINED)

    (tmp_path / "empty").mkdir()
    status, out, _ = run(capsys, "check", tmp_path / "empty")
    assert status == 1 and "--only musepose_denoising_unet,musepose_motion_module," in out
    assert "huggingface.co/TMElyralab/MusePose" in out and "mimicmotion" not in out


CAME_FROM = {  # source of each network -> files that are written
    "moore": (
        {name: f"AnimateAnyone/{file}.pth" for name, file in BASE.items()},
        {f"AnimateAnyone/{file}.pth" for file in BASE.values()},
    ),
    "the start of training": (
        {
            "unet": "sd-image-variations-diffusers/unet/diffusion_pytorch_model.bin",
            "reference": "sd-image-variations-diffusers/unet/diffusion_pytorch_model.bin",
            "motion_modules": "mm_sd_v15_v2.ckpt",
        },
        {  # one file cannot be two networks
            "sd-image-variations-diffusers/unet/diffusion_pytorch_model.safetensors",
            "MusePose/reference_unet.pth",
            "mm_sd_v15_v2.ckpt",
        },
    ),
    "training": (
        dict.fromkeys(BASE, "trained: stage base"),
        {f"MusePose/{file}.pth" for file in BASE.values()},
    ),
}


@pytest.mark.parametrize("case", CAME_FROM)
def test_networks_go_back_into_the_file_that_they_came_from(capsys, tmp_path, config, params, case):
    sources, expected = CAME_FROM[case]
    described = bundle.ModelDescription(config.base, config.model, config.quirks, config.name)
    origins = {name: bundle.Origin(source, "") for name, source in sources.items()}
    networks = {name: params[name] for name in sources}
    bundle.write(tmp_path / "b", networks, described, origins)
    status, _, err = run(capsys, "to-torch", "--from", tmp_path / "b", "--to", tmp_path / "out")
    assert (status, err) == (0, "")
    written = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path / "out").as_posix() for path in written} == expected


def test_a_trained_dispose_goes_out_under_a_name_of_its_own_and_comes_back(
    capsys, tmp_path, config, params, trained
):
    status, out, err = run(capsys, "to-torch", "--from", trained, "--to", tmp_path / "torch")
    assert (status, err) == (0, "")
    assert [path.name for path in (tmp_path / "torch").iterdir()] == ["DisPose_sd15.pth"]
    status, out, err = run(
        capsys, "to-flax", "--from", tmp_path / "torch", "--to", tmp_path / "again"
    )
    assert (status, err) == (0, "")
    again = bundle.load([tmp_path / "again"], TRAINED, model=config.model, quirks=config.quirks)
    for name in TRAINED:
        found, expected = flatten_dict(again[name]), flatten_dict(params[name])
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value, err_msg=f"{name} {path}")


def test_a_file_of_the_other_base_is_refused_by_name(capsys, tmp_path, released):
    options = ("to-flax", "--from", released, "--to", tmp_path / "b", "--only", "mimicmotion")
    status, _, err = run(capsys, *options)
    assert (
        status == 1 and "--only mimicmotion: a file for the base svd, the config's is sd15" in err
    )
    options = ("to-flax", "--from", released, "--to", tmp_path / "b", "--only", "dispose_sd15")
    status, _, err = run(capsys, *options)
    assert status == 1 and "no DisPose_sd15.pth in it; get it from a training run" in err


@pytest.mark.parametrize(
    "row, network",
    [("dispose", "controlnet"), ("mimicmotion", "unet"), ("animatediff", "unet")],
)
def test_rules_that_rename_nothing_are_an_error(traced, row, network):
    own = releases.release(row).parts[0]  # rules of another network than the one it is given
    shapes = traced[network].shapes
    with pytest.raises(mapping.ConversionError, match="rules that match no tensor"):
        mapping.derive(shapes, *own.spelling)
