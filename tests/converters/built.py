"""The networks that manifests describe, as trees of shapes: what derived keys are compared with."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp

from converters import convert, releases
from converters.releases import Release
from dispose_jax.models import evaluation_networks
from dispose_jax.networks.cmp import CMP
from dispose_jax.networks.controlnet import ControlNet
from dispose_jax.networks.motion_encoder import MotionEncoder
from dispose_jax.networks.point_encoder import PointEncoder
from dispose_jax.networks.pose_encoder import PoseGuider, PoseNet
from dispose_jax.networks.raft import RAFT
from dispose_jax.networks.temporal import MotionSizes, split_motion
from dispose_jax.networks.unet import Flavour, UNet
from tests.parity import modules
from tests.parity.cases import load_manifest

DENOISER, MOTION = "musepose_denoising_unet", "musepose_motion_module"


def load(manifest: str) -> dict:
    """The manifest of one file.

    The motion modules are built as the denoiser's, so they take its config; and the small
    denoiser's manifest describes both of the files that it is saved as.
    """
    kind, _, size = manifest.partition(".")
    if kind not in (DENOISER, MOTION):
        return load_manifest(manifest)
    whole = load_manifest(f"{DENOISER}.{size}")
    if size == "full":
        return whole | {"tensors": load_manifest(manifest)["tensors"]}
    own = lambda key: (".motion_modules." in key) == (kind == MOTION)
    return whole | {"tensors": {key: v for key, v in whole["tensors"].items() if own(key)}}


def traced(config) -> dict:
    """The networks of a config and of optical flow with their shapes, traced once; networks that
    measure are large and have tests of their own."""
    built = convert.all_networks(config)
    measuring = {*evaluation_networks.NAMES} - {"raft"}
    kept = {name: built[name] for name in built if name not in measuring}
    return {name: SimpleNamespace(shapes=network.shapes) for name, network in kept.items()}


def torch_shapes(manifest: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, (shape, _) in load(manifest)["tensors"].items()}


@cache
def shapes_of(manifest: str) -> dict:
    """{network: tree of shapes} of what a manifest holds, from its config alone."""
    whole = _built(manifest.replace(MOTION, DENOISER))  # one network in two files
    return {network: whole[network] for network in release_of(manifest).networks}


@cache
def _built(manifest: str) -> dict:
    return _TABLE[manifest.split(".")[0]][1](load(manifest)["config"])


def release_of(manifest: str) -> Release:
    """The row of converters.releases that reads this manifest's file."""
    return releases.release(_TABLE[manifest.split(".")[0]][0])


def _shapes(module, *inputs, **named) -> dict:
    init = partial(module.init, **named)
    return jax.eval_shape(init, jax.random.key(0), *inputs)["params"]


def _video(config: dict) -> tuple[dict, dict]:
    """Fields and inputs that the SVD U-Net and the ControlNet share."""
    fields = {
        "channels": tuple(config["block_out_channels"]),
        "heads": tuple(config["num_attention_heads"]),
        "flavour": Flavour("mixed"),
        "layers": config["layers_per_block"],
        "added_width": config["addition_time_embed_dim"],
    }
    x = jnp.zeros((1, 2, 8, 8, config["in_channels"]))
    context = jnp.zeros((1, 1, config["cross_attention_dim"]))
    return fields, {"x": x, "t": jnp.zeros(1), "context": context, "added_time": jnp.zeros((1, 3))}


def _video_unet(config: dict) -> dict:
    fields, inputs = _video(config)
    return {"unet": _shapes(UNet(**fields, out_channels=config["out_channels"]), **inputs)}


def _mimicmotion(config: dict) -> dict:

    pose = PoseNet(config["block_out_channels"][0])
    return _video_unet(config) | {"pose_encoder": _shapes(pose, jnp.zeros((1, 1, 16, 16, 3)))}


def _dispose(config: dict) -> dict:
    net = config.get("controlnet", config)
    points = config["point_adapter"]
    fields, inputs = _video(net)
    flow = jnp.zeros((1, 2, 64, 64, 2))
    motion = MotionEncoder(
        net["block_out_channels"][0], widths=tuple(net["conditioning_embedding_out_channels"])
    )
    encoder = PointEncoder(
        tuple(points["channels"]), points["mid_dim"], tuple(points["downsample_rate"])
    )
    features = jnp.zeros((1, 18, points["embedding_channels"]))
    cells, visible = jnp.zeros((1, 2, 18, 2), int), jnp.ones((1, 2, 18), bool)
    point_init = lambda key: encoder.init(key, features, cells, visible, (64, 64))
    return {
        "controlnet": _shapes(ControlNet(**fields), **inputs),
        "motion_encoder": _shapes(motion, flow, flow),
        "point_encoder": jax.eval_shape(point_init, jax.random.key(0))["params"],
    }


