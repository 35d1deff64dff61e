"""What may lie in a released file beside the weights, and how older spellings are met."""

import numpy as np
import pytest

from converters import checkpoints, mapping, releases
from converters.mapping import ConversionError
from dispose_jax.models import origins
from tests.converters import built
from tests.converters.test_networks import keyed, same_bits


def convert(manifest, tensors):
    row = built.release_of(manifest)
    return checkpoints.to_flax(row, tensors, built.shapes_of(manifest), f"{row.name}.file")


def test_older_attention_names_and_1x1_kernels_of_autoencoders_are_met():
    tensors = keyed("sd15_vae.tiny", np.float16)
    expected, _ = convert("sd15_vae.tiny", tensors)
    older = {}
    for key, tensor in tensors.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            key = key.replace(f".{new}.", f".{old}.")
        key = key.replace(".to_out.0.", ".proj_attn.")
        is_kernel = "attentions" in key and key.endswith("weight") and tensor.ndim == 2
        older[key] = tensor[..., None, None] if is_kernel else tensor
    found, report = convert("sd15_vae.tiny", older)
    assert len(report.notes["in another spelling"]) == 2 * 8
    for network in expected:
        written = checkpoints.to_torch(built.release_of("sd15_vae.tiny"), found, "bundle")
        assert all(same_bits(written[key], tensors[key]) for key in tensors), network


def test_text_encoders_without_their_outermost_name_are_met():
    tensors = keyed("sd15_text_encoder.tiny", np.float16)
    bare = {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()}
    bare["embeddings.position_ids"] = np.arange(77)[None]
    params, report = convert("sd15_text_encoder.tiny", bare)
    assert report.matched == len(tensors) and len(report.notes["constants"]) == 1
    written = checkpoints.to_torch(built.release_of("sd15_text_encoder.tiny"), params, "x")
    assert all(same_bits(written[key], tensors[key]) for key in tensors)


def test_a_tensor_in_two_spellings_is_an_error():
    tensors = keyed("sd15_vae.tiny", np.float16)
    key = "encoder.mid_block.attentions.0.query.weight"
    tensors[key] = tensors[key.replace("query", "to_q")]
    with pytest.raises(ConversionError, match="twice, in two spellings"):
        convert("sd15_vae.tiny", tensors)


def test_an_older_name_of_what_the_network_lacks_is_unexpected_whatever_its_shape():
    tensors = keyed("sd15_vae.tiny", np.float16)
    tensors["encoder.attentions.7.query.weight"] = np.ones((1, 1), np.float16)
    with pytest.raises(ConversionError, match=r"\+ encoder.attentions.7.to_q.weight \[1, 1\]"):
        convert("sd15_vae.tiny", tensors)


def test_a_network_of_other_sizes_is_told_from_a_damaged_one():
    hint = "this network in other sizes: does --config name the model"
    tensors = keyed("sd15_vae.tiny", np.float16)
    tensors["encoder.conv_in.bias"] = tensors["encoder.conv_in.bias"][:-1]
    with pytest.raises(ConversionError, match="1 ill-shaped") as error:
        convert("sd15_vae.tiny", tensors)
    assert hint not in str(error.value)
    wider = {key: np.concatenate([tensor, tensor]) for key, tensor in tensors.items()}
    with pytest.raises(ConversionError, match=hint):
        convert("sd15_vae.tiny", wider)


def test_flow_weights_of_its_authors_are_met_though_a_norm_is_there_twice():
    tensors = keyed("raft_things", np.float16)
    shapes = built.shapes_of("raft_large.full")
    row = releases.release("raft")
    for given in (tensors, {f"module.{key}": value for key, value in tensors.items()}):
        params, report = checkpoints.to_flax(row, given, shapes, "raft-things.pth")
        ours = mapping.flatten(params["raft"])
        for path, key in {
            "feature_encoder/convnormrelu_0/kernel": "fnet.conv1.weight",
            "feature_encoder/conv/kernel": "fnet.conv2.weight",
            "context_encoder/layer2_0/downsample_1/mean": "cnet.layer2.0.downsample.1.running_mean",
            "context_encoder/layer3_1/convnormrelu2_1/scale": "cnet.layer3.1.norm2.weight",
            "update_block/motion_encoder/convcorr1_0/kernel": "update_block.encoder.convc1.weight",
            "update_block/motion_encoder/conv_0/bias": "update_block.encoder.conv.bias",
            "update_block/recurrent_block/convgru2/convq/kernel": "update_block.gru.convq2.weight",
            "mask_predictor/conv/kernel": "update_block.mask.2.weight",
        }.items():
            value = ours[tuple(path.split("/"))]
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
            assert same_bits(np.ascontiguousarray(value), tensors[key]), path
        assert len(report.notes["of networks not used here"]) == 2 * 5
    released = checkpoints.to_torch(row, params, "bundle")
    assert released.keys() == built.torch_shapes("raft_large.full").keys()


