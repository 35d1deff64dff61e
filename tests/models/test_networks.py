"""Networks by name, and the type they compute in."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import svd
from dispose_jax.models import networks


def test_computation_is_in_float32_on_a_cpu_unless_chosen():
    assert networks.compute_dtype("auto") == np.float32
    assert networks.compute_dtype("bfloat16") == jnp.bfloat16
    with pytest.raises(ValueError, match="dtype is 'half'"):
        networks.compute_dtype("half")


def test_rows_are_clips_in_training_and_halves_of_guidance_in_sampling():
    config = svd.get_config()  # the released order of contexts
    for training, rows in ((False, 2), (True, 1)):
        built = networks.build(config, training=training)
        for name in ("unet", "controlnet"):
            assert built[name].module.flavour.context_group == rows
            assert built[name].module.flavour.remat == training


def test_what_gradients_compute_again_has_the_same_parameters():
    config = svd.get_config("size=tiny")
    kept = networks.build(config, training=True)
    config.train.remat = "layer"
    again = networks.build(config, training=True)
    for name in ("unet", "controlnet"):
        assert again[name].module.flavour.remat and not kept[name].module.flavour.remat
        assert again[name].shapes == kept[name].shapes


def test_equal_networks_of_two_builds_start_by_one_function():
    one, other = (networks.build(svd.get_config()) for _ in range(2))
    assert all(one[name].init is other[name].init for name in one)
    wider = svd.get_config()
    wider.model.vae.latent_channels *= 2
    assert networks.build(wider)["vae"].init is not one["vae"].init
