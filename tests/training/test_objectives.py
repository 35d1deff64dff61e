"""Which objective a config gets, and what it refuses."""

import pytest

from configs import svd
from dispose_jax.models import networks
from dispose_jax.training import objectives


def build(argument: str, **train):
    config = svd.get_config(f"size=tiny,{argument}")
    config.train.update(train)
    return objectives.build(config, networks.build(config, training=True))


def test_a_decoder_that_learns_alone_refuses_a_decay_of_its_encoder():
    config = svd.get_config("size=tiny,stage=decoder")
    config.train.weight_decay = 0.1
    with pytest.raises(ValueError, match="train.weight_decay is 0.1, which would change the enc"):
        objectives.build(config, networks.build(config, training=True))


@pytest.mark.parametrize("stage", svd.STAGES)
def test_what_a_stage_trains_has_a_part_in_its_objective(stage):
    trainable = set(svd.STAGES[stage][0])
    assert trainable <= set(build(f"stage={stage}").networks)


@pytest.mark.parametrize(
    ("argument", "missing"),
    [("variant=no_cmp,stage=cmp", "cmp"), ("variant=no_point,stage=image", "dift_unet")],
)
def test_a_variant_without_the_stage_s_network_is_refused(argument, missing):
    with pytest.raises(ValueError, match=f"needs the network {missing}.*leave variant out"):
        build(argument)


def test_exact_flow_is_of_drawn_people_alone():
    config = svd.get_config("size=tiny,stage=cmp")
    config.data.source = "a_set"
    with pytest.raises(ValueError, match="stage=cmp .* data.source is 'a_set'; give --config"):
        objectives.build(config, networks.build(config, training=True))


def test_a_network_without_a_part_in_the_objective_cannot_learn():
    with pytest.raises(ValueError, match="'cmp', which has no part in this run; it may name unet"):
        build("stage=base", trainable=("unet", "cmp"))


def test_the_base_alone_reads_no_control():
    names = build("stage=base").networks
    assert set(names) == {"unet", "pose_encoder", "vae", "image_encoder"}