def _sd15_unet(config: dict, flavour: Flavour, **more) -> dict:
    channels = tuple(config["block_out_channels"])
    heads = (config["attention_head_dim"],) * len(channels)
    unet = UNet(channels, heads, flavour, config["layers_per_block"], **more)
    x = jnp.zeros((1, 1, 8, 8, config["in_channels"]))
    context = jnp.zeros((1, 77, config["cross_attention_dim"]))
    return _shapes(unet, x=x, t=jnp.zeros(1), context=context)


def _picture_unet(config: dict) -> dict:
    flavour = Flavour(groups=config["norm_num_groups"])
    return {"dift_unet": _sd15_unet(config, flavour, out_channels=config["out_channels"])}


def _denoiser(config: dict) -> dict:
    unet, motion = config["unet"], config["additional"]["motion_module_kwargs"]
    sizes = MotionSizes(
        heads=motion["num_attention_heads"],
        positions=motion["temporal_position_encoding_max_len"],
    )
    flavour = Flavour("motion_module", unet["norm_num_groups"], motion=sizes)
    picture, modules = split_motion(_sd15_unet(unet, flavour, out_channels=unet["out_channels"]))
    return {"unet": picture, "motion_modules": modules}


def _reference(config: dict) -> dict:
    flavour = Flavour(groups=config["unet"]["norm_num_groups"])
    return {"reference": _sd15_unet(config["unet"], flavour, head=False)}


def _pose_guider(config: dict) -> dict:
    widths = tuple(config["block_out_channels"])
    guider = PoseGuider(config["conditioning_embedding_channels"], widths)
    return {"pose_encoder": _shapes(guider, jnp.zeros((1, 1, 16, 16, 3)))}


def _vae(config: dict, name: str, **named) -> dict:
    return {name: _shapes(modules.vae(config), jnp.zeros((1, 1, 16, 16, 3)), **named)}


def _vision(config: dict) -> dict:
    pixels = jnp.zeros((1, config["image_size"], config["image_size"], 3))
    return {"image_encoder": _shapes(modules.vision_transformer(config), pixels)}


def _text(config: dict) -> dict:
    tokens = jnp.zeros((1, config["max_position_embeddings"]), int)
    return {"dift_text_encoder": _shapes(modules.text_transformer(config), tokens)}


def _cmp(config: dict) -> dict:
    network = CMP(
        layers=tuple(config["layers"]),
        image_features=config["img_enc_dim"],
        sparse_features=config["sparse_enc_dim"],
        bins=config["nbins"],
        fmax=config["fmax"],
    )
    picture = jnp.zeros((1, 64, 64, 3))
    return {"cmp": _shapes(network, picture, picture[..., :2], picture[..., 0])}


def _raft(config: dict) -> dict:
    *widths, features = config["feature_encoder"]["layers"][1:]
    network = RAFT(tuple(widths), features, config["hidden"])
    picture = jnp.zeros((1, 128, 128, 3))
    return {"raft": _shapes(network, picture, picture)}


# Manifest without its size -> the row that reads it, and what it is built of.
_TABLE = {
    "mimicmotion": ("mimicmotion", _mimicmotion),
    "dispose": ("dispose", _dispose),
    "e2e_controlnet": ("dispose", _dispose),
    "pipe_controlnet": ("dispose", _dispose),
    "svd_unet": ("svd_unet", _video_unet),
    "pipe_unet": ("svd_unet", _video_unet),
    "svd_vae": ("svd_vae", partial(_vae, name="vae")),
    "svd_image_encoder": ("svd_image_encoder", _vision),
    "e2e_image_encoder": ("svd_image_encoder", _vision),
    "sd15_unet": ("sd15_unet", _picture_unet),
    "dift_unet": ("sd15_unet", _picture_unet),
    "sd15_vae": ("vae_ft_mse", partial(_vae, name="vae")),
    "dift_vae": ("sd15_vae", partial(_vae, name="dift_vae", method="encode")),
    "sd15_text_encoder": ("sd15_text_encoder", _text),
    "dift_text": ("sd15_text_encoder", _text),
    "cmp": ("cmp", _cmp),
    "raft_large": ("raft", _raft),
    DENOISER: (DENOISER, _denoiser),
    MOTION: (MOTION, _denoiser),
    "musepose_reference_unet": ("musepose_reference_unet", _reference),
    "musepose_pose_guider": ("musepose_pose_guider", _pose_guider),
    "sd_image_variations_image_encoder": ("variations_image_encoder", _vision),
}
