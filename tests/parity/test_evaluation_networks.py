"""The networks that measure against the original ones: inputs, maps on the way, features."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import mapping, releases, rules
from dispose_jax.evaluation import preprocess, vbench
from dispose_jax.models import evaluation_networks
from dispose_jax.networks.evaluation import lpips
from dispose_jax.networks.evaluation.i3d import I3D
from dispose_jax.networks.evaluation.vit import VideoMAE, sinusoid_table
from dispose_jax.ops import resize
from tests.parity.cases import Case, assert_close, convert, load_case, load_manifest, weights


def params_of(case: Case, *names: str) -> dict:
    """{network: params} of a case whose manifest holds those networks and nothing else."""
    tensors, found = weights(case), {}
    entries = {}
    for name in names:
        part = releases.release(name).parts[0]
        entries[name] = mapping.derive(evaluation_networks.build(name).shapes, *part.spelling)
    expected = {e.key: e.shape for own in entries.values() for e in own.values()}
    counters = [key for key in tensors if key.endswith("num_batches_tracked")]
    rest = {key: value for key, value in tensors.items() if key not in counters}
    mapping.accounting(expected, rest, case.name)
    for name, own in entries.items():
        found[name] = jax.tree.map(jnp.asarray, mapping.to_flax(own, rest))
    return found


def sampled(case: Case, output: str, ours, tolerance: float, *, relative: bool = True) -> None:
    """ours (b, [f,] h, w, c) with 400 of the original's values, and with its statistics."""
    flat = np.moveaxis(np.asarray(ours), -1, 1).ravel()
    reference = case.outputs[output]
    few = flat[:: max(1, flat.size // 400)][: len(reference)]
    assert_close(case, output, few, tolerance, relative=relative)
    total = np.array([flat.mean(), flat.std(), np.abs(flat).max()])
    unit = flat.std() if relative else 1.0
    assert_close(case, f"{output}_stats", total, tolerance * unit, relative=False)


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_lpips_equals_the_original_map_by_map(kind):
    case = load_case(f"eval.lpips_{kind}")
    trunk_name = {"alex": "alexnet", "vgg": "vgg16"}[kind]
    params = params_of(case, trunk_name, f"lpips_{kind}")
    trunk = jax.jit(lambda x: lpips.Trunk(kind).apply({"params": params[trunk_name]}, x))
    heads = lambda *maps: lpips.Heads().apply({"params": params[f"lpips_{kind}"]}, *maps)
    real, fake = case.inputs["real"], case.inputs["fake"]
    maps = trunk(lpips.scaled(real)), trunk(lpips.scaled(fake))
    for i, tap in enumerate(maps[0]):
        sampled(case, f"tap{i}", tap, 1e-4)
    layers = heads(*maps)
    unit = float(np.abs(case.outputs["per_layer"]).sum(0).min())
    assert_close(case, "per_layer", layers, 2e-5 * unit, relative=False)
    assert_close(case, "distance", layers.sum(0), 2e-5 * unit, relative=False)
    scaled = lambda x: lpips.scaled(x, published_misuse=True)
    misused = heads(trunk(scaled(real)), trunk(scaled(fake))).sum(0)
    assert_close(case, "distance_unnormalised", misused, 2e-5 * unit, relative=False)


def i3d_stretched(frames):
    """FVD as in content-debiased-fvd, which no metric here is: the original's maps were made so."""
    return 2 * resize.bilinear(frames.astype(jnp.float32), (224, 224)) / 255 - 1


@cache
def i3d() -> tuple[Case, dict]:
    case = load_case("eval.i3d")
    return case, params_of(case, "i3d")["i3d"]


@pytest.mark.parametrize(
    ("variant", "prepare"),
    [
        ("disco", preprocess.i3d_disco),
        ("videogpt", preprocess.i3d_common),
        ("cdfvd", i3d_stretched),
    ],
)
def test_i3d_reads_what_the_original_does_under_each_preparation(variant, prepare):
    case, _ = i3d()
    clips = prepare(case.inputs["video"])
    sampled(case, f"{variant}_input", clips, 1e-5, relative=False)


@pytest.mark.parametrize(
    ("variant", "prepare", "fields"),
    [
        ("disco", preprocess.i3d_disco, {"epsilon": 1e-3, "pooled_frames": 1}),
        pytest.param(  # the network of the next one
            *("videogpt", preprocess.i3d_common, {"epsilon": 1e-5, "pooled_frames": 2}),
            marks=pytest.mark.full,
        ),
        ("cdfvd", i3d_stretched, {"epsilon": 1e-5, "pooled_frames": 2}),
    ],
)
def test_i3d_equals_the_original_under_each_preparation(variant, prepare, fields):
    case, params = i3d()
    clips = prepare(case.inputs["video"])
    wanted = [name for name in case.outputs if name.startswith(("Conv3d", "Mixed"))]
    wanted = [name for name in wanted if not name.endswith("_stats") and variant == "cdfvd"]
    capture = lambda module, _: module.name in wanted

    @jax.jit
    def run(params, clips):
        return I3D(**fields).apply({"params": params}, clips, capture_intermediates=capture)

    logits, inner = run(params, clips)
    assert_close(case, f"{variant}_logits", logits, 1e-4)
    for name in wanted:
        sampled(case, name, inner["intermediates"][name]["__call__"][0], 1e-4)


@pytest.mark.full
def test_the_3d_resnet_equals_the_original_layer_by_layer():
    case = load_case("eval.fid_vid_resnet3d50")
    params = params_of(case, "resnet3d")["resnet3d"]
    clip = preprocess.resnet3d(case.inputs["video"][None])
    sampled(case, "input", clip, 1e-3, relative=False)
    last = {"layer1": "layer1_2", "layer2": "layer2_3", "layer3": "layer3_5", "layer4": "layer4_2"}
    capture = lambda module, _: module.name in last.values()
    network = evaluation_networks.build("resnet3d").module
    run = jax.jit(lambda x: network.apply({"params": params}, x, capture_intermediates=capture))
    (features, _), inner = run(clip)
    for output, name in last.items():
        sampled(case, output, inner["intermediates"][name]["__call__"][0], 1e-4)
    assert_close(case, "segment_features", features, 1e-4)
    assert_close(case, "video_feature", features.mean(0, keepdims=True), 1e-4)


@pytest.mark.full
@pytest.mark.parametrize("name", ["dino_vitb16", "clip_vitb32"])
def test_frame_features_and_their_consistency_equal_the_original(name):
    case = load_case(f"eval.{name}")
    network = {"dino_vitb16": "dino", "clip_vitb32": "clip_b32"}[name]
    params = params_of(case, network)[network]
    prepare = {"dino": preprocess.dino, "clip_b32": preprocess.clip}[network]
    pictures = prepare(case.inputs["frames"])
    if "input_shape" in case.config:
        wanted = tuple(case.config["input_shape"])
        assert np.moveaxis(np.asarray(pictures), -1, 1).shape == wanted
    sampled(case, "input", pictures, 1e-4)
    module = evaluation_networks.build(network).module
    features = jax.jit(lambda x: module.apply({"params": params}, x))(pictures)
    assert_close(case, "features", features, 1e-4)
    score = vbench.consistency(np.asarray(features)).mean(keepdims=True)
    assert_close(case, "score", score, 1e-5, relative=False)


def test_videomae_equals_the_original_in_a_reduced_size():
    case = load_case("eval.videomae_small")
    config = load_manifest("videomae_small_test")["config"]
    module = VideoMAE(
        config["dim"],
        config["depth"],
        config["heads"],
        config["mlp"],
        config["patch"],
        config["tubelet"],
    )
    clips = case.inputs["video"].astype(np.float32) / 255
    params = convert(weights(case), rules.PLAIN, module, clips)
    features, _ = module.apply({"params": params}, clips)
    assert_close(case, "features", features, 1e-4)
    length = (config["frames"] // config["tubelet"]) * (config["img"] // config["patch"]) ** 2
    table = sinusoid_table(length, config["dim"]).ravel()
    few = table[:: max(1, table.size // 400)][:400]
    assert_close(case, "pos_embed", few, 1e-5)
    # (t, h, w, c), one clip: the original's channels come before the frames
    prepared = preprocess.videomae(case.inputs["resize_video"][None])
    sampled(case, "resize_input", prepared, 1e-5)
