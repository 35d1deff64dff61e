"""The networks that measure: derived keys against the published files, and every bit both ways."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest

from converters import checkpoints, download, files, mapping, releases
from converters.mapping import ConversionError
from dispose_jax.models import bundle, evaluation_networks
from tests.parity import keyed_weights
from tests.parity.cases import load_manifest

# Manifest -> the rows whose files it describes; LPIPS is published in two files.
FILES = {
    "lpips_alex": ("alexnet", "lpips_alex"),
    "lpips_vgg": ("vgg16", "lpips_vgg"),
    "i3d_kinetics400": ("i3d",),
    "resnet3d50_kinetics": ("resnet3d",),
    "dino_vitb16": ("dino",),
    "clip_vitb32_vision": ("clip_b32",),
    "videomae_giant_ssv2": ("videomae",),
    "raft_things": ("raft_things",),
}
LIGHT = [name for name in FILES if name != "videomae_giant_ssv2"]  # a billion values


def shapes_of(row: str) -> dict:
    return {row: evaluation_networks.build(row).shapes}


def own_tensors(manifest: str, row: str) -> dict:
    """The manifest's {key: (shape, dtype)} that lie in a row's file."""
    tensors = load_manifest(manifest)["tensors"]
    is_head = lambda key: re.match(r"lin\d\.", key) is not None
    return {k: v for k, v in tensors.items() if is_head(k) == row.startswith("lpips")}


def same_bits(one, other) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize(("manifest", "row"), [(m, r) for m, rows in FILES.items() for r in rows])
def test_derived_keys_and_shapes_are_those_of_the_published_file(manifest, row):
    release = releases.release(row)
    expected = {k: tuple(shape) for k, (shape, _) in own_tensors(manifest, row).items()}
    maps = checkpoints.derive(release, shapes_of(row))
    derived = {e.key: e.shape for entries in maps.values() for e in entries.values()}
    written = {key for key in expected if re.search(r"\.norm3\.|num_batches_tracked$", key)}
    assert derived == {key: shape for key, shape in expected.items() if key not in written}
    assert bool(written) == release.counters


@pytest.mark.parametrize(("manifest", "row"), [(m, r) for m in LIGHT for r in FILES[m]])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_both_ways_and_back_every_bit_is_the_same(manifest, row, dtype):
    release, tensors = releases.release(row), {}
    for key, (shape, kind) in own_tensors(manifest, row).items():
        value = keyed_weights.tensor(key, shape, kind, "bits")
        tensors[key] = value if "int" in kind else value.astype(dtype)
    for key in [key for key in tensors if ".norm3." in key]:  # RAFT's file holds these twice
        tensors[key] = tensors[key.replace(".norm3.", ".downsample.1.")]
    tensors = {release.module + key: value for key, value in tensors.items()}
    params, report = checkpoints.to_flax(release, tensors, shapes_of(row), "file")
    assert report.matched + sum(map(len, report.notes.values())) == len(tensors)
    written = checkpoints.to_torch(release, params, "bundle")
    assert written.keys() == tensors.keys()
    assert all(same_bits(written[key], tensors[key]) for key in tensors)


def test_a_missing_and_a_misshaped_tensor_are_errors_that_name_them():
    tensors = {
        key: keyed_weights.tensor(key, shape, kind, "strict")
        for key, (shape, kind) in own_tensors("lpips_alex", "lpips_alex").items()
    }
    convert = lambda given: checkpoints.to_flax(
        releases.release("lpips_alex"), given, shapes_of("lpips_alex"), "alex.pth"
    )
    with pytest.raises(ConversionError, match="(?s)1 tensor missing.*- lin2.model.1.weight"):
        convert({k: v for k, v in tensors.items() if not k.startswith("lin2")})
    with pytest.raises(ConversionError, match="(?s)1 ill-shaped.*! lin3.model.1.weight"):
        convert(tensors | {"lin3.model.1.weight": np.zeros((1, 255, 1, 1), np.float32)})


def test_what_the_published_files_hold_beside_the_network_is_left_out_by_name():
    head = {"weight": np.ones((1, 768), np.float32), "bias": np.zeros(1, np.float32)}
    params, _ = checkpoints.to_flax(
        releases.release("aesthetic"), head, shapes_of("aesthetic"), "sa_0_4_vit_l_14_linear.pth"
    )
    assert params["aesthetic"]["linear"]["kernel"].shape == (768, 1)
    for name, extra in (
        ("alexnet", "classifier.6.weight"),
        ("clip_b32", "text_model.encoder.layers.0.mlp.fc1.weight"),
        ("clip_l14", "logit_scale"),
    ):
        row = releases.release(name)
        entries = checkpoints.derive(row, shapes_of(name))[name]
        zeros = {e.key: np.broadcast_to(np.float16(0), e.shape) for e in entries.values()}
        given = zeros | {extra: np.zeros(3, np.float32)}
        _, report = checkpoints.to_flax(row, given, shapes_of(name), name, check_values=False)
        assert report.notes == {"of networks not used here": [extra]}


def test_videomae_is_read_from_the_entry_its_authors_save_it_under(tmp_path):
    tensors = {"fc_norm.weight": np.arange(3, dtype=np.float32)}
    files.write(tmp_path / "x.pth", tensors, wrapper="module")
    np.testing.assert_array_equal(files.read(tmp_path / "x.pth")["fc_norm.weight"], np.arange(3))


def test_a_bundle_gives_its_measuring_networks_to_any_model(tmp_path):
    head = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes_of("aesthetic"))
    belongs = bundle.ModelDescription("svd", {"unet": {"channels": [1]}}, {}, "configs/svd.py")
    origins = {"aesthetic": bundle.Origin("file", "MIT")}
    bundle.write(tmp_path / "b", head, belongs, origins)
    found = bundle.load([tmp_path / "b"], shapes_of("aesthetic"), model={"other": 1}, quirks={})
    assert mapping.flatten(found).keys() == mapping.flatten(head).keys()


def test_the_evaluation_is_one_name_to_the_downloader_with_licences_sizes_and_what_is_by_hand(
    capsys, tmp_path
):
    assert download.main(["--to", str(tmp_path), "--only", "evaluation"]) == 0
    out = capsys.readouterr().out
    for row in releases.RELEASES:
        if row.for_evaluation:
            assert f"{row.name}: " in out and row.licence in out
    assert "by hand, resnet-50-kinetics.pth from" in out and "2.0 GB" in out
    assert "nothing was downloaded" in out and not list(tmp_path.iterdir())
