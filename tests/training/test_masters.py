"""What learns is kept in float32 from the file on; what is frozen is cast once, and stays.

Nor does a gradient lose its digits on the way: products are in bfloat16, sums are not.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType

from dispose_jax.models import bundle, networks
from dispose_jax.models.network import Network
from dispose_jax.training import loop, objectives, plan, sharding, start, step
from dispose_jax.training.objectives import Objective
from tests import small
from tests.training import toy


class Layer(nn.Module):
    """A product in bfloat16."""

    features: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features, dtype=jnp.bfloat16, name="layer")(x)


def build(*_, **__):
    part = lambda module, width: Network(
        module, lambda key: module.init(key, jnp.zeros((1, width))), jnp.bfloat16
    )
    return {"vae": part(Layer(8), 3), "cmp": part(Layer(16), 8)}


def objective(_, networks, *share):
    def loss(params, batch, key):
        x = batch.frames.mean((1, 2, 3)) / 255
        for name in ("vae", "cmp"):
            x = networks[name].module.apply({"params": params[name]}, x)
        return jnp.square(x.astype(jnp.float32) - 1).mean(), {}

    return Objective(("vae", "cmp"), loss, lambda *_: np.zeros((1, 1, 3), np.uint8))


@pytest.fixture(params=["float32", "float16"])
def begun(request, monkeypatch, tmp_path):
    """A run of eight devices that has read a bundle, and what the bundle's files hold."""
    toy.install(monkeypatch.setattr)
    monkeypatch.setattr(networks, "build", build)
    monkeypatch.setattr(objectives, "build", objective)
    config = toy.config(batch=8, warmup=0, learning_rate=1e-6)
    config.train.mesh.update({"fsdp": 2, "smallest": 0.0})
    rng = np.random.default_rng(0)
    file = {
        name: jax.tree.map(lambda x: rng.normal(size=x.shape).astype(request.param), network.shapes)
        for name, network in build().items()
    }
    belongs = bundle.ModelDescription("svd", config.model, config.quirks, "toy")
    bundle.write(
        tmp_path / "bundle", file, belongs, dict.fromkeys(file, bundle.Origin("here", "none"))
    )
    run = loop.Run(config, (str(tmp_path / "bundle"),), tmp_path, continues=True, say=print)
    source = toy.Noise(config)
    nothing = SimpleNamespace(latest=None)
    current, frozen = start.start(run, start.open_weights(run), nothing, source)
    return SimpleNamespace(run=run, file=file, current=current, frozen=frozen, source=source)


def test_masters_are_the_file_s_numbers_and_learn_in_float32(begun):
    masters = begun.current.params["vae"]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), masters, begun.file["vae"])
    assert {x.dtype for x in jax.tree.leaves(masters)} == {jnp.dtype(np.float32)}
    run = begun.run
    take = jax.jit(step.make_step(run.objective.loss, run.optimizer))
    current = begun.current
    for _ in range(2):
        current, _ = take(current, begun.frozen, next(begun.source), jax.random.key(0))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), current.params["vae"], masters)
    # Far below the spacing of bfloat16 at these numbers: masters in it would not have moved.
    assert all(0 < change < 1e-5 for change in jax.tree.leaves(moved))


def test_what_is_frozen_is_cast_once_and_lies_in_shares(begun):
    frozen = begun.frozen["cmp"]["layer"]["kernel"]
    assert frozen.dtype == jnp.bfloat16
    expected = begun.file["cmp"]["layer"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(frozen, expected)
    assert frozen.addressable_shards[0].data.shape == (8, 8), "a share of fsdp on each device"


NETWORKS = {
    "svd": ("unet", "pose_encoder", "image_encoder"),
    "sd15": ("unet", "motion_modules", "reference", "pose_encoder"),
}


def narrow_sums(jaxpr, clips: int) -> Iterator[str]:
    """Where a program sums more numbers than there are clips in bfloat16."""
    for eqn in jaxpr.eqns:
        for body in jaxprs_in_params(eqn.params):
            yield from narrow_sums(body, clips)
        name, given = eqn.primitive.name, eqn.invars[0].aval if eqn.invars else None
        if name in ("reduce_sum", "cumsum") and given.dtype == jnp.bfloat16:
            count = math.prod(given.shape) / math.prod(eqn.outvars[0].aval.shape)
            if name == "cumsum" or count > clips:
                yield f"{count:.0f} numbers at {eqn.source_info.name_stack}"


@pytest.mark.parametrize("base", ["svd", "sd15"])
@pytest.mark.parametrize("stage", ["dispose", "all", "image"])
def test_a_step_in_bfloat16_sums_no_gradient_in_it(base, stage):
    made = small.config(base=base)
    height, width = small.SIZE
    made.train.update(dtype="bfloat16", batch=2, frames=4, height=height, width=width)
    made.data.source = "synthetic"
    if stage == "image":
        made.train.update(stage="image", objective="image")
        made.train.trainable = ("dift_unet", "dift_text_encoder")
    else:
        more = NETWORKS[base] if stage == "all" else ()
        made.train.trainable = ("controlnet", "motion_encoder", "point_encoder", *more)
    automatic = {"axis_types": (AxisType.Auto,) * 3, "devices": jax.devices()[:1]}
    traced = plan.traced(made, jax.make_mesh((1, 1, 1), sharding.AXES, **automatic))
    assert [*narrow_sums(traced.jaxpr.jaxpr, made.train.batch)] == []
