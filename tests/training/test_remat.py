"""What gradients compute again: the same numbers from less memory."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from dispose_jax.types import Params
from tests.training import light

SIZES = {"f32": 4, "bf16": 2, "i32": 4, "bool": 1, "ui32": 4, "u32": 4}


def made(remat: str, variant: str = "full"):
    run = light.run(variant, remat=remat)
    run.batch = light.batch(run.config)
    return run


def value(run, params: Params):
    return run.loss({**run.frozen, **params}, run.batch, jax.random.key(1))[0]


def saved(run, capsys) -> tuple[int, int]:
    """How many computed arrays are kept for the gradient, and their bytes."""
    print_saved_residuals(partial(value, run), run.params)
    lines = capsys.readouterr().out.splitlines()
    found = [re.match(r"(\w+)\[([\d,]*)\]", line) for line in lines if "argument" not in line]
    arrays = [
        SIZES[match[1]] * int(np.prod([int(n) for n in match[2].split(",") if n]))
        for match in found
        if match
    ]
    assert arrays
    return len(arrays), sum(arrays)


@pytest.mark.full
def test_fewer_and_smaller_arrays_are_kept_for_the_gradient(capsys):
    all_of_them, every_byte = saved(made("none"), capsys)
    kept, kept_bytes = saved(made("layer"), capsys)
    assert kept < 0.6 * all_of_them
    assert kept_bytes < 0.6 * every_byte


@pytest.mark.full
def test_gradients_are_those_without():
    found = {}
    for remat in ("none", "layer"):
        run = made(remat)
        # Not where training starts: most gradients are zero there.
        params = jax.tree.map(lambda x: jnp.asarray(x) + 0.01, run.params)
        gradient = light.quick(jax.value_and_grad(partial(value, run)), params)
        found[remat] = gradient(params)
    (one, plain), (other, again) = found.values()
    assert float(one) == pytest.approx(float(other), rel=1e-6)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    compare = lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-6 * largest)
    jax.tree.map(compare, plain, again)


def test_the_config_decides_for_every_network_that_gradients_pass():
    for remat, expected in (("none", False), ("layer", True)):
        model = made(remat).loss.model
        assert model.unet.flavour.remat == expected
        assert model.control.controlnet.flavour.remat == expected
        assert model.control.remat == expected
        assert replace(model.unet.flavour, remat=False) == made("none").loss.model.unet.flavour
