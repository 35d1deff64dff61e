"""The U-Net family, ControlNet and control encoders against the original modules."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from converters import rules
from dispose_jax.correspondence import keypoints
from dispose_jax.networks import controlnet as residual_rules
from dispose_jax.networks.controlnet import ControlNet
from dispose_jax.networks.motion_encoder import MotionEncoder
from dispose_jax.networks.point_encoder import PointEncoder
from dispose_jax.networks.pose_encoder import PoseNet
from dispose_jax.networks.unet import Flavour, UNet
from dispose_jax.types import Joining, Residuals
from tests import blockwise
from tests.parity.cases import assert_close, body_pose, convert, load_case, weights


def channels_last(x):
    return np.moveaxis(x, -3, -1)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, -3)


def flat(x):
    """(b, f, h, w, c) -> the original's (b f, c, h, w)."""
    return channels_first(x).reshape(-1, x.shape[-1], *x.shape[2:4])


def unflat(x, batch):
    """(b f, c, h, w) -> (b, f, h, w, c)."""
    x = channels_last(x)
    return x.reshape(batch, -1, *x.shape[1:])


def video_modules(config, group, **flavour):
    flavour = Flavour("mixed", context_group=group, **flavour)
    sizes = {
        "channels": tuple(config["block_out_channels"]),
        "heads": tuple(config["num_attention_heads"]),
        "flavour": flavour,
        "layers": config["layers_per_block"],
        "added_width": config["addition_time_embed_dim"],
    }
    return UNet(**sizes, out_channels=config["out_channels"]), ControlNet(**sizes)


def video_inputs(case):
    """x, t, context and time ids of a case; its whole batch is one group of the context order."""
    x = channels_last(case.inputs["sample"])
    t = np.broadcast_to(case.inputs["timestep"], (len(x),)).astype(np.float32)
    return x, t, case.inputs["encoder_hidden_states"], case.inputs["added_time_ids"]


@pytest.fixture(scope="module")
def svd():
    case = load_case("svd_unet.tiny")
    x, t, context, ids = video_inputs(case)
    unet, _ = video_modules(case.config, len(x))
    params = convert(weights(case), rules.UNET_VIDEO, unet, x, t, context, added_time=ids)
    return case, params


def run_svd(svd, spatial_only=False, **call):
    case, params = svd
    x, t, context, ids = video_inputs(case)
    unet, _ = video_modules(case.config, len(x), spatial_only=spatial_only)
    call |= {"added_time": ids, "capture_intermediates": True}
    return blockwise.apply(unet, {"params": params}, x, t, context, **call)


def test_video_unet_and_its_blocks_equal_the_original(svd):
    case, _ = svd
    tolerance = case.about["tolerance"]["float32"]
    out, state = run_svd(svd)
    assert_close(case, "plain", channels_first(out), tolerance)
    taps = state["intermediates"]
    for name in [o for o in case.outputs if o.startswith("tap_")]:
        if name.startswith("tap_up"):
            tap = taps[f"up_blocks_{name[-1]}"]["__call__"][0]
        elif name == "tap_mid":
            tap = taps["encoder"]["mid_block"]["__call__"][0]
        else:
            tap = taps["encoder"][f"down_blocks_{name[-1]}"]["__call__"][0][0]
        assert_close(case, name, flat(tap), tolerance)


def test_video_unet_adds_pose_features_and_accumulated_residuals(svd):
    case, _ = svd
    tolerance = case.about["tolerance"]["float32"]
    batch = len(case.inputs["sample"])
    pose = unflat(case.inputs["pose_latents"], batch)
    assert_close(case, "pose", channels_first(run_svd(svd, joining=Joining(pose))[0]), tolerance)
    skips = sorted(k for k in case.inputs if k.startswith("down_residual"))
    residuals = Residuals(
        skips=tuple(unflat(case.inputs[k], batch) for k in skips),
        mid=unflat(case.inputs["mid_residual"], batch),
    )
    levels = len(case.config["block_out_channels"])
    residuals = residual_rules.accumulate(residuals, levels, case.config["layers_per_block"])
    out, _ = run_svd(svd, joining=Joining(pose, residuals=residuals))
    assert_close(case, "pose_residuals", channels_first(out), tolerance)