def test_diffusion_features_take_the_encoder_of_a_whole_autoencoder():
    whole = keyed("sd15_vae.tiny", np.float16)
    row = releases.release("sd15_vae")
    encoder = {"dift_vae": built._vae(_config(), "dift_vae", method="encode")["dift_vae"]}
    params, report = checkpoints.to_flax(row, whole, encoder, "file")
    unused = [key for key in whole if key.startswith(("decoder.", "post_quant_conv."))]
    assert sorted(report.notes["of networks not used here"]) == sorted(unused)
    assert report.matched == len(whole) - len(unused)
    assert set(params["dift_vae"]) == {"encoder", "quant_conv"}
    with pytest.raises(ConversionError, match=r"\+ decodr.weight"):
        checkpoints.to_flax(row, whole | {"decodr.weight": np.zeros(3)}, encoder, "file")


def _config():
    return built.load_manifest("sd15_vae.tiny")["config"]


@pytest.mark.parametrize("manifest", ["svd_image_encoder.tiny", "sd15_text_encoder.tiny"])
def test_position_ids_are_compared_and_left_out(manifest):
    tensors = keyed(manifest, np.float16)
    kind = "vision_model" if "image" in manifest else "text_model"
    key = f"{kind}.embeddings.position_ids"
    params, report = convert(manifest, tensors | {key: np.arange(10)[None]})
    assert report.notes == {"constants": [key]}
    assert checkpoints.to_torch(built.release_of(manifest), params, "x").keys() == tensors.keys()
    with pytest.raises(ConversionError, match=f"{key} should count"):
        convert(manifest, tensors | {key: np.arange(10)[None, ::-1]})


def test_batch_counters_are_optional_any_number_and_written_as_zero():
    tensors = keyed("cmp.tiny", np.float32)
    counters = [key for key in tensors if key.endswith(".num_batches_tracked")]
    without = {key: value for key, value in tensors.items() if key not in counters}
    counted = tensors | {key: np.array(42000) for key in counters}
    for given in (tensors, without, counted):
        params, _ = convert("cmp.tiny", given)
        written = checkpoints.to_torch(releases.release("cmp"), params, "bundle")
        assert written.keys() == tensors.keys()
        assert all(written[key] == 0 and written[key].dtype == np.int64 for key in counters)
    stray = {"module.image_encoder.conv1.num_batches_tracked": np.array(0)}
    with pytest.raises(ConversionError, match=r"\+ image_encoder.conv1.num_batches_tracked"):
        convert("cmp.tiny", tensors | stray)


@pytest.mark.parametrize("manifest", ["cmp.tiny", "dispose.tiny"])
def test_the_prefix_of_training_on_several_devices_may_be_there_or_not(manifest):
    tensors = keyed(manifest, np.float16)
    bare = {key.removeprefix("module."): value for key, value in tensors.items()}
    expected = checkpoints.to_torch(built.release_of(manifest), convert(manifest, bare)[0], "x")
    prefixed = {f"module.{key}": value for key, value in bare.items()}
    found = checkpoints.to_torch(built.release_of(manifest), convert(manifest, prefixed)[0], "x")
    assert found.keys() == expected.keys() == tensors.keys()
    half = bare | {f"module.{key}": bare.pop(key) for key in list(bare)[:3]}
    with pytest.raises(ConversionError, match="3 tensors missing, 3 unexpected"):
        convert(manifest, half)


def test_networks_that_mimicmotion_may_carry_are_dropped_and_counted():
    tensors = keyed("mimicmotion.tiny", np.float16)
    more = {"vae.encoder.conv_in.weight": np.zeros(3), "image_encoder.x": np.zeros(3)}
    _, report = convert("mimicmotion.tiny", tensors | more)
    assert report.notes == {"of networks not used here": list(more)}
    assert "2 of networks not used here" in "\n".join(report.lines())


def test_every_network_names_the_file_it_comes_from_when_it_is_absent():
    for base in ("svd", "sd15"):
        given = [row for row in releases.serving(base) if row.is_expected or row.for_training]
        rows = {name: row for row in given for name in row.networks}
        assert rows.keys() == origins.RELEASED_IN[base].keys()
        assert sum(len(row.networks) for row in given) == len(rows), "a network in two files"
        for network, row in rows.items():
            assert origins.RELEASED_IN[base][network] in row.file
        optional = {"raft", "svd_encoder"} if base == "svd" else {"raft"}
        assert {name for name in rows if releases.is_optional(name)} == optional
    assert origins.source_of("sd15", "controlnet") == "a training run"


def test_a_row_that_is_not_there_is_an_error_that_lists_the_rows():
    with pytest.raises(ValueError, match="no release 'svd2'; known are mimicmotion, dispose"):
        releases.release("svd2")
