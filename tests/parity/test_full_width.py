"""One denoising evaluation at full width: PoseNet, ControlNet and U-Net of the released sizes.

2.2 billion keyed weights, made and converted one network and one tensor at a time: about 8 GB at
the peak.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import svd
from converters import checkpoints, mapping, releases
from dispose_jax.correspondence import keypoints
from dispose_jax.models import networks, registry
from dispose_jax.models.network import Network
from dispose_jax.networks import controlnet as residual_rules
from dispose_jax.types import ControlSignals, Joining, Pose
from tests.parity import keyed_weights
from tests.parity.cases import Case, assert_close, load_case, load_manifest


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def flat(x) -> np.ndarray:
    """(b, f, h, w, c) -> the original's (b f, c, h, w)."""
    x = np.moveaxis(np.asarray(x), -1, -3)
    return x.reshape(-1, *x.shape[-3:])


def with_zero_frame(flow: np.ndarray) -> np.ndarray:
    """(b, f - 1, 2, h, w) -> (b, f, h, w, 2): ours stores the reference's zero flow."""
    flow = channels_last(flow)
    return np.concatenate([np.zeros_like(flow[:, :1]), flow], axis=1)


class Weights:
    """The keyed weights of a released file, made when asked for, each once."""

    def __init__(self, case: Case, release: str, built: dict[str, Network]):
        (manifest,) = (name for name in case.about["manifest"] if name.startswith(release))
        self.salt = case.about["salt"]
        self.tensors = load_manifest(manifest)["tensors"]
        row = releases.release(release)
        shapes = {name: built[name].shapes for name in row.networks}
        self.maps = checkpoints.derive(row, shapes)
        expected = {e.key: e.shape for entries in self.maps.values() for e in entries.values()}
        found = {k: SimpleNamespace(shape=shape) for k, (shape, _) in self.tensors.items()}
        mapping.accounting(expected, found, manifest)

    def __getitem__(self, network: str) -> dict:
        """Params of one network, on the device."""
        leaves = {}
        for path, entry in self.maps[network].items():
            tensor = keyed_weights.tensor(entry.key, *self.tensors[entry.key], self.salt)
            one = mapping.to_flax({path: entry}, {entry.key: tensor})
            leaves |= mapping.flatten(jax.tree.map(jnp.asarray, one))
        return mapping.unflatten(leaves)


def signals_of(case: Case) -> ControlSignals:
    inputs = case.inputs
    xy, batch = inputs["candidate"][:, None], len(inputs["sample"])
    f = len(xy)
    pose = Pose(
        body=xy,
        body_score=np.where(inputs["subset"].reshape(f, 1, 18) == -1, 0.0, 1.0),
        hands=np.zeros((f, 1, 2, 21, 2)),
        hands_score=np.zeros((f, 1, 2, 21)),
        face=np.zeros((f, 1, 68, 2)),
        face_score=np.zeros((f, 1, 68)),
    )
    cells, visible = keypoints.cells(pose, (case.config["height"], case.config["width"]))
    return ControlSignals(
        sparse_flow=with_zero_frame(inputs["traj"]),
        dense_flow=with_zero_frame(inputs["flow"]),
        cells=np.stack([cells] * batch),
        visible=np.stack([visible] * batch),
        point_features=np.repeat(inputs["point_embedding"], batch, 0),
    )


@pytest.mark.full
def test_a_denoising_step_at_full_width_equals_the_original():
    case = load_case("dispose_step.full")
    inputs, tolerance = case.inputs, case.about["tolerance"]["float32"]
    config = svd.get_config()
    built = networks.build(config)
    model = registry.build(config, built)
    x = channels_last(inputs["sample"])
    t = np.broadcast_to(inputs["timestep"], (len(x),)).astype(np.float32)
    given = (x, t, inputs["encoder_hidden_states"])
    ids = inputs["added_time_ids"]

    def check(name: str, ours: np.ndarray):
        stride = case.config["channel_stride"][name]
        assert_close(case, name, ours[..., ::stride, :, :], tolerance)

    dispose = Weights(case, "dispose", built)
    encoders = {name: dispose[name] for name in ("motion_encoder", "point_encoder")}
    signals = model.control.encode(encoders, signals_of(case))
    residuals = model.control.controlnet.apply(
        {"params": dispose["controlnet"]}, *given, added_time=ids, **signals
    )
    residuals = residual_rules.scale(residuals, case.config["conditioning_scale"])
    for i, skip in enumerate(residuals.skips):
        check(f"down_{i:02d}", flat(skip))
    check("mid", flat(residuals.mid))

    mimic = Weights(case, "mimicmotion", built)
    skeletons = channels_last(inputs["pose_image"])
    pose = model.pose_encoder.apply({"params": mimic["pose_encoder"]}, skeletons)
    check("pose_latents", np.moveaxis(np.asarray(pose), -1, -3))
    both = jnp.stack([jnp.zeros_like(pose), pose])
    unet = {"params": mimic["unet"]}
    run = partial(model.unet.apply, unet, *given, added_time=ids)
    plain = run(joining=Joining(both))
    check("noise_pred_without_control", np.moveaxis(np.asarray(plain), -1, -3))
    assert config.quirks.residuals == "accumulated"
    accumulated = residual_rules.accumulate(residuals, len(model.unet.channels), model.unet.layers)
    out = run(joining=Joining(both, residuals=accumulated))
    check("noise_pred", np.moveaxis(np.asarray(out), -1, -3))
