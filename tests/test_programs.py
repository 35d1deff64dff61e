"""Every program of both bases lowers for eight TPUs and eight GPUs that are not here, with the
kernels that are meant for them. At full width and size; blocks that repeat are there once."""

import jax
import jax.numpy as jnp
import pytest
from jax._src import dispatch
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from benchmarks import chips, programs
from configs import sd15, svd
from dispose_jax.training import sharding

DEVICES = {
    "tpu": AbstractDevice("TPU v5 lite", 1, "tpu"),
    "cuda": AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu"),
}
CALLS = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha"}
SIZES = {"svd": (576, 1024), "sd15": (768, 768)}
WITH_KERNELS = {
    "tpu": ("step", "features", "train"),
    "cuda": ("step", "features", "train", "reference"),  # also where CLIP sees 257 tokens
}
# The others are small or have no kernel; they take as long.
LIGHT = [("step", "tpu")]
ALL = [(name, platform) for name in programs.NAMES for platform in DEVICES]
HEAVY = [pytest.param(*pair, marks=pytest.mark.full) for pair in ALL if pair not in LIGHT]


def config(base):
    """Full width, one layer of each kind."""
    made = {"svd": svd, "sd15": sd15}[base].get_config()
    made.model.unet.layers = made.model.dift.layers = 1
    made.model.image_encoder.layers = made.model.dift.text_layers = 1
    made.sample.window = 16
    made.train.update(dtype="bfloat16", batch=8, frames=17 if base == "sd15" else 16)
    return made


def mesh(name, platform):
    axes = {"train": ((4, 2, 1), sharding.AXES)}.get(name, ((8,), ("data",)))
    kinds = (AxisType.Auto,) * len(axes[0])
    return AbstractMesh(*axes, axis_types=kinds, abstract_device=DEVICES[platform])


@pytest.fixture(autouse=True)
def absent(monkeypatch):
    """JAX's own questions to the local GPU, answered for one that is not here."""
    monkeypatch.setattr(dispatch, "prim_requires_devices_during_lowering", set())
    with chips.answered(chips.CHIPS["h100"].gpu.capability):
        yield


@pytest.mark.parametrize("base", ["svd", "sd15"])
@pytest.mark.parametrize("name, platform", [*LIGHT, *HEAVY])
def test_it_lowers_with_the_kernels_that_are_meant(name, base, platform):
    traced = programs.trace(name, config(base), mesh(name, platform), SIZES[base], jnp.bfloat16)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "num_partitions = 8" in text
    reads_reference = name == "reference" and base == "sd15"  # by a U-Net
    assert (CALLS[platform] in text) == (name in WITH_KERNELS[platform] or reads_reference)
    other = CALLS["cuda" if platform == "tpu" else "tpu"]
    assert other not in text
    jax.clear_caches()
