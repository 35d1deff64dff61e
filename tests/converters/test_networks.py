"""The key maps of all networks against the manifests of the released checkpoints, and by value."""

import re
from functools import cache

import jax
import ml_dtypes
import numpy as np
import pytest

from converters import checkpoints, mapping
from converters.mapping import ConversionError
from dispose_jax.networks.temporal import position_code
from tests.converters import built
from tests.parity import keyed_weights

KINDS = ["mimicmotion", "dispose", "svd_unet", "svd_vae", "svd_image_encoder"]
KINDS += ["sd15_unet", "sd15_vae", "sd15_text_encoder", "cmp"]
MUSEPOSE = [built.DENOISER, built.MOTION, "musepose_reference_unet", "musepose_pose_guider"]
MUSEPOSE += ["sd_image_variations_image_encoder"]  # full: test_musepose.py
FULL = [f"{kind}.full" for kind in [*KINDS, "raft_large"]]
TINY = [f"{kind}.tiny" for kind in KINDS + MUSEPOSE] + ["raft_large.full"]  # small as it is


def keyed(manifest: str, dtype) -> dict[str, np.ndarray]:
    """Keyed weights in an element type; counters stay integers."""
    is_float = lambda value: value.dtype == np.float32
    return {k: v.astype(dtype) if is_float(v) else v for k, v in _keyed(manifest).items()}


@cache
def _keyed(manifest: str) -> dict[str, np.ndarray]:
    tensors = keyed_weights.state_dict(built.load(manifest), salt="converters")
    for key in [key for key in tensors if re.search(r"attention_blocks\.\d\.to_q\.weight$", key)]:
        channels = tensors[key].shape[1]  # a table of positions is never made from its key
        tensors[key.replace("to_q.weight", "pos_encoder.pe")] = position_code(128, channels)
    return tensors


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("manifest", dict.fromkeys(FULL + TINY))
def test_derived_keys_and_shapes_are_those_of_the_released_file(manifest):
    row, expected = built.release_of(manifest), built.torch_shapes(manifest)
    counters = {key for key in expected if key.endswith(".num_batches_tracked")}
    tables = {key for key in expected if key.endswith(".pos_encoder.pe")}
    maps = checkpoints.derive(row, built.shapes_of(manifest))
    derived = {row.module + e.key: e.shape for entries in maps.values() for e in entries.values()}
    assert bool(counters) == row.counters
    weights = {k: shape for k, shape in expected.items() if k not in counters | tables}
    assert derived == weights


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("manifest", TINY)
def test_both_ways_and_back_every_bit_is_the_same(manifest, dtype):
    row, shapes, tensors = built.release_of(manifest), built.shapes_of(manifest), None
    tensors = keyed(manifest, dtype)
    params, report = checkpoints.to_flax(row, tensors, shapes, "file")
    assert report.matched + sum(map(len, report.notes.values())) == len(tensors)
    written = checkpoints.to_torch(row, params, "bundle")
    assert written.keys() == tensors.keys()
    assert all(same_bits(written[key], tensors[key]) for key in tensors)

    again, _ = checkpoints.to_flax(row, written, shapes, "file")
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(same_bits, again, params))
    assert jax.tree.all(jax.tree.map(lambda a, s: a.shape == s.shape, params, dict(shapes)))


