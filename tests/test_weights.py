"""Which weights a run uses: bundles checked before any work, and random networks beside them."""

import jax
import numpy as np
import pytest

from dispose_jax import weights
from dispose_jax.models import bundle, networks
from dispose_jax.pose import dwpose
from tests import small

SOME = ("unet", "vae")
ORIGIN = bundle.Origin("a test", "none")


@pytest.fixture(scope="module")
def base():
    return small.build("base")


def write(folder, made, names, change=lambda tree: tree, **belongs):
    """A bundle with some networks of a model."""
    about = {
        "base": "svd",
        "model": made.config.model,
        "quirks": made.config.quirks,
        "config": "configs/svd.py:size=tiny",
    }
    trees = {name: change(made.params[name]) for name in names}
    origins = dict.fromkeys(names, ORIGIN)
    bundle.write(folder, trees, bundle.ModelDescription(**{**about, **belongs}), origins)
    return str(folder)


def opened(made, *given):
    return weights.Weights(given, made.networks, made.config)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_random_weights_follow_from_the_seed(base):
    one, two = opened(base, weights.RANDOM), opened(base, weights.RANDOM)
    assert one.random == tuple(base.networks)
    assert_same(one.load(SOME), two.load(SOME))
    other = small.config("base")
    other.seed += 1
    changed = weights.Weights([weights.RANDOM], base.networks, other).load(["vae"])["vae"]
    kernel = lambda tree: tree["encoder"]["conv_in"]["kernel"]
    assert not np.array_equal(kernel(changed), kernel(one.load(["vae"])["vae"]))


def test_a_folder_after_random_replaces_what_it_holds(base, tmp_path):
    folder = write(tmp_path / "b", base, ["vae"])
    found = opened(base, weights.RANDOM, folder)
    assert "vae" not in found.random
    assert "unet" in found.random
    assert_same(found.load(["vae"])["vae"], base.params["vae"])


def test_a_later_folder_replaces_networks_of_an_earlier_one(base, tmp_path):
    first = write(tmp_path / "a", base, base.networks)
    doubled = lambda tree: jax.tree.map(lambda x: 2 * x, tree)
    second = write(tmp_path / "b", base, ["vae"], doubled)
    loaded = opened(base, first, second).load(SOME)
    assert_same(loaded["vae"], doubled(base.params["vae"]))
    assert_same(loaded["unet"], base.params["unet"])


def test_networks_that_an_ablation_leaves_out_are_not_asked_for(base):
    found = opened(base, weights.RANDOM)
    assert found.load(["controlnet", "vae"]).keys() == {"vae"}


def test_incomplete_weights_are_named_before_any_of_them_is_needed(base, tmp_path):
    folder = write(tmp_path / "b", base, ["vae"])
    with pytest.raises(ValueError, match="no unet.safetensors.*MimicMotion_1-1.pth"):
        opened(base, folder)


def test_a_truncated_file_is_named_before_any_of_it_is_needed(base, tmp_path):
    folder = write(tmp_path / "b", base, base.networks)
    path = tmp_path / "b" / "image_encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="image_encoder.safetensors: .* bytes, expected"):
        opened(base, folder)


def test_a_deleted_file_is_named(base, tmp_path):
    folder = write(tmp_path / "b", base, base.networks)
    (tmp_path / "b" / "unet.safetensors").unlink()
    with pytest.raises(ValueError, match="unet.safetensors: missing"):
        opened(base, folder)


@pytest.mark.parametrize("given", [(), (weights.RANDOM,)])
def test_weights_of_another_model_are_refused_with_the_difference(base, tmp_path, given):
    other = small.config("base")
    other.model.unet.layers = 7
    folder = write(tmp_path / "b", base, base.networks, model=other.model)
    with pytest.raises(ValueError, match="unet.layers is 7 there, 1 here"):
        opened(base, *given, folder)


def test_a_folder_of_something_else_says_how_to_make_a_bundle(base, tmp_path):
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="no bundle.json.*converters.convert to-flax"):
        opened(base, str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        opened(base, weights.RANDOM, str(tmp_path / "absent"))


def test_full_size_needs_weights_and_the_small_model_takes_what_is_bundled(tmp_path):
    drawn, full = small.svd.get_config("size=small"), small.svd.get_config()
    assert weights.choose(None, drawn, tmp_path) == (weights.RANDOM,)
    bundled = tmp_path / drawn.bundled[0]
    bundled.mkdir()
    (bundled / bundle.DESCRIPTION).write_text("{}")
    assert weights.choose(None, drawn, tmp_path) == (weights.RANDOM, str(bundled))
    assert weights.choose(["A", "B"], full, tmp_path) == ("A", "B")
    with pytest.raises(ValueError, match=r"configs/svd\.py needs --weights: .*to-flax.*'random'"):
        weights.choose(None, full, tmp_path)
    with pytest.raises(ValueError, match=r"configs/svd\.py:size=tiny needs --weights"):
        weights.choose(None, small.svd.get_config("size=tiny"), tmp_path)
    with pytest.raises(ValueError, match="assets/, not in an installed package; name a bundle"):
        weights.choose(None, drawn, tmp_path / "absent")


def test_random_after_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--weights A,random: 'random' comes first"):
        weights.choose(["A", weights.RANDOM], small.config(), tmp_path)


def test_the_folder_of_the_pose_detector_is_found(base, tmp_path):
    folder = write(tmp_path / "b", base, base.networks)
    assert opened(base, folder).pose_folder is None
    (tmp_path / "b" / dwpose.DETECTOR).write_bytes(b"onnx")
    assert opened(base, folder).pose_folder == tmp_path / "b"


def test_a_bundle_of_the_other_base_gives_what_serves_any_base(base, tmp_path):
    folder = write(tmp_path / "b", base, base.networks)
    other = small.config("base", base="sd15")
    names = weights.offered([folder], other)
    assert names == {"vae", "image_encoder"}
    built = networks.build(other)
    found = weights.Weights((weights.RANDOM, str(folder)), built, other)
    assert set(found.random) == set(built) - names
    with pytest.raises(ValueError, match="weights belong to another model"):
        weights.Weights((str(folder),), {"unet": built["unet"]}, other)
