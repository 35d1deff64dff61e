"""The dry run: its counts against numbers worked out by hand, and what the report says."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from configs.svd import get_config
from dispose_jax import dry_run, flops, traces
from dispose_jax.models import networks, registry
from dispose_jax.ops.attention import attention
from dispose_jax.types import Conditioning
from tests import small


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def flops_of(function, *shapes):
    return flops.work(jax.make_jaxpr(function)(*shapes).jaxpr).executed


def test_a_product_counts_two_per_multiplication():
    count = flops_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), shape(3, 5, 7), shape(3, 7, 11))
    assert count == 2 * 3 * 5 * 7 * 11


def test_a_convolution_counts_its_padding_and_its_groups():
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(2, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    count = flops_of(convolve, shape(2, 8, 6, 10), shape(3, 5, 5, 14))
    assert count == 2 * (2 * 4 * 6 * 14) * (3 * 5 * 5)


def test_loops_and_inner_functions_are_multiplied_out():
    def loop(x):
        return jax.lax.map(jax.checkpoint(jax.jit(lambda row: row @ jnp.ones((7, 4)))), x)

    assert flops_of(loop, shape(6, 3, 7)) == 6 * 2 * 3 * 7 * 4


def test_what_each_device_of_a_mesh_does_is_counted_for_all_of_them():
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    halves = partial(jax.shard_map, mesh=mesh, check_vma=False, out_specs=PartitionSpec("a"))
    split = halves(jnp.matmul, in_specs=(PartitionSpec("a"), PartitionSpec()))
    once = flops_of(jnp.matmul, shape(8, 3), shape(3, 5))
    assert flops_of(split, shape(8, 3), shape(3, 5)) == 2 * once  # axis b repeats the work


def test_every_attention_implementation_counts_alike():
    q = shape(2, 1024, 3, 128, dtype=jnp.bfloat16)  # 128 lanes: nothing is padded on a TPU
    expected = 4 * 2 * 3 * 1024 * 1024 * 128
    for name in ("explicit", "chunked", "tpu"):
        assert flops_of(partial(attention, implementation=name), q, q, q) == expected, name


def test_live_bytes_are_those_of_results_still_needed():
    def chain(x):  # 1000 floats, then 4000 while the 1000 are needed, then 10
        y = x * 2
        z = jnp.tile(y, 4)
        return z[:10] + y[:10]

    trace = jax.make_jaxpr(chain)(shape(1000)).jaxpr
    assert 4 * 5000 <= flops.live_bytes(trace) <= 4 * 5020


def test_the_full_unet_costs_what_the_original_does_less_its_cross_attention():
    # 51.2 TFLOP at 576 x 1024 and 16 frames for the original, of which cross-attention, a constant
    # here, is 3.8 %; its convolutions and products were counted by hooks in PyTorch.
    unet = networks.build(get_config("variant=base"))["unet"]
    inputs = shape(1, 16, 72, 128, 8), shape(1), shape(1, 1, 1024)
    call = lambda params, ids, *args: unet.module.apply({"params": params}, *args, added_time=ids)
    count = flops_of(call, unet.shapes, shape(1, 3), *inputs)
    assert count == pytest.approx(51.2e12 * (1 - 0.038), rel=0.005)


def test_flops_of_a_denoising_call_are_told_apart_by_network():
    config = small.config()
    built = networks.build(config)
    model = registry.build(config, built)
    params = {name: built[name].shapes for name in ("unet", "controlnet")}
    conditioning = Conditioning(
        context=shape(1, 1, 8),
        image_latents=shape(1, 8, 16, 4),
        added_time=shape(1, 3),
        pose_features=shape(1, 5, 8, 16, 8),
        motion=shape(1, 5, 8, 16, 8),
        points=(shape(1, 5, 8, 16, 8),),
    )
    count = lambda rows: flops.flops_by_module(
        traces.denoising(model, params, conditioning, shape(1, 5, 8, 16, 4), rows, 3)
    )
    one, two = count(1), count(2)
    assert set(one) == {"UNet", "ControlNet"} and one["UNet"] > one["ControlNet"]
    for name in one:  # only the embedding of the frames' places is shared by rows
        assert 1.99 < two[name] / one[name] <= 2


def numbers(text, name):
    """The number, with its unit, in the last line that starts with a name."""
    value, unit = re.findall(rf"^ *{name} +([\d.]+) (\S+)", text, re.MULTILINE)[-1]
    scale = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12}
    return float(value) * scale[unit]


def test_the_report_adds_up():
    config = small.config()
    config.sample.window, config.sample.overlap, config.sample.steps = 6, 2, 3
    text = dry_run.report(config, 11, 64, 128, jnp.float32)
    call, step = numbers(text, "one denoising call"), numbers(text, "one step")
    # Three windows and two halves of guidance; what is printed has three digits.
    assert step == pytest.approx(3 * 2 * call, rel=1e-2)
    parts = ("diffusion features", "dense field", "conditioning", "denoising", "decoding")
    total = sum(numbers(text, name) for name in parts)
    assert numbers(text, "in all") == pytest.approx(total, rel=1e-2)
    assert numbers(text, "per new frame") == pytest.approx(total / 10, rel=1e-2)
    assert numbers(text, "latents") == pytest.approx(11 * 8 * 16 * 4 * 4)
    count = sum(x.size for x in jax.tree.leaves(networks.build(config)["unet"].shapes))
    assert numbers(text, "unet") == pytest.approx(4 * count, rel=1e-2)


def test_frames_left_over_are_counted_as_they_are_decoded():
    config = small.config("base")
    config.sample.decode_chunk = 4

    def decoding(num_frames, rest):
        config.sample.decode_rest = rest
        return numbers(dry_run.report(config, num_frames, 64, 64, jnp.float32), "decoding")

    assert decoding(5, "whole") == decoding(8, "whole") == decoding(8, "short")
    assert decoding(4, "short") < decoding(5, "short") < decoding(8, "short")


def test_the_report_of_a_base_model_has_no_control_and_one_half_without_guidance():
    config = small.config("base")
    config.sample.guidance_scale = 1.0
    text = dry_run.report(config, 3, 64, 64, jnp.bfloat16)
    assert numbers(text, "one step") == numbers(text, "one denoising call")
    assert not re.search("controlnet|dift|cmp|motion|point", text)
    assert re.search(r"unet .*bfloat16", text) and re.search(r"vae .*float32", text)


def test_a_plan_of_a_cpu_says_that_an_accelerator_needs_less():
    hint = "--config.sample.dtype=bfloat16 plans for a GPU or TPU"
    config = small.config("base")
    assert config.sample.dtype == "auto"
    assert hint in dry_run.report(config, 3, 64, 64, networks.compute_dtype("auto"))
    assert hint not in dry_run.report(config, 3, 64, 64, jnp.bfloat16)
    config.sample.dtype = "float32"  # asked for
    assert hint not in dry_run.report(config, 3, 64, 64, jnp.float32)


def test_impossible_sizes_and_windows_are_refused():
    config = get_config("size=tiny")
    with pytest.raises(ValueError, match="multiples of 16"):
        dry_run.report(config, 5, 64, 100, jnp.float32)
    with pytest.raises(ValueError, match="at least one driving frame"):
        dry_run.report(config, 1, 64, 64, jnp.float32)
    config.sample.overlap = 16
    with pytest.raises(ValueError, match="overlap"):
        dry_run.report(config, 40, 64, 64, jnp.float32)