@pytest.mark.parametrize("manifest", TINY)
def test_one_missing_one_added_one_reshaped_tensor_is_an_error_that_names_it(manifest):
    row, shapes, tensors = built.release_of(manifest), built.shapes_of(manifest), None
    tensors = keyed(manifest, np.float16)
    convert = lambda changed: checkpoints.to_flax(row, changed, shapes, "file.pth")
    weights = [k for k in tensors if not k.endswith((".num_batches_tracked", ".pos_encoder.pe"))]
    for key in weights[:: len(weights) // 7]:
        spelt = key.removeprefix(row.module)
        with pytest.raises(ConversionError, match="1 tensor missing, 0 unex") as error:
            convert({k: v for k, v in tensors.items() if k != key})
        assert f"- {spelt} " in str(error.value) and "file.pth" in str(error.value)
        with pytest.raises(ConversionError, match="0 tensors missing, 1 unex") as error:
            convert(tensors | {f"{key}_more": tensors[key]})
        assert f"+ {spelt}_more " in str(error.value)
        with pytest.raises(ConversionError, match="1 ill-shaped") as error:
            convert(tensors | {key: np.stack([tensors[key]] * 2, -1)})
        assert f"! {spelt} " in str(error.value)
        with pytest.raises(ConversionError, match=f"{spelt} holds values that are not finite"):
            convert(tensors | {key: np.full_like(tensors[key], np.inf)})
        with pytest.raises(ConversionError, match=f"{spelt} has type int32"):
            convert(tensors | {key: np.zeros(tensors[key].shape, np.int32)})


def test_a_renamed_tensor_is_reported_with_its_closest_candidate():
    tensors = keyed("svd_unet.tiny", np.float16)
    tensors["conv_inn.weight"] = tensors.pop("conv_in.weight")
    with pytest.raises(ConversionError, match="closest present: conv_inn.weight"):
        checkpoints.to_flax(
            built.release_of("svd_unet.tiny"), tensors, built.shapes_of("svd_unet.tiny"), "x"
        )


# Layer kind -> (manifest, torch key, Flax path, torch axis order in terms of the Flax array).
LAYOUTS = {
    "square linear": (
        "svd_unet.tiny",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "unet/encoder/mid_block/attentions_0/transformer_blocks_0/attn1/to_q/kernel",
        (1, 0),
    ),
    "picture convolution": (
        "svd_unet.tiny",
        "down_blocks.0.downsamplers.0.conv.weight",
        "unet/encoder/down_blocks_0/downsamplers_0/conv/kernel",
        (3, 2, 0, 1),
    ),
    "frame convolution": (
        "svd_unet.tiny",
        "down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
        "unet/encoder/down_blocks_0/resnets_0/temporal_res_block/conv1/kernel",
        (3, 2, 0, 1, None),
    ),
    "1 x 1 convolution used as a matrix": (
        "sd15_unet.tiny",
        "mid_block.attentions.0.proj_in.weight",
        "dift_unet/encoder/mid_block/attentions_0/proj_in/kernel",
        (1, 0, None, None),
    ),
    "even kernel": (
        "mimicmotion.tiny",
        "pose_net.conv_layers.6.weight",
        "pose_encoder/conv_layers_6/kernel",
        (3, 2, 0, 1),
    ),
    "norm": ("svd_unet.tiny", "conv_norm_out.weight", "unet/conv_norm_out/scale", (0,)),
    "blend": (
        "svd_unet.tiny",
        "mid_block.resnets.0.time_mixer.mix_factor",
        "unet/encoder/mid_block/resnets_0/time_mixer/mix_factor",
        (0,),
    ),
    "learned scale": ("mimicmotion.tiny", "pose_net.scale", "pose_encoder/output_scale", (0,)),
    "token table": (
        "sd15_text_encoder.tiny",
        "text_model.embeddings.token_embedding.weight",
        "dift_text_encoder/text_model/embeddings/token_embedding/embedding",
        (0, 1),
    ),
    "class token": (
        "svd_image_encoder.tiny",
        "vision_model.embeddings.class_embedding",
        "image_encoder/vision_model/embeddings/class_embedding",
        (0,),
    ),
    "batch mean": (
        "cmp.tiny",
        "module.image_encoder.bn1.running_mean",
        "cmp/image_encoder/bn1/mean",
        (0,),
    ),
    "dense field's tower": (
        "dispose.tiny",
        "controlnet_cond_embedding.blocks_flow.1.weight",
        "motion_encoder/dense/blocks_1/kernel",
        (3, 2, 0, 1),
    ),
    "sparse field's tower": (
        "dispose.tiny",
        "controlnet_cond_embedding.blocks_traj.1.weight",
        "motion_encoder/sparse/blocks_1/kernel",
        (3, 2, 0, 1),
    ),
    "point MLP": (
        "dispose.tiny",
        "point_adapter.model_list.2.mlp.0.weight",
        "point_encoder/levels_2/mlp_0/kernel",
        (1, 0),
    ),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_kind_of_tensor_lies_in_its_place_by_value(kind):
    manifest, key, path, axes = LAYOUTS[kind]
    tensors = keyed(manifest, np.float32)
    row = built.release_of(manifest)
    params, _ = checkpoints.to_flax(row, tensors, built.shapes_of(manifest), "file")
    ours = mapping.flatten(params)[tuple(path.split("/"))]
    rebuilt = np.empty_like(tensors[key])  # element by element, without any library transpose
    for index in np.ndindex(ours.shape):
        place = tuple(0 if axis is None else index[axis] for axis in axes)
        rebuilt[place] = ours[index]
    np.testing.assert_array_equal(rebuilt, tensors[key])