def test_spatial_only_equals_the_image_only_indicator(svd):
    case, _ = svd
    out, _ = run_svd(svd, spatial_only=True)
    assert_close(case, "image_only", channels_first(out), case.about["tolerance"]["float32"])


def test_norm_epsilons_of_the_video_unet():
    case = load_case("svd_unet_eps.tiny")
    x, t, context, ids = video_inputs(case)
    unet, _ = video_modules(case.config, len(x))
    params = convert(weights(case), rules.UNET_VIDEO, unet, x, t, context, added_time=ids)
    out = blockwise.apply(unet, {"params": params}, x, t, context, added_time=ids)
    assert_close(case, "noise_pred", channels_first(out), case.about["tolerance"]["float32"])


def pose_net(case, tensors):
    pictures = channels_last(case.inputs["pose_image"])
    net = PoseNet(tensors["pose_net.final_proj.weight"].shape[0])
    params = convert(tensors, rules.POSE_NET, net, pictures, prefix="pose_net.")
    return net.apply({"params": params}, pictures)


def test_pose_net_and_unet_of_mimicmotion():
    case = load_case("mimicmotion.tiny")
    tolerance = case.about["tolerance"]["float32"]
    tensors = weights(case)
    pose = pose_net(case, tensors)
    assert_close(case, "pose_latents", channels_first(pose), tolerance)
    x, t, context, ids = video_inputs(case)
    unet, _ = video_modules(case.config, len(x))
    params = convert(tensors, rules.UNET_VIDEO, unet, x, t, context, added_time=ids, prefix="unet.")
    halves = jnp.stack([jnp.zeros_like(pose), pose])  # unconditional first
    out = blockwise.apply(
        unet, {"params": params}, x, t, context, added_time=ids, joining=Joining(halves)
    )
    assert_close(case, "noise_pred", channels_first(out), tolerance)


def test_pose_net_at_full_width():
    case = load_case("pose_net.full")
    pose = pose_net(case, weights(case, prefix="pose_net."))
    tolerance = case.about["tolerance"]["float32"]
    assert_close(case, "pose_latents", channels_first(pose), tolerance)


def with_zero_frame(flow):
    """(b, f - 1, 2, h, w) -> (b, f, h, w, 2): ours stores the reference's zero flow."""
    flow = channels_last(flow)
    return np.concatenate([np.zeros_like(flow[:, :1]), flow], axis=1)


def encode_motion(case, tensors, widths):
    """The case's fields through the motion encoder of its weights."""
    prefix = "controlnet_cond_embedding."
    encoder = MotionEncoder(len(tensors[prefix + "conv_final.bias"]), widths=tuple(widths))
    flows = [with_zero_frame(case.inputs[k]) for k in ("traj", "flow")]
    params = convert(tensors, rules.MOTION_ENCODER, encoder, *flows, prefix=prefix)
    return encoder.apply({"params": params}, *flows)


@pytest.mark.parametrize("name", ["motion_encoder.tiny", "motion_encoder.full"])
def test_motion_encoder_equals_the_original(name):
    case = load_case(name)
    out = encode_motion(case, weights(case), case.config["block_out_channels"])
    assert_close(case, "embedding", flat(out), case.about["tolerance"]["float32"])


def encode_points(case, tensors, config, size, poses):
    """The clips' keypoints, a pose each, through the point encoder of the case's weights."""
    cells, visible = (np.stack(x) for x in zip(*(keypoints.cells(pose, size) for pose in poses)))
    features = case.inputs["point_embedding"]
    inputs = np.broadcast_to(features, (len(poses), *features.shape[1:])), cells, visible
    encoder = PointEncoder(
        tuple(config["channels"]), config["mid_dim"], tuple(config["downsample_rate"])
    )
    params = convert(
        tensors, rules.POINT_ENCODER, encoder, *inputs, size=size, prefix="point_adapter."
    )
    return encoder.apply({"params": params}, *inputs, size=size)


