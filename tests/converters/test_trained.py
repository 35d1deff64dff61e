"""What training makes goes back into PyTorch's files: a run's bundle as the loop writes it, alone
or over others, and the bundles that no released file can hold."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import svd
from converters import checkpoints, convert, files, releases
from dispose_jax.models import bundle
from dispose_jax.models import networks as model_networks
from dispose_jax.training import loop
from tests.parity.cases import load_manifest

CONTROL = ("controlnet", "motion_encoder", "point_encoder")


def trained(workdir: Path, argument: str, seed: int = 1, **quirks: str) -> dict:
    """A run's bundle below workdir, of random weights; what it was written from."""
    config = svd.get_config(f"size=tiny,{argument}")
    config.quirks.update(quirks)
    config.train.batch = 8  # divides over the devices of the tests
    workdir.mkdir()
    run = loop.Run(config, (), workdir, say=lambda text: None)
    params = model_networks.random({n: run.networks[n] for n in run.trainable}, seed)
    loop._write_bundle(run, params, config.train.steps, iter(()))
    return params


def export(target: Path, *workdirs: Path, config=None) -> list[str]:
    config = config or svd.get_config("size=tiny")
    return list(convert.to_torch([w / "bundle" for w in workdirs], target, config))


def assert_same(found: dict, expected: dict) -> None:
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg="/".join(path))


def test_a_trained_control_becomes_dispose_pth_and_comes_back(tmp_path):
    params = trained(tmp_path / "run", "variant=full")
    lines = export(tmp_path / "torch", tmp_path / "run")
    assert len(lines) == 1 and "DisPose.pth" in lines[0]
    tensors = files.read(tmp_path / "torch" / "DisPose.pth")
    kernel = params["controlnet"]["encoder"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(tensors["conv_in.weight"], np.transpose(kernel, (3, 2, 0, 1)))
    flow = params["motion_encoder"]["dense"]["blocks_1"]["kernel"]
    np.testing.assert_array_equal(
        tensors["controlnet_cond_embedding.blocks_flow.1.weight"], np.transpose(flow, (3, 2, 0, 1))
    )
    point = params["point_encoder"]["levels_0"]["mlp_0"]["kernel"]
    np.testing.assert_array_equal(tensors["point_adapter.model_list.0.mlp.0.weight"], point.T)
    config = svd.get_config("size=tiny")
    list(convert.to_flax(tmp_path / "torch", tmp_path / "again", config))
    again = bundle.load([tmp_path / "again"], CONTROL, model=config.model, quirks=config.quirks)
    for name in CONTROL:
        assert_same(again[name], params[name])


def test_at_full_size_training_learns_exactly_the_tensors_of_the_released_file():
    config = svd.get_config()
    built = model_networks.build(config, training=True)
    shapes = {name: built[name].shapes for name in config.train.trainable}
    maps = checkpoints.derive(releases.release("dispose"), shapes)
    derived = {e.key: list(e.shape) for entries in maps.values() for e in entries.values()}
    released = load_manifest("dispose.full")["tensors"]
    assert derived == {key: list(shape) for key, (shape, _) in released.items()}


def test_a_trained_base_becomes_mimicmotion_and_its_picture_encoder(tmp_path):
    params = trained(tmp_path / "base", "stage=base")
    export(tmp_path / "torch", tmp_path / "base")
    tensors = files.read(tmp_path / "torch" / "MimicMotion_1-1.pth")
    count = sum(len(jax.tree.leaves(params[name])) for name in ("unet", "pose_encoder"))
    assert len(tensors) == count
    scale = params["pose_encoder"]["output_scale"]
    np.testing.assert_array_equal(tensors["pose_net.scale"], scale)
    written = {path.name for path in (tmp_path / "torch").rglob("*.*") if path.is_file()}
    assert written == {"MimicMotion_1-1.pth", "model.safetensors"}


def test_the_networks_of_a_later_run_win(tmp_path):
    trained(tmp_path / "first", "variant=full", seed=1)
    later = trained(tmp_path / "second", "variant=no_point", seed=2)
    export(tmp_path / "torch", tmp_path / "first", tmp_path / "second")
    tensors = files.read(tmp_path / "torch" / "DisPose.pth")
    expected = np.transpose(later["controlnet"]["encoder"]["conv_in"]["kernel"], (3, 2, 0, 1))
    np.testing.assert_array_equal(tensors["conv_in.weight"], expected)


def test_quirks_do_not_keep_weights_from_being_written(tmp_path):
    trained(tmp_path / "run", "variant=full", residuals="accumulated")
    assert "DisPose.pth" in export(tmp_path / "torch", tmp_path / "run")[0]


@pytest.mark.parametrize("argument", ["size=tiny", "size=tiny,variant=no_cmp"])
def test_a_control_without_the_dense_field_is_told_that_it_cannot_be_written(tmp_path, argument):
    trained(tmp_path / "run", "variant=no_cmp")
    config = svd.get_config(argument)
    message = "trained without the dense field .* train variant=full to export it"
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "torch", tmp_path / "run", config=config)
    assert not (tmp_path / "torch").exists()


def test_a_bundle_with_part_of_a_file_says_what_the_file_needs_too(tmp_path):
    trained(tmp_path / "run", "variant=no_point")
    with pytest.raises(ValueError, match="controlnet, because DisPose.pth needs point_encoder too"):
        export(tmp_path / "torch", tmp_path / "run")
