"""Where the weights of a run come from: the order of the sources, and the ControlNet's start."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import traverse_util

from configs import sd15, svd
from dispose_jax.models import bundle, networks
from dispose_jax.training import loop, objectives, start
from tests import small

ENCODER = "Stable Video Diffusion's, 1-1"


def config(control_start):
    """Everything of the small model but what costs time to build."""
    made = small.config("no_point")
    made.train.update({"batch": 8, "control_start": control_start})
    made.data.source = "synthetic"
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle with the encoder of Stable Video Diffusion's own U-Net, and that encoder."""
    made = config("auto")
    part = {"svd_encoder": networks.svd_encoder(made)}
    params = networks.random(part, seed=5)
    folder = tmp_path_factory.mktemp("bundles") / "svd"
    described = bundle.ModelDescription(made.base, made.model, made.quirks, made.name)
    bundle.write(folder, params, described, {"svd_encoder": bundle.Origin(ENCODER, "theirs")})
    return SimpleNamespace(path=str(folder), encoder=params["svd_encoder"])


def started(made, given, workdir):
    """The ControlNet that a run starts with, its frozen networks, and what the run said."""
    said = []
    run = loop.Run(made, given, workdir, say=said.append)
    nothing = SimpleNamespace(latest=None)
    current, frozen = start.start(run, start.open_weights(run), nothing, None)
    return jax.device_get(current.params["controlnet"]), jax.device_get(frozen), said


def differing(tree, other):
    """Paths of a tree whose leaves are not the other's, both of numbers."""
    flat, theirs = (traverse_util.flatten_dict(x, sep="/") for x in (tree, other))
    return {path for path in flat if not np.array_equal(flat[path], theirs.get(path))}


def test_the_controlnet_starts_from_the_published_unet_where_the_weights_have_it(folder, tmp_path):
    found, frozen, said = started(config("auto"), ("random", folder.path), tmp_path)
    assert not differing(folder.encoder, found)
    assert differing(folder.encoder, frozen["unet"]), "the frozen base is another one"
    assert "svd_encoder" not in frozen
    assert "the ControlNet starts as a copy of the encoder of svd_encoder" in said
    without = loop.Run(config("auto"), ("random",), tmp_path)
    assert start.control_start(without) == "unet", "which test_state.py knows the copy of"
    assert "svd_encoder" not in start.open_weights(without).digests


def test_what_a_start_needs_is_missed_by_its_name(folder, tmp_path, monkeypatch):
    frozen = SimpleNamespace(networks=("controlnet",), goes_on=(), starts_from=("svd_encoder",))
    monkeypatch.setattr(objectives, "build", lambda *_: frozen)
    made = config("svd_encoder")
    made.train.trainable = ("controlnet",)
    with pytest.raises(ValueError, match="needs --weights with the networks svd_encoder; bundles"):
        start.open_weights(loop.Run(made, (), tmp_path))
    assert start.open_weights(loop.Run(made, (folder.path,), tmp_path)).digests.keys() == {
        "svd_encoder"
    }


def test_the_encoder_is_all_that_a_controlnet_copies():
    made = small.config("base")
    whole = networks.build(made)["unet"].shapes
    part = networks.svd_encoder(made).shapes
    absent = {name for name in whole if name not in part}
    assert absent == {"conv_norm_out", "conv_out", *(n for n in whole if n.startswith("up_"))}
    assert all(part[name] == whole[name] for name in part)


def test_the_paper_s_start_is_the_default_of_both_bases():
    assert svd.get_config().train.control_start == "auto"
    assert sd15.get_config().train.control_start == "dift_unet"
    assert svd.get_config("size=tiny").train.control_start == "unet"  # has no other


@pytest.mark.parametrize("base, named", [("svd", "dift_unet"), ("sd15", "svd_encoder")])
def test_another_base_s_unet_is_refused(base, named):
    made = {"svd": svd, "sd15": sd15}[base].get_config("size=tiny,variant=no_point")
    made.train.control_start = named
    with pytest.raises(ValueError, match=f"control_start is '{named}', a U-Net of another base"):
        objectives.build(made, networks.build(made, training=True))