@pytest.mark.parametrize(
    "name", ["point_adapter.tiny", "point_adapter.full", "point_adapter_train.tiny"]
)
def test_point_encoder_equals_the_original(name):
    case = load_case(name)
    size = case.config["height"], case.config["width"]
    poses = poses_of(case)
    levels = encode_points(case, weights(case), case.config, size, poses)
    for i, level in enumerate(levels):
        tolerance = case.about["tolerance"]["float32"]
        assert_close(case, f"level{i}", channels_first(level), tolerance)
    mask = np.stack([keypoints.local_mask(pose, size) for pose in poses])
    if case.config["loss_type"] == "global":
        mask = np.ones_like(mask)
    ours = np.repeat(mask[:, :, None], 4, axis=2)
    assert_close(case, "loss_mask", ours, 0.0)


def poses_of(case):
    """A case's keypoints of one person, a pose for each clip: sampling's layout has one clip."""
    xy = case.inputs["candidate"]
    subset = case.inputs["subset"]
    if xy.ndim == 3:
        xy, subset = xy[:, None], subset.reshape(len(xy), 1, -1)
    clips = range(xy.shape[1])
    return [body_pose(xy[:, i], subset[:, i].reshape(len(xy), -1)) for i in clips]


def test_hybrid_controlnet_equals_the_original():
    case = load_case("dispose.tiny")
    config, tolerance = case.config, case.about["tolerance"]["float32"]
    tensors = weights(case)
    x, t, context, ids = video_inputs(case)
    size = config["height"], config["width"]
    motion = encode_motion(
        case, tensors, config["controlnet"]["conditioning_embedding_out_channels"]
    )
    poses = poses_of(case) * len(x)  # both halves of guidance follow the same clip
    points = encode_points(case, tensors, config["point_adapter"], size, poses)
    _, net = video_modules(config["controlnet"], len(x))
    own = {k: v for k, v in tensors.items() if not k.startswith(CONTROL_ENCODERS)}
    params = convert(own, rules.UNET_VIDEO, net, x, t, context, added_time=ids)
    run = partial(blockwise.apply, net, {"params": params}, x, t, context, added_time=ids)

    def check(name, residuals, factor=1.0):
        """Compare all outputs of the case whose names start so."""
        residuals = residual_rules.scale(residuals, factor)
        ours = {f"down_{i:02d}": r for i, r in enumerate(residuals.skips)}
        ours["mid"] = residuals.mid
        compared = [k for k in ours if name + k in case.outputs]
        assert compared, f"the case has no outputs {name}*"
        for key in compared:
            assert_close(case, name + key, flat(ours[key]), tolerance)

    both = run(motion=motion, points=points)
    check("", both)
    check("half_scale_", both, 0.5)
    check("noflow_", run(motion=None, points=points))
    check("nopoints_", run(motion=motion, points=None))


CONTROL_ENCODERS = ("controlnet_cond_embedding.", "point_adapter.")


@pytest.mark.parametrize("name", ["sd15_unet.tiny", "sd15_unet_eps.tiny"])
def test_picture_unet_equals_the_original(name):
    case = load_case(name)
    config, tolerance = case.config, case.about["tolerance"]["float32"]
    unet = UNet(
        tuple(config["block_out_channels"]),
        (config["attention_head_dim"],) * len(config["block_out_channels"]),  # a head count
        Flavour(groups=config["norm_num_groups"]),
        layers=config["layers_per_block"],
        out_channels=config["out_channels"],
    )
    x = channels_last(case.inputs["sample"])[:, None]  # one frame each
    t = np.broadcast_to(case.inputs["timestep"], (len(x),)).astype(np.float32)
    context = case.inputs["encoder_hidden_states"]
    params = convert(weights(case), rules.UNET_PICTURE, unet, x, t, context)
    out, state = blockwise.apply(
        unet, {"params": params}, x, t, context, capture_intermediates=True
    )
    assert_close(case, "noise_pred", flat(out), tolerance)
    for name in [o for o in case.outputs if o.startswith("up_ft_")]:
        tap = state["intermediates"][f"up_blocks_{name[-1]}"]["__call__"][0]
        assert_close(case, name, flat(tap), tolerance)
